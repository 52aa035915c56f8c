"""Experiments are changed inside turnout.yaml: whole or not at all, and nothing else in it moves."""

from __future__ import annotations

import difflib
import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.control.changes import Change
from services.control.file import ExperimentFile
from services.control.rewriting import rewrite
from services.runtime.config import parse_config
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.runtime.experiment import Experiment

TEXT = """\
# Who answers for what.
home: state            # relative to this file

families:
    dispatch:
        deadline_ms: 500
        variants:
            xgb: {addresses: ["127.0.0.1:9001"]}
            'lgbm':
                addresses:
                  - "127.0.0.1:9002"   # the second server

    delivery: {}

experiments:
    # The main one.
    dispatch:
        salt: "2026"      # a new salt deals all units anew
        champion: rules
        strategy:
            kind: weighted    # random | weighted | round_robin | time
        arms:
            rules: {variant: rules, weight: 50}
            xgb:
                variant: xgb
                weight: 30.0     # percent
            lgbm:
                weight: 20
                variant: lgbm    # since May

    # Not yet.
    delivery:
        revision: 7
        salt: d
        champion: rules
        paused: true
        strategy: {kind: random}
        arms:
            rules: {variant: rules}

# The end.
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "turnout.yaml"
    file.write_text(TEXT)
    file.chmod(0o640)
    return file


def anything(_: Experiment) -> None:
    """Takes any revision for the base."""


def test_only_the_lines_that_say_it_change(path: Path) -> None:
    """New weights and a pause touch their own lines; comments, order, quotes and indentation stay."""
    before, after = ExperimentFile(path).change(
        "dispatch", anything, lambda _: Change(weights={"rules": 50, "xgb": 45.5, "lgbm": 4.5}, paused=True)
    )
    assert (before.revision, after.revision) == (1, 2)
    moved = [line for line in difflib.ndiff(TEXT.splitlines(), path.read_text().splitlines()) if line[0] in "+-"]
    assert moved == [
        "+         revision: 2",
        "+         paused: true",
        "-                 weight: 30.0     # percent",
        "+                 weight: 45.5     # percent",
        "-                 weight: 20",
        "+                 weight: 4.5",
    ]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in path.parent.iterdir()] == ["turnout.yaml"]


def test_another_strategy_takes_the_place_of_the_present_one(path: Path) -> None:
    """The kind keeps its comment; parameters come and go."""
    file = ExperimentFile(path)
    time = {"kind": "time", "window_seconds": 1800, "time_zone": "Europe/Berlin", "assignment": "alternating"}
    _, after = file.change("dispatch", anything, lambda _: Change(strategy=time))
    assert file.read()["dispatch"] == after
    assert after.strategy.model_dump(mode="json", exclude_defaults=True) == time
    assert "kind: time        # random | weighted | round_robin | time" in path.read_text()
    file.change("dispatch", anything, lambda _: Change(strategy={"kind": "weighted"}))
    assert "window_seconds" not in path.read_text()
    assert file.read()["dispatch"].revision == 3


def test_a_change_that_breaks_a_rule_leaves_the_file_alone(path: Path) -> None:
    """The field is named and not a byte is written."""
    wrong = {"kind": "time", "window_seconds": 0}
    with pytest.raises(InvalidArgument) as refused:
        ExperimentFile(path).change("dispatch", anything, lambda _: Change(strategy=wrong))
    assert refused.value.field == "strategy.time.window_seconds"
    assert path.read_text() == TEXT


def test_a_change_that_changes_nothing_makes_no_revision(path: Path) -> None:
    """Pausing what is paused gives the same experiment and leaves the file as it is."""
    inode = path.stat().st_ino
    before, after = ExperimentFile(path).change("delivery", anything, lambda _: Change(paused=True))
    assert before is after
    assert (path.stat().st_ino, path.read_text()) == (inode, TEXT)


def test_a_hand_edit_is_seen_at_the_next_call(path: Path) -> None:
    """The file is the only truth: nothing is remembered from the last look."""
    file = ExperimentFile(path)
    assert file.read()["delivery"].revision == 7
    path.write_text(TEXT.replace("revision: 7", "revision: 8"))
    assert file.change("delivery", anything, lambda _: Change(paused=False))[1].revision == 9


def test_a_hand_edit_at_the_same_moment_is_not_overwritten(path: Path) -> None:
    """An editor that saves between the look and the change wins; the change is refused."""
    edited = TEXT.replace("salt: d", "salt: other")

    def make(_: Experiment) -> Change:
        path.write_text(edited)
        return Change(paused=False)

    with pytest.raises(Aborted, match="edited at the same moment"):
        ExperimentFile(path).change("delivery", anything, make)
    assert path.read_text() == edited
    assert [file.name for file in path.parent.iterdir()] == ["turnout.yaml"]


def test_settings_shared_by_an_anchor_are_not_changed_behind_the_others_back(path: Path) -> None:
    """Where two experiments are one piece of YAML, changing one would change both: that is refused."""
    first = TEXT[: TEXT.index("    # Not yet.")]
    shared = first.replace("    dispatch:\n        salt", "    dispatch: &main\n        salt")
    variants = "{variants: {xgb: {addresses: ['a:1']}, lgbm: {addresses: ['a:2']}}}"
    shared = shared.replace("    delivery: {}", f"    delivery: {variants}")
    path.write_text(shared + "    delivery: *main\n")
    both = path.read_text()
    with pytest.raises(FailedPrecondition, match="anchor"):
        ExperimentFile(path).change("delivery", anything, lambda _: Change(paused=True))
    assert path.read_text() == both


def test_a_file_that_is_wrong_already_is_named_with_its_line(path: Path) -> None:
    """Neither reading nor changing goes on from a file that cannot be trusted."""
    path.write_text(TEXT.replace("champion: rules", "champion: nobody", 1))
    file = ExperimentFile(path)
    for call in (file.read, lambda: file.change("dispatch", anything, lambda _: Change())):
        with pytest.raises(FailedPrecondition, match=r"turnout\.yaml:\d+: .*nobody"):
            call()


def test_an_unknown_family_is_not_found(path: Path) -> None:
    """Only experiments that stand in the file can be changed."""
    with pytest.raises(NotFound):
        ExperimentFile(path).change("weather", anything, lambda _: Change(paused=True))


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    """What a link points to is replaced, not the link."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "turnout.yaml"
    link.symlink_to(path)
    ExperimentFile(link).change("delivery", anything, lambda _: Change(paused=False))
    assert link.is_symlink()
    assert "revision: 8" in path.read_text()


