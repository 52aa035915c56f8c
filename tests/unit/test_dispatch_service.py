"""The dispatch service ranks candidates, and always answers."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.dispatch import FAMILY
from dispatch.v1.dispatch_pb2 import CandidateUnit, CrewMember, Incident, RecommendRequest, ReportRequest
from services.dispatch.service import DispatchService
from services.runtime.errors import DeadlineExceeded, InvalidArgument, NotFound, TurnoutError, Unavailable

if TYPE_CHECKING:
    from services.client.client import TurnoutClient
    from services.dispatch.service import Predictor

    def _the_client_is_a_predictor(client: TurnoutClient) -> Predictor:
        return client


NOW = 1_700_000_000.0
Rows = Sequence[Mapping[str, float | str | bool]]


@dataclass
class FakeCall:
    """A call with a deadline."""

    left: float | None = 1.0
    tenant: str = "default"
    peer: str = "ipv4:127.0.0.1:1"

    def metadata(self) -> dict[str, str]:
        return {}

    def time_left(self) -> float | None:
        """Seconds until the deadline."""
        return self.left


@dataclass
class FakeAnswer:
    """One answer."""

    decision_id: str
    value: float
    confidence: float = 0.9
    served_variant: str = "xgboost"
    reasons: tuple[str, ...] = ()


def by_expertise(rows: Rows) -> list[FakeAnswer]:
    """A model that believes in expertise."""
    return [FakeAnswer(f"d{index}", float(row.get("expertise", 0.5))) for index, row in enumerate(rows)]


@dataclass
class FakePredictor:
    """Answers by a function, or raises, or waits for ever."""

    answer: Callable[[Rows], Sequence[FakeAnswer]] = by_expertise
    error: Exception | None = None
    hangs: bool = False
    asked: list[tuple[str, Rows, str, str, float]] = field(default_factory=list)
    outcomes: list[tuple[str, float, datetime | None]] = field(default_factory=list)

    async def predict_batch(
        self,
        family: str,
        rows: Rows,
        *,
        unit_id: str,
        region: str,
        timeout: float,  # noqa: ASYNC109 - the protocol's
    ) -> Sequence[FakeAnswer]:
        """Remembers the question and answers."""
        self.asked.append((family, rows, unit_id, region, timeout))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.error is not None:
            raise self.error
        return self.answer(rows)

    async def record_outcome(
        self,
        decision_id: str,
        value: float,
        occurred_at: datetime | None,
        *,
        timeout: float,  # noqa: ASYNC109 - the protocol's
    ) -> object:
        """Remembers the outcome."""
        assert timeout > 0
        if self.error is not None:
            raise self.error
        self.outcomes.append((decision_id, value, occurred_at))
        return None


def service(predictor: FakePredictor) -> DispatchService:
    """A service whose own ids are local-1, local-2 and so on."""
    numbers = itertools.count(1)
    return DispatchService(predictor, new_id=lambda: f"local-{next(numbers)}", now=lambda: NOW)


def request(*candidates: CandidateUnit) -> RecommendRequest:
    """A request about a cardiac call at 8:30 on a Tuesday."""
    incident = Incident(
        incident_id="i-1", severity=5, patient_age=71, call_type="cardiac", region="north", hour=8.5, weekday=1
    )
    units = candidates or (
        CandidateUnit(unit_id="near", distance_km=1, response_time_min=3, expertise=0.2, availability=0.5),
        CandidateUnit(unit_id="skilled", distance_km=3, response_time_min=6, expertise=0.9, availability=0.5),
        CandidateUnit(unit_id="unknown"),
    )
    return RecommendRequest(incident=incident, candidates=units)


async def test_candidates_are_ranked_by_the_predictors_probability() -> None:
    """The most probable first; ids, variants and values are the predictor's."""
    predictor = FakePredictor()
    units = (await service(predictor).recommend(request(), FakeCall())).units
    assert [unit.unit_id for unit in units] == ["skilled", "unknown", "near"]
    assert [unit.decision_id for unit in units] == ["d1", "d2", "d0"]
    assert units[0].success_probability == pytest.approx(0.9)
    assert {unit.served_variant for unit in units} == {"xgboost"}


