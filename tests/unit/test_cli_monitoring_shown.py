"""What operators read: health, drift and alerts as text, at any width, with and without anything to tell."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from services.cli.alerts_shown import active_table, history_table, past_table, silences_table, statistics_table
from services.cli.drift_shown import drift_table
from services.cli.health_shown import health_table, told
from services.cli.moments import ago, length, utc

NOW = 1_800_000_000.0
WIDTHS = (80, 120, 200)
ID = "01a1feba-a651-72e3-8b0e-6f2f708ae2b3"


def at(seconds: float) -> str:
    """An instant so many seconds from now."""
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat(timespec="seconds")


def shown(renderable: RenderableType, width: int = 80) -> str:
    """What stands in a terminal of that width."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, color_system=None).print(renderable)
    return file.getvalue()


def flat(text: str) -> str:
    """The words alone, as if nothing were folded and no table were drawn."""
    return re.sub(r"[\s│┃•]+", " ", text)


def measure(value: float, unit: str = "1", limit: float | None = None) -> dict[str, Any]:
    return {"value": value, "unit": unit, "limit": limit}


def part(dimension: str, family: str = "", state: str = "healthy", *reasons: str, **numbers: float) -> dict[str, Any]:
    measures = {name: measure(value) for name, value in numbers.items()}
    return {
        "dimension": dimension,
        "family": family,
        "state": state,
        "reasons": list(reasons),
        "measures": measures,
    }


def router(**changes: Any) -> dict[str, Any]:
    books = {"started": 12_345, "stored": 12_340, "pending": 5, "set_aside": 0, "balanced": True}
    return {"router": "router-1", **books, "last_heard": at(-1)} | changes


