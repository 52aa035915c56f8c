"""Choosing on the way of a call: positions of rotations are exact, many at once are as one by one, `decide` agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from bentos.family import load
from router.dry_run import decide, message
from router.routing import Rotation, Route, choose, choose_all
from router.strategies import AssignmentReason
from router.strategies.family import compile_family
from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment, Layer
from turnout.v1 import experiment_pb2

FAMILY = load("dispatch")
NUMBERS = {"severity": 5.0, "distance_km": 2.5, "response_time_min": 6.0, "hour": 13.0, "weekday": 2.0}
_, VECTOR = FAMILY.schema.encode(NUMBERS, {}, {})


def experiment(name: str = "main", kind: str = "round_robin", **fields: Any) -> Experiment:
    """An experiment of two arms, 3 to 1."""
    arms = {"a": {"variant": "rules", "weight": 3}, "b": {"variant": "other", "weight": 1}}
    form = {"name": name, "family": "dispatch", "salt": "s", "champion": "a", "strategy": {"kind": kind}, "arms": arms}
    return Experiment.model_validate(form | fields)


def route(*experiments: Experiment, layers: Mapping[str, Layer] | None = None) -> Route:
    """A family's route with experiments."""
    compiled = compile_family("dispatch", {one.name: one for one in experiments}, layers or {})
    return Route(FAMILY, 0.5, compiled, {})


def arguments(unit_id: str, **fields: Any) -> dict[str, Any]:
    """A decision's arguments."""
    ordinary = {"decision_id": f"d-{unit_id}", "tenant": "acme", "region": "", "at_unix_us": 1_790_000_000_000_000}
    return {"unit_id": unit_id, **ordinary, "vector": VECTOR, "attributes": {}} | fields


def test_only_the_rotation_itself_takes_positions() -> None:
    """Overridden and held-out units leave the rotation where it is: the others come out exactly in turn."""
    one = route(experiment(overrides={"u5": "b"}, hold_out_percent=30))
    rotation = Rotation()
    said = [choose(one, rotation, **arguments(f"u{number}")) for number in range(400)]
    rotated = [chosen for chosen in said if chosen is not None and chosen.reason is AssignmentReason.ROTATION]
    assert [chosen.sequence for chosen in rotated] == list(range(len(rotated)))
    assert rotation.next("main") == len(rotated)
    turns = Counter(chosen.arm for chosen in rotated[: len(rotated) // 4 * 4])
    assert turns["a"] == 3 * turns["b"]
    assert {chosen.reason.name for chosen in said if chosen is not None} == {"ROTATION", "OVERRIDE", "HOLD_OUT"}


def test_each_experiment_has_a_rotation_of_its_own() -> None:
    """Two round-robins of one family do not disturb each other."""
    one = route(experiment("own", tenant="acme"), experiment("rest"))
    rotation = Rotation()
    said = [choose(one, rotation, **arguments(f"u{n}", tenant=("acme", "globex")[n % 2])) for n in range(40)]
    for place, name in enumerate(("own", "rest")):
        mine = [chosen for chosen in said[place::2] if chosen is not None]
        assert {chosen.experiment for chosen in mine} == {name}
        assert [chosen.sequence for chosen in mine] == list(range(20))


@pytest.mark.parametrize("kind", ["random", "weighted", "round_robin"])
def test_many_at_once_are_chosen_as_one_by_one(kind: str) -> None:
    """With one plain experiment, and with several and conditions among them."""
    for one in (
        route(experiment(kind=kind)),
        route(
            experiment("urgent", "random", when='numbers["severity"] > 4.5 && tenant == "acme"'), experiment("zz", kind)
        ),
    ):
        units = [f"u{number}" if number % 3 else "" for number in range(60)]
        ids = [f"d{number}" for number in range(60)]
        together = choose_all(
            one,
            Rotation(),
            unit_ids=units,
            decision_ids=ids,
            tenant="acme",
            regions=[""] * 60,
            at_unix_us=7,
            vectors=[VECTOR] * 60,
            attributes={},
        )
        rotation = Rotation()
        alone = [
            choose(one, rotation, **arguments(unit, decision_id=decision_id, at_unix_us=7))
            for unit, decision_id in zip(units, ids, strict=True)
        ]
        assert together == alone


def question(unit_id: str, **fields: Any) -> experiment_pb2.DecideRequest:
    """A question to `decide`."""
    ordinary: dict[str, Any] = {
        "family": "dispatch",
        "decision_id": f"d-{unit_id}",
        "at_unix_us": 1_790_000_000_000_000,
    }
    return experiment_pb2.DecideRequest(unit_id=unit_id, **ordinary | fields)


EXPERIMENTS = {
    one.name: one
    for one in (
        experiment("urgent", "weighted", when='numbers["severity"] > 4.0', priority=3),
        experiment("beta", "random", when='metadata["channel"] == "beta"', priority=2),
        experiment(
            "sliced", "weighted", priority=1, layer={"layer": "ui", "start": 0, "end": 5000}, hold_out_percent=20
        ),
        experiment("rest"),
    )
}
LAYERS = {"ui": Layer(salt="l")}


def test_decide_and_a_router_give_the_same_answer() -> None:
    """Whoever takes it, and whatever the arm; the sentences name who was passed over, in order."""
    one = route(*EXPERIMENTS.values(), layers=LAYERS)
    assert one.experiments is not None
    taken = set()
    for number in range(200):
        numbers = NUMBERS | {"severity": 1.0 + number % 5}
        given = {"channel": "beta"} if number % 3 == 0 else {}
        _, vector = FAMILY.schema.encode(numbers, {}, {})
        rotation = Rotation()
        rotation.start_at("rest", number)
        chosen = choose(one, rotation, **arguments(f"u{number}", vector=vector, attributes=given, tenant="default"))
        assert chosen is not None
        asked = question(f"u{number}", sequence=number, numbers=numbers, attributes=given | {"more": "x"})
        said = decide(EXPERIMENTS, LAYERS, asked, FAMILY)
        assert said.assignment == message(chosen)
        names = list(one.experiments.experiments)
        assert [told.partition(":")[0] for told in said.passed_over] == names[: names.index(chosen.experiment)]
        taken.add(chosen.experiment)
    assert taken == {"urgent", "beta", "sliced", "rest"}


def test_decide_tells_why_an_experiment_was_passed_over() -> None:
    """Also for a row that gives nothing, which a prediction would refuse."""
    said = decide(EXPERIMENTS, LAYERS, question("u1"), FAMILY).passed_over
    assert said[0] == "urgent: its condition cannot be evaluated"
    assert "beta: its condition" in said[1]
    told = decide(EXPERIMENTS, LAYERS, question("u1", numbers={"severity": 2.0}), FAMILY).passed_over
    assert told[0] == "urgent: its condition does not hold"


def test_decide_refuses_what_it_cannot_assign() -> None:
    """Somebody or something must be named, and features must keep to the schema."""
    with pytest.raises(InvalidArgument, match="unit_id"):
        decide(EXPERIMENTS, LAYERS, experiment_pb2.DecideRequest(family="dispatch"), FAMILY)
    with pytest.raises(InvalidArgument, match="severity"):
        decide(EXPERIMENTS, LAYERS, question("u", numbers={"severity": 99.0}), FAMILY)
    nothing = decide({}, {}, question("u"), FAMILY).assignment
    assert (nothing.arm, nothing.propensity, nothing.snapshot_digest) == ("", 1.0, 0)
