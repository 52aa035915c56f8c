"""The command line: what it takes, what it says, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.cli import main
from services.cli.configuration_file import first_file, use_tags, write_first
from services.cli.durations import seconds, time_of_day
from services.cli.output import Format
from services.cli.split_options import parse_weights
from services.cli.split_shown import expected_shares, print_one
from services.cli.up import operator_warning
from services.runtime.config import ConfigError, Operator, parse_config
from services.runtime.errors import AlreadyExists, InvalidArgument, Unauthenticated
from turnout.v1 import experiment_pb2

TAGS = {"xgboost": "turnout-dispatch-xgboost:1", "lightgbm": "turnout-dispatch-lightgbm:1"}


def command(*arguments: str) -> int:
    return main.run(arguments)


def written(folder: Path) -> Path:
    path = folder / "turnout.yaml"
    write_first(path, first_file("dispatch", TAGS, champion="xgboost", home=".turnout", grpc={}, metrics={}))
    return path


def arms(**weights: float) -> list[experiment_pb2.Arm]:
    return [experiment_pb2.Arm(name=name, variant=name, weight=weight) for name, weight in weights.items()]


@pytest.mark.parametrize(
    "name", ["demo", "up", "train", "predict", "outcome", "explain", "replay", "simulate", "bench"]
)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Help names the command and succeeds."""
    assert command(name, "--help") == 0
    assert f"turnout {name}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """What makes help slow is known by name: none of it is imported before a command runs."""
    heavy = ("grpc", "numpy", "pydantic", "bentoml", "sklearn", "xgboost", "onnxruntime", "structlog")
    script = (
        "import sys\nfrom services.cli import main\nmain.run(['--help'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_terminal_of_another_encoding_still_shows_the_rest() -> None:
    """A sign that it does not have is a question mark, and no error."""
    script = (
        "import sys\nfrom services.cli import main\nsys.argv = ['turnout', '--version']\n"
        "try:\n    main.main()\nfinally:\n    print('healthy \\u00b7 checked')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    assert done.stdout.endswith("healthy ? checked\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nonsense",), "no such command 'nonsense'"),
        (("predict",), "missing argument"),
        (("predict", "dispatch", "--nope"), "no such option: --nope"),
        (("predict", "dispatch", "--features", "{"), "--features is not valid JSON"),
        (("predict", "dispatch", "--features", "[1]"), "--features must be a JSON object"),
        (("train", "nonsense", "--dry-run"), "there is no family 'nonsense'"),
        (("train", "dispatch", "--data", "nowhere.csv"), "nowhere.csv is not a file"),
        (("train", "dispatch", "--data", "a", "--city", "b"), "give --data or --city, not both"),
        (("demo", "--data", "a", "--city", "b"), "give --data or --city, not both"),
        (("demo", "--seconds", "0"), "invalid value for '--seconds'"),
        (("demo", "--city", "nowhere"), "nowhere is not a folder"),
        (("simulate", "--city", "nowhere"), "nowhere is not a folder"),
        (("models", "list"), "missing argument 'family'; see `turnout models list --help`"),
        (("models", "list", "nonsense"), "there is no family 'nonsense'"),
        (("models", "show", "dispatch", "turnout:latest"), "not an exact tag"),
        (("split", "set", "dispatch"), "nothing to change"),
        (("split", "set", "dispatch", "--weights", "a"), "--weights must be like"),
        (("split", "set", "dispatch", "--weights", "a=1,a=2"), "--weights must be like"),
        (("split", "set", "dispatch", "--strategy", "random", "--window", "1h"), "--window goes with --strategy time"),
        (("split", "set", "dispatch", "--strategy", "time", "--window", "soon"), "--window must be a length of time"),
        (("replay", "--since", "yesterday"), "--since must be a length of time"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Exit code 2, one line on standard error, nothing on standard output."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    assert command(*arguments) == main.WRONG_INPUT
    said = capsys.readouterr()
    assert sentence in said.err
    told = [line for line in said.err.splitlines() if line.startswith("turnout: ")]
    assert len(told) == 1
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("arguments", [("up",), ("predict", "dispatch"), ("split", "show", "dispatch"), ("replay",)])
def test_without_a_file_the_way_to_get_one_is_told(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The sentence names the two commands that help."""
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == main.FAILED
    assert "run `turnout train dispatch` to make it, or try `turnout demo`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "dispatch", "--address", "127.0.0.1:1"), "the router at 127.0.0.1:1 does not answer"),
        (("outcome", "d-1", "1", "--address", "127.0.0.1:1"), "the router at 127.0.0.1:1 does not answer"),
        (("split", "show", "dispatch", "--hub", "127.0.0.1:1"), "the hub at 127.0.0.1:1 cannot be reached"),
        (("replay", "--hub", "127.0.0.1:1"), "the hub at 127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_server_that_is_away_is_told(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says how to start it; the exit code is 1, since the input was right."""
    assert command(*arguments) == main.FAILED
    said = capsys.readouterr()
    assert sentence in said.err
    assert "turnout up" in said.err


def test_up_refuses_a_bento_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started before everything that it needs is there."""
    path = written(tmp_path)
    assert command("up", "-c", str(path)) == main.FAILED
    assert "run `turnout train dispatch`" in capsys.readouterr().err


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the line at fault."""
    path = tmp_path / "turnout.yaml"
    path.write_text("families:\n  dispatch:\n    deadline_ms: 0\n")
    assert command("up", "-c", str(path)) == main.WRONG_INPUT
    assert f"{path}:3: families.dispatch.deadline_ms" in capsys.readouterr().err


def test_simulate_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    """Every call became an incident of one priority, and progress does not mix with the result."""
    assert command("simulate", "--calls", "300", "--policy", "rules", "-o", "json") == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(one["incidents"] for one in result["priorities"].values()) == 300
    assert all(0 < one["p50_min"] <= one["p90_min"] for one in result["priorities"].values())


def test_simulate_is_repeatable_and_speaks_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same figures."""
    results = []
    for _ in range(2):
        assert command("simulate", "--calls", "300", "--seed", "7", "-o", "yaml") == 0
        results.append(yaml.safe_load(capsys.readouterr().out))
    assert results[0] == results[1]


def test_the_first_file_is_valid_and_splits_everything() -> None:
    """All variants and the rules take part; the weights make a hundred."""
    config = parse_config(first_file("dispatch", TAGS, champion="xgboost", home="h", grpc={}, metrics={}), "new")
    experiment = config.experiments["dispatch"]
    assert set(experiment.arms) == {"rules", *TAGS}
    assert sum(arm.weight for arm in experiment.arms.values()) == pytest.approx(100.0)
    assert {name: variant.bento for name, variant in config.families["dispatch"].variants.items()} == TAGS
    assert config.families["dispatch"].critical


def test_the_first_file_never_replaces_another(tmp_path: Path) -> None:
    """Somebody's own file stays as it is."""
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(AlreadyExists):
        write_first(path, first_file("dispatch", TAGS, champion="xgboost", home="other", grpc={}, metrics={}))
    assert path.read_bytes() == before


def test_new_tags_leave_everything_else_as_it_is(tmp_path: Path) -> None:
    """Comments, order and other variants stay; only the tag's line differs."""
    path = written(tmp_path)
    path.write_text(path.read_text() + "# the end, by hand\n")
    before = path.read_text().splitlines()
    config = use_tags(path, "dispatch", {"xgboost": "turnout-dispatch-xgboost:2"})
    after = path.read_text().splitlines()
    assert config.families["dispatch"].variants["xgboost"].bento == "turnout-dispatch-xgboost:2"
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert "turnout-dispatch-xgboost:2" in changed[0][1]


def test_new_tags_may_bring_a_new_variant(tmp_path: Path) -> None:
    """A variant that was not there is added; no arm gets traffic because of it."""
    path = written(tmp_path)
    config = use_tags(path, "dispatch", {"voting": "turnout-dispatch-voting:1"})
    assert config.families["dispatch"].variants["voting"].bento == "turnout-dispatch-voting:1"
    assert "voting" not in config.experiments["dispatch"].arms


def test_a_wrong_file_gets_no_tags(tmp_path: Path) -> None:
    """It is refused and left as it is."""
    path = tmp_path / "turnout.yaml"
    path.write_text("families: 3\n")
    with pytest.raises(ConfigError):
        use_tags(path, "dispatch", TAGS)
    assert path.read_text() == "families: 3\n"


def test_lengths_of_time() -> None:
    """Units are s, m, h and d; without one they are seconds."""
    assert [seconds("--x", text) for text in ("90", "90s", "15m", "1h", "2d")] == [90, 90, 900, 3600, 172_800]
    for wrong in ("", "h", "-1s", "1.5h", "1w", "1 h"):
        with pytest.raises(InvalidArgument, match="--x must be"):
            seconds("--x", wrong)


def test_times_of_day() -> None:
    """Hours and minutes, and nothing after 23:59."""
    assert [time_of_day("--x", text) for text in ("00:00", "06:30", "23:59")] == [0, 23_400, 86_340]
    for wrong in ("24:00", "6.30", "12:60", ""):
        with pytest.raises(InvalidArgument, match="--x must name times"):
            time_of_day("--x", wrong)


def test_weights() -> None:
    """Each arm once, a number each."""
    assert parse_weights("a=90, b=10") == {"a": 90.0, "b": 10.0}
    assert parse_weights("") == {}


def test_expected_shares_follow_the_strategy() -> None:
    """By weight; alike among those above 0; by hours of the day; or all to the champion."""
    weighted = experiment_pb2.Experiment(arms=arms(a=3, b=1, c=0))
    weighted.strategy.weighted.SetInParent()
    assert expected_shares(weighted) == {"a": 0.75, "b": 0.25, "c": 0.0}
    random = experiment_pb2.Experiment(arms=arms(a=3, b=1, c=0))
    random.strategy.random.SetInParent()
    assert expected_shares(random) == {"a": 0.5, "b": 0.5, "c": 0.0}
    timetable = experiment_pb2.Experiment(arms=arms(a=1, b=1))
    timetable.strategy.time.timetable.add(start_seconds=0, arm="a")
    timetable.strategy.time.timetable.add(start_seconds=21_600, arm="b")
    assert expected_shares(timetable) == {"a": 0.25, "b": 0.75}
    paused = experiment_pb2.Experiment(arms=arms(a=3, b=1), champion="b", paused=True)
    assert expected_shares(paused) == {"a": 0.0, "b": 1.0}


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of a fault can say of which version it is."""
    assert command("--version") == 0
    assert capsys.readouterr().out.startswith("turnout 0.")


def test_a_switchback_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Windows, time zone, burn-in and timetable stand around the arms, for people and for programs."""
    time = experiment_pb2.TimeStrategy(window_seconds=1800, time_zone="Europe/Paris", burn_in_seconds=120)
    experiment = experiment_pb2.Experiment(
        name="dispatch",
        family="dispatch",
        strategy=experiment_pb2.Strategy(time=time),
        arms=[experiment_pb2.Arm(name=name, weight=50) for name in "ab"],
    )
    print_one(experiment, Format.TABLE)
    said = capsys.readouterr().out
    assert "windows of 30 min, Europe/Paris; arms seeded" in said
    assert "burn-in: the first 2 min of a block" in said
    experiment.strategy.time.timetable.add(start_seconds=0, arm="a")
    experiment.strategy.time.timetable.add(start_seconds=30_600, arm="b")
    experiment.strategy.time.assignment = experiment_pb2.TIME_ASSIGNMENT_TIMETABLE
    print_one(experiment, Format.TABLE)
    assert "each day, Europe/Paris: 00:00 a, 08:30 b" in capsys.readouterr().out
    print_one(experiment, Format.JSON)
    assert json.loads(capsys.readouterr().out)["time"] == {
        "window_seconds": 1800,
        "offset_seconds": 0,
        "time_zone": "Europe/Paris",
        "burn_in_seconds": 120,
        "assignment": "timetable",
        "timetable": {"00:00": "a", "08:30": "b"},
    }


def test_a_condition_is_shown_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in brackets is part of the condition, and not markup of the terminal."""
    when = 'metadata["app"].matches("[a-z]+")'
    experiment = experiment_pb2.Experiment(
        name="web",
        family="dispatch",
        when=when,
        strategy=experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy()),
        arms=[experiment_pb2.Arm(name="a", weight=1)],
    )
    print_one(experiment, Format.TABLE)
    assert f"when: {when}" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(("token", "says"), [(None, "is not set"), ("wrong", "is no operator's"), ("right", "")])
def test_up_tells_that_the_hub_will_refuse_the_router(token: str | None, says: str) -> None:
    """With operators the router needs the token of one; nothing else would show why it hears of no change."""
    warning = operator_warning([Operator(token_sha256=hashlib.sha256(b"right").hexdigest())], token)
    assert warning.startswith(f"TURNOUT_OPERATOR_TOKEN {says}") == bool(says)
    assert bool(warning) == bool(says)
    assert not operator_warning([], token)


def test_a_missing_token_is_told_with_where_it_goes() -> None:
    """Whoever types a command sets a variable; the metadata is the client's business."""
    code, sentence = main.told(Unauthenticated("authorization", "the token is not known"))
    assert code == main.WRONG_INPUT
    assert "the token is not known" in sentence
    assert "TURNOUT_OPERATOR_TOKEN" in sentence
