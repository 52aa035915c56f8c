"""Time: the arm belongs to a block of window × region × tenant, and all routers agree without talking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

from router.strategies.assignment import Assignment
from router.strategies.hashing import block_hash, start_hash
from router.strategies.rendezvous import Rendezvous
from router.strategies.wallclock import WallClock

MICROSECONDS = 1_000_000


class ArmOfBlock(Protocol):
    """Which arm a block belongs to."""

    def arm(self, tenant: str, region: str, block: int) -> int:
        """Gives the arm's index among the choices."""
        ...


@dataclass(frozen=True, slots=True)
class Seeded:
    """Each block draws its arm by weight, independently of every other block."""

    key: bytes
    race: Rendezvous

    def arm(self, tenant: str, region: str, block: int) -> int:
        """Gives the winner of the block's hash."""
        return self.race.winner(block_hash(self.key, tenant, region, block))


@dataclass(frozen=True, slots=True)
class Alternating:
    """The arms take turns; which one begins is drawn for each region and tenant."""

    key: bytes
    arms: int

    def arm(self, tenant: str, region: str, block: int) -> int:
        """Gives the arm whose turn it is."""
        return (block + start_hash(self.key, tenant, region)) % self.arms


@dataclass(frozen=True, slots=True)
class Timetable:
    """The same arms at the same local times of every day, for every region and tenant."""

    arms: tuple[int, ...]
    """The arm's index, by slot."""

    def arm(self, tenant: str, region: str, block: int) -> int:  # noqa: ARG002 - part of the protocol
        """Gives the arm of the block's slot."""
        return self.arms[block % len(self.arms)]


class Moment(NamedTuple):
    """What a second means to a switchback."""

    block: int
    burn_in: bool


def moments(clock: WallClock, burn_in_seconds: int) -> Callable[[int], Moment]:
    """Gives the function from a second to its moment. It remembers the latest seconds, and only to be quick."""

    @lru_cache(maxsize=32)
    def moment(second: int) -> Moment:
        burning = burn_in_seconds > 0 and second - clock.run_start(second) < burn_in_seconds
        return Moment(clock.block(second), burning)

    return moment


@dataclass(frozen=True, slots=True)
class Switchback:
    """The arm of the block that holds the instant."""

    moment: Callable[[int], Moment]
    rule: ArmOfBlock
    settled: tuple[Assignment, ...]
    """The assignment to each arm after the burn-in."""
    burning: tuple[Assignment, ...]
    """The assignment to each arm during the burn-in."""

    def assign(
        self,
        *,
        unit_id: str,  # noqa: ARG002 - part of the protocol
        decision_id: str,  # noqa: ARG002 - part of the protocol
        tenant: str,
        region: str,
        at_unix_us: int,
        sequence: int,  # noqa: ARG002 - part of the protocol
    ) -> Assignment:
        """Chooses by tenant, region and time; see Strategy.assign."""
        block, burn_in = self.moment(at_unix_us // MICROSECONDS)
        choices = self.burning if burn_in else self.settled
        return choices[self.rule.arm(tenant, region, block)]

    def stamped(self, digest: int) -> Switchback:
        """See Strategy.stamped."""
        return replace(
            self,
            settled=tuple(choice._replace(digest=digest) for choice in self.settled),
            burning=tuple(choice._replace(digest=digest) for choice in self.burning),
        )
