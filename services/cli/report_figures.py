"""The report's figures: which plots a report has, what each of them shows, and how to read it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from services.cli.drift_shown import where
from services.cli.moments import length
from services.cli.report_markup import clock, name, number, table, time_ticks
from services.cli.report_plots import SERIES, Plot, Points, Told, bars, ranges

MOST_SERIES: Final = 8
"""Lines in a plot at most: those with the most decisions."""
FEWEST: Final = 30
"""Decisions, or outcomes, under which a shape says more of chance than of an arm."""
SMALLEST: Final = 0.01
"""Share of all decisions under which a line would only hide others."""
MOST_BARS: Final = 30
_TIME: Final = "time (UTC)"
_FALLBACKS: Final = "Fallbacks by reason"
Series = Sequence[tuple[str, Points]]
Colours = Mapping[str, int]
"""Places of series in the style sheet by label: an arm has the same colour in every plot."""


def figures(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Gives the figures, and the titles of those that there is nothing to draw for yet.

    Args:
        report: as `services.cli.report.plain` gives it.
    """
    variants, shapes = _shown(report["variants"], "decisions"), _shown(report["distributions"], "decisions")
    with_outcomes = _shown(report["variants"], "outcomes")
    labels = dict.fromkeys(name(one) for one in (*variants, *shapes, *with_outcomes))
    colours = {label: place for place, label in enumerate(labels)}
    named = (
        ("Decisions over time", _traffic(variants, colours)),
        (f"{report['main_measure']} over time", _quality(report["main_measure"], with_outcomes, colours)),
        ("Calibration", _calibration(with_outcomes, colours)),
        ("Predicted values", _histogram("values", "Predicted values", "predicted value", shapes, colours)),
        ("Confidences", _histogram("confidences", "Confidences", "confidence", shapes, colours)),
        ("Time to answer", _latencies(shapes)),
        ("Time to answer over time", _slowness(variants, colours)),
        ("Drift by feature", _features(report["findings"])),
        (_FALLBACKS, _fallbacks(report["distributions"])),
    )
    # Nobody misses a picture of fallbacks that did not happen.
    missing = [title for title, made in named if made is None and title != _FALLBACKS]
    return [made for _, made in named if made is not None], missing


def _shown(entries: Sequence[dict[str, Any]], counted: str) -> list[dict[str, Any]]:
    whole = sum(one[counted] for one in entries)
    enough = [one for one in entries if one[counted] >= max(FEWEST, SMALLEST * whole)]
    most = sorted(enough, key=lambda one: -one[counted])[:MOST_SERIES]
    return [one for one in entries if one in most]


def _figure(told: Told, picture: str, numbers: str, key: Iterable[tuple[str, int]] = ()) -> str:
    entries = "".join(
        f'<li class="d{place // SERIES}" style="--c:var(--s{place % SERIES})">{escape(label)}</li>'
        for label, place in key
    )
    listed = f'<ul class="key">{entries}</ul>' if entries else ""
    return (
        f"<figure><h3>{escape(told.title)}</h3><figcaption>{escape(told.description)}</figcaption>{picture}{listed}"
        f"<details><summary>Numbers</summary>{numbers}</details></figure>"
    )


def _lines(told: Told, plot: Plot, series: Series, head: tuple[str, str], colours: Colours) -> str:
    for label, points in series:
        plot.line(points, colours[label])
    times = head[0] == _TIME
    rows = [
        (label, clock(x, day=True) if times else x, y)
        for label, points in series
        for x, y in points
        if math.isfinite(y)
    ]
    return _figure(told, plot.svg(), table(told.title, ("arm", *head), rows), _key(series, colours))


def _key(series: Series, colours: Colours) -> list[tuple[str, int]]:
    return [(label, colours[label]) for label, _ in series]


