"""What choosing an arm costs, how few units move, and whether a replay chooses the same again.

`python -m benchmarks.assignment --decisions 1000000` replays a million decisions over 50 revisions, which takes about
a minute; `turnout bench` replays fewer.
"""

from __future__ import annotations

import argparse
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Final

from benchmarks.figures import Figure, Topic
from bentos.family import Family, load
from router.dry_run import decide, message
from router.replay import ReplayReport, replay
from router.routing import Rotation, Route, choose
from router.strategies.family import Compiler, FamilyExperiments, compile_family
from router.strategies.hashed import Hashed
from services.runtime.experiment import BUCKETS, Experiment, Layer
from services.runtime.experiment_set import check_set
from turnout.v1 import experiment_pb2, ledger_pb2, prediction_pb2

ROUNDS: Final = 15
CALLS: Final = 20_000
STICKY_UNITS: Final = 1_000_000
REPLAYED: Final = 40_000
REVISIONS: Final = 50
ASKED: Final = 1_000
"""Decisions that are also asked of `decide`."""
NAMES: Final = (
    "assignment_us_10",
    "assignment_cost_ratio_1000",
    "sticky_moved_error_percent",
    "sticky_moved_wrongly",
    "replay_differences",
    "decide_differences",
)
Say = Callable[[str], None]


def measure(progress: Say, say: Say) -> Iterator[Figure]:
    """Measures everything; yields the figures in the order of NAMES."""
    progress("assignment: 10 and 1 000 experiments")
    us, ratios = costs()
    say("  1 000 experiments cost " + ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items()))
    yield Figure("assignment_us_10", us, "us", 5.0)
    yield Figure("assignment_cost_ratio_1000", max(ratios.values()), "x", 1.5)
    progress(f"assignment: {STICKY_UNITS} units moved")
    error, wrongly = movement(STICKY_UNITS)
    yield Figure("sticky_moved_error_percent", error, "%", 0.3)
    yield Figure("sticky_moved_wrongly", wrongly, "units", 0.0)
    progress(f"assignment: {REPLAYED} decisions replayed")
    report, asked = replayed(REPLAYED)
    yield Figure("replay_differences", report.differing + report.not_replayed, "decisions", 0.0)
    yield Figure("decide_differences", asked, "decisions", 0.0)


TOPIC: Final = Topic(NAMES, measure)


def experiment(name: str, **fields: Any) -> Experiment:
    """A weighted experiment of two arms, 70 to 30."""
    arms = {"a": {"variant": "rules", "weight": 70}, "b": {"variant": "rules", "weight": 30}}
    form = {"name": name, "family": "dispatch", "salt": name, "champion": "a", "arms": arms}
    return Experiment.model_validate(form | {"strategy": {"kind": "weighted"}} | fields)


def route_of(experiments: Sequence[Experiment], layers: dict[str, Layer] | None = None) -> Route:
    """A family's route with experiments."""
    named = {one.name: one for one in experiments}
    check_set(named, layers or {})
    return Route(load("dispatch"), 0.5, compile_family("dispatch", named, layers or {}), {})


