"""Evidence against "nothing has changed" that holds however often one looks: e-processes for a change at any time.

A bet multiplies its stake by a likelihood ratio whose mean is at most 1 while nothing changes. Since a change may
begin at any time, a stake is laid anew at the start of each block of decisions: the process is

    E_t = sum over blocks s <= t of w_s * (product of the ratios of blocks s..t)  +  (stakes not laid yet),

with weights w that sum to 1 over an endless run. Its mean stays at most 1, so the chance that it ever reaches
1 / alpha is at most alpha (Ville's inequality; Shin, Ramdas and Rinaldo 2023 on e-detectors; the weights make the
bound hold for the whole run, not only for the mean time between false alarms).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitoring.drift.control import Floats

CAP: Final = 40.0
"""Evidence over e**40 is cut off, so that a column that is well again recovers soon. A smaller stake stays valid."""
_SCALE: Final = 1_000.0


def stake_left(decisions: int) -> float:
    """Gives the share of the stake that is laid after `decisions` decisions; it falls like 1 / log."""
    return 1.0 / (1.0 + math.log1p(decisions / _SCALE))


class Evidence:
    """Evidence of several columns, each with the same number of bets, in natural logarithms."""

    def __init__(self, columns: int, bets: int) -> None:
        self.log_stakes: Floats = np.full((columns, bets), -np.inf)
        self.decisions = 0
        self.raised_at: Floats = np.full(columns, np.nan)

    def add(self, log_ratios: NDArray[np.float64], decisions: int) -> None:
        """Adds a block: the logarithm of each bet's ratio over it, [columns, bets], and its decisions."""
        laid = stake_left(self.decisions) - stake_left(self.decisions + decisions)
        self.decisions += decisions
        np.logaddexp(self.log_stakes, math.log(laid) if laid > 0 else -np.inf, out=self.log_stakes)
        self.log_stakes += log_ratios
        np.minimum(self.log_stakes, CAP, out=self.log_stakes)

    def log_e(self) -> Floats:
        """Gives the e-value of each column (the mean over its bets), [columns]."""
        bets = self.log_stakes.shape[1]
        total = np.logaddexp.reduce(self.log_stakes, axis=1) - math.log(bets)
        return np.asarray(np.logaddexp(total, math.log(stake_left(self.decisions))))

    def mark(self, rejected: NDArray[np.bool_], at: float) -> None:
        """Remembers when a column was first rejected; a column that is no longer rejected is forgotten."""
        first = rejected & np.isnan(self.raised_at)
        self.raised_at[first] = at
        self.raised_at[~rejected] = np.nan
