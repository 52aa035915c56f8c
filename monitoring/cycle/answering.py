"""From totals to the answers of Validation and Distribution. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bentos.family import Family, TargetKind
from monitoring.cycle.findings import Finding
from monitoring.cycle.quality import LEVELS, estimate, measures, ranked, ranking_measures, report, statistics
from monitoring.drift.results import Aspect, Verdict
from monitoring.ledger.aggregates import Totals
from monitoring.ledger.tally import Sum
from monitoring.validation.binary import BinaryReport, BinaryStatistics
from monitoring.validation.label_free import MINIMUM_LABELS, LabelFree, Unlabelled, expected_performance
from services.runtime.fallback_words import count_by_word
from turnout.v1 import monitoring_pb2 as pb

RANKS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SHOWN_BINS: Final = 20


def variant_quality(  # noqa: PLR0917 - facts of one variant, in the order in which they are told
    family: Family,
    arm: str,
    variant: str,
    totals: Totals,
    past: Sequence[Totals],
    findings: Sequence[Finding],
    *,
    since_us: int,
    until_us: int,
) -> pb.VariantQuality:
    """Gives the quality of what a variant answered in an arm.

    Args:
        family: the family.
        arm: the arm.
        variant: the variant that answered.
        totals: of the window.
        past: of the time before it, in blocks.
        findings: of the last cycle, for what contradicts the estimate without labels.
        since_us: beginning of the window.
        until_us: its end.
    """
    labelled = statistics(family, totals)
    found = report(labelled)
    message = pb.VariantQuality(
        arm=arm,
        variant=variant,
        window=pb.Window(start_unix_us=since_us, end_unix_us=until_us, count=labelled.decisions),
        unlabelled=max(totals.decisions - totals.outcomes, 0),
        measures=measures(found, family.target.unit) if labelled.decisions else [],
        level=LEVELS[found.quality],
    )
    if family.ranking_places:
        rankings = ranked(totals)
        message.measures.extend(ranking_measures(rankings, family.ranking_places))
        message.level = LEVELS[rankings.quality]
    if isinstance(labelled, BinaryStatistics):
        blocks = [one for block in past if isinstance(one := statistics(family, block), BinaryStatistics)]
        free = _label_free(labelled, blocks, totals, arm, findings)
        message.estimate.CopyFrom(estimate(free, int(message.unlabelled)))
        for count, predicted, observed in zip(labelled.counts, labelled.predictions, labelled.outcomes, strict=True):
            if count:
                message.calibration.add(predicted=predicted / count, observed=observed / count, count=int(count))
    return message


def _label_free(
    labelled: BinaryStatistics,
    blocks: Sequence[BinaryStatistics],
    totals: Totals,
    arm: str,
    findings: Sequence[Finding],
) -> LabelFree:
    recent: BinaryStatistics | None = labelled if labelled.decisions else None
    if sum(block.decisions for block in blocks) < MINIMUM_LABELS:
        # Labels of the window itself are needed too; what they were fitted to cannot contradict them.
        blocks, recent = [*blocks, labelled], None
    past = functools.reduce(BinaryStatistics.merge, blocks)
    if totals.decided[0].sum() < totals.decisions:
        return LabelFree(None, ("some of the decisions were stored before the ledger counted them by value",))
    own = [one.result for one in findings if one.arm == arm]
    concept = any(one.aspect is Aspect.CONCEPT and one.verdict is Verdict.DRIFT for one in own)
    odd = [
        one.effect for one in own if one.aspect is Aspect.QUALITY and one.subject.endswith(("outliers", "categories"))
    ]
    return expected_performance(
        past,
        _unlabelled(totals),
        blocks=blocks,
        recent=recent,
        concept=Verdict.DRIFT if concept else Verdict.NOT_ENOUGH_DATA,
        outside=max(odd, default=0.0),
    )


def _unlabelled(totals: Totals) -> Unlabelled:
    """Gives the decisions without an outcome that can be used, by bin: all of them less those with one."""
    decided, predicted = totals.decided
    known, known_predicted, _ = totals.calibration
    return Unlabelled(counts=(decided - known).astype(np.float64), predictions=predicted - known_predicted)


def variant_distribution(
    family: Family, arm: str, variant: str, totals: Totals, *, since_us: int, until_us: int
) -> pb.VariantDistribution:
    """Gives how values and confidences of a variant in an arm are distributed."""
    bounds = (family.target.low, family.target.high) if family.target.kind is TargetKind.BINARY else None
    of = totals.statistics
    message = pb.VariantDistribution(
        arm=arm,
        variant=variant,
        window=pb.Window(start_unix_us=since_us, end_unix_us=until_us, count=totals.decisions),
        values=_distribution(of.value, totals, Sum.VALUE, Sum.VALUE_SQUARED, bounds),
        confidences=_distribution(of.confidence, totals, Sum.CONFIDENCE, Sum.CONFIDENCE_SQUARED, (0.0, 1.0)),
        latencies_ms=_distribution(of.latency, totals, Sum.LATENCY, Sum.LATENCY_SQUARED, None, scale=1e-3),
    )
    message.fallback_reasons.update(count_by_word(totals.fallbacks.items()))
    if family.levels and not of.value.is_empty():
        steps = sorted(family.levels, key=lambda level: level.at_least)
        under = [float(of.value.get_rank(level.at_least, False)) for level in steps] + [1.0]  # noqa: FBT003 - exclusive
        for place, level in enumerate(steps):
            message.levels[level.name] = round((under[place + 1] - under[place]) * totals.decisions)
    return message


def _distribution(
    sketch: Any, totals: Totals, total: Sum, squares: Sum, bounds: tuple[float, float] | None, *, scale: float = 1.0
) -> pb.Distribution:
    count = totals.decisions
    message = pb.Distribution(count=count)
    mean = totals.mean(total)
    if mean is not None:
        message.mean = mean * scale
    if count > 1 and mean is not None:
        message.standard_deviation = math.sqrt(
            max(totals.sum(squares) / count - mean * mean, 0.0) * count / (count - 1)
        )
    if sketch.is_empty():
        return message
    for rank in RANKS:
        message.quantiles.add(rank=rank, value=float(sketch.get_quantile(rank, True)) * scale)  # noqa: FBT003 - inclusive
    lowest, highest = float(sketch.get_min_value()), float(sketch.get_max_value())
    low, high = bounds or (lowest, highest)
    if high <= low:
        message.bins.add(lower=low * scale, upper=high * scale, count=count)
        return message
    edges: NDArray[np.float64] = np.linspace(low, high, SHOWN_BINS + 1)
    cumulative = [float(sketch.get_rank(float(edge), False)) for edge in edges[:-1]] + [1.0]  # noqa: FBT003 - exclusive
    cumulative[0] = 0.0
    for place in range(SHOWN_BINS):
        share = cumulative[place + 1] - cumulative[place]
        message.bins.add(lower=edges[place] * scale, upper=edges[place + 1] * scale, count=round(share * count))
    return message


def quality_step(family: Family, totals: Totals, start_us: int, end_us: int) -> pb.QualityStep:
    """Gives what a variant did in one step of a window."""
    step = pb.QualityStep(
        window=pb.Window(start_unix_us=start_us, end_unix_us=end_us, count=totals.decisions),
        outcomes=totals.outcomes,
        latency_p95_ms=(totals.quantile("latency", 0.95) or 0.0) / 1000,
    )
    found = report(statistics(family, totals))
    main = found.accuracy if isinstance(found, BinaryReport) else found.mean_absolute_error
    if main is not None:
        step.quality = main.value
    return step
