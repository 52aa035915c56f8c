"""The demo's own judgement: it must be able to fail."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

import pytest

from services.cli.demo.pace import Pace
from services.cli.demo.simulated import recommend_request
from services.cli.demo.tally import CountingPredictor, Tally
from services.cli.demo.verification import _failures
from services.client import TurnoutClient
from services.dispatch.history import simulate
from services.dispatch.incidents import Incident
from services.dispatch.rows import rows_of
from services.dispatch.synthetic import synthetic_city
from services.runtime.errors import TurnoutError
from turnout.v1 import ledger_pb2

ROW = {"severity": 3.0, "distance_km": 2.0, "response_time_min": 6.0}


def seen_by(tally: Tally, *, decisions: int | None = None, joined: int | None = None) -> list[str]:
    """Judges a ledger that holds what the callers saw, but for the counts given."""
    seen = Counter(dict.fromkeys(tally.by_router, 1))
    summary = ledger_pb2.SummarizeArmsResponse(
        decisions=len(seen) if decisions is None else decisions,
        outcomes_joined=tally.outcomes_recorded if joined is None else joined,
    )
    return list(_failures(tally, summary, seen, replayed=True))


def a_good_run() -> Tally:
    tally = Tally()
    tally.predictions, tally.outcomes_recorded, tally.by_router = 3, 2, {"a", "b", "c"}
    return tally


async def test_a_good_run_has_no_failures() -> None:
    """What callers saw is what the ledger holds."""
    assert seen_by(a_good_run()) == []


async def test_a_run_without_traffic_proves_nothing() -> None:
    """Zero of zero is no success."""
    assert seen_by(Tally()) == ["no prediction was asked for"]


async def test_each_kind_of_loss_is_told() -> None:
    """A failed call, a lost decision, a stranger, a duplicate, a lost outcome, a record set aside, another arm."""
    tally = a_good_run()
    tally.failed(RuntimeError("boom"), 1)
    summary = ledger_pb2.SummarizeArmsResponse(decisions=9, outcomes_joined=1, set_aside=4)
    seen = Counter({"a": 2, "b": 1, "stranger": 1})
    told = "; ".join(_failures(tally, summary, seen, replayed=False))
    for words in (
        "1 calls failed; the first one: RuntimeError: boom",
        "1 answered decisions are not in the ledger",
        "1 decisions that nobody asked for",
        "1 decisions more than once",
        "counts 9 decisions and lists 4",
        "2 outcomes were recorded and 1 joined",
        "set 4 records aside",
        "a replay chooses other arms",
    ):
        assert words in told


async def test_a_decision_that_the_client_made_alone_may_be_missing_or_there() -> None:
    """The router may have recorded it after the client gave up on it; both are right."""
    tally = a_good_run()
    tally.local = {"d"}
    summary = ledger_pb2.SummarizeArmsResponse(decisions=4, outcomes_joined=2)
    for seen in (Counter("abc"), Counter("abcd")):
        summary.decisions = seen.total()
        assert list(_failures(tally, summary, seen, replayed=True)) == []


async def test_a_call_that_was_given_up_on_may_be_in_the_ledger_and_excuses_no_other() -> None:
    """Who gives up on two rows hears no ids: two strangers in the ledger are theirs, a third is nobody's."""
    tally = a_good_run()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with TurnoutClient(f"127.0.0.1:{silent.getsockname()[1]}", fallback=False) as client:
            predictor = CountingPredictor(client, tally)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await predictor.predict_batch("dispatch", [ROW, ROW], unit_id="u", region="", timeout=5.0)
    assert (tally.predictions, tally.errors, tally.fallbacks) == (5, 0, {"abandoned": 2})
    summary = ledger_pb2.SummarizeArmsResponse(outcomes_joined=2)
    for seen, failures in ((Counter("abc"), 0), (Counter("abcxy"), 0), (Counter("abcxyz"), 1)):
        summary.decisions = seen.total()
        assert len(list(_failures(tally, summary, seen, replayed=True))) == failures


async def test_answers_of_an_absent_router_are_counted_as_local() -> None:
    """Nobody listens: the client's rules answer, no call fails, and the ledger is not expected to know."""
    tally = Tally()
    async with TurnoutClient("127.0.0.1:1", families=("dispatch",)) as client:
        predictor = CountingPredictor(client, tally)
        answer = await predictor.predict("dispatch", ROW, unit_id="u", region="", timeout=0.2)
        await predictor.record_outcome(answer.decision_id, 1.0, None, timeout=0.2)
    assert (tally.predictions, tally.errors) == (1, 0)
    assert tally.fallbacks == {"router_away": 1}
    assert tally.local == {answer.decision_id}
    assert tally.by_router == set()
    assert (tally.outcomes_recorded, tally.outcomes_local) == (0, 1)


async def test_a_call_without_an_answer_is_an_error() -> None:
    """Nobody listens and the rules are switched off: each row that was asked for counts."""
    tally = Tally()
    async with TurnoutClient("127.0.0.1:1", fallback=False) as client:
        predictor = CountingPredictor(client, tally)
        with pytest.raises(TurnoutError):
            await predictor.predict_batch("dispatch", [ROW, ROW], unit_id="u", region="", timeout=0.1)
    assert (tally.predictions, tally.errors) == (2, 2)
    assert tally.first_error


async def test_waiting_ends_when_it_is_seen_or_at_the_limit() -> None:
    """A condition that is so already needs no answer; one that never comes ends the wait."""
    tally = Tally()
    assert await tally.until(lambda: True, 5.0)
    assert not await tally.until(lambda: False, 0.01)


async def test_pace_lets_no_burst_through() -> None:
    """After the first tenth of a second's worth, predictions pass at the rate."""
    loop = asyncio.get_running_loop()
    pace = Pace(1000.0)
    started = loop.time()
    for _ in range(30):
        await pace.wait(10)
    assert loop.time() - started >= (300 - 10) / 1000.0 - 0.11


def test_a_recommendation_asks_for_exactly_what_the_simulator_knows() -> None:
    """The request becomes the same row of features that the history recorded."""
    simulation = simulate(synthetic_city(1), 5, 40)
    incidents = 0
    while (event := simulation.next_event()) is not None:
        if isinstance(event, Incident):
            incidents += 1
            for index, row in enumerate(rows_of(recommend_request(event))):
                assert row.features == pytest.approx(event.features(index))
            simulation.dispatch(0)
    assert incidents == 40
