"""The report as one HTML page: no script, nothing fetched, light and dark, readable without the plots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from services.cli.drift_shown import chance, subject, where, window
from services.cli.health_shown import numbers, told
from services.cli.moments import clock, length, utc
from services.cli.report_figures import FEWEST, MOST_SERIES, SMALLEST, figures
from services.cli.report_markup import Cell, heading, measured, name, number, table, words
from services.cli.report_shadows import shadow_section
from services.cli.report_style import STYLE

_VERDICTS: Final = (("drift", "What drifts"), ("stable", "What is stable"), ("not_enough_data", "Not enough data yet"))
_STATES: Final = ("unhealthy", "degraded", "healthy", "unspecified")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: dict[str, Any]) -> str:
    """Gives the page of a report as `services.cli.report.plain` makes it."""
    family = escape(report["family"])
    since, until = clock(report["since"]), utc(report["until"])
    part = "".join(f", {kind} {escape(report[kind])} only" for kind in ("arm", "tenant") if report[kind])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><link rel="icon" href="data:,">',
        f"<title>{family}: report of {until}</title><style>{STYLE}</style></head><body>",
        f"<header><h1>Report on {family}{part}</h1>",
        f'<p class="soft">The last {length(report["window_seconds"])}: {since} to {until}.</p>',
        f"{_tiles(report)}</header>",
        f"<main>{_health(report['health'])}{_quality(report)}{shadow_section(report['shadows'])}",
        f"{_plots(report)}{_findings(report)}</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _tiles(report: dict[str, Any]) -> str:
    variants, findings = report["variants"], report["findings"]
    decisions = sum(one["decisions"] for one in report["distributions"])
    outcomes = sum(one["outcomes"] for one in variants)
    instead = sum(sum(one["fallback_reasons"].values()) for one in report["distributions"])
    drifting = sum(one["verdict"] == "drift" for one in findings)
    judged = sum(one["verdict"] != "not_enough_data" for one in findings)
    state = report["health"]["state"]
    known = state != "unspecified"
    shown = [
        ("Health", state if known else "not checked", state, "of platform and family" if known else "first check runs"),
        ("Decisions", number(decisions), "", f"in {length(report['window_seconds'])}"),
        ("With outcome", number(outcomes), "", f"{outcomes / decisions:.1%} of them" if decisions else "none yet"),
        ("Fallbacks", number(instead), "", f"{instead / decisions:.2%} of them" if decisions else "none yet"),
        (
            "Drift",
            f"{drifting} of {judged}" if judged else "no verdict",
            "drift" if drifting else "",
            "tests with a verdict found any" if judged else "more decisions are needed",
        ),
    ]
    tiles = "".join(
        f'<div><dt>{escape(title)}</dt><dd><span class="{kind}">{escape(text)}</span>'
        f"<small>{escape(remark)}</small></dd></div>"
        for title, text, kind, remark in shown
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _health(health: dict[str, Any]) -> str:
    if not health["checked_at"]:
        return "<section><h2>Health</h2><p>The first check cycle has not ended yet.</p></section>"
    parts = sorted(told(health["dimensions"]), key=lambda one: _STATES.index(one["state"]))
    items = "".join(map(_part, parts))
    checked = f'<p class="soft">As the check of {escape(utc(health["checked_at"]))} found it.</p>'
    return f'<section><h2>Health</h2>{checked}<ul class="parts">{items}</ul></section>'


def _part(one: dict[str, Any]) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in one["reasons"])
    whose = one["family"] or ("all families" if "families" in one["measures"] else "platform")
    return (
        f'<li class="{"" if one["state"] == "healthy" else "unwell"}">'
        f"<h3>{escape(one['dimension'].capitalize())} <span>of {escape(whose)}</span> "
        f'<b class="{escape(one["state"])}">{escape(one["state"])}</b></h3>'
        f'<p class="soft">{escape(" · ".join(numbers(one["measures"])))}</p>'
        + (f"<ul>{reasons}</ul>" if reasons else "")
        + "</li>"
    )


def _quality(report: dict[str, Any]) -> str:
    variants: Sequence[dict[str, Any]] = report["variants"]
    if not variants:
        sentence = (
            "No decision was recorded in this time. Ask for one with <code>turnout predict</code>, or report on a "
            "longer time with <code>--window 7d</code>."
        )
        return f"<section><h2>Quality</h2><p>{sentence}</p></section>"
    names = list(dict.fromkeys(measure for one in variants for measure in one["measures"]))
    head = ("arm", "level", "decisions", "outcomes", *map(words, names))
    rows: list[list[Cell | float]] = []
    for one in variants:
        level = one["level"].replace("unspecified", "not enough data")
        values = [_measure(one["measures"].get(measure)) for measure in names]
        shown = Cell(level.replace("_", " "), f"line1 {one['level']}")
        rows.append([heading(one), shown, one["decisions"], one["outcomes"], *values])
    caption = "Predictions against outcomes, with intervals of 95 %"
    if not names:
        caption = "No outcome was reported in this time, so nobody knows yet how good the answers were"
    return f"<section><h2>Quality</h2>{table(caption, head, rows)}{_estimates(variants)}</section>"


def _measure(found: dict[str, Any] | None) -> Cell:
    value, interval = measured(found)
    return Cell(value, remark=interval, numeric=True)


def _estimates(variants: Sequence[dict[str, Any]]) -> str:
    items = "".join(
        f"<li>{escape(name(one))}: {escape(estimate(one['estimate']))}</li>"
        for one in variants
        if one["estimate"] is not None
    )
    return f"<h3>Decisions without an outcome yet</h3><ul>{items}</ul>" if items else ""


def estimate(found: dict[str, Any]) -> str:
    """Says what decisions without outcome are expected to reach, or why nobody can tell."""
    if not found["valid"]:
        return f"no estimate: {found['reason']}"
    known = [(words(measure), *measured(one)) for measure, one in found["measures"].items()]
    reached = ", ".join(f"{measure} {value}" + (f" ({lies})" if lies else "") for measure, value, lies in known)
    return f"{found['decisions']:,} decisions are expected to reach {reached}"


def _plots(report: dict[str, Any]) -> str:
    drawn, missing = figures(report)
    shown = f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""
    still = f'<p class="soft">Not enough to draw yet: {escape(", ".join(missing))}.{_finer(report, missing)}</p>'
    which = f"At most {MOST_SERIES} arms are drawn, each with {FEWEST} decisions and {SMALLEST:.0%} of all at least."
    note = f'<p class="soft">{which}</p>' if drawn else ""
    return f"<section><h2>Plots</h2>{note}{shown}{still if missing else ''}</section>"


def _finer(report: dict[str, Any], missing: Sequence[str]) -> str:
    """Says what helps where all that there is falls into one step of time."""
    if not report["variants"] or not any(title.endswith("over time") for title in missing):
        return ""
    return " A shorter time, such as <code>--window 1h</code>, has finer steps."


def _findings(report: dict[str, Any]) -> str:
    findings: Sequence[dict[str, Any]] = report["findings"]
    if not findings:
        sentence = "No test has run yet: the first decisions of each arm become what later ones are compared with."
        return f"<section><h2>Drift</h2><p>{sentence}</p></section>"
    parts = []
    for verdict, title in _VERDICTS:
        own = [one for one in findings if one["verdict"] == verdict]
        if own and verdict == "drift":
            parts.append(_tests(title, own))
        elif own:
            parts.append(f"<details><summary>{title} ({len(own)})</summary>{_tests(title, own)}</details>")
        elif verdict == "drift":
            parts.append(f"<p>{no_drift(findings)}</p>")
    return f"<section><h2>Drift</h2>{''.join(parts)}</section>"


def no_drift(findings: Sequence[dict[str, Any]]) -> str:
    """Says that none of the tests found drift, or that none of them can tell yet, which is no good news."""
    undecided = all(one["verdict"] == "not_enough_data" for one in findings)
    return "No verdict on drift yet: more decisions are needed." if undecided else "No test found drift."


def _tests(caption: str, findings: Sequence[dict[str, Any]]) -> str:
    head = ("what", "arm", "effect", "limit", "p", "decisions", "reference", "summary", "test")
    rows = [
        [
            subject(one),
            where(one) or "all",
            one["effect"],
            one["effect_limit"],
            Cell(chance(one["p_value"]), numeric=True),
            Cell(window(one["current"]), "line1"),
            one["reference"]["decisions"],
            Cell(one["summary"], "text"),
            Cell(one["test"], "text"),
        ]
        for one in findings
    ]
    return table(caption, head, rows)
