"""Experiments and layers of any kind, for laws."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from services.runtime.experiment import DAY_SECONDS, Experiment, Layer

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")
FAMILIES = st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z")
WEIGHTS = st.integers(0, 10**6).map(lambda hundredths: hundredths / 100)
PERCENTS = st.integers(1, 9999).map(lambda hundredths: hundredths / 100)
UNITS = st.text(min_size=1, max_size=20)
CONDITIONS = st.sampled_from(
    ["", 'tenant == "a"', "numbers['speed'] > 3.0", "flags['urgent'] || categories['k'] == 'x'"]
)
ZONES = st.sampled_from(["", "Europe/Paris", "America/St_Johns", "Australia/Lord_Howe"])


@st.composite
def slices(draw: st.DrawFn) -> dict[str, Any]:
    """A slice of a layer."""
    start = draw(st.integers(0, 9999))
    return {"layer": draw(NAMES), "start": start, "end": draw(st.integers(start + 1, 10_000))}


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer, perhaps within another one."""
    return Layer.model_validate({"salt": draw(st.text(min_size=1, max_size=64)), "within": draw(st.none() | slices())})


@st.composite
def _times(draw: st.DrawFn, arms: list[str]) -> dict[str, Any]:
    window = draw(st.sampled_from([1, 60, 3600, DAY_SECONDS]))
    form: dict[str, Any] = {
        "kind": "time",
        "window_seconds": window,
        "offset_seconds": draw(st.integers(0, window - 1)),
        "burn_in_seconds": draw(st.integers(0, window - 1)),
        "time_zone": draw(ZONES),
        "assignment": draw(st.sampled_from(["seeded", "alternating", "timetable"])),
    }
    if form["assignment"] == "timetable":
        starts = [0, *sorted(draw(st.sets(st.integers(1, DAY_SECONDS - 1), max_size=3)))]
        form["timetable"] = [{"start_seconds": start, "arm": draw(st.sampled_from(arms))} for start in starts]
    return form


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """An experiment with any of its parts."""
    arms = draw(st.dictionaries(NAMES, WEIGHTS.filter(bool), min_size=1, max_size=5))
    names = list(arms)
    one = st.sampled_from(names)
    strategy = draw(st.sampled_from(["random", "weighted"]).map(lambda kind: {"kind": kind}) | _times(names))
    ramp = None
    if not strategy.get("timetable"):
        after = st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True).map(sorted)
        weights = st.dictionaries(one, WEIGHTS.filter(bool), min_size=1)
        ramp = {
            "starts_at_unix_s": draw(st.integers(0, 2**40 - 1)),
            "steps": [{"after_seconds": seconds, "weights": draw(weights)} for seconds in draw(after)],
        }
        ramp = draw(st.sampled_from([ramp, None]))
    return Experiment.model_validate(
        {
            "name": draw(NAMES),
            "family": draw(FAMILIES),
            "revision": draw(st.integers(1, 2**62 - 1)),
            "salt": draw(st.text(min_size=1, max_size=64)),
            "champion": draw(one),
            "paused": draw(st.booleans()),
            "strategy": strategy,
            "arms": {name: {"variant": draw(NAMES), "weight": weight} for name, weight in arms.items()},
            "winner": draw(st.none() | one),
            "tenant": draw(st.none() | NAMES),
            "when": draw(CONDITIONS),
            "priority": draw(st.integers(-1000, 1000)),
            "layer": draw(st.none() | slices()),
            "hold_out_percent": draw(st.just(0.0) | PERCENTS),
            "overrides": draw(st.dictionaries(UNITS, one, max_size=4)),
            "shadows": draw(st.dictionaries(NAMES, PERCENTS, max_size=4)),
            "ramp": ramp,
        }
    )
