"""Rankings: decisions of one unit in a family that ranks are candidates, ordered by their values.

A ranking can only be measured whole, so each has a row with its candidates. Whatever a batch changes, what a ranking
had added to its window is taken away and what it now says is added: the order of arrival leaves no trace. A ranking
counts once all of its candidates have a relevance, in the cell that all of them share and the window of its first one;
it does not count with one candidate, over 1 000, candidates in several cells (a part was answered by somebody else),
a relevance under 0, or when nothing was relevant.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, select

from monitoring.ledger.aggregating import Changes, RankingChange
from monitoring.ledger.families import Describe
from monitoring.ledger.keyed import find
from monitoring.ledger.rows import DecisionRow, Key
from monitoring.ledger.tables import DECISIONS, OUTCOMES, RANKINGS
from monitoring.validation.rankings import ndcg_of_scores
from services.runtime.database import bulk_insert
from turnout.v1 import ledger_pb2

MOST_CANDIDATES: Final = 1000
_CHUNK: Final = 250


class Ranking(NamedTuple):
    """Which ranking: the unit of its candidates."""

    tenant: str
    family: str
    unit_id: str


class Candidate(NamedTuple):
    """One decision of a ranking."""

    cell: int
    assigned_at_us: int
    value: float
    relevance: float | None
    """Its outcome, None while there is none."""


Candidates = dict[str, Candidate]
"""By decision id."""


@dataclass(slots=True)
class _Touched:
    """What a batch changed in one ranking."""

    gone: set[str] = field(default_factory=set)
    present: Candidates = field(default_factory=dict)


def follow(connection: Connection, changes: Changes, describe: Describe) -> None:
    """Brings the rankings in step with a batch that is stored, and notes in `changes` what they add and take away."""
    touched = _touched(connection, changes, describe)
    if not touched:
        return
    before = _read(connection, touched)
    written = []
    for ranking, change in touched.items():
        old = before.get(ranking, {})
        new = {name: one for name, one in old.items() if name not in change.gone} | change.present
        # One more than may be counted is kept of too many: which ones does not depend on what came first.
        new = {name: new[name] for name in sorted(new)[: MOST_CANDIDATES + 1]}
        places = describe(ranking.family).ranking_places
        changes.rankings += measured(-1, ranking.family, old, places) + measured(1, ranking.family, new, places)
        _remove(connection, ranking)
        if new:
            newest = max(one.assigned_at_us for one in new.values())
            body = json.dumps([[name, *one] for name, one in new.items()], allow_nan=False).encode()
            written.append((*ranking, newest, body))
    bulk_insert(connection, RANKINGS, written)


def measured(sign: int, family: str, candidates: Mapping[str, Candidate], places: int) -> list[RankingChange]:
    """Gives what a ranking adds (sign 1) or takes away (−1): nothing, or its NDCG over the first places."""
    found = list(candidates.values())
    relevance = [one.relevance for one in found if one.relevance is not None and one.relevance >= 0]
    shared = len({one.cell for one in found}) == 1 and 2 <= len(found) <= MOST_CANDIDATES
    if not shared or len(relevance) < len(found):
        return []
    value = ndcg_of_scores([one.value for one in found], relevance, places)
    if math.isnan(value):
        return []
    return [RankingChange(sign, found[0].cell, family, min(one.assigned_at_us for one in found), value)]


def prune_rankings(connection: Connection, last_us: int) -> None:
    """Removes rankings of which every candidate was assigned up to an instant; what was counted stays counted."""
    connection.execute(delete(RANKINGS).where(RANKINGS.c.newest_at_us <= last_us))


def _touched(connection: Connection, changes: Changes, describe: Describe) -> dict[Ranking, _Touched]:
    touched: dict[Ranking, _Touched] = defaultdict(_Touched)
    for _, row in changes.removed:
        if describe(row.family).ranking_places and (unit := _unit(row.record)):
            touched[Ranking(row.tenant, row.family, unit)].gone.add(row.decision_id)
    keys = {_key(row) for _, row in changes.added if describe(row.family).ranking_places}
    keys |= {one.key for one in changes.outcomes if describe(one.family).ranking_places}
    if not keys:
        return touched
    outcomes = {(one.tenant, one.decision_id): float(one.value) for one in find(connection, OUTCOMES, keys, ("value",))}
    for one in find(connection, DECISIONS, keys, ("family", "assigned_at_us", "value", "cell", "record")):
        if unit := _unit(one.record):
            relevance = outcomes.get((one.tenant, one.decision_id))
            candidate = Candidate(int(one.cell), int(one.assigned_at_us), float(one.value), relevance)
            touched[Ranking(one.tenant, one.family, unit)].present[one.decision_id] = candidate
    return touched


def _key(row: DecisionRow) -> Key:
    return row.tenant, row.decision_id


def _unit(record: bytes) -> str:
    return ledger_pb2.Decision.FromString(record).unit_id


def _read(connection: Connection, rankings: Iterable[Ranking]) -> dict[Ranking, Candidates]:
    units: dict[tuple[str, str], list[str]] = defaultdict(list)
    for ranking in rankings:
        units[ranking.tenant, ranking.family].append(ranking.unit_id)
    found: dict[Ranking, Candidates] = {}
    for (tenant, family), names in units.items():
        of = (RANKINGS.c.tenant == tenant) & (RANKINGS.c.family == family)
        for start in range(0, len(names), _CHUNK):
            chosen = RANKINGS.c.unit_id.in_(names[start : start + _CHUNK])
            for row in connection.execute(select(RANKINGS.c.unit_id, RANKINGS.c.candidates).where(of, chosen)):
                members: list[list[Any]] = json.loads(row.candidates)
                found[Ranking(tenant, family, row.unit_id)] = {name: Candidate(*rest) for name, *rest in members}
    return found


def _remove(connection: Connection, ranking: Ranking) -> None:
    of = (RANKINGS.c.tenant == ranking.tenant) & (RANKINGS.c.family == ranking.family)
    connection.execute(delete(RANKINGS).where(of, RANKINGS.c.unit_id == ranking.unit_id))
