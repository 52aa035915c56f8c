"""Weighted rendezvous: the arms race for a hash, and each wins with probability exactly its share.

Arm i draws u_i in (0, 1) from the hash and its own seed; the smallest -ln(u_i) / w_i wins. The draws of exponential
variables race (Efraimidis and Spirakis, 2006), so P(i wins) = w_i / sum(w). An arm's draw depends on nothing but the
hash and its name: a changed weight moves units between that arm and the others only, and only one way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from math import inf, log
from typing import Final

from router.strategies.hashing import arm_seed, mix

# A double's logarithm errs by 2**-52 or so of itself on every platform: two keys further apart than this are in the
# right order wherever they were computed.
NEAR: Final = 2.0**-40
DIGITS: Final = 80


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Arms that race, in the order of their names (by code point), which settles ties."""

    names: tuple[str, ...]
    racers: tuple[tuple[int, float], ...]
    """Seed and weight of each arm."""
    equal: bool
    """All weights are equal: the largest draw wins and no logarithm is needed."""

    @classmethod
    def of(cls, weights: Mapping[str, int], key: bytes) -> Rendezvous:
        """Prepares the arms with their weights, whole numbers above 0."""
        names = tuple(sorted(weights))
        racers = tuple((arm_seed(key, name), float(weights[name])) for name in names)
        return cls(names=names, racers=racers, equal=len(set(weights.values())) == 1)

    def winner(self, digest: int) -> int:
        """Gives the index in `names` of the arm that wins the 64-bit `digest`."""
        if self.equal:
            return self._largest_draw(digest)
        best = second = inf
        index = 0
        for place, (seed, weight) in enumerate(self.racers):
            time = -log(draw(digest, seed) * 2.0**-53) / weight
            if time < best:
                best, second, index = time, best, place
            elif time < second:
                second = time
        return index if second - best > best * NEAR else self.settle(digest)

    def winners(self, digests: Sequence[int]) -> list[int]:
        """Gives `winner` of each digest."""
        return [0] * len(digests) if len(self.racers) == 1 else list(map(self.winner, digests))

    def _largest_draw(self, digest: int) -> int:
        if len(self.racers) == 1:
            return 0
        best = index = 0
        for place, (seed, _) in enumerate(self.racers):
            number = draw(digest, seed)
            if number > best:
                best, index = number, place
        return index

    def settle(self, digest: int) -> int:
        """Decides as `winner` does, with 80 significant digits: about one race in 10**12 needs it."""
        context = Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)

        def time(place: int) -> Decimal:
            seed, weight = self.racers[place]
            # 53 binary places need 53 decimal ones: this quotient is exact.
            fraction = context.divide(Decimal(draw(digest, seed)), Decimal(2**53))
            return context.divide(-context.ln(fraction), Decimal(int(weight)))

        return min(range(len(self.racers)), key=lambda place: (time(place), self.names[place]))


def draw(digest: int, seed: int) -> int:
    """Gives the odd number 2**53 · u of an arm: u lies in (0, 1), symmetric about one half, exact as a double."""
    return (mix(digest ^ seed) >> 11) | 1