def health(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    ledger = {"refused": "", "outcomes_waiting": 0, "database_bytes": 8_600_000, "routers": [router()]}
    return {
        "state": "degraded",
        "checked_at": at(-12),
        "next_check": at(288),
        "cycle_seconds": 0.04,
        "dimensions": list(parts),
        "ledger": ledger | changes.pop("ledger", {}),
    } | changes


TWO_FAMILIES = (
    part("database", read_seconds=0.1),
    part("predictions", "", "degraded", "a: slow answers", "b: unsure", families=2, degraded=2, unhealthy=0),
    part("predictions", "a", "degraded", "slow answers", decisions=10),
    part("predictions", "b", "degraded", "unsure", decisions=10),
)


def test_lengths_of_time_have_two_units_at_most() -> None:
    """From a fraction of a second to days."""
    said = [length(seconds) for seconds in (0, 0.25, 9, 48, 60, 270, 7200, 7205, 7260, 273_600)]
    assert said == ["0 s", "0.25 s", "9 s", "48 s", "1 min", "4 min 30 s", "2 h", "2 h", "2 h 1 min", "3 d 4 h"]
    assert (ago(at(-12), NOW), ago(at(0), NOW), ago(at(65), NOW)) == ("12 s ago", "now", "in 1 min 5 s")
    assert utc("2026-01-31T08:00:05+00:00") == "2026-01-31 08:00:05 UTC"
    assert utc("") == ""


@given(st.floats(0, 1e9))
def test_a_length_is_as_long_as_it_says(seconds: float) -> None:
    """What is read adds up to the length, but for the units that are left out."""
    units = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
    parts = [(float(count), units[unit]) for count, unit in re.findall(r"([\d.]+) (d|h|min|s)", length(seconds))]
    assert 1 <= len(parts) <= 2
    assert abs(sum(count * size for count, size in parts) - seconds) <= max(parts[-1][1], 0.5)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_reason_of_health_is_told_once(width: int) -> None:
    """The platform's sums repeat what the families say; people read it once."""
    text = flat(shown(health_table(health(*TWO_FAMILIES), NOW), width))
    assert (text.count("slow answers"), text.count("unsure")) == (1, 1)
    assert "all families" not in text
    assert "degraded · checked" in text
    assert "12 s ago; next in 4 min 48 s" in text


def test_of_one_family_what_others_suffer_from_stays() -> None:
    """Who asks for one family still sees why the platform is not well, and nothing twice."""
    parts = told([one for one in TWO_FAMILIES if one["family"] != "b"])
    assert [(one["family"], one["reasons"]) for one in parts] == [
        ("", []),
        ("", ["b: unsure"]),
        ("a", ["slow answers"]),
    ]


def test_health_without_traffic_says_so() -> None:
    """Healthy for want of anything to judge is not the same as healthy."""
    quiet = health(part("predictions", "toy", "healthy", "no traffic seen yet", decisions=0), state="healthy")
    text = flat(shown(health_table(quiet, NOW)))
    assert "toy, predictions: no traffic seen yet" in text
    assert "turnout alerts list" not in text
    assert "turnout alerts list" in shown(health_table(health(*TWO_FAMILIES), NOW))


def test_health_says_what_it_cannot_know() -> None:
    """Before the first check, when checks have stopped, without families, routers, or a database."""
    before = flat(shown(health_table(health(state="unspecified", checked_at="", next_check=""), NOW)))
    assert "first check cycle has not ended yet" in before
    assert "No family" not in before
    late = flat(shown(health_table(health(*TWO_FAMILIES, next_check=at(-600)), NOW)))
    assert "due 10 min ago" in late
    assert "out of date" in late
    assert "out of date" not in shown(health_table(health(*TWO_FAMILIES, next_check=at(-5)), NOW))
    assert "No family is served yet" in shown(health_table(health(part("database")), NOW))
    assert "No router has told" in shown(health_table(health(ledger={"routers": []}), NOW))
    refused = health(ledger={"refused": "the database is away", "routers": []})
    assert "the database is away" in shown(health_table(refused, NOW))


def test_books_that_do_not_add_up_are_told() -> None:
    """With the number of records that nobody knows of; a router that was not heard of lately shows for how long."""
    books = {"routers": [router(started=12_350, balanced=False, last_heard=at(-7200))], "outcomes_waiting": 7}
    text = flat(shown(health_table(health(*TWO_FAMILIES, ledger=books), NOW)))
    assert "router-1: the books do not add up, by +5 records" in text
    assert "2 h ago" in text
    assert "7 outcomes wait" in text
    assert "add up" not in shown(health_table(health(*TWO_FAMILIES), NOW))


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "family": "toy",
        "kind": "feature",
        "arm": "model",
        "variant": "model",
        "feature": "distance_km",
        "test": "Kolmogorov-Smirnov",
        "verdict": "drift",
        "effect": 0.31,
        "effect_name": "distance",
        "effect_limit": 0.05,
        "p_value": 1e-9,
        "reference": {"start": at(-3600), "end": at(-3000), "decisions": 5000},
        "current": {"start": at(-900), "end": at(0), "decisions": 1234},
        "summary": "distance_km moved",
    } | changes


def drift(*findings: dict[str, Any], checked: str = at(-3), **options: Any) -> str:
    result = {"checked_at": checked, "findings": list(findings)}
    return flat(shown(drift_table(result, NOW, everything=options.pop("everything", False), **options)))


STABLE = finding(verdict="stable", feature="hour", effect=0.01)
UNDECIDED = finding(verdict="not_enough_data", kind="concept", feature="", summary="200 more decisions are needed")


def test_drift_without_findings_is_a_sentence() -> None:
    """Why there is nothing: not checked, nothing seen, or nothing of what was asked for."""
    assert "first check cycle has not ended yet" in drift(checked="")
    assert "No test has run yet: the last check saw no decisions" in drift()
    assert "No test of feature has a finding" in drift(picked=" of feature")


def test_drift_comes_first_and_the_rest_is_counted() -> None:
    """Subject once, each arm with its numbers and its window; the others only on demand."""
    findings = (finding(), finding(arm="rules", variant="rules", effect=0.2), STABLE, UNDECIDED)
    text = drift(*findings)
    assert text.startswith("2 of 4 tests found drift · 1 stable, 1 undecided · checked")
    assert text.count("feature distance_km") == 1
    assert "model 0.310 0.05 1e-09 1,234 in 15 min" in text
    assert "rules 0.200" in text
    assert "hour" not in text
    assert "200 more decisions are needed (1 test)" in text
    everything = drift(*findings, everything=True)
    assert "feature hour" in everything
    assert "turnout drift --all" not in everything


