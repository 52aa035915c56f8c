"""Phase 1 of dispatch: deterministic rules a dispatcher can read, and the answer when nothing else can answer.

The probability of success starts from the expected time to reach the incident (or, when nobody knows it, from the
distance) and moves by fixed steps for distance, availability, expertise, severity and crew. Something that is not
known moves nothing; that the time could only be guessed, or not at all, is said among the reasons. Every comparison
with NaN is false, and each branch below relies on that on purpose.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from bentos.dispatch.features import CALL_TYPES, DispatchRow
from bentos.family import RulesAnswer

VERSION: Final = "rules-" + hashlib.sha256(Path(__file__).read_text(encoding="utf-8").encode()).hexdigest()[:12]
"""Digest of this file: whoever changes a rule changes the version, without having to remember it."""

_LOWEST: Final = 0.05
_HIGHEST: Final = 0.95
_CLINICAL: Final = frozenset(float(CALL_TYPES.index(name)) for name in CALL_TYPES[:5])
"""Codes of the calls with a patient: medical, trauma, cardiac, breathing, stroke."""


def rules(row: DispatchRow) -> RulesAnswer:
    """Gives the probability that the unit is there in time with a fitting crew, and at most 5 reasons."""
    severity, distance, availability, expected, expertise, _, paramedics, _, _, _, _, call_type = row
    grave = severity >= 4.0
    if expected >= 0.0:
        value, reason = _by_time(expected)
    elif distance >= 0.0:
        value, reason = _by_distance(distance)
    else:
        value, reason = 0.5, "Neither the expected time nor the distance is known."
    reasons = [reason]
    if distance > 10.0:
        value -= 0.15 if grave else 0.05
        reasons.append("A grave call lies far away." if grave else "The unit is far away.")
    if availability < 0.2:
        value -= 0.15
        reasons.append("Hardly any unit of the region is free.")
    elif availability < 0.5:
        value -= 0.05
        reasons.append("Most units of the region are busy.")
    if expertise < 0.4:
        value -= 0.15 if grave else 0.1
        reasons.append("The crew is not trained for this kind of call.")
    elif expertise >= 0.8:
        value += 0.05
        reasons.append("The crew is trained for this kind of call.")
    if severity <= 2.0:
        value -= 0.15
        reasons.append("A minor call gives the unit no right of way.")
    elif grave and paramedics < 1.0 and call_type in _CLINICAL:
        value -= 0.05
        reasons.append("A grave medical call gets no paramedic.")
    value = _LOWEST if value < _LOWEST else min(value, _HIGHEST)
    return RulesAnswer(value, value if value >= 0.5 else 1.0 - value, tuple(reasons))


def _by_time(minutes: float) -> tuple[float, str]:
    if minutes <= 4.0:
        return 0.85, "The unit is expected within 4 minutes."
    if minutes <= 6.0:
        return 0.7, "The unit is expected within 6 minutes."
    if minutes <= 10.0:
        return 0.5, "The unit is expected within 10 minutes."
    if minutes <= 20.0:
        return 0.3, "The unit is expected to take more than 10 minutes."
    return 0.15, "The unit is expected to take more than 20 minutes."


def _by_distance(kilometres: float) -> tuple[float, str]:
    if kilometres <= 2.0:
        return 0.8, "The expected time is not known; the unit is within 2 km."
    if kilometres <= 5.0:
        return 0.6, "The expected time is not known; the unit is within 5 km."
    if kilometres <= 10.0:
        return 0.45, "The expected time is not known; the unit is within 10 km."
    return 0.3, "The expected time is not known; the unit is more than 10 km away."
