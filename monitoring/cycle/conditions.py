"""All conditions of one cycle: those of models, which need no database, and those of the traffic. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bentos.family import Family
from monitoring.alerts.conditions import Condition
from monitoring.cycle import judging
from monitoring.cycle.findings import FamilySeen, Finding
from monitoring.cycle.limits import QUALITY_LIMITS_SHARE, RATIO_SHARE, WINDOWS_SHARE, limits_of
from monitoring.cycle.looks import Looks
from monitoring.cycle.platform import Platform, Split
from monitoring.cycle.ratio import Mismatch, mismatch
from services.runtime.monitoring_config import MonitoringSettings, ThresholdValues

Arrivals = Mapping[tuple[str, str], tuple[int, Mapping[str, int]]]
"""Units of each (family, experiment) by arm, and the revision under which they came."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A family and the limits that hold for it."""

    family: Family
    limits: ThresholdValues


def declared_families(
    names: Iterable[str], families: Callable[[str], Family | None], settings: MonitoringSettings
) -> dict[str, Declared]:
    """Gives the families of these names that are declared."""
    found = ((name, families(name)) for name in names)
    return {name: Declared(family, limits_of(family, settings)) for name, family in found if family is not None}


def model_conditions(platform: Platform, declared: Mapping[str, Declared], now_us: int) -> list[Condition]:
    """Says which variants cannot be reached, and which are old."""
    looks = Looks()
    known = replace(platform, served=tuple(one for one in platform.served if one.family in declared))
    judging.judge_models(looks, known, {name: one.limits.stale_days for name, one in declared.items()}, now_us)
    return looks.conditions()


def traffic_conditions(
    seen: Sequence[FamilySeen],
    findings: Iterable[Finding],
    splits: Iterable[Split],
    arrivals: Arrivals,
    declared: Mapping[str, Declared],
) -> list[Condition]:
    """Says all that decisions and outcomes show.

    Args:
        seen: the families.
        findings: results of all tests.
        splits: experiments that run.
        arrivals: units that came to them.
        declared: the families of `seen`, and those of the experiments that are judged.
    """
    looks = Looks()
    judging.judge_drift(looks, findings)
    for one in seen:
        family, limits = declared[one.family].family, declared[one.family].limits
        alpha = limits.false_alarm_rate * WINDOWS_SHARE * QUALITY_LIMITS_SHARE
        judging.judge_quality(looks, family, one, limits, look=one.look, alpha=alpha)
    ratios = {key: found for key, found in _ratios(splits, arrivals).items() if key[0] in declared}
    alphas = {name: one.limits.false_alarm_rate * RATIO_SHARE for name, one in declared.items()}
    judging.judge_ratios(looks, ratios, alphas, {name: one.limits.min_decisions for name, one in declared.items()})
    return looks.conditions()


def _ratios(splits: Iterable[Split], arrivals: Arrivals) -> dict[tuple[str, str], Mismatch]:
    found = {}
    for split in splits:
        counted = arrivals.get((split.family, split.experiment))
        if counted is None or split.weights is None or counted[0] != split.revision:
            continue
        result = mismatch(counted[1], split.weights)
        if result is not None:
            found[split.family, split.experiment] = result
    return found
