"""The published vectors hold, by the router's code and by a second implementation written from the page alone.

`Page` below follows docs/assignment.md with whole numbers, Decimal and Fraction; it shares no code with the router.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.strategies import Assignment, assign, compile_experiment
from router.strategies.family import FamilyExperiments, compile_family
from services.runtime.experiment import Experiment, Layer
from services.runtime.targeting import Row

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
        self.arms = {arm["name"]: Fraction(str(arm["weight"])) for arm in self.form["arms"]}
        self.variants = {arm["name"]: arm["variant"] for arm in self.form["arms"]}
        self.held = Fraction(str(self.form.get("hold_out_percent", 0))) / 100
        self.own_digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.at_stage(-1)

    def at_stage(self, second: int) -> None:
        """The weights that hold at a second."""
        arms = dict(self.arms)
        ramp = self.form.get("ramp", {"starts_at_unix_s": 0, "steps": []})
        for step in ramp["steps"]:
            if ramp["starts_at_unix_s"] + step["after_seconds"] <= second:
                arms = self.arms | {name: Fraction(str(weight)) for name, weight in step["weights"].items()}
        self.weights = {name: weight for name, weight in arms.items() if weight}
        self.total = sum(self.weights.values(), Fraction(0))

    def bucket(self, kind: bytes, tenant: str, unit_id: str, decision_id: str) -> int:
        subject = b"u" + self.framed(tenant) + unit_id.encode() if unit_id else b""
        subject = subject or b"d" + self.framed(tenant) + decision_id.encode()
        return self.hash(kind + subject) * 10_000 // 2**64

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
        self.at_stage(at_unix_us // 10**6)
        burn_in, position = False, 0
        champion = self.form["champion"]
        if "winner" in self.form:
            arm, propensity, reason = self.form["winner"], Fraction(1), "CONCLUDED"
        elif self.form.get("paused"):
            arm, propensity, reason = champion, Fraction(1), "PAUSED"
        elif unit_id in self.form.get("overrides", {}):
            arm, propensity, reason = self.form["overrides"][unit_id], Fraction(1), "OVERRIDE"
        else:
            held = self.bucket(b"h", tenant, unit_id, decision_id) < self.held * 10_000
            arm, share, burn_in = self.choose(
                kind,
                unit_id=unit_id,
                decision_id=decision_id,
                tenant=tenant,
                region=region,
                at_unix_us=at_unix_us,
                sequence=sequence,
            )
            if held:
                share = self.share_of(champion, kind, arm)
                arm, reason, burn_in = champion, "HOLD_OUT", False
            else:
                reason, position = REASONS[kind], sequence if kind == "round_robin" else 0
            propensity = (1 - self.held) * share + (self.held if arm == champion else 0)
        return {
            "arm": arm,
            "variant": self.variants[arm],
            "propensity": float(propensity),
            "reason": reason,
            "revision": self.form["revision"],
            "snapshot_digest": self.own_digest,
            "sequence": position,
            "burn_in": burn_in,
            "experiment": self.form["name"],
        }

    def choose(
        self, kind: str, *, unit_id: str, decision_id: str, tenant: str, region: str, at_unix_us: int, sequence: int
    ) -> tuple[str, Fraction, bool]:
        """Arm, its share, and whether a block is burning in."""
        if kind == "time":
            return self.timed(tenant, region, at_unix_us // 10**6)
        if kind == "round_robin":
            arm = self.rotated(sequence)
            return arm, self.weights[arm] / self.total, False
        weights = dict.fromkeys(self.weights, Fraction(1)) if kind == "random" else self.weights
        subject = b"u" + self.framed(tenant) + unit_id.encode() if unit_id else b""
        subject = subject or b"d" + self.framed(tenant) + decision_id.encode()
        arm = self.race(self.hash(subject), weights)
        return arm, weights[arm] / sum(weights.values()), False

    def share_of(self, arm: str, kind: str, chosen: str) -> Fraction:
        """With which probability the strategy gives an arm, now."""
        strategy = self.form["strategy"]
        if strategy.get("assignment") == "timetable":
            return Fraction(arm == chosen)
        if arm not in self.weights:
            return Fraction(0)
        if kind == "random" or strategy.get("assignment") == "alternating":
            return Fraction(1, len(self.weights))
        return self.weights[arm] / self.total


CONDITIONS: dict[str, Callable[[dict[str, Any]], bool | None]] = {
    'numbers["severity"] > 4.0': lambda seen: seen["numbers"].get("severity", 0) > 4,
    'metadata["channel"] == "beta"': lambda seen: seen["metadata"].get("channel") == "beta",
}
"""The conditions of the published sets, put by hand; what cannot be evaluated does not hold."""


class PageSet:
    """docs/assignment.md, section 8."""

    def __init__(self, family: str, canonicals: list[str], layers: dict[str, Any]) -> None:
        self.pages = [Page(canonical) for canonical in canonicals]
        self.layers = layers
        needed = {}
        for page in self.pages:
            part = page.form.get("layer")
            while part:
                needed[part["layer"]] = layers[part["layer"]]
                part = layers[part["layer"]]["within"]
        form = {
            "family": family,
            "experiments": {page.form["name"]: page.own_digest for page in self.pages},
            "layers": needed,
        }
        canonical = json.dumps(form, sort_keys=True, separators=(",", ":"))
        self.digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def inside(self, part: dict[str, Any] | None, tenant: str, unit_id: str, decision_id: str) -> bool:
        if part is None:
            return True
        layer = self.layers[part["layer"]]
        dealer = Page.__new__(Page)
        dealer.key = hashlib.blake2b(layer["salt"].encode()).digest()
        bucket = dealer.bucket(b"l", tenant, unit_id, decision_id)
        within = part["start"] <= bucket < part["end"]
        return within and self.inside(layer["within"], tenant, unit_id, decision_id)

    def assign(self, *, numbers: dict[str, float], metadata: dict[str, str], **arguments: Any) -> dict[str, Any]:
        tenant = arguments["tenant"]
        order = sorted(
            self.pages,
            key=lambda page: ("tenant" not in page.form, -page.form.get("priority", 0), page.form["name"]),
        )
        for page in order:
            when = page.form.get("when")
            if (
                page.form.get("tenant", tenant) == tenant
                and self.inside(page.form.get("layer"), tenant, arguments["unit_id"], arguments["decision_id"])
                and (when is None or CONDITIONS[when]({"numbers": numbers, "metadata": metadata}))
            ):
                return page.assign(**arguments) | {"snapshot_digest": self.digest}
        return {
            "arm": "",
            "variant": "rules",
            "propensity": 1.0,
            "reason": "UNSPECIFIED",
            "revision": 0,
            "snapshot_digest": self.digest,
            "sequence": 0,
            "burn_in": False,
            "experiment": "",
        }


def _gcd(first: Fraction, second: Fraction) -> tuple[int, int]:
    while second:
        first, second = second, first % second
    return first.numerator, first.denominator


def ours(canonical: str, **arguments: Any) -> dict[str, Any]:
    """The router's answer, in the words of the vectors."""
    return in_words(assign(compile_experiment(Experiment.from_canonical(canonical)), **arguments))


