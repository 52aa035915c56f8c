"""Distances between two windows' distributions, from their summaries, with p-values.

Sources: Kolmogorov (1933) and Smirnov (1948) for KS; Pearson (1900) for chi-squared; Lin (1991) for Jensen-Shannon; the
population stability index is the symmetrised Kullback-Leibler divergence of binned shares, as scorecards use it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import chdtrc, kolmogorov

from monitoring.drift.control import Floats
from monitoring.drift.results import Distances
from monitoring.drift.summaries import CategorySummary, NumberSummary

_POINTS: Final = 64
_BINS: Final = 10
_EXPECTED: Final = 5.0


def number_distances(reference: NumberSummary, current: NumberSummary) -> Distances:
    """Compares numbers: KS over the quantiles of both, PSI and Jensen-Shannon over tenths of the reference.

    `lower` is the KS distance less what the sketches' ranks may be wrong by; the p-value is of `lower`.
    """
    if not (reference.known and current.known):
        return Distances(ks=0.0, lower=0.0, psi=0.0, js=0.0, p_value=math.nan)
    shares = np.linspace(0.0, 1.0, _POINTS + 1)
    points = np.unique(np.concatenate((reference.quantiles(shares), current.quantiles(shares))))
    ks = 0.0
    for inclusive in (True, False):
        ours = current.share_upto(points, inclusive=inclusive)
        ks = max(ks, float(np.abs(ours - reference.share_upto(points, inclusive=inclusive)).max()))
    lower = max(0.0, ks - reference.rank_error - current.rank_error)
    size = 1 / (1 / reference.known + 1 / current.known)
    edges = np.unique(reference.quantiles(np.linspace(0.0, 1.0, _BINS + 1)[1:-1]))
    binned = [np.diff(summary.share_upto(edges), prepend=0.0, append=1.0) for summary in (reference, current)]
    psi, js = divergences(binned[0] * reference.known, binned[1] * current.known)
    return Distances(ks=ks, lower=lower, psi=psi, js=js, p_value=float(kolmogorov(math.sqrt(size) * lower)))


def category_distances(reference: CategorySummary, current: CategorySummary) -> Distances:
    """Compares categories: `ks` is the total variation distance; the p-value is of the two-sample chi-squared test.

    Categories with fewer than 5 expected values are taken together.
    """
    empty = CategorySummary(0, np.zeros(1, np.int64))
    width = len(reference.merge(current).counts)
    both = np.zeros((2, width))
    for row, summary in enumerate((reference, current)):
        both[row, : len(summary.counts)] = summary.merge(empty).counts
    sizes = both.sum(axis=1)
    if not sizes.all():
        return Distances(ks=0.0, lower=0.0, psi=0.0, js=0.0, p_value=math.nan)
    variation = float(np.abs(both[0] / sizes[0] - both[1] / sizes[1]).sum() / 2)
    psi, js = divergences(both[0], both[1])
    return Distances(ks=variation, lower=variation, psi=psi, js=js, p_value=chi_squared(both))


def chi_squared(counts: Floats) -> float:
    """Gives the p-value of the hypothesis that both rows of `counts` [2, k] have the same shares."""
    total = counts.sum(axis=0)
    rare = total * counts.sum(axis=1).min() / total.sum() < _EXPECTED
    pooled = np.column_stack((counts[:, ~rare], counts[:, rare].sum(axis=1)))
    pooled = pooled[:, pooled.sum(axis=0) > 0]
    if pooled.shape[1] < 2:
        return 1.0
    expected = np.outer(pooled.sum(axis=1), pooled.sum(axis=0)) / pooled.sum()
    statistic = float(((pooled - expected) ** 2 / expected).sum())
    return float(chdtrc(pooled.shape[1] - 1, statistic))


def divergences(reference: Floats, current: Floats) -> tuple[float, float]:
    """Gives (PSI, Jensen-Shannon distance) of two rows of counts; half a count is added to each so that none is 0.

    PSI is in nats, without a bound; the Jensen-Shannon distance (base 2, square root) is from 0 to 1.
    """
    p = (reference + 0.5) / (reference + 0.5).sum()
    q = (current + 0.5) / (current + 0.5).sum()
    psi = float(((q - p) * np.log(q / p)).sum())
    middle = (p + q) / 2
    js = float((p * np.log2(p / middle)).sum() + (q * np.log2(q / middle)).sum()) / 2
    return psi, math.sqrt(max(js, 0.0))
