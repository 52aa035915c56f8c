"""What a cycle reads: totals and sketches of bounded spans, whatever the number of decisions.

The reference of the features of a variant is chosen once and stored: the first whole minutes that hold at least
`reference_decisions` rows. It is compared with the last hour after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from sqlalchemy import Connection, func, select

from bentos.family import Family
from bentos.thresholds import Thresholds
from monitoring.alerts.tables import MONITORING_STATE
from monitoring.cycle.findings import FamilySeen, Finding
from monitoring.cycle.limits import WINDOWS_SHARE, limits_of, thresholds_of
from monitoring.cycle.monitors import put_state
from monitoring.cycle.platform import Training
from monitoring.cycle.rates import arms_of, judge_rates
from monitoring.cycle.trained import outside_training
from monitoring.drift import state
from monitoring.drift.results import DriftResult, Window
from monitoring.drift.summaries import CategorySummary, NumberSummary, Summary, WindowSummary
from monitoring.drift.windows import compare_windows
from monitoring.ledger.aggregates import FeatureSummary, feature_sketches, window_totals
from monitoring.ledger.levels import HOUR_US, MINUTE_US
from monitoring.ledger.tables import CELLS, FEATURE_SETS, FEATURE_WINDOWS, to_signed
from services.runtime.errors import InvalidArgument
from services.runtime.monitoring_config import MonitoringSettings

SHORTEST_US: Final = 15 * MINUTE_US
"""Rates are looked at over so long, or over a cycle where that is longer."""
QUALITY_US: Final = 24 * HOUR_US
"""Span of outcomes that quality is judged by."""
CURRENT_US: Final = (5 * MINUTE_US, 15 * MINUTE_US, HOUR_US)
"""Spans of features that are compared with the reference: the shortest that holds as many rows as the reference, so
that a cycle reads few windows when they are full and many only when they are nearly empty."""
_STATE: Final = "cycle"
SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Reference:
    """What the features of a variant are compared with."""

    summary: WindowSummary
    until_us: int
    looks: int = 0
    """Comparisons so far."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a cycle keeps for the next ones."""

    references: Mapping[tuple[str, str, int], Reference]
    """By family, variant and digest of the schema."""
    looks: Mapping[str, int]
    """Looks at rates and qualities so far, by family."""


EMPTY: Final = Memory({}, {})


def load_memory(connection: Connection) -> Memory:
    """Reads what the cycles before left; what is damaged begins anew."""
    body = connection.scalar(select(MONITORING_STATE.c.body).where(MONITORING_STATE.c.name == _STATE))
    if body is None:
        return EMPTY
    try:
        fields, arrays = state.unpack(_STATE, body)
        with state.checked(_STATE):
            references = {
                (family, variant, int(digest)): Reference(
                    WindowSummary.from_bytes(arrays[str(place)].tobytes()), until_us, looks
                )
                for place, (family, variant, digest, until_us, looks) in enumerate(fields["references"])
            }
            return Memory(references, fields["looks"])
    except InvalidArgument:
        return EMPTY


def save_memory(connection: Connection, memory: Memory, now_us: int) -> None:
    """Writes what the next cycles need."""
    keys = [[*key, one.until_us, one.looks] for key, one in memory.references.items()]
    arrays = {
        str(place): np.frombuffer(one.summary.to_bytes(), np.uint8)
        for place, one in enumerate(memory.references.values())
    }
    body = state.pack(_STATE, {"references": keys, "looks": dict(memory.looks)}, arrays)
    put_state(connection, _STATE, now_us, body)


def look(
    connection: Connection,
    family: Family,
    settings: MonitoringSettings,
    memory: Memory,
    now_us: int,
    *,
    trained: Mapping[str, Training],
) -> tuple[FamilySeen, Memory]:
    """Looks at one family: its traffic, its outcomes, and the comparisons of windows.

    Args:
        connection: a reader's.
        family: which one.
        settings: those in force.
        memory: of the cycles before.
        now_us: end of all windows.
        trained: what variants were trained on.

    Returns:
        what was seen, and the memory after it.
    """
    span = max(settings.cycle_seconds * SECOND_US, SHORTEST_US)
    window = (now_us - span, now_us)
    totals = window_totals(
        connection,
        family.name,
        None,
        *window,
        by=("experiment", "arm", "variant"),
        populations=None,
        sketches=("latency", "confidence"),
    )
    arms = arms_of(totals)
    labelled = window_totals(
        connection,
        family.name,
        None,
        now_us - QUALITY_US,
        now_us,
        by=("experiment", "arm", "variant"),
        populations=None,
        sketches=(),
    )
    # A look at nothing can find nothing: it takes no share of the false-alarm rate.
    looks = memory.looks.get(family.name, 0) + bool(arms or labelled)
    thresholds = thresholds_of(family, settings, WINDOWS_SHARE)
    number = max(looks, 1)
    findings = judge_rates(family, arms, limits_of(family, settings), thresholds, window, number)
    compared, references = _features(connection, family, thresholds, memory, now_us, trained=trained, look=number)
    seen = FamilySeen(
        family=family.name,
        window_us=window,
        look=number,
        ever=bool(labelled)
        or connection.scalar(select(CELLS.c.cell).where(CELLS.c.family == family.name).limit(1)) is not None,
        arms=arms,
        labelled={(key[0], key[1], key[2]): found for key, found in labelled.items()},
        findings=(*findings, *compared),
    )
    return seen, Memory(references, {**memory.looks, family.name: looks})


