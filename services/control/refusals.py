"""Why a change is refused: one sentence with the field at fault."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from services.control import rows
from services.control.changes import describe_changes
from services.control.plans import State
from services.runtime.errors import Aborted, InvalidArgument, NotFound, TurnoutError
from services.runtime.experiment import Experiment
from services.runtime.experiment_set import SetError
from services.runtime.field_paths import field_path


def present_at(connection: Connection, state: State, name: str, base_revision: int) -> Experiment:
    """Gives the experiment that a change is based on.

    Raises:
        NotFound: there is none of that name.
        Aborted: its newest revision is another one; the text tells what changed since.
    """
    present = state.set.experiments.get(name)
    if present is None:
        raise unknown(name)
    if present.revision != base_revision:
        raise stale(connection, name, base_revision)
    return present


def check_layer_base(state: State, name: str, base_revision: int) -> None:
    """Refuses a change of a layer that is not based on its newest revision, which is 0 for a new layer.

    Raises:
        Aborted: tells the newest revision.
    """
    present = state.layer_revisions.get(name, 0)
    if present != base_revision:
        where = f"layer {name!r} is at revision {present}" if present else f"there is no layer {name!r}"
        raise Aborted("base_revision", f"base_revision is {base_revision} and {where}: look at it and try again")


def unknown(name: str) -> NotFound:
    """Says that there is no experiment of that name."""
    return NotFound("name", f"there is no experiment {name[:64]!r}")


def stale(connection: Connection, name: str, base_revision: int) -> Aborted:
    """Says what changed since the revision that somebody based a change on."""
    newest = rows.revisions_before(connection, name, 1 << 62, 1)[0]
    told = f"base_revision is {base_revision} and the experiment is at revision {newest.revision}"
    base = rows.revisions_before(connection, name, base_revision + 1, 1)
    if not base or base[0].revision != base_revision or base_revision > newest.revision:
        return Aborted("base_revision", f"{told}: look at it and try again")
    before, after = base[0].after, newest.after
    if before is None or after is None:
        changes = ["deleted" if after is None else "created again"]
    else:
        changes = describe_changes(before, after)
    since = "; ".join(changes) or "changed and changed back"
    return Aborted("base_revision", f"{told}; since then: {since} (last by {newest.who})")


def misfit(name: str) -> Callable[[SetError], TurnoutError]:
    """Gives the refusal of a change of experiment `name` that the whole set does not allow."""
    return _refusal("experiments", name)


def layer_misfit(name: str) -> Callable[[SetError], TurnoutError]:
    """Gives the refusal of a change of layer `name` that the whole set does not allow."""
    return _refusal("layers", name)


def _refusal(kind: str, name: str) -> Callable[[SetError], TurnoutError]:
    def refuse(error: SetError) -> TurnoutError:
        path = error.at(kind, name)
        # What is being changed is a field of the request.
        own = (kind[:-1], *path[2:]) if path[:2] == (kind, name) else path
        field = field_path(own, keyed=("experiments", "layers"))
        return InvalidArgument(field, f"{field}: {error}")

    return refuse
