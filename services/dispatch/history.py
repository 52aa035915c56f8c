"""Policies, and training history made by running one."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bentos.family import Record
from services.dispatch.arrivals import arrivals
from services.dispatch.city import City
from services.dispatch.incidents import MAX_CANDIDATES, Features, Incident, OutcomeKnown, Policy
from services.dispatch.simulation import START, Simulation
from services.dispatch.week import WeekShape


def send_closest(incident: Incident) -> int:
    """Sends the unit that is expected there first."""
    return min(range(len(incident.candidates)), key=lambda index: incident.candidates[index].response_time_min)


@dataclass(slots=True)
class SendRandom:
    """Sends any of the candidates, each with the same probability."""

    rng: np.random.Generator

    def __call__(self, incident: Incident) -> int:
        """Gives the index of the chosen candidate."""
        return int(self.rng.integers(len(incident.candidates)))


@dataclass(slots=True)
class SendPlausible:
    """Sends a plausible unit, as dispatchers without a model did: mostly the nearest, at times another one.

    With the probability `exploration` it draws from all candidates with weights that halve every `halving_min` minutes
    of expected time, so that a history shows what happens when a unit other than the nearest is sent.
    """

    rng: np.random.Generator
    exploration: float = field(default=0.5, kw_only=True)
    halving_min: float = field(default=6.0, kw_only=True)

    def __call__(self, incident: Incident) -> int:
        """Gives the index of the chosen candidate."""
        if self.rng.random() >= self.exploration:
            return send_closest(incident)
        times = [candidate.response_time_min for candidate in incident.candidates]
        least = min(times)
        weights = list(itertools.accumulate(math.pow(0.5, (time - least) / self.halving_min) for time in times))
        mark = self.rng.random() * weights[-1]
        return next(index for index, weight in enumerate(weights) if mark < weight)


@dataclass(slots=True)
class _Open:
    """A decision that may still wait for its outcome."""

    at: float
    decision_id: str
    unit_id: str
    region: str
    features: Features
    success: bool | None = None


def simulate(
    city: City,
    seed: int,
    calls: int,
    *,
    shape: WeekShape | None = None,
    start: float = START,
    candidates: int = MAX_CANDIDATES,
) -> Simulation:
    """Prepares a simulation of that many calls, whose ids begin with the city's name and the seed."""
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in city.name)[:60]
    weekday = (int(start // 86_400) + 3) % 7
    stream = itertools.islice(arrivals(city, seed, shape=shape, start_weekday=weekday), calls)
    return Simulation(city, stream, name=f"{name}-{seed}", start=start, candidates=candidates)


def history(
    city: City,
    seed: int,
    calls: int,
    policy: Policy | None = None,
    *,
    shape: WeekShape | None = None,
    start: float = START,
) -> Iterator[Record]:
    """Makes the records of a past in which a policy decided, in order of decision; one record a call.

    Args:
        city: the city.
        seed: seed of the calls, and of the policy when none is given.
        calls: how many calls.
        policy: who decided; `SendPlausible` when None.
        shape: shape of the week; None takes the city's.
        start: when it begins, in seconds since 1970-01-01T00:00Z; a midnight.
    """
    decide = policy or SendPlausible(np.random.default_rng((seed, 0xDEC1DE)))
    simulation = simulate(city, seed, calls, shape=shape, start=start)
    order: deque[_Open] = deque()
    by_id: dict[str, _Open] = {}
    while (event := simulation.next_event()) is not None:
        match event:
            case Incident():
                index = decide(event)
                simulation.dispatch(index)
                record = _Open(
                    event.at, event.decision_id(index), event.incident_id, event.region, event.features(index)
                )
                order.append(record)
                by_id[record.decision_id] = record
            case OutcomeKnown():
                by_id.pop(event.decision_id).success = event.success
        while order and order[0].success is not None:
            yield _closed(order.popleft())


def _closed(record: _Open) -> Record:
    return Record(
        record.at, record.decision_id, record.unit_id, record.region, record.features, float(bool(record.success))
    )
