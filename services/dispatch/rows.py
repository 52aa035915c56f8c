"""From a dispatch request to rows of the dispatch family, one a candidate; everything wrong is refused by its path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bentos.dispatch import FAMILY
from bentos.dispatch.features import CrewMember, crew
from bentos.family import RulesAnswer
from dispatch.v1 import dispatch_pb2
from services.runtime.errors import InvalidArgument
from services.runtime.identifiers import check_text

MAX_CANDIDATES: Final = 100
MAX_ID: Final = 128
MAX_CREW: Final = 20

Features = dict[str, float | str | bool]


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One candidate as a row of the family: by name what is known, and the schema's vector, NaN for the rest."""

    unit_id: str
    features: Features
    vector: tuple[float, ...]

    def by_rules(self) -> RulesAnswer:
        """What the family's rules say of this row."""
        return FAMILY.rules(FAMILY.row(*self.vector))


def rows_of(request: dispatch_pb2.RecommendRequest) -> tuple[CandidateRow, ...]:
    """Checks a request and makes one row per candidate.

    Raises:
        InvalidArgument: names the field by its path and the limit.
    """
    incident = request.incident
    _check_id("incident.incident_id", incident.incident_id)
    check_text("incident.region", incident.region)
    if not 1 <= len(request.candidates) <= MAX_CANDIDATES:
        raise InvalidArgument(
            "candidates", f"a request has 1 to {MAX_CANDIDATES} candidates, not {len(request.candidates)}"
        )
    shared: Features = {
        "severity": incident.severity,
        "call_type": incident.call_type,
        "hour": incident.hour,
        "weekday": float(incident.weekday),
    }
    if incident.HasField("patient_age"):
        shared["patient_age"] = incident.patient_age
    _encode("incident", shared)
    rows, seen = [], set()
    for index, candidate in enumerate(request.candidates):
        where = f"candidates[{index}]"
        _check_id(f"{where}.unit_id", candidate.unit_id)
        if candidate.unit_id in seen:
            raise InvalidArgument(f"{where}.unit_id", f"{where}.unit_id {candidate.unit_id!r} stands there twice")
        seen.add(candidate.unit_id)
        features = shared | _features(where, candidate)
        rows.append(CandidateRow(candidate.unit_id, features, _encode(where, features)))
    return tuple(rows)


def _features(where: str, candidate: dispatch_pb2.CandidateUnit) -> Features:
    if len(candidate.crew) > MAX_CREW:
        raise InvalidArgument(f"{where}.crew", f"{where}.crew has at most {MAX_CREW} members")
    features: Features = {}
    for name in ("distance_km", "availability", "response_time_min", "expertise"):
        if candidate.HasField(name):
            features[name] = getattr(candidate, name)
    members = []
    for place, member in enumerate(candidate.crew):
        score = member.satisfaction if member.HasField("satisfaction") else None
        if score is not None and not 0.0 <= score <= 5.0:
            path = f"{where}.crew[{place}].satisfaction"
            raise InvalidArgument(path, f"{path} must be from 0 to 5")
        members.append(CrewMember(member.paramedic, member.senior, score))
    for name, value in crew(members)._asdict().items():
        if not math.isnan(value):
            features[name] = value
    return features


def _encode(where: str, features: Features) -> tuple[float, ...]:
    try:
        return FAMILY.schema.encode(*FAMILY.schema.split(features))[1]
    except InvalidArgument as error:
        name = error.field.partition("[")[2].rstrip("]")
        raise InvalidArgument(f"{where}.{name}", f"{where}: {error.message}") from None


def _check_id(field: str, text: str) -> None:
    if not 1 <= len(text) <= MAX_ID:
        raise InvalidArgument(field, f"{field} must be 1 to {MAX_ID} characters")
