"""What several tests say of one thing becomes one condition that reads well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitoring.alerts.conditions import Verdict, fitting
from monitoring.alerts.kinds import AlertType, Severity
from monitoring.cycle.looks import Looks, place

LABELS = {"family": "toy", "feature": "age", "arm": ""}
KIND = AlertType.FEATURE_DRIFT


def test_a_sentence_is_told_once_with_all_its_places() -> None:
    """Three arms that saw the same are one sentence; another finding is another one."""
    looks = Looks()
    for arm in ("a", "b", "a"):
        looks.add(KIND, LABELS, Verdict.HOLDS, "age drifts", where=arm, value=0.3)
    looks.add(KIND, LABELS, Verdict.HOLDS, "age moved by 0.1", where="b")
    (condition,) = looks.conditions()
    assert condition.summary == "toy (a, b): age drifts; toy (b): age moved by 0.1"
    assert (condition.verdict, condition.value, condition.labels) == (
        Verdict.HOLDS,
        0.3,
        {"family": "toy", "feature": "age"},
    )


def test_what_holds_replaces_what_did_not_and_the_worst_severity_counts() -> None:
    """Nobody is told of the tests that found nothing, and a later one that finds nothing takes nothing back."""
    looks = Looks()
    looks.add(KIND, LABELS, Verdict.UNKNOWN, "200 more are needed", where="a", limit=1.0)
    looks.add(KIND, LABELS, Verdict.HOLDS, "age drifts", where="b", limit=2.0, severity=Severity.LOW)
    looks.add(KIND, LABELS, Verdict.CLEAR, "as ever", where="c", limit=3.0)
    looks.add(KIND, LABELS, Verdict.HOLDS, "age is bad", where="d", severity=Severity.HIGH)
    (condition,) = looks.conditions()
    assert condition.summary == "toy (b): age drifts; toy (d): age is bad"
    assert (condition.limit, condition.severity) == (2.0, Severity.HIGH)


@given(st.lists(st.sampled_from(Verdict)))
def test_a_thing_is_clear_unless_a_test_says_otherwise(verdicts: list[Verdict]) -> None:
    """And open only when no test has an opinion."""
    looks = Looks()
    for verdict in verdicts:
        looks.add(KIND, LABELS, verdict, verdict.name)
    expected = next((one for one in (Verdict.HOLDS, Verdict.CLEAR, Verdict.UNKNOWN) if one in verdicts), None)
    assert [one.verdict for one in looks.conditions()] == ([] if expected is None else [expected])


def test_a_long_story_is_cut_between_letters() -> None:
    """So that an alert takes it, also where letters have several bytes."""
    looks = Looks()
    looks.add(KIND, LABELS, Verdict.HOLDS, "ü" * 900)
    (condition,) = looks.conditions()
    assert condition.summary == fitting("ü" * 900)
    assert set(condition.summary) == {"ü"}
    assert len(condition.summary) < 900


def test_an_arm_is_named_once_where_its_variant_is_called_like_it() -> None:
    """Both where they differ; whichever there is where there is one."""
    assert [place("a", "a"), place("a", "b"), place("a", ""), place("", "b"), place("", "")] == [
        "a",
        "a b",
        "a",
        "b",
        "",
    ]
