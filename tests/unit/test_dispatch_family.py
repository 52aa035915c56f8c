"""The dispatch family: its declaration, its rules and what a crew contributes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bentos.dispatch import FAMILY
from bentos.dispatch.features import CALL_TYPES, Crew, CrewMember, DispatchRow, crew
from bentos.dispatch.rules import rules
from bentos.family import load
from bentos.schema import Category, Number

NAN = math.nan
UNKNOWN = DispatchRow(3.0, *[NAN] * 11)


def _values(feature: object) -> st.SearchStrategy[float]:
    match feature:
        case Number(low=low, high=high):
            known = st.floats(low, high, width=32)
        case Category(values=values):
            known = st.integers(0, len(values) - 1).map(float)
        case _:
            raise AssertionError(feature)
    return known


ROWS = st.builds(
    DispatchRow,
    _values(FAMILY.schema.features[0]),
    *(st.one_of(st.just(NAN), _values(feature)) for feature in FAMILY.schema.features[1:]),
)


def test_the_family_is_found_by_its_name() -> None:
    """`load` finds the declaration, whose variants are the six that the platform compares."""
    family = load("dispatch")
    assert family is FAMILY
    assert [variant.name for variant in family.variants] == [
        "xgboost",
        "lightgbm",
        "random_forest",
        "gradient_boosting",
        "voting",
        "stacking",
    ]


@settings(deadline=None)
@given(ROWS)
def test_rules_always_answer(row: DispatchRow) -> None:
    """Whatever is known or missing, the rules give a probability, a matching confidence and 1 to 5 reasons."""
    answer = rules(row)
    assert 0.05 <= answer.value <= 0.95
    assert answer.confidence == pytest.approx(max(answer.value, 1.0 - answer.value))
    assert answer.confidence == FAMILY.confidence(answer.value)
    assert 1 <= len(answer.reasons) <= 5
    assert all(reason.endswith(".") and reason.count(".") == 1 for reason in answer.reasons)


@settings(deadline=None)
@given(ROWS)
def test_rules_are_deterministic(row: DispatchRow) -> None:
    """The same row gets the same answer."""
    assert rules(row) == rules(DispatchRow(*row))


@settings(deadline=None)
@given(ROWS, st.sampled_from(["distance_km", "response_time_min"]), st.floats(0, 200), st.floats(0, 200))
def test_nearer_is_never_worse(row: DispatchRow, name: str, one: float, other: float) -> None:
    """All else equal, a shorter way or a shorter expected time never lowers the probability."""
    near, far = sorted((one, other))
    assert rules(row._replace(**{name: near})).value >= rules(row._replace(**{name: far})).value


@settings(deadline=None)
@given(ROWS, st.sampled_from(["availability", "expertise"]), st.floats(0, 1), st.floats(0, 1))
def test_more_is_never_worse(row: DispatchRow, name: str, one: float, other: float) -> None:
    """All else equal, more free units or a crew that fits better never lower the probability."""
    less, more = sorted((one, other))
    assert rules(row._replace(**{name: more})).value >= rules(row._replace(**{name: less})).value


def test_knowing_nothing_is_an_even_chance_and_says_so() -> None:
    """With severity alone the rules say 0.5, and why."""
    answer = rules(UNKNOWN)
    assert answer.value == 0.5
    assert answer.reasons == ("Neither the expected time nor the distance is known.",)


def test_distance_stands_in_for_an_unknown_time() -> None:
    """When the expected time is missing, the answer follows the distance and says that it had to."""
    assert rules(UNKNOWN._replace(distance_km=1.0)).reasons[0].startswith("The expected time is not known")
    assert rules(UNKNOWN._replace(distance_km=1.0, response_time_min=30.0)).value == 0.15


def test_the_worst_case_gives_five_reasons() -> None:
    """Late, far, short of units, untrained and without a paramedic: five reasons, the time first."""
    row = DispatchRow(5.0, 30.0, 0.1, 25.0, 0.1, 70.0, 0.0, NAN, NAN, NAN, NAN, float(CALL_TYPES.index("cardiac")))
    answer = rules(row)
    assert answer.value == 0.05
    assert len(answer.reasons) == 5
    assert answer.reasons[0] == "The unit is expected to take more than 20 minutes."


def test_a_paramedic_matters_only_to_a_patient() -> None:
    """A grave fire call without a paramedic loses nothing, a grave medical one does."""
    row = UNKNOWN._replace(severity=5.0, response_time_min=3.0, total_paramedics=0.0)
    fire = rules(row._replace(call_type=float(CALL_TYPES.index("fire"))))
    medical = rules(row._replace(call_type=float(CALL_TYPES.index("medical"))))
    assert fire.value - medical.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("value", "level"), [(0.0, "low"), (0.49, "low"), (0.5, "medium"), (0.8, "high"), (1.0, "high")]
)
def test_levels(value: float, level: str) -> None:
    """Probabilities are low, medium from 0.5 and high from 0.8."""
    assert FAMILY.level(value) == level


def test_a_row_must_follow_the_schema() -> None:
    """A family whose row has other fields than its schema is refused when it is declared."""
    with pytest.raises(ValueError, match="row must have"):
        replace(FAMILY, row=Crew)


def test_crew_aggregates() -> None:
    """A crew counts its paramedics, the share of seniors and the mean of the scores that are known."""
    members = [CrewMember(True, True, 4.0), CrewMember(True, False), CrewMember(False, False, 3.0)]  # noqa: FBT003 - a table of members
    assert crew(members) == pytest.approx((2.0, 1 / 3, 3.5))


def test_an_unknown_crew_is_missing() -> None:
    """Nobody told us about the crew: all aggregates are missing; without any score the satisfaction alone is."""
    assert all(math.isnan(value) for value in crew([]))
    assert math.isnan(crew([CrewMember(paramedic=True, senior=True)]).average_satisfaction)
