"""Windows of three lengths, and which of them hold what.

A change lands in the minute's window, and once an hour or a day was added up, in that hour's and day's window too. So
every length that covers an instant tells the same, and a question reads the fewest windows that cover its span.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
LENGTHS: Final = (MINUTE_US, HOUR_US, DAY_US)
END_US: Final = (1 << 62) // DAY_US * DAY_US
"""Later than any instant."""


class Span(NamedTuple):
    """Windows of one length: those that begin in [start_us, end_us)."""

    length_us: int
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Which windows there are, all in microseconds since 1970-01-01T00:00Z.

    Windows of minutes begin at `minutes_from` or later; windows of hours in [`hours_from`, `hours_until`); windows of
    days before `days_until`. What minutes no longer cover, hours do, and what hours no longer cover, days do.
    """

    minutes_from: int
    hours_from: int
    hours_until: int
    days_until: int

    def of(self, at_us: int) -> Iterator[Span]:
        """Gives the windows that a change at this instant belongs to, each as a span of one."""
        if at_us >= self.minutes_from:
            yield _window(MINUTE_US, at_us)
        if self.hours_from <= at_us < self.hours_until:
            yield _window(HOUR_US, at_us)
        if at_us < self.days_until:
            yield _window(DAY_US, at_us)

    def cover(self, since_us: int, until_us: int, longest_us: int = DAY_US) -> list[Span]:
        """Gives the fewest windows that cover [since_us, until_us), none longer than `longest_us` where there are such.

        They may begin earlier and end later: by less than a minute where there are minutes, else by less than an
        hour, else by less than a day.
        """
        coarse = ((DAY_US, self.days_until, self.hours_from), (HOUR_US, self.hours_until, self.minutes_from))
        found: list[Span] = []
        open_spans = [(since_us, until_us)]
        for length, until, finer_from in coarse:
            rest: list[tuple[int, int]] = []
            for start, end in open_spans:
                first = _floor(start, length) if start < finer_from else _ceil(start, length)
                whole = _floor(end, length) if length <= longest_us else 0
                last = min(until, max(whole, min(_ceil(end, length), finer_from)))
                if first >= last:
                    rest.append((start, end))
                    continue
                found.append(Span(length, first, last))
                rest += [(a, b) for a, b in ((start, first), (last, end)) if a < b]
            open_spans = rest
        found += [Span(MINUTE_US, _floor(a, MINUTE_US), _ceil(b, MINUTE_US)) for a, b in open_spans]
        return found


def initial(now_us: int, *, minutes_us: int, hours_us: int) -> Levels:
    """Gives the levels of a new ledger."""
    return Levels(
        minutes_from=max(_floor(now_us - minutes_us, HOUR_US), 0),
        hours_from=max(_floor(now_us - hours_us, DAY_US), 0),
        hours_until=max(_floor(now_us - HOUR_US, HOUR_US), 0),
        days_until=max(_floor(now_us - HOUR_US, DAY_US), 0),
    )


def _window(length: int, at_us: int) -> Span:
    start = _floor(at_us, length)
    return Span(length, start, start + length)


def _floor(at_us: int, length: int) -> int:
    return at_us // length * length


def _ceil(at_us: int, length: int) -> int:
    return -(-at_us // length) * length
