"""The report as one HTML page: no script, nothing fetched, light and dark, readable without the plots. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from services.cli.monitoring import said
from services.cli.report_plots import SERIES, Plot, bars

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#59627a;--paper:#fff;--panel:#f5f6fa;--edge:#d6dae5;--bad:#b3261e;
--warn:#8a5a00;--good:#1b6e3c;--s0:#2457c5;--s1:#b3470f;--s2:#1b7f5c;--s3:#8a2f9b;--s4:#6b6300;--s5:#a3195b}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaf3;--soft:#a3acc2;--paper:#12151d;--panel:#1b202c;--edge:#363e51;
--bad:#ff8a80;--warn:#f2c14e;--good:#7fd8a2;--s0:#8fb4ff;--s1:#ffab78;--s2:#6fd9b3;--s3:#dd9cec;--s4:#d8cf5f;--s5:#ff9cc6}}
*{box-sizing:border-box}body{margin:0 auto;padding:1.5rem;max-width:76rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:.2rem 0 .4rem}p{margin:.3rem 0}.soft{color:var(--soft)}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,32rem),1fr));gap:1rem}
figure{margin:0;padding:.9rem;background:var(--panel);border:1px solid var(--edge);border-radius:.5rem}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--edge)}.axis{stroke:var(--soft)}.rule,.limit{stroke:var(--soft);stroke-dasharray:4 3;stroke-width:1.5}
.line{fill:none;stroke-width:2}.d1{stroke-dasharray:6 3}.d2{stroke-dasharray:2 3}
.bar{fill:var(--s0)}.bad{fill:var(--bad)}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;margin:.4rem 0 0;padding:0;font-size:.85rem}
.key li::before{content:"";display:inline-block;width:.9rem;height:.25rem;margin-right:.4rem;vertical-align:middle;
background:var(--c)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid var(--edge);vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.healthy,.stable,.excellent,.good{color:var(--good)}.degraded,.acceptable{color:var(--warn)}
.unhealthy,.drift,.poor{color:var(--bad)}.healthy,.degraded,.unhealthy,.drift{font-weight:600}
details{margin-top:.4rem;font-size:.85rem}summary{cursor:pointer;color:var(--soft)}
@media print{details{display:none}body{max-width:none}}
""" + "".join(f".line.s{n}{{stroke:var(--s{n})}}.dot.s{n}{{fill:var(--s{n})}}" for n in range(SERIES))


def page(report: dict[str, Any]) -> str:
    """Gives the page of a report as `services.cli.report` makes it."""
    family, window = escape(report["family"]), escape(report["window"])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{family}: report</title><style>{_STYLE}</style></head><body>",
        f'<header><h1>{family}</h1><p class="soft">The last {window}, as of {escape(report["at"])}.</p></header><main>',
        _health(report["health"]),
        _quality(report["variants"]),
        '<h2>Plots</h2><div class="grid2">',
        *_plots(report),
        "</div>",
        _findings(report["findings"]),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _health(health: dict[str, Any]) -> str:
    rows = [
        [
            one["dimension"],
            one["family"] or "platform",
            (one["state"], one["state"]),
            "; ".join(one["reasons"]) or "–",
        ]
        for one in health["dimensions"]
    ]
    return "<h2>Health</h2>" + _table(("dimension", "of", "state", "reasons"), rows)


def _quality(variants: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for one in variants for name in one["measures"]))
    head = ("arm", "variant", "level", "decisions", "with outcome", *(name.replace("_", " ") for name in names))
    rows: list[list[Any]] = []
    for one in variants:
        level = one["level"].replace("unspecified", "not enough data")
        values = [_number(one["measures"].get(name, {}).get("value")) for name in names]
        rows.append([one["arm"], one["variant"], (level, one["level"]), one["decisions"], one["outcomes"], *values])
    notes = "".join(
        f'<p class="soft">{escape(_name(one))}: {escape(_estimate(one["estimate"]))}</p>'
        for one in variants
        if one["estimate"] is not None
    )
    return "<h2>Quality</h2>" + _table(head, rows) + notes


def _estimate(estimate: dict[str, Any]) -> str:
    if not estimate["valid"]:
        return f"no estimate for decisions without outcome: {estimate['reason']}"
    return f"{estimate['decisions']} decisions without outcome are expected to reach {said(estimate['measures'])}"