async def test_of_equal_candidates_the_one_expected_first_comes_first() -> None:
    """Ties go by expected time; a candidate whose time is not known comes last."""
    predictor = FakePredictor(answer=lambda rows: [FakeAnswer(f"d{n}", 0.5) for n, _ in enumerate(rows)])
    slow = CandidateUnit(unit_id="slow", response_time_min=9)
    fast = CandidateUnit(unit_id="fast", response_time_min=2)
    units = (await service(predictor).recommend(request(CandidateUnit(unit_id="?"), slow, fast), FakeCall())).units
    assert [unit.unit_id for unit in units] == ["fast", "slow", "?"]


async def test_each_candidate_becomes_one_row_of_the_same_unit() -> None:
    """All rows go to one arm: the unit of the experiment is the incident. What is not known is left out."""
    predictor = FakePredictor()
    crew = [CrewMember(paramedic=True, senior=True, satisfaction=4), CrewMember(senior=False)]
    known = CandidateUnit(unit_id="u", distance_km=2, availability=0, response_time_min=4, expertise=0.7, crew=crew)
    await service(predictor).recommend(request(known, CandidateUnit(unit_id="v")), FakeCall(left=None))
    ((family, rows, unit_id, region, timeout),) = predictor.asked
    assert (family, unit_id, region, timeout) == ("dispatch", "i-1", "north", 0.5)
    shared = {"severity": 5.0, "call_type": "cardiac", "hour": 8.5, "weekday": 1.0, "patient_age": 71.0}
    assert rows[0] == shared | {
        "distance_km": 2.0,
        "availability": 0.0,
        "response_time_min": 4.0,
        "expertise": pytest.approx(0.7),
        "total_paramedics": 1.0,
        "senior_ratio": 0.5,
        "average_satisfaction": 4.0,
    }
    assert rows[1] == shared


def expected_by_rules() -> list[tuple[str, float]]:
    """What the family's rules say of the usual request, best first."""
    said = []
    for unit in request().candidates:
        row: dict[str, float | str | bool] = {"severity": 5.0, "patient_age": 71.0, "call_type": "cardiac"}
        row |= {"hour": 8.5, "weekday": 1.0}
        for name in ("distance_km", "availability", "response_time_min", "expertise"):
            if unit.HasField(name):
                row[name] = getattr(unit, name)
        vector = FAMILY.schema.encode(*FAMILY.schema.split(row))[1]
        said.append((unit.unit_id, float(FAMILY.rules(FAMILY.row(*vector)).value)))
    return sorted(said, key=lambda pair: -pair[1])


