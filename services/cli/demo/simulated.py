"""Traffic from the simulator: the dispatch service ranks units for each incident, and its choice changes the city."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Final

from bentos.dispatch.features import CALL_TYPES
from dispatch.v1 import dispatch_pb2
from services.cli.demo.pace import Pace
from services.cli.demo.plan import DEADLINE_SECONDS, RATE
from services.cli.demo.tally import CountingPredictor
from services.dispatch.city import City
from services.dispatch.history import send_closest, simulate
from services.dispatch.incidents import Incident, OutcomeKnown
from services.dispatch.service import DispatchService
from services.runtime.errors import TurnoutError
from services.runtime.identifiers import uuid7_source

_CALLS: Final = 1_000_000
_OUTCOME_SECONDS: Final = 5.0


class LocalCall:
    """A call to the dispatch service from this very process."""

    tenant = "default"
    peer = "demo"

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def metadata(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline."""
        return self._until - time.monotonic()


class SimulatedTraffic:
    """A live day in the city, with other calls than those of the past.

    Args:
        city: the city.
        seed: seed of the calls.
    """

    def __init__(self, city: City, seed: int) -> None:
        self._simulation = simulate(city, seed, _CALLS)
        self._pace = Pace(RATE)
        self._open: dict[str, str] = {}
        self._seed = seed

    async def run(self, predictor: CountingPredictor, stop: asyncio.Event) -> None:
        """Drives the city until `stop`, then waits for the outcomes of what was decided."""
        new_id = uuid7_source(lambda: time.time_ns() // 1_000_000, Random(self._seed).getrandbits)  # noqa: S311 - ids
        service = DispatchService(predictor, new_id=new_id, now=time.time)
        while self._open or not stop.is_set():
            event = self._simulation.next_event()
            match event:
                case None:
                    return
                case Incident() if stop.is_set():
                    # No new decisions: the city goes on without us, until our units have reported.
                    self._simulation.dispatch(send_closest(event))
                case Incident():
                    await self._decide(service, event)
                case OutcomeKnown():
                    await self._report(service, event)

    async def _decide(self, service: DispatchService, incident: Incident) -> None:
        await self._pace.wait(len(incident.candidates))
        ranking = await service.recommend(recommend_request(incident), LocalCall(DEADLINE_SECONDS))
        chosen = ranking.units[0]
        units = [candidate.unit.unit_id for candidate in incident.candidates]
        index = units.index(chosen.unit_id)
        self._simulation.dispatch(index)
        self._open[incident.decision_id(index)] = chosen.decision_id

    async def _report(self, service: DispatchService, outcome: OutcomeKnown) -> None:
        decision = self._open.pop(outcome.decision_id, None)
        if decision is None:
            return
        try:
            request = dispatch_pb2.ReportRequest(decision_id=decision, success=outcome.success)
            await service.report(request, LocalCall(_OUTCOME_SECONDS))
        except TurnoutError:
            # Counted by the predictor; one refused outcome must not end the day.
            return


def recommend_request(incident: Incident) -> dispatch_pb2.RecommendRequest:
    """Gives what a dispatcher's system would send for an incident."""
    call = incident.call
    request = dispatch_pb2.RecommendRequest(
        incident=dispatch_pb2.Incident(
            incident_id=incident.incident_id,
            severity=call.severity,
            patient_age=call.patient_age,
            call_type=CALL_TYPES[call.call_type],
            region=incident.region,
            hour=incident.hour,
            weekday=incident.weekday,
        )
    )
    for candidate in incident.candidates:
        crew = [
            dispatch_pb2.CrewMember(paramedic=one.paramedic, senior=one.senior, satisfaction=one.satisfaction)
            for one in candidate.unit.crew
        ]
        request.candidates.add(
            unit_id=candidate.unit.unit_id,
            distance_km=candidate.distance_km,
            availability=candidate.availability,
            response_time_min=candidate.response_time_min,
            expertise=candidate.unit.expertise[call.call_type],
            crew=crew,
        )
    return request
