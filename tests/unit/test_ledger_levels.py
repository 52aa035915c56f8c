"""Windows of three lengths: every instant of a span is covered once, by as few windows as there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitoring.ledger.levels import DAY_US, END_US, HOUR_US, LENGTHS, MINUTE_US, Levels

HOURS = st.integers(0, 24 * 5)


@st.composite
def some_levels(draw: st.DrawFn) -> Levels:
    """Levels in which every instant is covered by something, as upkeep keeps them."""
    hours_until = draw(HOURS) * HOUR_US
    days_until = draw(st.integers(0, hours_until // DAY_US)) * DAY_US
    hours_from = draw(st.integers(0, days_until // DAY_US)) * DAY_US
    minutes_from = max(draw(st.integers(0, hours_until // HOUR_US)) * HOUR_US, hours_from)
    return Levels(minutes_from=minutes_from, hours_from=hours_from, hours_until=hours_until, days_until=days_until)


INSTANTS = st.integers(0, 6 * DAY_US) | HOURS.map(lambda hour: hour * HOUR_US)


@given(some_levels(), INSTANTS, INSTANTS, st.sampled_from(LENGTHS), INSTANTS)
def test_each_instant_is_covered_once(levels: Levels, one: int, other: int, longest: int, probe: int) -> None:
    """The windows read for a span never overlap, hold every instant of it, and hold what a change there wrote."""
    since, until = min(one, other), max(one, other)
    spans = levels.cover(since, until, longest)
    written = {(span.length_us, span.start_us) for span in levels.of(probe)}
    inside = [span for span in spans if span.start_us <= probe // span.length_us * span.length_us < span.end_us]
    assert len(inside) <= 1
    if since <= probe < until:
        (span,) = inside
        assert (span.length_us, probe // span.length_us * span.length_us) in written


@given(some_levels(), INSTANTS, INSTANTS)
def test_a_span_is_widened_by_less_than_a_window(levels: Levels, one: int, other: int) -> None:
    """Nothing further than one window outside of the span is read."""
    since, until = min(one, other), max(one, other)
    for span in levels.cover(since, until):
        assert span.start_us > since - span.length_us
        assert span.end_us < until + span.length_us


@given(some_levels(), INSTANTS, INSTANTS)
def test_a_step_is_not_longer_than_asked_where_there_are_shorter_windows(levels: Levels, one: int, other: int) -> None:
    """Hours are read instead of days, and minutes instead of hours, as far as they are kept."""
    since, until = min(one, other), max(one, other)
    for span in levels.cover(since, until, MINUTE_US):
        if span.length_us == HOUR_US:
            assert span.end_us <= levels.minutes_from
        if span.length_us == DAY_US:
            assert span.end_us <= max(levels.hours_from, DAY_US)


def test_a_report_over_everything_reads_days_only() -> None:
    """With all windows live, the whole past is days: their number does not depend on the hour of the day."""
    levels = Levels(minutes_from=DAY_US, hours_from=DAY_US, hours_until=END_US, days_until=END_US)
    assert [span.length_us for span in levels.cover(0, END_US)] == [DAY_US]
    assert [span.length_us for span in levels.of(3 * DAY_US + 5)] == list(LENGTHS)