BROKEN = {
    "away": FakePredictor(error=Unavailable("", "the router is away")),
    "bug": FakePredictor(error=ZeroDivisionError("oops")),
    "refused": FakePredictor(error=InvalidArgument("rows", "no")),
    "too few": FakePredictor(answer=lambda rows: by_expertise(rows)[1:]),
    "too many": FakePredictor(answer=lambda rows: [*by_expertise(rows), FakeAnswer("x", 0.1)]),
    "not a number": FakePredictor(answer=lambda rows: [FakeAnswer("x", math.nan) for _ in rows]),
    "over one": FakePredictor(answer=lambda rows: [FakeAnswer("x", 1.5) for _ in rows]),
    "nothing": FakePredictor(answer=lambda rows: [None for _ in rows]),  # type: ignore[misc]  # a wrong answer
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_whatever_goes_wrong_with_the_predictor_the_rules_rank(fault: str) -> None:
    """No fault of the predictor reaches the dispatcher."""
    served = service(BROKEN[fault])
    units = (await served.recommend(request(), FakeCall())).units
    assert [(unit.unit_id, unit.success_probability) for unit in units] == expected_by_rules()
    assert {unit.served_variant for unit in units} == {"rules"}
    assert all(unit.reasons and unit.decision_id for unit in units)
    assert (served.answered_by_predictor, served.answered_by_rules) == (0, 1)


async def test_a_predictor_that_hangs_is_not_waited_for_beyond_the_deadline() -> None:
    """The rules answer when the budget is spent, and the caller's time is not."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    units = (await service(FakePredictor(hangs=True)).recommend(request(), FakeCall(left=0.2))).units
    assert {unit.served_variant for unit in units} == {"rules"}
    assert loop.time() - begin >= 0.15


@pytest.mark.parametrize("left", [0.05, 0.0, -1.0])
async def test_without_time_the_predictor_is_not_even_asked(left: float) -> None:
    """A call that comes with no time to spare is answered at once."""
    predictor = FakePredictor()
    units = (await service(predictor).recommend(request(), FakeCall(left=left))).units
    assert len(units) == 3
    assert not predictor.asked


async def test_a_cancelled_call_is_not_answered() -> None:
    """Cancellation is no fault of the predictor."""
    task = asyncio.create_task(service(FakePredictor(hangs=True)).recommend(request(), FakeCall(left=None)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def changed(**fields: object) -> RecommendRequest:
    """The usual request with other fields of its incident."""
    wrong = request()
    for name, value in fields.items():
        setattr(wrong.incident, name, value)
    return wrong


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (RecommendRequest(), "incident.incident_id"),
        (changed(incident_id="i" * 129), "incident.incident_id"),
        (changed(region="r" * 1025), "incident.region"),
        (changed(severity=0), "incident.severity"),
        (changed(severity=math.nan), "incident.severity"),
        (changed(patient_age=121), "incident.patient_age"),
        (changed(call_type="flood"), "incident.call_type"),
        (changed(hour=24.5), "incident.hour"),
        (changed(weekday=7), "incident.weekday"),
        (RecommendRequest(incident=request().incident), "candidates"),
        (request(*[CandidateUnit(unit_id=f"u{number}") for number in range(101)]), "candidates"),
        (request(CandidateUnit()), "candidates[0].unit_id"),
        (request(CandidateUnit(unit_id="u"), CandidateUnit(unit_id="u")), "candidates[1].unit_id"),
        (request(CandidateUnit(unit_id="u", distance_km=-1)), "candidates[0].distance_km"),
        (request(CandidateUnit(unit_id="u", availability=math.inf)), "candidates[0].availability"),
        (request(CandidateUnit(unit_id="u", response_time_min=241)), "candidates[0].response_time_min"),
        (request(CandidateUnit(unit_id="u", expertise=1.1)), "candidates[0].expertise"),
        (request(CandidateUnit(unit_id="u", crew=[CrewMember()] * 21)), "candidates[0].crew"),
        (request(CandidateUnit(unit_id="u", crew=[CrewMember(satisfaction=6)])), "candidates[0].crew[0].satisfaction"),
    ],
)
async def test_a_wrong_request_is_refused_by_the_path_of_its_field(wrong: RecommendRequest, where: str) -> None:
    """The predictor never sees it."""
    predictor = FakePredictor()
    with pytest.raises(InvalidArgument) as caught:
        await service(predictor).recommend(wrong, FakeCall())
    assert caught.value.field == where
    assert where.rpartition(".")[2].partition("[")[0] in caught.value.message
    assert not predictor.asked


def candidate(fields: Mapping[str, str | float | None]) -> CandidateUnit:
    """A candidate with the fields that are known."""
    unit = CandidateUnit()
    for name, value in fields.items():
        if value is not None:
            setattr(unit, name, value)
    return unit


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_request_is_ranked_completely_or_refused(data: st.DataObject) -> None:
    """Every candidate comes back exactly once, in order of probability."""
    numbers = st.none() | st.floats(-1, 250) | st.sampled_from([0.0, 0.5, 1.0])
    names = ("distance_km", "availability", "response_time_min", "expertise")
    units = data.draw(
        st.lists(st.fixed_dictionaries({"unit_id": st.text(max_size=3)} | dict.fromkeys(names, numbers)), max_size=5)
    )
    wanted = RecommendRequest(incident=request().incident, candidates=[candidate(unit) for unit in units])
    try:
        answered = asyncio.run(service(FakePredictor()).recommend(wanted, FakeCall())).units
    except InvalidArgument:
        return
    assert sorted(unit.unit_id for unit in answered) == sorted(str(unit["unit_id"]) for unit in units)
    values = [unit.success_probability for unit in answered]
    assert values == sorted(values, reverse=True)


async def test_a_report_reaches_the_predictor() -> None:
    """With its value, and its time where one is given."""
    predictor = FakePredictor()
    served = service(predictor)
    await served.report(ReportRequest(decision_id="d1", success=True), FakeCall())
    at = int(NOW * 1_000_000) - 500
    await served.report(ReportRequest(decision_id="d2", success=False, occurred_at_unix_us=at), FakeCall(left=None))
    when = datetime.fromtimestamp(NOW, UTC).replace(second=19, microsecond=999_500)
    assert predictor.outcomes == [("d1", 1.0, None), ("d2", 0.0, when)]


async def test_the_outcome_of_a_decision_that_the_rules_made_here_is_taken() -> None:
    """Nobody else knows that decision, so nobody is told; a repeated report is taken as well."""
    predictor = FakePredictor(error=Unavailable("", "away"))
    served = service(predictor)
    unit = (await served.recommend(request(), FakeCall())).units[0]
    for _ in range(2):
        await served.report(ReportRequest(decision_id=unit.decision_id, success=True), FakeCall())
    assert not predictor.outcomes


@pytest.mark.parametrize("error", [NotFound("decision_id", "nobody made it"), Unavailable("", "away")])
async def test_an_outcome_that_cannot_be_recorded_is_not_passed_over(error: TurnoutError) -> None:
    """The caller hears of it and can try again."""
    with pytest.raises(type(error)):
        await service(FakePredictor(error=error)).report(ReportRequest(decision_id="d1"), FakeCall())


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (ReportRequest(), "decision_id"),
        (ReportRequest(decision_id="a b"), "decision_id"),
        (ReportRequest(decision_id="d", occurred_at_unix_us=-1), "occurred_at_unix_us"),
        (ReportRequest(decision_id="d", occurred_at_unix_us=int((NOW + 301) * 1e6)), "occurred_at_unix_us"),
        (ReportRequest(decision_id="d", occurred_at_unix_us=2**63 - 1), "occurred_at_unix_us"),
    ],
)
async def test_a_wrong_report_is_refused_by_its_field(wrong: ReportRequest, where: str) -> None:
    """Nothing is recorded."""
    predictor = FakePredictor()
    with pytest.raises(InvalidArgument) as caught:
        await service(predictor).report(wrong, FakeCall())
    assert caught.value.field == where
    assert not predictor.outcomes


async def test_a_report_without_time_is_refused() -> None:
    """There is no rule that could stand in for an outcome."""
    with pytest.raises(DeadlineExceeded):
        await service(FakePredictor()).report(ReportRequest(decision_id="d"), FakeCall(left=0.0))


async def test_local_decisions_are_remembered_within_a_bound() -> None:
    """Ten thousand and no more: a service without a router does not grow."""
    served = service(FakePredictor(error=Unavailable("", "away")))
    crowd = request(*[CandidateUnit(unit_id=f"u{number}") for number in range(100)])
    for _ in range(101):
        await served.recommend(crowd, FakeCall())
    assert len(served._local) == 10_000
