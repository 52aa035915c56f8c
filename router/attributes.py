"""What targeting rules may look at beside tenant and features: the request's attributes over the call's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.prepared import NO_ATTRIBUTES
from router.routing import Route
from services.runtime.call import Call
from services.runtime.errors import InvalidArgument

MAX_ENTRIES: Final = 32
MAX_NAME: Final = 64
MAX_VALUE: Final = 1024


def attributes_for(route: Route, given: Mapping[str, str], call: Call) -> Mapping[str, str]:
    """Gives those attributes of a call that conditions of the family's experiments look at.

    Args:
        route: The family's route.
        given: The request's own, which stand before the metadata's.
        call: The call; entries of its metadata that break a bound are left out, for they are not meant for us alone.

    Raises:
        InvalidArgument: the request gives too many, or one that is too long.
    """
    if given:
        _check(given)
    experiments = route.experiments
    if experiments is None or not experiments.attributes.wanted:
        return NO_ATTRIBUTES
    found = experiments.attributes.of(_within_bounds(call.metadata()))
    found.update(experiments.attributes.of(given))
    return found


def _check(given: Mapping[str, str]) -> None:
    if len(given) > MAX_ENTRIES:
        raise InvalidArgument("attributes", f"attributes must be at most {MAX_ENTRIES}, not {len(given)}")
    for name in given:
        if len(name) > MAX_NAME:
            raise InvalidArgument("attributes", f"an attribute's name must be at most {MAX_NAME} characters")
        if len(given[name]) > MAX_VALUE:
            raise InvalidArgument(f"attributes[{name}]", f"attribute {name!r} must be at most {MAX_VALUE} characters")


def _within_bounds(metadata: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in metadata.items():
        if len(found) < MAX_ENTRIES and len(name) <= MAX_NAME and len(value) <= MAX_VALUE:
            found[name] = value
    return found
