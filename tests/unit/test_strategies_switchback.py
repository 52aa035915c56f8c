"""Time: blocks by the wall clock, on ordinary days and on those when the clocks change."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.strategies import Assignment, Snapshot, assign, compile_experiment
from router.strategies.wallclock import DailySlots, WallClock, Windows, offsets
from services.runtime.experiment import Experiment

BERLIN, HOWE = "Europe/Berlin", "Australia/Lord_Howe"
# The first instants after the clocks changed in 2026, in UTC.
SPRING, AUTUMN = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)
HOWE_BACK, HOWE_ON = datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)


def switchback(arms: dict[str, float] | None = None, salt: str = "s", **strategy: Any) -> Snapshot:
    """A compiled switchback."""
    form: dict[str, Any] = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": salt,
        "champion": "a",
        "strategy": {"kind": "time"} | strategy,
    }
    weights = arms or {"a": 1, "b": 1}
    form["arms"] = {name: {"variant": name, "weight": weight} for name, weight in weights.items()}
    return compile_experiment(Experiment.model_validate(form))


def at(snapshot: Snapshot, instant: datetime, tenant: str = "t", region: str = "r", unit_id: str = "u") -> Assignment:
    """The assignment at an instant."""
    microseconds = round(instant.timestamp() * 1_000_000)
    return assign(
        snapshot, unit_id=unit_id, decision_id="d", tenant=tenant, region=region, at_unix_us=microseconds, sequence=0
    )


def minutes(begin: datetime, count: int, step: int = 1) -> list[datetime]:
    """Instants that many minutes apart."""
    return [begin + timedelta(minutes=step * i) for i in range(count)]


@pytest.mark.parametrize("assignment", ["seeded", "alternating"])
def test_block_keeps_its_arm_whatever_the_unit(assignment: str) -> None:
    """Within one window of one region and tenant everybody meets the same arm."""
    snapshot = switchback(window_seconds=1800, assignment=assignment)
    begin = datetime(2026, 5, 1, 10, tzinfo=UTC)
    for block in minutes(begin, 48, step=30):
        found = {at(snapshot, instant, unit_id=str(instant)).arm for instant in minutes(block, 30)}
        assert len(found) == 1


def test_regions_and_tenants_are_independent() -> None:
    """The blocks of two regions, of two tenants, and of two neighbours in time agree only by chance."""
    snapshot = switchback(window_seconds=3600)
    hours = minutes(datetime(2026, 1, 1, tzinfo=UTC), 4_000, step=60)
    here = [at(snapshot, hour).arm for hour in hours]
    there = [at(snapshot, hour, region="q").arm for hour in hours]
    theirs = [at(snapshot, hour, tenant="x").arm for hour in hours]
    slack = 5 * math.sqrt(4_000) / 2
    for other in (there, theirs, here[1:] + here[:1]):
        assert abs(sum(x == y for x, y in zip(here, other, strict=True)) - 2_000) < slack


def test_seeded_blocks_share_out_by_weight() -> None:
    """Over many blocks an arm gets its share, and one of weight 0 gets none."""
    snapshot = switchback({"a": 3, "b": 0, "c": 1}, window_seconds=60)
    found = [at(snapshot, instant).arm for instant in minutes(datetime(2026, 1, 1, tzinfo=UTC), 8_000)]
    assert "b" not in found
    assert abs(found.count("a") - 6_000) < 5 * math.sqrt(8_000 * 0.75 * 0.25)


def test_alternation_takes_turns_and_starts_by_chance() -> None:
    """Block after block the next arm, whatever its weight; where it starts differs among regions."""
    snapshot = switchback({"a": 9, "zero": 0, "b": 1, "c": 5}, window_seconds=600, assignment="alternating")
    begin = datetime(2026, 5, 1, tzinfo=UTC)
    found = [at(snapshot, instant).arm for instant in minutes(begin, 40, step=10)]
    following = {"a": "b", "b": "c", "c": "a"}
    assert all(following[before] == after for before, after in pairwise(found))
    starts = [at(snapshot, begin, region=str(region)).arm for region in range(3_000)]
    for arm in "abc":
        assert abs(starts.count(arm) - 1_000) < 5 * math.sqrt(3_000 * 2 / 9)


def test_timetable_goes_by_local_time() -> None:
    """Six in the morning is six in the morning, in winter, in summer, and on the days between."""
    slots = [{"start_seconds": 0, "arm": "a"}, {"start_seconds": 6 * 3600, "arm": "b"}]
    snapshot = switchback(assignment="timetable", time_zone=BERLIN, timetable=slots)
    for day in (datetime(2026, 1, 10), datetime(2026, 3, 29), datetime(2026, 7, 1), datetime(2026, 10, 25)):  # noqa: DTZ001 - local time
        six = day.replace(hour=6, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
        assert at(snapshot, six - timedelta(seconds=1)).arm == "a"
        chosen = at(snapshot, six)
        assert (chosen.arm, chosen.propensity) == ("b", 1.0)


def clock(zone: str, window: int, offset: int = 0) -> WallClock:
    """A wall clock with equal windows."""
    return WallClock(Windows(window, offset), offsets(ZoneInfo(zone)))


def blocks(wall: WallClock, begin: datetime, hours: float, step: int = 60) -> list[int]:
    """The block numbers seen from `begin` on, repeats in a row left out."""
    first = round(begin.timestamp())
    seen = [wall.block(second) for second in range(first, first + round(hours * 3600), step)]
    return [number for i, number in enumerate(seen) if i == 0 or seen[i - 1] != number]


def test_skipped_hour_never_appears() -> None:
    """Berlin, 29 March 2026: the window of two o'clock does not exist; its neighbours touch."""
    wall = clock(BERLIN, 3600)
    one = wall.block(round(SPRING.timestamp()) - 1)
    assert blocks(wall, SPRING - timedelta(hours=2), 4) == [one - 1, one, one + 2, one + 3]