def _traffic(variants: Sequence[dict[str, Any]], colours: Colours) -> str | None:
    series = [
        (name(one), [(s["at"], s["decisions"] / max(s["seconds"], 1.0) * 60) for s in _all_steps(one, variants)])
        for one in variants
    ]
    sentence = f"Decisions a minute of each arm, in steps of {length(_step(variants))}."
    told = Told("traffic", "Decisions over time", sentence)
    return _over_time(told, series, "decisions a minute", colours, from_zero=True)


def _quality(measure: str, variants: Sequence[dict[str, Any]], colours: Colours) -> str | None:
    series = []
    for one in variants:
        steps = _all_steps(one, variants)
        points = [(s["at"], _or_nan(s["quality"]) if s["outcomes"] >= FEWEST else math.nan) for s in steps]
        series.append((name(one), points))
    title = f"{measure} over time"
    sentence = f"{measure} by step; steps with fewer than {FEWEST} outcomes are left out. The axis need not begin at 0."
    return _over_time(Told("quality", title, sentence), series, measure.lower(), colours, from_zero=False)


def _slowness(variants: Sequence[dict[str, Any]], colours: Colours) -> str | None:
    series = [
        (name(one), [(s["at"], s["latency_p95_ms"] if s["decisions"] else math.nan) for s in _all_steps(one, variants)])
        for one in variants
    ]
    told = Told("slowness", "Time to answer over time", "95 of 100 answers came within this time, by step.")
    return _over_time(told, series, "milliseconds, 95th percentile", colours, from_zero=True)


def _step(variants: Sequence[dict[str, Any]]) -> float:
    """Gives the length of the steps in seconds; the newest one may be shorter."""
    return max((step["seconds"] for one in variants for step in one["steps"]), default=60.0)