def test_no_drift_is_told_apart_from_no_verdict() -> None:
    """And a family is named only where there are several."""
    assert drift(STABLE, UNDECIDED).startswith("no drift found")
    assert drift(UNDECIDED).startswith("no verdict yet")
    assert "toy: feature distance_km" not in drift(finding())
    assert "toy: feature distance_km" in drift(finding(), finding(family="other"))


def alert(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "type": "feature_drift",
        "severity": "high",
        "state": "firing",
        "labels": {"family": "toy", "feature": "distance_km"},
        "summary": "distance_km [moved] by 0.31",
        "started_at": at(-400),
        "fired_at": at(-300),
        "resolved_at": "",
        "resolved_by": "",
        "resolved_why": "",
        "flapping": False,
        "silenced_by": "",
    } | changes


@pytest.mark.parametrize("width", WIDTHS)
def test_an_alert_is_whole_at_any_width(width: int) -> None:
    """Nothing is cut off: the id can be copied, and brackets are no markup."""
    text = shown(active_table([alert(flapping=True)], checked=at(-2), filters="", now=NOW), width)
    assert max(map(len, text.splitlines())) <= width
    assert ID in text
    for words in ("1 active: 1 high · checked", "feature_drift family=toy feature=distance_km", "5 min ago"):
        assert words in flat(text)
    assert "[moved]" in text
    assert "firing, flapping" in text


def test_no_alert_is_a_sentence_with_the_age_of_the_last_look() -> None:
    """Nothing is wrong, of what was asked for, as far as the last check knows."""
    text = flat(shown(active_table([], checked=at(-2), filters=" of family toy", now=NOW)))
    assert text.startswith("No alert of family toy is active · checked")
    assert "2 s ago" in text
    text = flat(shown(active_table([], checked="", filters="", now=NOW)))
    assert "No alert is active · the first check cycle has not ended yet" in text


def test_past_alerts_say_how_they_ended_and_that_there_are_more() -> None:
    """After how long, by whom; one more page is offered only when there may be one."""
    ended = alert(state="resolved", resolved_at=at(-60), resolved_by="ops", resolved_why="a known storm")
    text = flat(shown(past_table([ended], filters="", limit=1, now=NOW)))
    for words in ("1 min ago", "after 4 min", "resolved by ops: a known storm", "--limit shows more"):
        assert words in text
    assert "--limit" not in shown(past_table([ended], filters="", limit=2, now=NOW))
    assert "No alert of type x was raised" in shown(past_table([], filters=" of type x", limit=2, now=NOW))


def test_one_alert_shows_its_history_and_who_knows() -> None:
    """And that nobody was told, where nobody was."""
    event = {"at": at(-300), "event": "fired", "alert": alert()}
    found = {"alert": alert(), "events": [event], "told": []}
    assert "No handler has been told of it" in shown(history_table(found, NOW))
    known = found | {"told": [{"handler": "pager", "notice": "fired", "at": at(-299)}]}
    assert "pager" in shown(history_table(known, NOW))


def test_silences_and_statistics_say_when_there_is_nothing() -> None:
    """An empty table tells nothing; a sentence does."""
    assert "Nothing is silenced" in shown(silences_table([], NOW))
    silence = {"matchers": ["family=toy"], "starts_at": at(-60), "ends_at": at(3600), "created_by": "ops", "why": "x"}
    text = flat(shown(silences_table([silence | {"id": ID}], NOW)))
    assert "ends in 1 h" in text
    ended = silence | {"id": ID, "ends_at": at(-30)}
    assert "ended 30 s ago" in flat(shown(silences_table([ended], NOW)))
    assert ID in text
    nothing: dict[str, Any] = {
        "active": 0,
        "mean_seconds_to_resolve": None,
        "waiting_for_database": False,
        "counts": [],
    }
    text = flat(shown(statistics_table(nothing | {"handlers": []})))
    assert "0 active · no alert was raised in this time" in text
    assert "nobody is told" in text
