"""The laws of the simulated world, whatever the policy does."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dispatch.arrivals import Call
from services.dispatch.city import DemandPeriod
from services.dispatch.history import SendPlausible, SendRandom, send_closest, simulate
from services.dispatch.incidents import Event, Incident, OutcomeKnown, Policy
from services.dispatch.simulation import Simulation, _Step
from services.dispatch.synthetic import synthetic_city
from services.dispatch.tours import Tour

CITY = synthetic_city(1)
BUSY = dataclasses.replace(CITY, demand=(DemandPeriod(0.0, (500.0, 400.0, 300.0)),))
"""The same city with six times the calls, so that many have to wait."""

choices = st.lists(st.integers(0, 5), min_size=1, max_size=40)
seeds = st.integers(0, 10_000)


def play(simulation: Simulation, pick: Sequence[int], look: Callable[[Simulation], None] | None = None) -> list[Event]:
    """Runs with a policy that repeats `pick`; `look` sees the state at every event and after every decision."""
    turn = itertools.cycle(pick)
    seen: list[Event] = []
    while (event := simulation.next_event()) is not None:
        seen.append(event)
        if look is not None:
            look(simulation)
        if isinstance(event, Incident):
            simulation.dispatch(next(turn) % len(event.candidates))
            if look is not None:
                look(simulation)
    return seen


def tours_of(simulation: Simulation, pick: Sequence[int]) -> list[Tour]:
    """Runs with a policy that repeats `pick` and gives every tour."""
    turn, tours = itertools.cycle(pick), []
    while (event := simulation.next_event()) is not None:
        if isinstance(event, Incident):
            tours.append(simulation.dispatch(next(turn) % len(event.candidates)))
    return tours


@settings(max_examples=15, deadline=None)
@given(busy=st.booleans(), seed=seeds, pick=choices)
def test_a_unit_serves_one_call_at_a_time_and_time_runs_forward(*, busy: bool, seed: int, pick: list[int]) -> None:
    """A unit leaves after it was sent, arrives after it left, is clear after that, and only then is sent again."""
    by_unit: defaultdict[int, list[Tour]] = defaultdict(list)
    for tour in tours_of(simulate(BUSY if busy else CITY, seed, 150), pick):
        assert tour.dispatched <= tour.rolled <= tour.arrived <= tour.cleared
        by_unit[tour.unit].append(tour)
    for tours in by_unit.values():
        assert all(a.cleared <= b.dispatched for a, b in itertools.pairwise(tours))


@settings(max_examples=15, deadline=None)
@given(busy=st.booleans(), seed=seeds, pick=choices)
def test_every_call_is_served_exactly_once(*, busy: bool, seed: int, pick: list[int]) -> None:
    """No call is lost or served twice, also when it had to wait."""
    tours = tours_of(simulate(BUSY if busy else CITY, seed, 120), pick)
    assert sorted(tour.call for tour in tours) == list(range(1, 121))


@settings(max_examples=15, deadline=None)
@given(busy=st.booleans(), seed=seeds, pick=choices)
def test_units_are_neither_made_nor_lost(*, busy: bool, seed: int, pick: list[int]) -> None:
    """Free units and those on a tour or on their way home are the fleet at all times; in the end all are home."""
    fleet = len(CITY.units)

    def look(simulation: Simulation) -> None:
        away = 0
        for _, step, _, what in simulation._agenda:
            if step is _Step.CLEAR:
                away += 1
            elif step is _Step.NEAR_HOME and isinstance(what, tuple):
                # Out of reach only on the first half of the way from a scene; else it counts among the free.
                unit, turn = what
                away += turn == simulation._turns[unit] and not simulation._free[unit]
        pending = simulation._pending
        assert simulation.free_units + away == fleet
        assert simulation._free_at.sum() == simulation.free_units
        assert pending is not None or simulation.waiting == 0 or simulation.free_units == 0

    simulation = simulate(BUSY if busy else CITY, seed, 120)
    play(simulation, pick, look)
    assert simulation.free_units == fleet
    assert simulation.waiting == 0
    assert (simulation._base == simulation._home).all()


@settings(max_examples=15, deadline=None)
@given(busy=st.booleans(), seed=seeds, pick=choices)
def test_events_come_in_order_and_each_outcome_after_its_decision(*, busy: bool, seed: int, pick: list[int]) -> None:
    """Simulated time never goes back; every incident has one outcome, later than its decision, named by its id."""
    seen = play(simulate(BUSY if busy else CITY, seed, 120), pick)
    assert all(a.minute <= b.minute for a, b in itertools.pairwise(seen))
    decided: dict[str, float] = {}
    for event in seen:
        match event:
            case Incident():
                assert event.waited_min >= 0
                assert event.at - event.minute * 60.0 == pytest.approx(1_704_067_200.0)
                decided[event.incident_id] = event.minute
            case OutcomeKnown():
                assert event.decision_id == f"{event.incident_id}:{event.unit_id}"
                assert decided.pop(event.incident_id) < event.minute
                assert event.response_min > 0
                assert event.on_time or not event.success
    assert not decided


@settings(max_examples=15, deadline=None)
@given(busy=st.booleans(), seed=seeds, pick=choices)
def test_a_run_is_repeated_bit_for_bit(*, busy: bool, seed: int, pick: list[int]) -> None:
    """The same city, seed and decisions give the same events."""
    first, again = (play(simulate(BUSY if busy else CITY, seed, 80), pick) for _ in range(2))
    assert first == again


@settings(max_examples=15, deadline=None)
@given(seed=seeds, pick=choices)
def test_what_no_decision_can_change_is_the_same_under_every_policy(seed: int, pick: list[int]) -> None:
    """Two policies face the very same calls."""

    def calls(decisions: list[int]) -> list[Call]:
        seen = play(simulate(CITY, seed, 80), decisions)
        return sorted(event.call for event in seen if isinstance(event, Incident))

    assert [call.number for call in calls(pick)] == list(range(1, 81))
    assert calls(pick) == calls([0])


def test_one_other_decision_changes_what_happens_later() -> None:
    """After sending the last candidate once instead of the first, later incidents see other units."""

    def candidates(decisions: list[int]) -> list[list[str]]:
        seen = play(simulate(CITY, 3, 60), decisions)
        incidents = [event for event in seen if isinstance(event, Incident)]
        incidents.sort(key=lambda event: event.call.number)
        return [[candidate.unit.unit_id for candidate in event.candidates] for event in incidents]

    usual, other = candidates([0] * 60), candidates([0] * 10 + [5] + [0] * 49)
    assert usual[:11] == other[:11]
    assert usual[11:] != other[11:]


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_candidates_are_free_units_nearest_first(seed: int) -> None:
    """At most six different units, in order of their expected time, with features inside the family's schema."""
    from bentos.dispatch import FAMILY

    for event in play(simulate(CITY, seed, 60), [0]):
        if isinstance(event, Incident):
            times = [candidate.response_time_min for candidate in event.candidates]
            assert times == sorted(times)
            assert 1 <= len(times) <= 6
            assert len({candidate.unit.unit_id for candidate in event.candidates}) == len(times)
            for index in range(len(times)):
                FAMILY.schema.encode(*FAMILY.schema.split(event.features(index)))


