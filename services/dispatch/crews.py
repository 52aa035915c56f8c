"""Crews: drawn by seed, because no public city names its own."""

from __future__ import annotations

from typing import Final

import numpy as np

from bentos.dispatch.features import CALL_TYPES
from services.dispatch.city import CrewMember, Unit

ADVANCED: Final = 1
"""Unit class of advanced life support; class 2 is basic."""

# What paramedics and rescue training add to a crew's fit to each call type, in the order of CALL_TYPES.
_CLINICAL: Final = np.array([0.6, 0.7, 1.0, 0.9, 1.0, 0.2, 0.1, 0.5, 0.3, 0.3])
_RESCUE: Final = np.array([0.1, 0.4, 0.0, 0.1, 0.0, 0.9, 0.8, 0.8, 1.0, 0.4])


def draw_unit(unit_id: str, station: int, unit_class: int, rng: np.random.Generator) -> Unit:
    """Draws a unit's crew of two or three, and from it the crew's fit to each call type."""
    advanced = unit_class == ADVANCED
    size = 3 if rng.random() < 0.25 else 2
    chance = 0.6 if advanced else 0.15
    members = []
    for place in range(size):
        paramedic = bool(rng.random() < chance) or (advanced and place == 0)
        senior = bool(rng.random() < 0.4)
        satisfaction = float(np.clip(rng.normal(3.6 + 0.3 * senior, 0.6), 0.5, 5.0))
        members.append(CrewMember(paramedic, senior, round(satisfaction, 2)))
    clinical = sum(member.paramedic for member in members) / size
    seniority = sum(member.senior for member in members) / size
    rescue = rng.beta(2.0, 2.0)
    fit = 0.25 + 0.35 * clinical * _CLINICAL + 0.35 * rescue * _RESCUE + 0.2 * seniority
    fit = np.clip(fit + rng.normal(0.0, 0.12, len(CALL_TYPES)), 0.02, 1.0)
    return Unit(unit_id, station, tuple(members), tuple(float(value) for value in fit.round(3)))