def in_words(chosen: Assignment) -> dict[str, Any]:
    """An assignment in the words of the vectors."""
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


def published_set(number: int) -> tuple[str, list[str], dict[str, Any]]:
    form = PUBLISHED["sets"][number]
    return form["family"], [PUBLISHED["experiments"][index] for index in form["experiments"]], form["layers"]


def our_set(family: str, canonicals: list[str], layers: dict[str, Any]) -> FamilyExperiments:
    members = [Experiment.from_canonical(canonical) for canonical in canonicals]
    made = {name: Layer.model_validate(layer) for name, layer in layers.items()}
    compiled = compile_family(family, {member.name: member for member in members}, made)
    assert compiled is not None
    return compiled


@pytest.mark.parametrize("number", range(len(PUBLISHED["set_vectors"])))
def test_router_and_page_keep_every_vector_of_sets(number: int) -> None:
    """Which experiment takes a decision is published like what it gives."""
    arguments = dict(PUBLISHED["set_vectors"][number])
    expected = arguments.pop("expected")
    parts = published_set(arguments.pop("set"))
    assert PageSet(*parts).assign(**arguments) == expected
    seen = Row(arguments["tenant"], arguments.pop("metadata"), arguments.pop("numbers"), {}, {})
    sequence = arguments.pop("sequence")
    chosen = our_set(*parts).assign(
        **arguments, position=lambda _: sequence, look=lambda: seen, unevaluable=lambda _: None
    )
    assert in_words(chosen) == expected


def test_vectors_of_sets_reach_every_experiment() -> None:
    """Each of the six experiments takes a decision, and some decisions none takes."""
    assert len({vector["expected"]["experiment"] for vector in PUBLISHED["set_vectors"]}) == 7


def test_vectors_cover_every_strategy_and_are_many() -> None:
    """At least sixty vectors, over all strategies and all ways of a switchback, with and without burn-in."""
    forms = [json.loads(PUBLISHED["experiments"][vector["experiment"]]) for vector in PUBLISHED["vectors"]]
    assert len(forms) >= 60
    assert {form["strategy"]["kind"] for form in forms} == {"random", "weighted", "round_robin", "time"}
    assert {form["strategy"].get("assignment") for form in forms} == {None, "seeded", "alternating", "timetable"}
    assert {form.get("paused", False) for form in forms} == {True, False}
    reasons = {vector["expected"]["reason"] for vector in PUBLISHED["vectors"]}
    assert reasons == {"HASH", "ROTATION", "BLOCK", "PAUSED", "OVERRIDE", "HOLD_OUT", "CONCLUDED"}
    assert {vector["expected"]["burn_in"] for vector in PUBLISHED["vectors"]} == {True, False}


def test_published_experiments_are_in_canonical_form() -> None:
    """Reading an experiment and writing it again changes nothing."""
    for canonical in PUBLISHED["experiments"]:
        assert Experiment.from_canonical(canonical).canonical_json() == canonical


NAMES = ["a", "b", "Arm-3", "x_y.z", "rules"]
WEIGHTS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 25.0, 33.3]), min_size=1
).filter(lambda weights: any(weights.values()))
RAMPED = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.5, 1.0, 7.0, 60.0]), min_size=1)
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
    around: dict[str, Any] = {
        "hold_out_percent": draw(st.sampled_from([0, 0, 12.5, 40])),
        "overrides": draw(st.dictionaries(st.sampled_from(["u", "ü"]), st.sampled_from(sorted(weights)))),
    }
    if draw(st.integers(0, 9)) == 0:
        around["winner"] = draw(st.sampled_from(sorted(weights)))
    if "timetable" not in strategy and draw(st.booleans()):
        steps: list[dict[str, Any]] = [
            {"after_seconds": 3600 * i, "weights": draw(RAMPED)} for i in range(draw(st.integers(1, 3)))
        ]
        steps = [{**step, "weights": {n: w for n, w in step["weights"].items() if n in weights}} for step in steps]
        around["ramp"] = {"starts_at_unix_s": draw(st.integers(0, 2**32)), "steps": [s for s in steps if s["weights"]]}
        if not around["ramp"]["steps"]:
            del around["ramp"]
    return Experiment.model_validate(
        {
            **around,
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
        "unit_id": st.sampled_from(["", "u", "ü"]) | st.text(max_size=20).filter(_is_unicode),
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