def test_repeated_hour_falls_into_the_same_windows() -> None:
    """Berlin, 25 October 2026: two o'clock lasts two hours as one block; quarters of it come twice."""
    hourly, quarterly = clock(BERLIN, 3600), clock(BERLIN, 900)
    two = hourly.block(round(AUTUMN.timestamp()))
    assert blocks(hourly, AUTUMN - timedelta(hours=2), 4) == [two - 1, two, two + 1]
    quarter = quarterly.block(round(AUTUMN.timestamp()))
    assert blocks(quarterly, AUTUMN - timedelta(hours=1), 2) == [quarter + i for i in (0, 1, 2, 3)] * 2


def test_half_an_hour_is_repeated_and_skipped_on_lord_howe() -> None:
    """A change of thirty minutes is as good as one of sixty."""
    wall = clock(HOWE, 900)
    back, on = wall.block(round(HOWE_BACK.timestamp())), wall.block(round(HOWE_ON.timestamp()))
    assert blocks(wall, HOWE_BACK - timedelta(minutes=30), 1) == [back, back + 1, back, back + 1]
    assert blocks(wall, HOWE_ON - timedelta(minutes=30), 1) == [on - 4, on - 3, on, on + 1]


@pytest.mark.parametrize(
    ("zone", "window", "offset", "change", "before"),
    [
        # Seconds from the change back to the beginning of the run that holds the instant of the change.
        pytest.param(BERLIN, 3600, 0, SPRING, 0, id="skipped: three o'clock begins at the change"),
        pytest.param(BERLIN, 14_400, 0, SPRING, 7200, id="skipped inside a window of four hours"),
        pytest.param(BERLIN, 3600, 0, AUTUMN, 3600, id="repeated: one run of two hours"),
        pytest.param(BERLIN, 900, 0, AUTUMN, 0, id="repeated quarter: comes back, a new run"),
        pytest.param(BERLIN, 3600, 1800, AUTUMN, 0, id="set back into the window before: a new run"),
        pytest.param(BERLIN, 86_400, 0, AUTUMN, 10_800, id="day of twenty-five hours"),
        pytest.param(HOWE, 3600, 0, HOWE_BACK, 3600, id="half an hour repeated inside its hour"),
        pytest.param(HOWE, 1800, 0, HOWE_BACK, 1800, id="half an hour repeated as one run"),
        pytest.param(HOWE, 3600, 0, HOWE_ON, 0, id="half past two, where an hour was cut in half"),
    ],
)
def test_run_begins_where_the_block_was_entered(
    zone: str, window: int, offset: int, change: datetime, before: int
) -> None:
    """The beginning of a block on the real time line, across a change of the clock."""
    instant = round(change.timestamp())
    assert clock(zone, window, offset).run_start(instant) == instant - before