def _all_steps(one: dict[str, Any], variants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives every step from the first to the last one of any arm; where an arm did not decide, one of nothing."""
    own = {step["at"]: step for step in one["steps"]}
    known = [step["at"] for other in variants for step in other["steps"]]
    if not known:
        return []
    every = max(_step(variants), 1.0)
    nothing = {"decisions": 0, "outcomes": 0, "quality": None, "latency_p95_ms": 0.0, "seconds": every}
    count = round((max(known) - min(known)) / every) + 1
    places = [min(known) + number * every for number in range(count)]
    return [own.get(at, nothing | {"at": at}) for at in places]


def _over_time(told: Told, series: Series, y_label: str, colours: Colours, *, from_zero: bool) -> str | None:
    known = [(label, points) for label, points in series if any(math.isfinite(y) for _, y in points)]
    places = sorted({x for _, points in known for x, y in points if math.isfinite(y)})
    # One moment is no course of time.
    if len(places) < 2:
        return None
    values = [y for _, points in known for _, y in points if math.isfinite(y)]
    room = max((max(values) - min(values)) * 0.1, abs(max(values)) * 0.01, 1e-9)
    low = min(0.0, *values) if from_zero else min(values) - room
    plot = Plot(told, across=(places[0], places[-1]), up=(low, max(values) + room))
    ticks, day = time_ticks(places[0], places[-1])
    return _lines(told, plot.axes(f"{_TIME}, {day}", y_label, ticks), known, (_TIME, y_label), colours)


def _calibration(variants: Sequence[dict[str, Any]], colours: Colours) -> str | None:
    series = [(name(one), [(b["predicted"], b["observed"]) for b in one["calibration"]]) for one in variants]
    series = [(label, points) for label, points in series if points]
    if not series:
        return None
    sentence = "How often it came true, by what was predicted. On the dashed line, 0.8 comes true 8 times in 10."
    told = Told("calibration", "Calibration", sentence)
    plot = Plot(told, across=(0, 1), up=(0, 1)).axes("predicted", "observed").rule((0, 0), (1, 1))
    return _lines(told, plot, series, ("predicted", "observed"), colours)


def _histogram(key: str, title: str, x_label: str, shapes: Sequence[dict[str, Any]], colours: Colours) -> str | None:
    bins = [(name(one), one[key]["bins"], sum(b["count"] for b in one[key]["bins"])) for one in shapes]
    known = [
        (label, [(b["lower"], b["upper"], b["count"] / whole) for b in found]) for label, found, whole in bins if whole
    ]
    if not known:
        return None
    every = [one for _, found in known for one in found]
    across = (min(one[0] for one in every), max(one[1] for one in every))
    told = Told(key, title, f"Share of each arm's decisions by {x_label}.")
    plot = Plot(told, across=across, up=(0, max(one[2] for one in every) * 1.05)).axes(x_label, "share of decisions")
    for label, found in known:
        plot.outline(found, colours[label])
    rows = [(label, f"{low:.3g} to {high:.3g}", share) for label, found in known for low, high, share in found]
    numbers = table(title, ("arm", x_label, "share of decisions"), rows)
    return _figure(told, plot.svg(), numbers, [(label, colours[label]) for label, _ in known])


def _latencies(shapes: Sequence[dict[str, Any]]) -> str | None:
    ranks = ("0.05", "0.25", "0.5", "0.75", "0.95")
    known = [(name(one), one["latencies_ms"]["quantiles"]) for one in shapes if one["latencies_ms"]["quantiles"]]
    if not known:
        return None
    told = Told(
        "latency", "Time to answer", "Half of the answers came within the time of the dot, 90 of 100 within the line's."
    )
    rows = [(label, [found[rank] for rank in ranks]) for label, found in known]
    head = ("arm", "5 %", "25 %", "half", "75 %", "95 %", "99 %")
    listed = [(label, *(found[rank] for rank in (*ranks, "0.99"))) for label, found in known]
    return _figure(told, ranges(told, rows, "milliseconds"), table("Time to answer within which … came", head, listed))


def _features(findings: Iterable[dict[str, Any]]) -> str | None:
    worst: dict[str, dict[str, Any]] = {}
    for one in findings:
        if one["kind"] != "feature" or one["verdict"] == "not_enough_data":
            continue
        present = worst.get(one["feature"])
        if present is None or _rank(one) > _rank(present):
            worst[one["feature"]] = one
    rows = sorted(worst.values(), key=_rank, reverse=True)[:MOST_BARS]
    if not rows:
        return None
    sentence = "Distance from the reference, in the arm where it is worst. Up to the tick is fine; red ones drift."
    told = Told("features", "Drift by feature", sentence)
    drawn = [(one["feature"], one["effect"], one["effect_limit"], one["verdict"] == "drift") for one in rows]
    listed = [(one["feature"], where(one), one["effect"], one["effect_limit"], one["verdict"]) for one in rows]
    return _figure(told, bars(told, drawn), table(told.title, ("feature", "arm", "effect", "limit", "verdict"), listed))


def _rank(one: dict[str, Any]) -> tuple[bool, float]:
    return one["verdict"] == "drift", one["effect"]


def _fallbacks(shapes: Sequence[dict[str, Any]]) -> str | None:
    reasons: dict[str, int] = {}
    for shape in shapes:
        for reason, count in shape["fallback_reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    if not reasons:
        return None
    whole = sum(one["decisions"] for one in shapes)
    ordered = sorted(reasons.items(), key=lambda one: -one[1])
    share = sum(reasons.values()) / whole
    sentence = (
        f"Decisions that somebody else than the assigned arm answered, by reason: {share:.2%} of {number(whole)}."
    )
    told = Told("fallbacks", _FALLBACKS, sentence)
    drawn = [(reason.replace("_", " "), float(count), None, False) for reason, count in ordered]
    listed = [(reason.replace("_", " "), count, f"{count / whole:.3%}") for reason, count in ordered]
    return _figure(told, bars(told, drawn), table(told.title, ("reason", "decisions", "share of all"), listed))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
