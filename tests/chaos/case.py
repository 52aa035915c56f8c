"""What a case is, and its result as one line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.chaos.books import Books
from tests.chaos.traffic import Traffic, Watch

ON_TIME_SHARE = 0.9999


@dataclass(frozen=True)
class Options:
    """How much of everything.

    `calls` scales the loads; `long` runs the counts that the promises name (1 000 kills, 10 000 cuts, 1 000 000
    messages).
    """

    seed: int
    calls: int = 600
    rate: float = 300.0
    kills: int = 5
    swaps: int = 10
    cuts: int = 600
    messages: int = 5_000


@dataclass
class Result:
    """What a case found. `broken` says what did not hold, one sentence each."""

    calls: int = 0
    errors: int = 0
    late: int = 0
    lost: int = 0
    double: int = 0
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why this machine does not let the case run."""

    @property
    def holds(self) -> bool | None:
        """Whether the promise was kept; None when nobody looked."""
        if self.skipped:
            return None
        return not (self.errors or self.lost or self.double or self.broken)

    def take(self, traffic: Traffic, watch: Watch, *, in_time: bool = True) -> None:
        """Takes over what callers saw; with `in_time`, that calls are in time is a part of the promise."""
        self.calls += traffic.calls
        self.errors += sum(traffic.errors.values())
        self.late += len(traffic.late)
        explained = sum(watch.explains(begin, end) for begin, end in traffic.late)
        unexplained = len(traffic.late) - explained
        if in_time and unexplained > (1 - ON_TIME_SHARE) * max(traffic.calls, 1):
            self.broken.append(f"{unexplained} late calls are not explained by stalls of the machine")
        if traffic.late:
            worst = max(end - begin for begin, end in traffic.late) * 1000
            by_machine = f"{explained} of {len(traffic.late)} late calls are explained by stalls of the machine"
            self.notes.append(f"{by_machine}, worst {worst:.0f} ms")
        if traffic.errors:
            self.notes.append("errors " + _counts(traffic.errors))
        if traffic.retries:
            self.notes.append(f"{traffic.retries} retries")
        if traffic.latencies:
            ordered = sorted(traffic.latencies)
            p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
            self.notes.append(f"p50 {p50 * 1000:.1f} p99 {p99 * 1000:.1f} ms")
        self.notes.append(_counts(traffic.fallbacks))

    def book(self, books: Books) -> None:
        """Takes over what the ledger holds."""
        self.lost += books.lost
        self.double += books.double

    def json(self, name: str) -> str:
        """Gives the case's one line."""
        return json.dumps(
            {
                "case": name,
                "calls": self.calls,
                "errors": self.errors,
                "late": self.late,
                "lost": self.lost,
                "double": self.double,
                "holds": self.holds,
            }
        )


def _counts(counter: dict[str, int]) -> str:
    return " ".join(f"{name.lower()}={count}" for name, count in sorted(counter.items()))


@dataclass(frozen=True)
class Case:
    """A promise and what puts it to the test."""

    name: str
    promise: str
    run: Callable[[Options], Awaitable[Result]]
    short: bool = False
    """Whether it belongs to the short form, which `make test` runs."""
