"""The published vectors hold, by the router's code and by a second implementation written from the page alone.

`Page` below follows docs/assignment.md with whole numbers, Decimal and Fraction; it shares no code with the router.
"""

from __future__ import annotations

import functools
import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.strategies import assign, compile_experiment
from services.runtime.experiment import Experiment

PUBLISHED = json.loads((Path(__file__).parents[2] / "docs" / "assignment-vectors.json").read_text(encoding="utf-8"))
REASONS = {"random": "HASH", "weighted": "HASH", "round_robin": "ROTATION", "time": "BLOCK"}


@functools.cache
def offset_at(zone: str, second: int) -> int:
    """Local time minus UTC, by walking from UTC to the zone."""
    if not zone:
        return 0
    utc = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC")) + timedelta(seconds=second)
    local = utc.astimezone(ZoneInfo(zone))
    return round((local.replace(tzinfo=None) - utc.replace(tzinfo=None)).total_seconds())


class Page:
    """docs/assignment.md, section by section."""

    def __init__(self, canonical: str) -> None:
        self.text = canonical
        self.form: dict[str, Any] = json.loads(canonical)
        self.key = hashlib.blake2b(self.form["salt"].encode()).digest()
        arms = {arm["name"]: Fraction(str(arm["weight"])) for arm in self.form["arms"]}
        self.variants = {arm["name"]: arm["variant"] for arm in self.form["arms"]}
        self.weights = {name: weight for name, weight in arms.items() if weight}
        self.total = sum(self.weights.values(), Fraction(0))

    def hash(self, message: bytes) -> int:
        return int(hashlib.blake2b(message, key=self.key, digest_size=8).hexdigest(), 16)

    @staticmethod
    def framed(text: str) -> bytes:
        octets = text.encode()
        return bytes.fromhex(f"{len(octets):08x}") + octets

    def race(self, digest: int, weights: dict[str, Fraction]) -> str:
        keys = []
        with localcontext(prec=90):
            for name, weight in weights.items():
                z = digest ^ self.hash(b"a" + name.encode())
                z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
                z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
                z ^= z >> 31
                u = Decimal(z >> 11 | 1) / 2**53
                keys.append((-u.ln() * weight.denominator / weight.numerator, name))
        return min(keys)[1]

    def block(self, second: int) -> int:
        strategy = self.form["strategy"]
        local = second + offset_at(strategy["time_zone"], second)
        if strategy["assignment"] == "timetable":
            begun = sum(slot["start_seconds"] <= local % 86_400 for slot in strategy["timetable"])
            return int(local // 86_400 * len(strategy["timetable"]) + begun - 1)
        return int((local - strategy["offset_seconds"]) // strategy["window_seconds"])

    def timed(self, tenant: str, region: str, second: int) -> tuple[str, Fraction, bool]:
        strategy = self.form["strategy"]
        number = self.block(second)
        burning = any(self.block(second - back) != number for back in range(1, strategy["burn_in_seconds"] + 1))
        where = self.framed(tenant)
        if strategy["assignment"] == "timetable":
            slot = strategy["timetable"][number % len(strategy["timetable"])]
            return slot["arm"], Fraction(1), burning
        if strategy["assignment"] == "alternating":
            turn = (number + self.hash(b"s" + where + region.encode())) % len(self.weights)
            return list(self.weights)[turn], Fraction(1, len(self.weights)), burning
        message = b"b" + where + self.framed(region) + (number % 2**64).to_bytes(8, "big")
        arm = self.race(self.hash(message), self.weights)
        return arm, self.weights[arm] / self.total, burning

    def rotated(self, sequence: int) -> str:
        credit = dict.fromkeys(self.weights, Fraction(0))
        divisor = functools.reduce(lambda a, b: Fraction(*_gcd(a, b)), self.weights.values())
        chosen = ""
        for _ in range(sequence % int(self.total / divisor) + 1):
            for name, weight in self.weights.items():
                credit[name] += weight
            chosen = max(credit, key=lambda name: credit[name])
            credit[chosen] -= self.total
        return chosen

    def assign(
        self, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> dict[str, Any]:
        kind = self.form["strategy"]["kind"]
        weights = dict.fromkeys(self.weights, Fraction(1)) if kind == "random" else self.weights
        burn_in = False
        if self.form.get("paused"):
            arm, propensity = self.form["champion"], Fraction(1)
        elif kind == "time":
            arm, propensity, burn_in = self.timed(tenant, region, at_unix_us // 10**6)
        elif kind == "round_robin":
            arm = self.rotated(sequence)
            propensity = weights[arm] / self.total
        else:
            subject = b"u" + self.framed(tenant) + unit_id.encode() if unit_id else b""
            subject = subject or b"d" + self.framed(tenant) + decision_id.encode()
            arm = self.race(self.hash(subject), weights)
            propensity = weights[arm] / sum(weights.values())
        return {
            "arm": arm,
            "variant": self.variants[arm],
            "propensity": float(propensity),
            "reason": "PAUSED" if self.form.get("paused") else REASONS[kind],
            "revision": self.form["revision"],
            "snapshot_digest": hashlib.sha256(self.text.encode()).hexdigest()[:16],
            "sequence": sequence if kind == "round_robin" and not self.form.get("paused") else 0,
            "burn_in": burn_in,
            "experiment": self.form["name"],
        }


def _gcd(first: Fraction, second: Fraction) -> tuple[int, int]:
    while second:
        first, second = second, first % second
    return first.numerator, first.denominator


def ours(canonical: str, **arguments: Any) -> dict[str, Any]:
    """The router's answer, in the words of the vectors."""
    chosen = assign(compile_experiment(Experiment.from_canonical(canonical)), **arguments)
    answer = chosen._asdict()
    answer["snapshot_digest"] = f"{answer.pop('digest'):016x}"
    answer["reason"] = chosen.reason.name
    return answer


def split(vector: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    arguments = dict(vector)
    return PUBLISHED["experiments"][arguments.pop("experiment")], arguments, arguments.pop("expected")


@pytest.mark.parametrize("number", range(len(PUBLISHED["vectors"])))
def test_router_keeps_every_published_vector(number: int) -> None:
    """A vector that was published once is answered the same for ever."""
    canonical, arguments, expected = split(PUBLISHED["vectors"][number])
    assert ours(canonical, **arguments) == expected


def test_page_alone_gives_every_published_vector() -> None:
    """Somebody who only reads the page reaches the same answers."""
    for vector in PUBLISHED["vectors"]:
        canonical, arguments, expected = split(vector)
        assert Page(canonical).assign(**arguments) == expected


def test_vectors_cover_every_strategy_and_are_many() -> None:
    """At least sixty vectors, over all strategies and all ways of a switchback, with and without burn-in."""
    forms = [json.loads(PUBLISHED["experiments"][vector["experiment"]]) for vector in PUBLISHED["vectors"]]
    assert len(forms) >= 60
    assert {form["strategy"]["kind"] for form in forms} == {"random", "weighted", "round_robin", "time"}
    assert {form["strategy"].get("assignment") for form in forms} == {None, "seeded", "alternating", "timetable"}
    assert {form.get("paused", False) for form in forms} == {True, False}
    assert {vector["expected"]["burn_in"] for vector in PUBLISHED["vectors"]} == {True, False}


def test_published_experiments_are_in_canonical_form() -> None:
    """Reading an experiment and writing it again changes nothing."""
    for canonical in PUBLISHED["experiments"]:
        assert Experiment.from_canonical(canonical).canonical_json() == canonical


NAMES = ["a", "b", "Arm-3", "x_y.z", "rules"]
WEIGHTS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 25.0, 33.3]), min_size=1
).filter(lambda weights: any(weights.values()))
ZONES = st.sampled_from(["", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"])


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """Experiments of every strategy."""
    weights = draw(WEIGHTS)
    strategy: dict[str, Any] = {"kind": draw(st.sampled_from(["random", "weighted", "round_robin", "time"]))}
    if strategy["kind"] == "time":
        window = draw(st.sampled_from([900, 3600, 5400, 14_400, 86_400]))
        strategy |= {
            "window_seconds": window,
            "time_zone": draw(ZONES),
            "burn_in_seconds": draw(st.sampled_from([0, 1, 450])),
            "offset_seconds": draw(st.integers(0, window - 1)),
            "assignment": draw(st.sampled_from(["seeded", "alternating", "timetable"])),
        }
        if strategy["assignment"] == "timetable":
            used = [name for name in weights if weights[name]]
            starts = sorted({0, *draw(st.lists(st.integers(1, 86_399), max_size=4))})
            strategy["timetable"] = [{"start_seconds": s, "arm": draw(st.sampled_from(used))} for s in starts]
    return Experiment.model_validate(
        {
            "name": "drawn",
            "family": "dispatch",
            "salt": draw(st.text(min_size=1, max_size=64).filter(_is_unicode)),
            "champion": draw(st.sampled_from(sorted(weights))),
            "paused": draw(st.integers(0, 9)) == 0,
            "strategy": strategy,
            "arms": {name: {"variant": f"v-{name}", "weight": weight} for name, weight in weights.items()},
        }
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


# Half of the instants lie around changes of a clock: Berlin's two of 2026, Lord Howe's two, São Paulo's last of 2018.
CHANGES = [1_774_746_000, 1_792_890_000, 1_775_314_800, 1_791_041_400, 1_541_300_400]
SECONDS = st.integers(0, 4_000_000_000) | st.builds(
    lambda change, away: change + away, st.sampled_from(CHANGES), st.integers(-9_000, 9_000)
)


DECISIONS = st.fixed_dictionaries(
    {
        "unit_id": st.just("") | st.text(max_size=20).filter(_is_unicode),
        "decision_id": st.text(min_size=1, max_size=20).filter(_is_unicode),
        "tenant": st.sampled_from(["", "acme", "globex"]),
        "region": st.sampled_from(["", "north", "süd"]),
        "at_unix_us": SECONDS.map(lambda second: second * 10**6 + 7),
        "sequence": st.integers(0, 2**64 - 1),
    }
)


@settings(max_examples=250, deadline=None)
@given(experiment=experiments(), decision=DECISIONS)
def test_router_and_page_agree_everywhere(experiment: Experiment, decision: dict[str, Any]) -> None:
    """Two implementations that share no code choose the same arm for any experiment and any decision."""
    canonical = experiment.canonical_json()
    assert ours(canonical, **decision) == Page(canonical).assign(**decision)
