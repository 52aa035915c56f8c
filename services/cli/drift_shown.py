"""Findings as people see them: what drifts first, the rest as counts, and why a test has no verdict yet."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from services.cli.moments import ago, length, seconds_since, utc

_VERDICTS: Final = {"drift": "drift", "stable": "stable", "not_enough_data": "not enough data"}
_TINY: Final = 1e-99
_WHY: Final = 4
"""Reasons for a missing verdict that are shown at most."""


def drift_table(result: dict[str, Any], now: float, *, everything: bool, picked: str = "") -> RenderableType:
    """Shows findings.

    Args:
        result: as `services.cli.drift.plain` gives it.
        now: seconds since 1970.
        everything: also each test that did not find drift.
        picked: which findings were asked for, such as " of feature"; empty for all.
    """
    checked, findings = result["checked_at"], result["findings"]
    if not checked:
        return Text("The first check cycle has not ended yet: ask again in some seconds.")
    fresh = f"checked {utc(checked)}, {ago(checked, now)}"
    if not findings:
        sentence = (
            f"No test{picked} has a finding"
            if picked
            else "No test has run yet: the last check saw no decisions. The first ones of an arm become its reference"
        )
        return Text(f"{sentence} ({fresh}).")
    by_verdict = {name: [one for one in findings if one["verdict"] == name] for name in _VERDICTS}
    shown: list[RenderableType] = [_summary(by_verdict, fresh)]
    families = len({one["family"] for one in findings}) > 1
    for name, own in by_verdict.items():
        if own and (everything or name == "drift"):
            shown.append(_findings(_VERDICTS[name], own, families=families))
    if not everything:
        shown += _reasons(by_verdict["not_enough_data"])
        if any(own for name, own in by_verdict.items() if name != "drift"):
            shown.append(Text("Each test, with those that did not find drift: `turnout drift --all`."))
    return Group(*shown)


def _summary(by_verdict: dict[str, list[dict[str, Any]]], fresh: str) -> RenderableType:
    drifting, tests = len(by_verdict["drift"]), sum(map(len, by_verdict.values()))
    if drifting:
        head = (f"{drifting} of {_tests(tests)} found drift", "bold red")
    else:
        head = ("no drift found", "bold green") if by_verdict["stable"] else ("no verdict yet", "bold")
    rest = [
        f"{len(by_verdict[name])} {word}" for name, word in (("stable", "stable"), ("not_enough_data", "undecided"))
    ]
    return Text.assemble(head, f" · {', '.join(rest)} · {fresh}")


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _reasons(undecided: list[dict[str, Any]]) -> list[RenderableType]:
    """Says what the tests without a verdict wait for."""
    if not undecided:
        return []
    counted = Counter(one["summary"] for one in undecided)
    bullets = Table.grid(padding=(0, 1))
    for sentence, count in counted.most_common(_WHY):
        bullets.add_row(" •", f"{escape(sentence)} ({_tests(count)})")
    if len(counted) > _WHY:
        bullets.add_row(" •", f"… ({_tests(sum(counted.values()) - sum(c for _, c in counted.most_common(_WHY)))})")
    return [Text("Not enough data yet:"), bullets]


def _findings(title: str, findings: list[dict[str, Any]], *, families: bool) -> Table:
    """Makes a table whose rows of one subject stand together, the subject with the largest effect first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in findings:
        groups.setdefault((one["family"] if families else "", subject(one)), []).append(one)
    undecided = title == _VERDICTS["not_enough_data"]
    table = Table(title=title, title_justify="left")
    for name in ("what", "arm", *(("needs",) if undecided else ("effect", "limit", "p", "current window"))):
        number = name in {"effect", "limit", "p"}
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for (family, what), own in groups.items():
        for place, one in enumerate(own):
            first = "" if place else escape(f"{family}: {what}" if family else what)
            said = (escape(one["summary"]),) if undecided else _numbers(one)
            table.add_row(first, escape(where(one)) or "all", *said)
    return table


def subject(one: dict[str, Any]) -> str:
    """Gives what a finding is about, such as "feature distance_km"."""
    return f"{one['kind'].replace('_', ' ')} {one['feature']}".strip()


def where(one: dict[str, Any]) -> str:
    """Gives arm and variant; one word where they are called the same."""
    arm, variant = one["arm"], one["variant"]
    return arm if arm == variant or not variant else f"{arm} → {variant}".removeprefix(" → ")


def _numbers(one: dict[str, Any]) -> tuple[str, str, str, str]:
    return f"{one['effect']:.3f}", f"{one['effect_limit']:.3g}", chance(one["p_value"]), window(one["current"])


def chance(p_value: float | None) -> str:
    """Gives a p-value in few characters: nothing is impossible."""
    if p_value is None:
        return "–"
    return f"{p_value:.1g}" if p_value >= _TINY else f"<{_TINY:.0e}"


def window(one: dict[str, Any]) -> str:
    """Gives a window's size: decisions, and how long they took where it is one of time."""
    said = f"{one['decisions']:,}"
    if one["start"] and one["end"]:
        return f"{said} in {length(-seconds_since(one['end'], datetime.fromisoformat(one['start']).timestamp()))}"
    return said