def in_one_layer(number: int) -> Route:
    """Experiments that share one layer, all of its buckets dealt out, and one for all units after them."""
    cuts = [BUCKETS * place // number for place in range(number + 1)]
    sliced = [
        experiment(f"e{place}", layer={"layer": "one", "start": start, "end": end})
        for place, (start, end) in enumerate(pairwise(cuts))
    ]
    return route_of([*sliced, experiment("zz")], {"one": Layer(salt="one")})


def over_tenants(number: int) -> Route:
    """One experiment for each tenant, and one for all others."""
    return route_of([*(experiment(f"e{place}", tenant=f"t{place}") for place in range(number)), experiment("zz")])


def costs() -> tuple[float, dict[str, float]]:
    """CPU time of one assignment at 10 experiments in one layer, in microseconds, and the ratios at 1 000.

    Rounds of both alternate, so that the machine's moods meet both alike; medians over the rounds.
    """
    pairs = {
        "in one layer": (in_one_layer(10), in_one_layer(1000)),
        "over tenants": (over_tenants(10), over_tenants(1000)),
    }
    few: dict[str, list[float]] = {name: [] for name in pairs}
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for number in range(ROUNDS):
        for name, (small, large) in pairs.items():
            first = cpu_us(small, 10, number)
            ratios[name].append(cpu_us(large, 1000, number) / first)
            few[name].append(first)
    return max(map(statistics.median, few.values())), {n: statistics.median(found) for n, found in ratios.items()}


def cpu_us(route: Route, tenants: int, seed: int) -> float:
    """CPU time of one assignment, in microseconds; units and tenants come at random, the tenants' own and others'."""
    chance = random.Random(seed)
    asked = [(f"unit-{chance.random()}", f"t{chance.randrange(tenants + tenants // 5)}") for _ in range(CALLS)]
    rotation = Rotation()
    begin = time.thread_time()
    for unit_id, tenant in asked:
        choose(
            route,
            rotation,
            unit_id=unit_id,
            decision_id="d",
            tenant=tenant,
            region="",
            at_unix_us=0,
            vector=(),
            attributes={},
        )
    return (time.thread_time() - begin) / CALLS * 1e6


def movement(units: int) -> tuple[float, int]:
    """How far from 10 % the part of the units is that 50/50 → 60/40 moves, and how many units move that must not.

    Those that must not: from the growing arm to the other, and, when an arm is dropped, any unit of the arms that stay.
    """
    names = [f"unit-{number}" for number in range(units)]
    before, after = _winners({"a": 50, "b": 50}, names), _winners({"a": 60, "b": 40}, names)
    moved = sum(x == "b" and y == "a" for x, y in zip(before, after, strict=True))
    back = sum(x == "a" and y == "b" for x, y in zip(before, after, strict=True))
    some = names[: units // 4]
    with_c, without = _winners({"a": 50, "b": 30, "c": 20}, some), _winners({"a": 50, "b": 30}, some)
    strangers = sum(x not in ("c", y) for x, y in zip(with_c, without, strict=True))
    return abs(100 * moved / units - 10), back + strangers


def _winners(weights: dict[str, float], units: Sequence[str]) -> list[str]:
    arms = {name: {"variant": "rules", "weight": weight} for name, weight in weights.items()}
    sole = route_of([experiment("e", arms=arms)]).experiments
    assert sole is not None
    assert sole.sole is not None
    strategy = sole.sole.strategy
    assert isinstance(strategy, Hashed)
    return [chosen.arm for chosen in strategy.assign_all("acme", units, units)]


@dataclass
class Steered:
    """A family whose experiments change again and again, each change a revision, all features in use."""

    family: Family
    chance: random.Random
    compiler: Compiler = field(default_factory=Compiler)
    revision: int = 0
    snapshots: list[ledger_pb2.ExperimentSnapshot] = field(default_factory=list)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)

    def steer(self) -> FamilyExperiments:
        """Changes everything and gives what holds from now on; notes it as a router does."""
        self.revision += 1
        chance = self.chance
        self.layers = {
            "outer": Layer(salt="outer"),
            "inner": Layer.model_validate({"salt": "inner", "within": {"layer": "outer", "start": 5000, "end": 9000}}),
        }
        strategies: tuple[dict[str, Any], ...] = (_RANDOM, _WEIGHTED, _ROTATING, _SWITCHING, _TIMETABLE)
        fields: dict[str, dict[str, Any]] = {
            "sliced": {"layer": {"layer": "outer", "start": 0, "end": 3000}, "hold_out_percent": 10},
            "nested": {"layer": {"layer": "inner", "start": 2000, "end": 10_000}, "tenant": "acme"},
            "urgent": {"when": 'numbers["severity"] > 4.0 && metadata["channel"] == "app"', "priority": 5},
            "ramped": {"when": 'tenant == "globex"', "ramp": _ramp(self.revision)},
            "zz": {"overrides": {"unit-7": "b"}, "hold_out_percent": chance.choice([0, 2.5])},
        }
        made = {}
        for name, given in fields.items():
            strategy = _WEIGHTED if "ramp" in given else chance.choice(strategies)
            state: dict[str, Any] = chance.choice([{}, {}, {}, {"paused": True}, {"winner": "b"}])
            weights = {"a": 10 + chance.randrange(80), "b": 10 + chance.randrange(80)}
            arms = {arm: {"variant": "rules", "weight": weight} for arm, weight in weights.items()}
            made[name] = experiment(name, **given, **state, strategy=strategy, arms=arms, revision=self.revision)
        check_set(made, self.layers)
        self.experiments = made
        family = self.compiler.compile(made, self.layers)["dispatch"]
        for name, digest in family.digests.items():
            self._note(digest, made[name].canonical_json())
        self._note(family.digest, family.canonical)
        return family

    def _note(self, digest: int, canonical: str) -> None:
        self.snapshots.append(ledger_pb2.ExperimentSnapshot(family="dispatch", digest=digest, canonical_json=canonical))


_RANDOM: Final = {"kind": "random"}
_WEIGHTED: Final = {"kind": "weighted"}
_ROTATING: Final = {"kind": "round_robin"}
_SWITCHING: Final = {"kind": "time", "window_seconds": 900, "time_zone": "Europe/Berlin", "burn_in_seconds": 60}
_TIMETABLE: Final = {
    "kind": "time",
    "assignment": "timetable",
    "timetable": [{"start_seconds": 0, "arm": "a"}, {"start_seconds": 30_000, "arm": "b"}],
}
_START: Final = 1_790_000_000


def _ramp(revision: int) -> dict[str, Any]:
    steps = [{"after_seconds": 600 * step, "weights": {"a": 90 - 20 * step, "b": 10 + 20 * step}} for step in range(4)]
    return {"starts_at_unix_s": _START + revision * 3600, "steps": steps}


def replayed(decisions: int) -> tuple[ReplayReport, int]:
    """Has the live path decide, replays what would stand in the ledger, and asks `decide` about some of it.

    Decisions and snapshots go through their wire form. Gives the replay's report, and how many of the decisions that
    were also asked of `decide` it would have made otherwise.
    """
    family = load("dispatch")
    steered = Steered(family, random.Random(1))
    otherwise = 0
    recorded = bytearray()
    for number, (decision, request) in zip(range(decisions), _decisions(steered, decisions), strict=False):
        wire = decision.SerializeToString()
        recorded += struct.pack("<I", len(wire)) + wire
        if number % max(1, decisions // ASKED) == 0:
            said = decide(steered.experiments, steered.layers, request, family)
            otherwise += said.assignment != decision.prediction.assignment
    snapshots = [ledger_pb2.ExperimentSnapshot.FromString(one.SerializeToString()) for one in steered.snapshots]
    return replay(_read(recorded), snapshots), otherwise


def _read(recorded: bytearray) -> Iterator[ledger_pb2.Decision]:
    place = 0
    while place < len(recorded):
        (length,) = struct.unpack_from("<I", recorded, place)
        place += 4 + length
        yield ledger_pb2.Decision.FromString(bytes(recorded[place - length : place]))


def _decisions(steered: Steered, decisions: int) -> Iterator[tuple[ledger_pb2.Decision, experiment_pb2.DecideRequest]]:
    """Decisions of the live path, spread over the revisions, each with the question that asks for it again."""
    family, chance, rotation = steered.family, steered.chance, Rotation()
    schema = family.schema
    experiments: FamilyExperiments | None = None
    route = Route(family, 0.5, None, {})
    for number in count():
        if number % -(-decisions // REVISIONS) == 0:
            experiments = steered.steer()
            route = Route(family, 0.5, experiments, {})
        assert experiments is not None
        numbers = {"severity": float(chance.randrange(1, 6)), "distance_km": 2.5, "response_time_min": 6.0}
        numbers |= {"hour": float(chance.randrange(24)), "weekday": 2.0}
        packed, vector = schema.encode(numbers, {}, {})
        given = {"channel": "app"} if chance.random() < 0.5 else {}
        attributes = experiments.attributes.of(given)
        unit_id = f"unit-{chance.randrange(5000)}" if number % 5 else ""
        decision_id, tenant = f"d-{number}", chance.choice(["acme", "globex", "initech"])
        region = chance.choice(["", "north", "south"])
        instant = (_START + steered.revision * 3600) * 1_000_000 + chance.randrange(3_600_000_000)
        chosen = choose(
            route,
            rotation,
            unit_id=unit_id,
            decision_id=decision_id,
            tenant=tenant,
            region=region,
            at_unix_us=instant,
            vector=vector,
            attributes=attributes,
        )
        assert chosen is not None
        yield (
            ledger_pb2.Decision(
                family="dispatch",
                unit_id=unit_id,
                decision_id=decision_id,
                tenant=tenant,
                region=region,
                assigned_at_unix_us=instant,
                features=packed,
                schema_digest=schema.digest,
                attributes=attributes,
                prediction=prediction_pb2.PredictResponse(assignment=message(chosen)),
            ),
            experiment_pb2.DecideRequest(
                family="dispatch",
                unit_id=unit_id,
                decision_id=decision_id,
                tenant=tenant,
                region=region,
                at_unix_us=instant,
                sequence=chosen.sequence,
                attributes=given,
                numbers=numbers,
            ),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    wanted = parser.parse_args().decisions
    began = time.monotonic()
    result, asked_otherwise = replayed(wanted)
    print(
        f"{result.decisions} decisions over {REVISIONS} revisions: {result.identical} identical, {result.differing} "
        f"differing, {result.not_replayed} not replayed; decide said otherwise {asked_otherwise} times; "
        f"{time.monotonic() - began:.0f} s"
    )
