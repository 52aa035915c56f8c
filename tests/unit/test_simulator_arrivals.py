"""Calls are a Poisson process with the rates that are stated."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from bentos.dispatch.features import CALL_TYPES
from services.dispatch.arrivals import Call, arrivals, weekday_and_hour
from services.dispatch.city import City, DemandPeriod
from services.dispatch.synthetic import synthetic_city
from services.dispatch.week import FLAT, RIO, WeekShape

CITY = synthetic_city(1)
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rio_ems_arrivals" / "rio_ems_arrivals.csv.gz"


def within(days: float, *, city: City = CITY, shape: WeekShape = RIO) -> list[Call]:
    """All calls of the first days."""
    stream = arrivals(city, 5, shape=shape)
    return list(itertools.takewhile(lambda call: call.minute < days * 1440, stream))


def changed(city: City, *demand: DemandPeriod) -> City:
    """The city with other rates."""
    return dataclasses.replace(city, demand=demand)


def test_a_seed_gives_the_same_calls_bit_for_bit() -> None:
    """Two streams with one seed are equal; another seed gives others."""
    first, again, other = (list(itertools.islice(arrivals(CITY, seed), 300)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_calls_come_in_order_of_time() -> None:
    """Numbers count up, and time never goes back."""
    calls = within(3)
    assert [call.number for call in calls] == list(range(1, len(calls) + 1))
    assert all(a.minute < b.minute for a, b in itertools.pairwise(calls))


def test_flat_arrivals_are_poisson() -> None:
    """Hourly counts have the stated mean, and a variance equal to it; gaps are exponential."""
    days = 60
    calls = within(days, shape=FLAT)
    counts = np.bincount([int(call.minute // 60) for call in calls], minlength=days * 24)
    rate = sum(CITY.demand[0].calls_per_day) / 24
    assert abs(counts.mean() - rate) < 4 * np.sqrt(rate / len(counts))
    assert abs(counts.var(ddof=1) / counts.mean() - 1) < 4 * np.sqrt(2 / len(counts))
    gaps = np.diff([call.minute for call in calls])
    assert abs(gaps.std() / gaps.mean() - 1) < 4 / np.sqrt(len(gaps))


def test_every_hour_of_the_week_has_its_rate() -> None:
    """Over 20 weeks each of the 168 counts lies within 4.5 standard deviations of its mean, and they fit together."""
    weeks = 20
    counts = np.zeros((7, 24))
    for call in within(weeks * 7):
        weekday, hour = weekday_and_hour(call.minute)
        counts[weekday, int(hour)] += 1
    hourly = sum(CITY.demand[0].calls_per_day) / 24
    wanted = np.array([[hourly * RIO.at(hour, day) * weeks for hour in range(24)] for day in range(7)])
    scores = (counts - wanted) / np.sqrt(wanted)
    assert float(np.abs(scores).max()) < 4.5
    chi_square = float((scores**2).sum())
    assert abs(chi_square - 168) < 4 * np.sqrt(2 * 168)


def test_the_shape_keeps_the_mean_rate_of_the_week() -> None:
    """A shape only moves calls within the week."""
    for shape in (FLAT, RIO):
        mean = np.mean([shape.at(hour, day) for day in range(7) for hour in range(24)])
        assert mean == pytest.approx(1.0, abs=0.01)


def test_priorities_have_the_rates_of_the_city() -> None:
    """By day each priority's share is the city's; a priority without calls never calls."""
    city = changed(CITY, DemandPeriod(0.0, (150.0, 0.0, 50.0)))
    calls = [call for call in within(60, city=city, shape=FLAT) if weekday_and_hour(call.minute)[1] >= 6]
    shares = np.bincount([call.priority for call in calls], minlength=3) / len(calls)
    assert shares[1] == 0.0
    assert abs(shares[0] - 0.75) < 4 * np.sqrt(0.75 * 0.25 / len(calls))


def test_rates_change_when_a_demand_period_begins() -> None:
    """The second period's rate holds from its start on, also when it is the higher one."""
    city = changed(CITY, DemandPeriod(0.0, (50.0, 50.0, 0.0)), DemandPeriod(5 * 1440.0, (0.0, 0.0, 400.0)))
    calls = within(10, city=city, shape=FLAT)
    early = [call for call in calls if call.minute < 5 * 1440]
    late = [call for call in calls if call.minute >= 5 * 1440]
    assert abs(len(early) - 500) < 4 * np.sqrt(500)
    assert abs(len(late) - 2000) < 4 * np.sqrt(2000)
    assert {call.priority for call in early} == {0, 1}
    assert {call.priority for call in late} == {2}


def test_calls_end_with_a_demand_that_ends() -> None:
    """A last period without calls ends the stream, and one in between is passed over, instead of waiting for ever."""
    periods = [DemandPeriod(0.0, (90.0, 0.0, 0.0)), DemandPeriod(1440.0, (0.0, 0.0, 0.0))]
    assert {call.minute < 1440 for call in arrivals(changed(CITY, *periods), 1)} == {True}
    periods.append(DemandPeriod(2880.0, (0.0, 90.0, 0.0)))
    days = [int(call.minute // 1440) for call in within(4, city=changed(CITY, *periods))]
    assert set(days) == {0, 2, 3}


def test_a_call_is_one_that_can_happen() -> None:
    """Every field lies in its range, and its severity belongs to its priority."""
    for call in within(10):
        assert call.severity in CITY.priorities[call.priority].severities
        assert 0 <= call.call_type < len(CALL_TYPES)
        assert 0 <= call.place < len(CITY.travel.call_nodes)
        assert call.patient_age is None or 0 <= call.patient_age <= 105
        assert min(call.dispatch_delay, call.mobilisation, call.on_scene, call.handover) >= 0
        assert 0 <= call.fit_draw < 1


def test_the_centre_calls_more_by_day() -> None:
    """On working days the mean distance of calls from the middle is smaller between eight and six."""
    xy = CITY.roads.xy_km[CITY.travel.call_nodes]
    far = np.sqrt(((xy - np.median(xy, axis=0)) ** 2).sum(axis=1))
    day: list[float] = []
    night: list[float] = []
    for call in within(80):
        weekday, hour = weekday_and_hour(call.minute)
        if weekday < 5:
            (day if 8 <= hour < 18 else night).append(far[call.place])
    error = np.sqrt(np.var(day) / len(day) + np.var(night) / len(night))
    assert np.mean(night) - np.mean(day) > 3 * error


def test_the_published_shape_is_what_the_counts_of_rio_give() -> None:
    """Recomputing the shape from the counts gives the numbers that stand in the code."""
    if not DATA.exists():
        pytest.skip("the counts of Rio de Janeiro are not there: ../shared/data/rio_ems_arrivals")
    counts = np.zeros(7 * 48)
    with gzip.open(DATA, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["period_type"] == "0":
                day = int(row["dow"])
                counts[day * 48 + int(row["half_hour"])] += int(row["count"]) / (105 if day < 4 else 104)
    local = np.roll(np.roll(counts, -6).reshape(7, 24, 2).sum(axis=2), -3, axis=0)
    local /= local.mean()
    working, weekend = local[:5].mean(axis=0), local[5:].mean(axis=0)
    assert (working / working.mean()).round(2).tolist() == list(RIO.working)
    assert (weekend / weekend.mean()).round(2).tolist() == list(RIO.weekend)
    assert local.mean(axis=1).round(3).tolist() == list(RIO.days)