def test_another_program_that_keeps_the_lock_is_waited_for_only_so_long(path: Path) -> None:
    """After two seconds of its clock the call gives up; the file is as it was."""
    now = [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds

    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(Unavailable):
            ExperimentFile(path, clock=lambda: now[0], pause=pause).change(
                "delivery", anything, lambda _: Change(paused=False)
            )
    finally:
        os.close(descriptor)
    assert 2.0 <= now[0] < 2.1
    assert path.read_text() == TEXT


WEIGHTS = st.integers(0, 1_000_000).map(lambda hundredths: hundredths / 100)
STRATEGIES = st.one_of(
    st.sampled_from([{"kind": "random"}, {"kind": "weighted"}]),
    st.builds(
        lambda window, zone, way: {"kind": "time", "window_seconds": window, "time_zone": zone, "assignment": way},
        st.sampled_from([60, 3600, 86_400]),
        st.sampled_from(["", "UTC", "America/New_York"]),
        st.sampled_from(["seeded", "alternating"]),
    ),
)


@settings(deadline=None)
@given(
    weights=st.fixed_dictionaries({"rules": WEIGHTS, "xgb": WEIGHTS, "lgbm": WEIGHTS}).filter(
        lambda weights: any(weights.values())
    ),
    strategy=STRATEGIES,
    paused=st.booleans(),
)
def test_the_rewritten_text_says_exactly_what_was_wanted(
    weights: dict[str, float],
    strategy: dict[str, object],
    paused: bool,  # noqa: FBT001 - drawn by name
) -> None:
    """Whatever the change, reading the new text gives the changed experiment, all else equal and each comment there."""
    config = parse_config(TEXT, "turnout.yaml")
    before = config.experiments["dispatch"]
    form = before.model_dump(mode="json") | {"strategy": strategy, "paused": paused, "revision": 2}
    for name, weight in weights.items():
        form["arms"][name]["weight"] = weight
    after = Experiment.model_validate(form)
    text = rewrite(TEXT, "dispatch", before, after)
    says = parse_config(text, "turnout.yaml")
    wanted = config.model_copy(update={"experiments": config.experiments | {"dispatch": after}})
    assert says.model_dump_json() == wanted.model_dump_json()
    comments = [line.partition("#")[2] for line in TEXT.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in text.splitlines() if "#" in line] == comments
