"""Control of false alarms over many columns and repeated looks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def spent(alpha: float, look: int) -> float:
    """Gives the error rate that look number `look` (from 1) may use so that all looks together stay under `alpha`.

    alpha / (look (look + 1)) sums to alpha over all looks, without an end, whatever the dependence among them
    (Bonferroni; Foster and Stine 2008 on alpha spending).

    Raises:
        ValueError: the look is under 1.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return alpha / (look * (look + 1))


def holm(p_values: Floats) -> Floats:
    """Adjusts p-values for their number, [columns]; NaN stays NaN and does not count.

    Holm (1979): rejecting where the adjusted value is at most alpha keeps the chance of any false rejection under
    alpha, whatever the dependence.
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def e_bh(log_e: Floats) -> Floats:
    """Adjusts e-values for their number: gives log p, [columns], so that p <= alpha is a rejection by e-BH.

    Wang and Ramdas (2022): reject the k largest when k e_(k) >= m / alpha. Under arbitrary dependence this keeps the
    false discovery rate under alpha. When nothing drifts, any rejection means that the mean of the e-values reached
    1 / alpha, which for e-processes has at most the chance alpha over all looks (Ville's inequality).
    """
    order = np.argsort(-log_e, kind="stable")
    ranks = np.arange(1, len(log_e) + 1)
    steps = np.log(len(log_e)) - np.log(ranks) - log_e[order]
    adjusted = np.empty(len(log_e))
    # A column is rejected with every column of larger evidence: the smallest level at which its rank is within k.
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 0.0)
    return adjusted
