"""Sample-ratio mismatch: do arms get the units that their weights say? Valid at every look, in constant memory. Pure.

Each unit counts once, at its first decision under a revision of the experiment: the decisions of one unit go to one
arm and are no evidence of their own. Which units were seen is told by a bit each (a Bloom filter with one hash); a unit
that is taken for another one is left out, whatever its arm. Arms of first decisions are independent draws with the
weights' chances. The test is the mixture of Lindon and Malek (2022): the likelihood under a Dirichlet mixture around
the weights over that under the weights, whose mean is 1 at every number of units while the weights hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift import state

BITS: Final = 1 << 20
"""Units that can be told apart, about; when half of the bits are set nothing is counted any more."""
CONCENTRATION: Final = 100.0
"""How close to the weights the mixture lies: deviations of about a tenth are found soonest."""


@dataclass(slots=True)
class Arrivals:
    """Units by arm, under one revision of one experiment."""

    revision: int
    counts: dict[str, int] = field(default_factory=dict)
    seen: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(BITS // 8, np.uint8))
    set_bits: int = 0

    def add(self, arm: str, units: NDArray[np.int64]) -> None:
        """Counts the units that were not seen before, by digests of 63 bits."""
        if self.set_bits >= BITS // 2:
            return
        places = np.unique(units % BITS)
        bits = (1 << (places % 8)).astype(np.uint8)
        fresh = (self.seen[places // 8] & bits) == 0
        np.bitwise_or.at(self.seen, places[fresh] // 8, bits[fresh])
        new = int(fresh.sum())
        self.set_bits += new
        self.counts[arm] = self.counts.get(arm, 0) + new

    def to_bytes(self) -> bytes:
        """Gives the whole state; its size does not depend on the number of decisions."""
        fields = {"revision": self.revision, "counts": self.counts, "set_bits": self.set_bits}
        return state.pack("arrivals", fields, {"seen": self.seen})

    @staticmethod
    def from_bytes(data: bytes) -> Arrivals:
        """Restores what `to_bytes` gave.

        Raises:
            InvalidArgument: the bytes are damaged.
        """
        fields, arrays = state.unpack("arrivals", data)
        with state.checked("arrivals"):
            counts = {str(arm): int(count) for arm, count in fields["counts"].items()}
            return Arrivals(int(fields["revision"]), counts, arrays["seen"], int(fields["set_bits"]))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What the test says."""

    units: int
    p_value: float
    """Holds at every look."""
    worst_arm: str
    share: float
    """Of the worst arm, as observed."""
    expected: float
    """Of the worst arm, by its weight."""


def mismatch(counts: Mapping[str, int], weights: Mapping[str, float]) -> Mismatch | None:
    """Holds counts of units against weights; None without units or with fewer than two arms that get any.

    A unit in an arm of weight 0, or in none of the arms, is a mismatch by itself.
    """
    whole = sum(weights.values())
    shares = {arm: weight / whole for arm, weight in weights.items() if weight > 0}
    total = sum(counts.values())
    if len(shares) < 2 or not total:
        return None
    stray = {arm: count for arm, count in counts.items() if count and arm not in shares}
    if stray:
        arm = max(stray, key=lambda name: stray[name])
        return Mismatch(total, 0.0, arm, stray[arm] / total, 0.0)
    log_e = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + total)
    for arm, share in shares.items():
        count = counts.get(arm, 0)
        prior = CONCENTRATION * share
        log_e += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    worst = max(shares, key=lambda arm: abs(counts.get(arm, 0) / total - shares[arm]))
    p_value = math.exp(min(0.0, -log_e))
    return Mismatch(total, p_value, worst, counts.get(worst, 0) / total, shares[worst])
