"""An experiment is checked whole before anything goes by it, and its canonical form says everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.runtime.experiment import MAX_ARMS, MAX_ROTATION, Experiment


def form(**fields: Any) -> dict[str, Any]:
    """A good experiment, with some fields changed."""
    good: dict[str, Any] = {
        "name": "dispatch",
        "family": "dispatch",
        "salt": "s",
        "champion": "a",
        "strategy": {"kind": "weighted"},
        "arms": {"a": {"variant": "va", "weight": 70}, "b": {"variant": "vb", "weight": 30}},
    }
    return good | fields


def weights(*values: float) -> dict[str, Any]:
    """Arms with these weights."""
    names = ["a", *(f"arm{i}" for i in range(1, len(values)))]
    return {name: {"variant": "v", "weight": weight} for name, weight in zip(names, values, strict=True)}


def time(**fields: Any) -> dict[str, Any]:
    """A switchback."""
    return {"kind": "time"} | fields


MIDNIGHT = {"start_seconds": 0, "arm": "a"}
REFUSED = {
    "a champion that is no arm": (form(champion="c"), "'c' is not one of the arms a, b"),
    "no arms": (form(arms={}), "at least 1 item"),
    "too many arms": (form(arms=weights(*[1.0] * (MAX_ARMS + 1))), "at most 32 items"),
    "all weights 0": (form(arms=weights(0, 0)), "at least one arm needs a weight above 0"),
    "a weight below 0": (form(arms=weights(1, -1)), "greater than or equal to 0"),
    "a weight that is not a number": (form(arms=weights(1, float("nan"))), "finite number"),
    "three decimals": (form(arms=weights(1, 0.125)), "a weight has at most two decimals"),
    "no salt": (form(salt=""), "at least 1 character"),
    "an unknown strategy": (form(strategy={"kind": "lottery"}), "does not match any of the expected tags"),
    "an unknown field": (form(colour="red"), "Extra inputs are not permitted"),
    "a name with a space": (form(arms=weights(1) | {"b c": {"variant": "v"}}), "match pattern"),
    "an unknown zone": (form(strategy=time(time_zone="Mars/Olympus")), "'Mars/Olympus' is not an IANA time zone"),
    "a zone outside the database": (form(strategy=time(time_zone="../etc/passwd")), "is not an IANA time zone"),
    "an offset of a whole window": (form(strategy=time(window_seconds=60, offset_seconds=60)), "must be under"),
    "a burn-in of a whole window": (form(strategy=time(window_seconds=60, burn_in_seconds=60)), "must be under"),
    "a window that does not divide the day": (
        form(strategy=time(window_seconds=7000, time_zone="Europe/Berlin")),
        "windows must tile the day: 7000 s do not divide 86400 s",
    ),
    "a timetable without being asked": (form(strategy=time(timetable=[MIDNIGHT])), "a timetable goes with"),
    "no timetable when asked": (form(strategy=time(assignment="timetable")), "a timetable goes with"),
    "a timetable that starts late": (
        form(strategy=time(assignment="timetable", timetable=[{"start_seconds": 1, "arm": "a"}])),
        "starts at 0",
    ),
    "a timetable that turns back": (
        form(strategy=time(assignment="timetable", timetable=[MIDNIGHT, MIDNIGHT])),
        "its starts rise",
    ),
    "a timetable of strangers": (
        form(strategy=time(assignment="timetable", timetable=[{"start_seconds": 0, "arm": "z"}])),
        "'z' is not one of the arms",
    ),
    "a timetable with an arm of weight 0": (
        form(strategy=time(assignment="timetable", timetable=[MIDNIGHT]), arms=weights(0, 1)),
        "the weight of 'a' is 0",
    ),
    "a rotation that is too long": (
        form(strategy={"kind": "round_robin"}, arms=weights(99.99, 0.02)),
        "a rotation of 10001 steps, over the 10000 allowed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_experiment_is_refused_with_a_sentence(case: str) -> None:
    """Each wrong configuration is refused, and the sentence tells what is wrong."""
    wrong, sentence = REFUSED[case]
    with pytest.raises(ValidationError) as refusal:
        Experiment.model_validate(wrong)
    assert sentence in str(refusal.value)


def test_experiment_cannot_be_changed() -> None:
    """What was checked stays as it was."""
    checked = Experiment.model_validate(form())
    with pytest.raises(ValidationError, match="frozen"):
        checked.champion = "b"


def test_longest_rotation_is_allowed_and_other_strategies_have_no_such_limit() -> None:
    """Percentages with two decimals always make a rotation; hashes take any weights."""
    Experiment.model_validate(form(strategy={"kind": "round_robin"}, arms=weights(99.99, 0.01)))
    unruly = Experiment.model_validate(form(arms=weights(99.99, 0.02)))
    assert sum(unruly.whole_weights().values()) == MAX_ROTATION + 1


@pytest.mark.parametrize(
    ("given_weights", "whole"),
    [((50, 50), [1, 1]), ((0.1, 0.2, 0.7), [1, 2, 7]), ((33.33, 0, 66.67), [3333, 6667]), ((10_000, 0.01), [10**6, 1])],
)
def test_whole_weights_are_the_smallest_in_proportion(given_weights: tuple[float, ...], whole: list[int]) -> None:
    """Decimals disappear exactly, weights of 0 are left out, and the order of the arms is kept."""
    assert list(Experiment.model_validate(form(arms=weights(*given_weights))).whole_weights().values()) == whole


NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")


@settings(deadline=None)
@given(
    arms=st.dictionaries(NAMES, st.integers(1, 10**6).map(lambda hundredths: hundredths / 100), min_size=1, max_size=8),
    salt=st.text(min_size=1, max_size=64),
    revision=st.integers(1, 2**62 - 1),
)
def test_canonical_form_reads_back_to_the_same_experiment(arms: dict[str, float], salt: str, revision: int) -> None:
    """Order of the arms included; and the form is ASCII, so that no encoding can change the digest."""
    named = {name: {"variant": "v", "weight": weight} for name, weight in arms.items()}
    first = Experiment.model_validate(form(arms=named, champion=next(iter(arms)), salt=salt, revision=revision))
    text = first.canonical_json()
    second = Experiment.from_canonical(text)
    assert second == first
    assert list(second.arms) == list(arms)
    assert second.canonical_json() == text
    assert second.digest() == first.digest()
    assert text.isascii()


def test_canonical_form_is_this() -> None:
    """The form and its digest are published: they never change for an experiment that was written down once."""
    text = (
        '{"arms":[{"name":"a","variant":"va","weight":70.0},{"name":"b","variant":"vb","weight":30.0}],'
        '"champion":"a","family":"dispatch","name":"dispatch","revision":1,"salt":"s","strategy":{"kind":"weighted"}}'
    )
    experiment = Experiment.model_validate(form())
    assert experiment.canonical_json() == text
    assert experiment.digest() == 0x769B1CCEEC4630B2


def test_digest_tells_any_change() -> None:
    """Everything that an experiment says takes part in its digest, the order of its arms too."""
    arms = form()["arms"]
    changes: list[dict[str, Any]] = [
        {},
        {"salt": "t"},
        {"champion": "b"},
        {"revision": 2},
        {"paused": True},
        {"strategy": {"kind": "random"}},
        {"strategy": {"kind": "time"}},
        {"strategy": {"kind": "time", "time_zone": "Europe/Berlin"}},
        {"arms": dict(reversed(arms.items()))},
        {"arms": arms | {"a": {"variant": "va", "weight": 71}}},
        {"arms": arms | {"a": {"variant": "vc", "weight": 70}}},
    ]
    assert len({Experiment.model_validate(form(**change)).digest() for change in changes}) == len(changes)


def test_same_number_written_otherwise_has_the_same_digest() -> None:
    """A weight of 70 and one of 70.00 are one."""
    one, other = (Experiment.model_validate(form(arms=weights(weight, 30))) for weight in (70, 70.0))
    assert one.digest() == other.digest()
    assert json.loads(one.canonical_json())["arms"][0]["weight"] == 70
