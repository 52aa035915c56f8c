"""Rankings held against how relevant each place turned out to be (Järvelin and Kekäläinen 2002)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from monitoring.validation.estimates import CONFIDENCE, Estimate, Quality, mean, quality
from services.runtime.errors import InvalidArgument


def ndcg(relevance: Sequence[float], places: int | None = None) -> float:
    """Gives the normalised discounted cumulative gain of one ranking, in [0, 1]; NaN when nothing was relevant.

    `relevance` (at least 0, linear gain) stands in the order of the ranking, best first; only the first `places` count.

    Raises:
        InvalidArgument: a relevance is negative or not finite.
    """
    gains = np.array(relevance, dtype=np.float64)
    if not np.all(np.isfinite(gains) & (gains >= 0)):
        raise InvalidArgument("relevance", "relevance is a finite number of at least 0")
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    if places is not None:
        discounts[places:] = 0.0
    ideal = float(np.sort(gains)[::-1] @ discounts)
    return float(gains @ discounts) / ideal if ideal > 0 else math.nan


def ndcg_of_scores(scores: Sequence[float], relevance: Sequence[float], places: int) -> float:
    """Gives the NDCG of candidates that are ranked by their scores, the highest first; NaN when nothing was relevant.

    Candidates with the same score have no order among themselves: each gets the mean of what their places are worth.
    The result depends on the candidates only, to the last bit, not on the order in which they are given.

    Raises:
        InvalidArgument: a relevance is negative or not finite.
    """
    if not all(math.isfinite(one) and one >= 0 for one in relevance):
        raise InvalidArgument("relevance", "relevance is a finite number of at least 0")
    worth = [1 / math.log2(place + 2) for place in range(min(places, len(scores)))]
    best = math.fsum(gain * one for gain, one in zip(sorted(relevance, reverse=True), worth, strict=False))
    if best <= 0:
        return math.nan
    ordered = sorted(zip(scores, relevance, strict=True), reverse=True)
    terms, place = [], 0
    for _, group in itertools.groupby(ordered, key=itemgetter(0)):
        gains = [gain for _, gain in group]
        terms.append(math.fsum(worth[place : place + len(gains)]) * math.fsum(gains) / len(gains))
        place += len(gains)
    return min(math.fsum(terms) / best, 1.0)


@dataclass(frozen=True, slots=True)
class RankingStatistics:
    """Sums of NDCG over rankings; adding two field by field gives those of both."""

    rankings: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> RankingStatistics:
        """Takes one ranking's NDCG; NaN (nothing was relevant) does not count."""
        if math.isnan(value):
            return self
        return RankingStatistics(self.rankings + 1, self.total + value, self.squares + value * value)

    def merge(self, other: RankingStatistics) -> RankingStatistics:
        """Gives the statistics of both."""
        return RankingStatistics(self.rankings + other.rankings, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class RankingReport:
    """How good rankings are."""

    rankings: int
    ndcg: Estimate | None
    quality: Quality


def ranking_report(statistics: RankingStatistics, confidence: float = CONFIDENCE) -> RankingReport:
    """Gives the mean NDCG with its interval."""
    found = mean(statistics.rankings, statistics.total, statistics.squares, confidence)
    return RankingReport(statistics.rankings, found, quality(found, statistics.rankings))