@settings(max_examples=150, deadline=None)
@given(
    zone=st.sampled_from([BERLIN, HOWE]),
    cut=st.sampled_from(
        [Windows(900, 0), Windows(1800, 700), Windows(3600, 1800), Windows(7200, 0), DailySlots((0, 7500, 9900))]
    ),
    change=st.sampled_from([SPRING, AUTUMN, HOWE_BACK, HOWE_ON]),
    away=st.integers(-8_000, 8_000),
)
def test_run_is_unbroken_and_cannot_be_longer(
    zone: str, cut: Windows | DailySlots, change: datetime, away: int
) -> None:
    """Second by second: one block from the run's start on, another just before it."""
    wall = WallClock(cut, offsets(ZoneInfo(zone)))
    second = round(change.timestamp()) + away
    start = wall.run_start(second)
    number = wall.block(second)
    assert wall.block(start - 1) != number
    assert all(wall.block(inside) == number for inside in range(start, second + 1, 13))
    assert wall.block(start) == number


def test_burn_in_is_marked_at_the_start_of_each_block() -> None:
    """The first two minutes are marked, to the microsecond, and again after the clock comes back to a block."""
    snapshot = switchback(window_seconds=900, burn_in_seconds=120, time_zone=BERLIN)
    noon = datetime(2026, 7, 1, 10, tzinfo=UTC)
    for begin in (noon, AUTUMN - timedelta(hours=1), AUTUMN, SPRING):
        assert not at(snapshot, begin - timedelta(microseconds=1)).burn_in
        assert at(snapshot, begin).burn_in
        assert at(snapshot, begin + timedelta(seconds=120, microseconds=-1)).burn_in
        assert not at(snapshot, begin + timedelta(seconds=120)).burn_in
    whole = switchback(window_seconds=3600, burn_in_seconds=120, time_zone=BERLIN)
    assert not at(whole, AUTUMN).burn_in


def test_without_burn_in_nothing_is_marked() -> None:
    """Zero seconds mean none."""
    snapshot = switchback(window_seconds=900)
    assert not at(snapshot, datetime(2026, 7, 1, 10, tzinfo=UTC)).burn_in


@settings(max_examples=100, deadline=None)
@given(second=st.integers(0, 3_000_000_000), ahead=st.integers(-2_000_000, 2_000_000))
def test_clocks_two_seconds_apart_agree_away_from_the_boundary(second: int, ahead: int) -> None:
    """Two routers differ only when a boundary lies between their clocks."""
    snapshot = switchback({"a": 1, "b": 1, "c": 2}, window_seconds=60, offset_seconds=7)
    one = datetime.fromtimestamp(second, UTC)
    other = one + timedelta(microseconds=ahead)
    if 2 <= (second - 7) % 60 < 57:
        assert at(snapshot, one) == at(snapshot, other)


def test_far_instants_still_have_an_offset() -> None:
    """Beyond the calendar's years the nearest known offset is taken, and a block is found."""
    snapshot = switchback(window_seconds=900, burn_in_seconds=60, time_zone=BERLIN)
    for extreme in (-(2**63), 2**63 - 1):
        arguments: dict[str, Any] = {"unit_id": "", "decision_id": "", "tenant": "", "region": "", "sequence": 0}
        assert assign(snapshot, at_unix_us=extreme, **arguments).arm in {"a", "b"}