def _plots(report: dict[str, Any]) -> Iterable[str]:
    variants, shapes = report["variants"], report["distributions"]
    calibrated = [(_name(one), [(b["predicted"], b["observed"]) for b in one["calibration"]]) for one in variants]
    if any(points for _, points in calibrated):
        plot = Plot(
            "cal", "Calibration", "Share of positive outcomes by predicted probability.", across=(0, 1), up=(0, 1)
        )
        yield _lines(plot.axes("predicted", "observed").rule((0, 0), (1, 1)), "Calibration", calibrated)
    for key, title in (
        ("values", "Predicted values"),
        ("confidences", "Confidences"),
        ("latencies_ms", "Latency (ms)"),
    ):
        yield from _histogram(key, title, shapes)
    over_time = [(_name(one), [(s["at"], _or_nan(s["quality"])) for s in one["steps"]]) for one in variants]
    yield from _time("quality", f"{report['main_measure']} over time", over_time)
    slow = [(_name(one), [(s["at"], s["latency_p95_ms"]) for s in one["steps"]]) for one in variants]
    yield from _time("latency", "95th percentile of latency (ms) over time", slow)
    drifted = [one for one in report["findings"] if one["kind"] == "feature" and one["verdict"] != "not_enough_data"]
    worst: dict[str, dict[str, Any]] = {}
    for one in drifted:
        if one["feature"] not in worst or one["effect"] > worst[one["feature"]]["effect"]:
            worst[one["feature"]] = one
    rows = sorted(worst.values(), key=lambda one: -one["effect"])[:30]
    if rows:
        told = [(one["feature"], one["effect"], one["effect_limit"], one["verdict"] == "drift") for one in rows]
        sentence = "Largest distance of each feature from its reference; the tick is what would still be fine."
        picture = bars("features", "Drift by feature", sentence, told)
        yield _figure("Drift by feature", picture, "", _table(("feature", "effect", "limit"), [t[:3] for t in told]))
    reasons: dict[str, int] = {}
    for shape in shapes:
        for name, count in shape["fallback_reasons"].items():
            reasons[name] = reasons.get(name, 0) + count
    if reasons:
        told = [
            (name.replace("_", " "), float(n), None, False) for name, n in sorted(reasons.items(), key=lambda i: -i[1])
        ]
        picture = bars("fallbacks", "Fallbacks by reason", "Decisions that the rules answered, by reason.", told)
        yield _figure("Fallbacks by reason", picture, "", _table(("reason", "decisions"), [t[:2] for t in told]))


def _histogram(key: str, title: str, shapes: Sequence[dict[str, Any]]) -> Iterable[str]:
    series = []
    for one in shapes:
        shape = one[key]
        whole = sum(b["count"] for b in shape["bins"])
        if whole:
            middles = [((b["lower"] + b["upper"]) / 2, b["count"] / whole) for b in shape["bins"]]
            series.append((_name(one), middles))
    places = [x for _, points in series for x, _ in points]
    if places:
        highest = max(y for _, points in series for _, y in points)
        plot = Plot(
            key, title, f"Share of decisions by {title.lower()}.", across=(min(places), max(places)), up=(0, highest)
        )
        yield _lines(plot.axes(title.lower(), "share"), title, series)


def _time(name: str, title: str, series: list[tuple[str, list[tuple[float, float]]]]) -> Iterable[str]:
    known = [(label, points) for label, points in series if any(math.isfinite(y) for _, y in points)]
    if not known:
        return
    places = [x for _, points in known for x, _ in points]
    values = [y for _, points in known for _, y in points if math.isfinite(y)]
    plot = Plot(name, title, f"{title}.", across=(min(places), max(places)), up=(min(0.0, *values, 0.0), max(values)))
    first, last = min(places), max(places)
    ticks = [(first, _clock(first)), (last, _clock(last))] if last > first else [(first, _clock(first))]
    yield _lines(plot.axes("time (UTC)", "", ticks), title, known, clock=True)


def _lines(
    plot: Plot, title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, clock: bool = False
) -> str:
    for place, (_, points) in enumerate(series):
        plot.line(points, place)
    key = "".join(
        f'<li style="--c:var(--s{place % SERIES})">{escape(label)}</li>' for place, (label, _) in enumerate(series)
    )
    rows = [[label, _clock(x) if clock else _number(x), _number(y)] for label, points in series for x, y in points]
    return _figure(title, plot.svg(), f'<ul class="key">{key}</ul>', _table(("arm and variant", "x", "y"), rows))


def _figure(title: str, picture: str, key: str, table: str) -> str:
    numbers = f"<details><summary>Numbers</summary>{table}</details>"
    return f"<figure><h3>{escape(title)}</h3>{picture}{key}{numbers}</figure>"


def _findings(findings: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            (one["verdict"].replace("_", " "), one["verdict"]),
            one["kind"].replace("_", " "),
            " ".join(filter(None, (one["arm"], one["variant"], one["feature"]))),
            _number(one["effect"]),
            _number(one["effect_limit"]),
            "–" if one["p_value"] is None else f"{one['p_value']:.2g}",
            one["summary"],
        ]
        for one in findings
    ]
    return "<h2>Drift</h2>" + _table(("verdict", "kind", "where", "effect", "limit", "p", "summary"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Gives a table; a cell is text, a number, or a pair of text and class."""
    cells = []
    for row in rows:
        line = ""
        for cell in row:
            match cell:
                case (str() as text, str() as kind):
                    line += f'<td class="{escape(kind)}">{escape(text)}</td>'
                case int() | float():
                    line += f'<td class="n">{_number(cell)}</td>'
                case _:
                    line += f"<td>{escape(str(cell))}</td>"
        cells.append(f"<tr>{line}</tr>")
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(cells) or f'<tr><td colspan="{len(head)}">nothing yet</td></tr>'
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _name(one: dict[str, Any]) -> str:
    return one["arm"] if one["arm"] == one["variant"] else f"{one['arm']} → {one['variant']}"


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _clock(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M")