def test_calls_wait_when_no_unit_is_free_and_the_most_urgent_goes_first() -> None:
    """Under six times the calls many wait, and the urgent ones far less than the others."""
    waits: defaultdict[int, list[float]] = defaultdict(list)
    for event in play(simulate(BUSY, 1, 600), [0]):
        if isinstance(event, Incident):
            waits[event.call.priority].append(event.waited_min)
    means = [float(np.mean(waits[priority])) for priority in range(3)]
    assert means[0] < means[1] < means[2]
    assert means[2] > 60


def test_a_unit_on_its_way_home_may_be_sent_from_a_hospital() -> None:
    """Under many calls some units are sent from a hospital and not from their station."""
    simulation = simulate(BUSY, 1, 300)
    bases: Counter[bool] = Counter()
    while (event := simulation.next_event()) is not None:
        if isinstance(event, Incident):
            unit = simulation._index[event.candidates[0].unit.unit_id]
            bases[bool(simulation._base[unit] >= len(CITY.stations))] += 1
            simulation.dispatch(0)
    assert bases[True] > 20
    assert bases[False] > 20


def test_sending_the_closest_is_faster_than_sending_any() -> None:
    """Over the same 800 calls the mean response time under 'send closest' is clearly the shorter one."""

    def mean(policy: Policy) -> float:
        seen = simulate(CITY, 11, 800).run(policy)
        return float(np.mean([event.response_min for event in seen if isinstance(event, OutcomeKnown)]))

    assert mean(send_closest) + 1.0 < mean(SendRandom(np.random.default_rng(1)))


def test_a_plausible_dispatcher_succeeds_in_seven_to_eight_and_a_half_of_ten() -> None:
    """The base rate of success lies where a service's would, in several cities."""
    for seed in (1, 2, 3):
        policy = SendPlausible(np.random.default_rng(0))
        seen = simulate(synthetic_city(seed), 1, 1_500).run(policy)
        outcomes = [event.success for event in seen if isinstance(event, OutcomeKnown)]
        assert 0.68 <= float(np.mean(outcomes)) <= 0.86


def test_a_generator_can_be_driven_by_sending_choices() -> None:
    """`events` gives the same run as `next_event` and `dispatch`."""
    events = simulate(CITY, 2, 40).events()
    seen, choice = [], None
    while True:
        try:
            event = events.send(choice)
        except StopIteration:
            break
        seen.append(event)
        choice = 0 if isinstance(event, Incident) else None
    assert seen == play(simulate(CITY, 2, 40), [0])


def test_a_driver_that_forgets_to_decide_is_told() -> None:
    """Time does not move on while an incident waits for its decision, and a decision needs its incident."""
    simulation = simulate(CITY, 2, 5)
    with pytest.raises(RuntimeError, match="no incident"):
        simulation.dispatch(0)
    assert isinstance(simulation.next_event(), Incident)
    with pytest.raises(RuntimeError, match="still waits"):
        simulation.next_event()
    with pytest.raises(IndexError, match="under"):
        simulation.dispatch(6)
    simulation.dispatch(0)
    events = simulate(CITY, 2, 5).events()
    next(events)
    with pytest.raises(RuntimeError, match="send"):
        next(events)


@pytest.mark.parametrize("candidates", [0, 7])
def test_one_to_six_candidates_are_offered(candidates: int) -> None:
    """Any other number is refused."""
    with pytest.raises(ValueError, match="from 1 to 6"):
        simulate(CITY, 1, 1, candidates=candidates)


def test_the_weekday_follows_from_the_start() -> None:
    """2024-01-04 was a Thursday."""
    simulation = simulate(CITY, 1, 1, start=1_704_067_200.0 + 3 * 86_400)
    event = simulation.next_event()
    assert isinstance(event, Incident)
    assert event.weekday == 3
