"""The figures of drift: what a run is, and the table of Elec2."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks import drift, elec2, suite
from monitoring.drift.results import Aspect


def test_a_run_with_a_shift_is_counted_from_the_shift_on() -> None:
    """Half a standard deviation in one feature: raised within 2 000 decisions after it, and nothing before."""
    run = drift.one_run((0, drift.Plant.FEATURE, drift.WITHIN))
    assert not run.early
    assert 0 < run.raised[Aspect.FEATURE] <= drift.WITHIN
    assert Aspect.CONCEPT not in run.raised


def test_a_run_in_which_only_the_outcome_turns_raises_no_feature() -> None:
    """Concept drift, and neither feature nor joint drift."""
    run = drift.one_run((0, drift.Plant.CONCEPT, drift.WITHIN))
    assert Aspect.CONCEPT in run.raised
    assert not {Aspect.FEATURE, Aspect.JOINT} & set(run.raised)


def test_the_figures_of_drift_are_part_of_the_bench() -> None:
    """`turnout bench --only` knows each of them."""
    names = [name for topic in suite.TOPICS for name in topic.names]
    assert set(drift.NAMES) <= set(names)
    assert len(names) == len(set(names))


def test_elec2_without_its_data_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, and success."""
    monkeypatch.setattr(elec2, "DATA", tmp_path / "nowhere")
    assert elec2.main() == 0
    assert capsys.readouterr().out.startswith("skipped: ")


def test_the_last_class_is_what_elec2_is_held_against() -> None:
    """The data are those whose persistence is .8533; seven published detectors stand beside ours."""
    if not elec2.DATA.is_dir():
        pytest.skip("the Elec2 data are not here")
    rows = elec2.read(elec2.DATA)
    same = sum(before[1] == after[1] for before, after in itertools.pairwise(rows))
    assert len(rows) == 45_312
    assert round(same / (len(rows) - 1), 4) == 0.8533
    assert {name for name, _, _ in elec2.published(elec2.DATA)} == {
        "bndm",
        "csddm",
        "d3",
        "ibdd",
        "ocdd",
        "spll",
        "udetect",
    }


class Coin:
    """A model that remembers how often it learnt, and always says yes."""

    made = 0

    def __init__(self) -> None:
        Coin.made += 1
        self.learnt = 0

    def predict_proba_one(self, inputs: dict[str, float]) -> dict[bool, float]:
        del inputs
        return {True: 3.0, False: 1.0}

    def predict_one(self, inputs: dict[str, float]) -> bool:
        del inputs
        return True

    def learn_one(self, inputs: dict[str, float], up: bool) -> None:  # noqa: FBT001 - river's own signature
        del inputs, up
        self.learnt += 1


def test_each_half_hour_is_predicted_and_the_first_does_not_count() -> None:
    """Three of the last four went up; a blind restart after every two makes a new model."""
    Coin.made = 0
    rows: list[tuple[dict[str, float], bool]] = [({}, up) for up in (True, True, False, True, True)]
    accuracy, drifts = elec2.prequential(rows, Coin, lambda: elec2.Blind(2), learns=5)
    assert accuracy == 0.75
    assert drifts == 2
    assert Coin.made == 3
