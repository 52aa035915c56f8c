"""What shadows would have done: their answers against outcomes, beside what callers were told to the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from bentos.family import Family
from monitoring.cycle.quality import measures, report, statistics
from monitoring.ledger.aggregates import By, Totals, window_totals
from monitoring.ledger.cells import SHADOWS
from monitoring.ledger.reading import ShadowResults, shadow_results
from services.runtime.fallback_words import count_by_word
from turnout.v1 import monitoring_pb2 as pb


def shadows_of(
    connection: Connection, family: str, tenant: str, since_us: int, until_us: int
) -> list[tuple[tuple[str, str], ShadowResults]]:
    """Gives the results of a family's shadows by (experiment, variant), of one tenant only where one is named."""
    by: tuple[By, ...] = ("experiment", "arm", "population")
    found = window_totals(
        connection, family, {"tenant": tenant}, since_us, until_us, by=by, populations=SHADOWS, sketches=("latency",)
    )
    return shadow_results(found)


def shadow_quality(
    family: Family, name: tuple[str, str], results: ShadowResults, *, since_us: int, until_us: int
) -> pb.ShadowQuality:
    """Gives the quality of one shadow; `name` is its experiment and its variant."""
    message = pb.ShadowQuality(
        experiment=name[0],
        variant=name[1],
        window=pb.Window(start_unix_us=since_us, end_unix_us=until_us, count=results.said.decisions),
        agreed=results.agreed,
        failures=count_by_word(results.failures.items()),
        outcomes=results.said.outcomes,
        measures=_measures(family, results.said),
        told_measures=_measures(family, results.told),
    )
    for field, rank in (("latency_p50_ms", 0.5), ("latency_p99_ms", 0.99)):
        latency_us = results.said.quantile("latency", rank)
        if latency_us is not None:
            setattr(message, field, latency_us / 1000)
    return message


def _measures(family: Family, totals: Totals) -> Sequence[pb.Measure]:
    return measures(report(statistics(family, totals)), family.target.unit) if totals.outcomes else ()