def _features(
    connection: Connection,
    family: Family,
    thresholds: Thresholds,
    memory: Memory,
    now_us: int,
    *,
    trained: Mapping[str, Training],
    look: int,
) -> tuple[list[Finding], dict[tuple[str, str, int], Reference]]:
    references = dict(memory.references)
    findings: list[Finding] = []
    digest, wanted = family.schema.digest, thresholds.reference_decisions
    statement = select(FEATURE_SETS.c.feature_set, FEATURE_SETS.c.variant)
    own = (FEATURE_SETS.c.family == family.name) & (FEATURE_SETS.c.schema_digest == to_signed(digest))
    sets = connection.execute(statement.where(own).order_by(FEATURE_SETS.c.feature_set)).all()
    shared = replace(thresholds, false_alarm_rate=max(thresholds.false_alarm_rate / max(len(sets), 1), 1e-6))
    for feature_set, variant in sets:
        key = (family.name, variant, digest)
        reference = references.get(key) or _first_rows(connection, family, feature_set, variant, wanted, now_us)
        training = trained.get(variant)
        if reference is None and training is None:
            continue
        enough = wanted if reference is None else reference.summary.window.decisions
        current = _newest(connection, family, variant, reference.until_us if reference else 0, enough, now_us)
        results: tuple[DriftResult, ...] = ()
        if current is not None and training is not None:
            results += outside_training(current, training, shared, look=look)
        if current is not None and reference is not None:
            reference = replace(reference, looks=reference.looks + 1)
            results += compare_windows(reference.summary, current, shared, look=reference.looks)
        findings += [Finding(family=family.name, variant=variant, result=one, online=False) for one in results]
        if reference is not None:
            references[key] = reference
    return findings, references


def _newest(  # noqa: PLR0917 - one look's facts, handed on by one caller
    connection: Connection, family: Family, variant: str, after_us: int, wanted: int, now_us: int
) -> WindowSummary | None:
    """Gives the newest rows after an instant, in the shortest span that holds as many as are wanted; None for none."""
    found: WindowSummary | None = None
    until = end = -(-now_us // MINUTE_US) * MINUTE_US
    for span in CURRENT_US:
        since = max(after_us, end - span)
        if since >= until:
            break
        part = feature_sketches(connection, family.name, variant, since, until, schema_digest=family.schema.digest)
        if variant in part:
            summary = _summary(part[variant], since, until)
            found = summary if found is None else found.merge(summary)
        until = since
        if found is not None and found.window.decisions >= wanted:
            break
    return found


def _first_rows(  # noqa: PLR0917 - one look's facts, handed on by one caller
    connection: Connection, family: Family, feature_set: int, variant: str, wanted: int, now_us: int
) -> Reference | None:
    start = connection.scalar(
        select(func.min(FEATURE_WINDOWS.c.start_us)).where(FEATURE_WINDOWS.c.feature_set == feature_set)
    )
    whole = now_us // MINUTE_US * MINUTE_US
    length = MINUTE_US
    while start is not None and start < whole:
        until = min(start + length, whole)
        found = feature_sketches(
            connection, family.name, variant, start, until, schema_digest=family.schema.digest
        ).get(variant)
        if found is not None and found.rows >= wanted:
            return Reference(_summary(found, start, until), until)
        if until == whole:
            break
        length *= 2
    return None


def _summary(seen: FeatureSummary, since_us: int, until_us: int) -> WindowSummary:
    features: dict[str, Summary] = {}
    for place, name in enumerate(seen.names):
        distribution = seen.distribution(name)
        missing = int(seen.statistics.nulls[place])
        counts = isinstance(distribution, np.ndarray)
        features[name] = CategorySummary(missing, distribution) if counts else NumberSummary(missing, distribution)
    return WindowSummary(Window(seen.rows, since_us / SECOND_US, until_us / SECOND_US), features, {})
