"""`turnout split` against a real ExperimentService: every command, what it prints, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from services.cli import main
from services.cli.split_shown import expected_shares
from tests.integration.control_under_test import Control, control, until
from turnout.v1 import experiment_pb2

Told = Callable[..., Awaitable[tuple[int, str, str]]]


def commands(hub: Control, capsys: pytest.CaptureFixture[str]) -> Told:
    """Gives what runs `turnout split …` and tells exit code, standard output and standard error."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main.run, ["split", *arguments, "--hub", hub.server.address])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def asking(run: Told) -> Callable[..., Awaitable[Any]]:
    """Gives what runs a command that must succeed, and its JSON."""

    async def ask(*arguments: str) -> Any:
        code, out, err = await run(*arguments, "-o", "json")
        assert code == 0, err
        return json.loads(out)

    return ask


@pytest.fixture(autouse=True)
def logs_of_the_hub_stay_out() -> None:
    """The hub runs in this process: its log must not mix with what the command prints."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database; both kinds are the store's own test."""
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


async def test_an_experiment_lives_and_ends(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Made, steered, ramped, concluded, undone, deleted and brought back, with a history that tells it all."""
    async with control(tmp_path, url) as hub:
        ask = asking(commands(hub, capsys))
        arms = ("--arm", "new=xgb:10", "--arm", "old=rules:90", "--champion", "old")
        made = await ask("create", "north", "--family", "dispatch", *arms, "--tenant", "north", "--why", "a trial")
        assert (made["revision"], made["tenant"], made["strategy"]) == (1, "north", "weighted")
        assert made["arms"]["new"] == {"variant": "xgb", "weight": 10, "expected_share": 0.1}
        changed = await ask("set", "north", "--weights", "new=30,old=70")
        assert changed["arms"]["new"]["expected_share"] == 0.3
        assert (await ask("pause", "north"))["arms"]["old"]["expected_share"] == 1
        assert not (await ask("resume", "north"))["paused"]
        ramped = await ask("ramp", "north", "--step", "0:new=50,old=50", "--step", "1h:new=90,old=10")
        assert [step["after_seconds"] for step in ramped["ramp"]["steps"]] == [0, 3600]
        stopped = await ask("ramp", "north", "--stop")
        assert "ramp" not in stopped
        assert stopped["arms"]["new"]["weight"] == 50
        around = ("--when", 'metadata["app"] == "web"', "--hold-out", "10", "--override", "u1=old", "--shadow", "lgb=5")
        updated = await ask("update", "north", *around, "--priority", "3", "--why", "only the web")
        assert (updated["priority"], updated["overrides"], updated["shadows"]) == (3, {"u1": "old"}, {"lgb": 5})
        assert updated["arms"]["old"]["expected_share"] == pytest.approx(0.55)
        assert (await ask("conclude", "north", "--winner", "new"))["winner"] == "new"
        assert "winner" not in await ask("undo", "north", "--why", "too early")
        assert (await ask("delete", "north")) == {"name": "north", "deleted": True}
        assert (await ask("undo", "north"))["revision"] == 11
        listed = await ask("list", "dispatch")
        assert [one["name"] for one in listed["experiments"]] == ["dispatch", "north"]
        history = (await ask("history", "north"))["revisions"]
        assert [one["revision"] for one in history] == list(range(11, 0, -1))
        assert (history[-1]["changes"], history[-1]["why"], history[-1]["who"]) == (["created"], "a trial", "default")
        assert history[-2]["changes"] == ["weights[new]: 10 → 30", "weights[old]: 90 → 70"]
        assert history[2]["changes"] == ["reopened: new no longer won"]
        assert history[1]["experiment"] is None
        assert history[0]["changes"] == ["created again"]


async def test_a_definition_from_a_file(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As turnout.yaml writes it; options come on top; an update from a file replaces everything but the salt."""
    monkeypatch.chdir(tmp_path)
    definition = """\
family: dispatch
tenant: south
champion: a
strategy: {kind: time, window_seconds: 1800, time_zone: Europe/Paris, assignment: alternating}
arms:
  b: {variant: lgb}
  a: {variant: xgb}
"""
    file = tmp_path / "south.yaml"
    file.write_text(definition)
    async with control(tmp_path, url) as hub:
        run = commands(hub, capsys)
        ask = asking(run)
        made = await ask("create", "south", "--file", "south.yaml", "--hold-out", "20")
        assert list(made["arms"]) == ["b", "a"]
        assert made["arms"]["a"]["expected_share"] == pytest.approx(0.6)
        salt = (await hub.ask(experiment_pb2.GetExperimentRequest(name="south"))).experiment.salt
        file.write_text(definition.replace("1800", "3600"))
        again = await ask("update", "south", "--file", "south.yaml", "--revision", "1")
        assert "hold_out_percent" not in again
        now = (await hub.ask(experiment_pb2.GetExperimentRequest(name="south"))).experiment
        assert (now.salt, now.strategy.time.window_seconds) == (salt, 3600)
        code, _, err = await run("update", "south", "--file", "south.yaml", "--revision", "1")
        assert (code, "since then: strategy: time" in err) == (main.FAILED, True)
        for text, says in (
            ("[]", "must be a mapping"),
            ("{", "not valid YAML"),
            (definition.replace("lgb", "../x"), "arms[b].variant"),
            (definition.replace("Europe/Paris", "Mars"), "strategy.time.time_zone: 'Mars' is not an IANA time zone"),
        ):
            file.write_text(text)
            code, out, err = await run("update", "south", "--file", "south.yaml")
            assert (code, out, says in err) == (main.WRONG_INPUT, "", True), err


async def test_layers_keep_experiments_apart(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer is made, sliced, told, and removed when nobody is in it."""
    async with control(tmp_path, url) as hub:
        run = commands(hub, capsys)
        ask = asking(run)
        await ask("layers", "set", "ui", "--salt", "s")
        await ask("layers", "set", "inner", "--within", "ui:5000-9999")
        one = ("--family", "dispatch", "--tenant", "t", "--arm", "a=xgb")
        await ask("create", "first", *one, "--layer", "ui:0-999")
        code, _, err = await run("create", "second", *one, "--layer", "ui:999-1999")
        assert (code, "slices of layer 'ui' overlap: 0 to 999 of experiment 'first', " in err) == (
            main.WRONG_INPUT,
            True,
        )
        (inner, ui) = (await ask("layers", "list"))["layers"]
        assert inner["within"] == {"layer": "ui", "start": 5000, "end": 10_000}
        assert [(s["start"], s["end"], s["experiment"] or s["child"]) for s in ui["slices"]] == [
            (0, 1000, "first"),
            (5000, 10_000, "layer inner"),
        ]
        code, _, err = await run("layers", "set", "ui", "--within", "inner:0-9")
        assert (code, "layer.within: a layer is within itself: 'inner' in 'ui' in 'inner'" in err) == (
            main.WRONG_INPUT,
            True,
        )
        code, _, err = await run("layers", "delete", "ui")
        assert (code, "'ui' is used by" in err) == (main.FAILED, True)
        await ask("layers", "delete", "inner", "--why", "of no use")
        told = (await ask("layers", "history", "inner"))["revisions"]
        assert [(one["revision"], one["changes"], one["why"]) for one in told] == [
            (2, ["deleted"], "of no use"),
            (1, ["created"], ""),
        ]
        assert (told[0]["layer"], told[1]["layer"]["within"]["layer"]) == (None, "ui")
        await ask("layers", "set", "ui", "--salt", "t", "--why", "dealt anew")
        _, out, _ = await run("layers", "history", "ui", "--limit", "1")
        assert "salt: changed, all units are dealt anew" in out
        assert "created" not in out
        code, _, err = await run("layers", "history", "never")
        assert (code, err) == (main.WRONG_INPUT, "turnout: there is no layer 'never', and there never was\n")
        _, out, _ = await run("layers", "list")
        assert "0 to 999: first" in out


async def test_routers_and_dry_runs_are_told(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status names every router with its lag or its refusal; a dry run says which arm and why."""
    async with control(tmp_path, url) as hub:
        run = commands(hub, capsys)
        ask = asking(run)
        good, bad = hub.watcher("good"), hub.watcher("bad")
        await good.answer(await good.hello())
        await bad.answer(await bad.hello(), version=0, refusal="no [red]such[/red] variant")

        async def both() -> bool:
            return (await ask("status"))["summary"].startswith("version 1: 1 of 2 connected routers, ")

        await until(both)
        (second, first) = (await ask("status"))["routers"]
        assert (first["router"], first["refusal"], first["lag_ms"] >= 0) == ("good", "", True)
        assert (second["router"], second["refusal"], second["lag_ms"]) == ("bad", "no [red]such[/red] variant", None)
        _, out, _ = await run("status")
        assert "no [red]such[/red] variant" in out
        decided = await ask("decide", "dispatch", "--unit", "u1", "--features", '{"severity": 4}', "--attribute", "a=b")
        assert (decided["experiment"], decided["reason"]) == ("dispatch", "hash")
        assert decided["arm"] in {"rules", "xgb"}
        assert {"name", "summary", "parameters"} == (await ask("strategies"))[0].keys()
        for name in ("show", "history"):
            code, out, _ = await run(name, "dispatch")
            assert (code, "dispatch" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nobody"), "there is no experiment 'nobody'"),
        (("history", "nobody"), "there is no experiment 'nobody'"),
        (("undo", "nobody"), "there is no experiment 'nobody'"),
        (("undo", "dispatch"), "delete it instead"),
        (("conclude", "dispatch", "--winner", "nobody"), "winner must be one of the arms rules, xgb"),
        (("ramp", "dispatch"), "give --step for each step of the schedule, or --stop"),
        (("ramp", "dispatch", "--stop"), "has no ramp"),
        (("ramp", "dispatch", "--step", "1h"), "--step must be like 1h:a=90,b=10"),
        (("ramp", "dispatch", "--step", "1h:nobody=1"), "ramp.steps[0].weights[nobody]"),
        (("set", "dispatch", "--weights", "xgb=-1"), "weights[xgb] must be a number from 0 to 10000"),
        (("set", "dispatch", "--weights", "xgb=nan"), "weights[xgb] must be a number from 0 to 10000"),
        (("set", "dispatch", "--weights", "xgb=0,rules=0"), "weights: at least one arm needs a weight above 0"),
        (("create", "dispatch", "--arm", "a=xgb"), "there is an experiment 'dispatch' already"),
        (
            ("create", "../x", "--family", "dispatch", "--arm", "a=xgb"),
            "name: must be 1 to 63 letters, digits, '_', '.' and '-', the first one",
        ),
        (("create", "x", "--family", "weather", "--arm", "a=xgb"), "families of turnout.yaml are dispatch"),
        (("create", "x", "--family", "dispatch", "--arm", "a=cat"), "has no variant 'cat'"),
        (("create", "x", "--family", "dispatch", "--arm", "a=xgb", "--when", "tenant"), "must give a bool"),
        (("create", "x", "--family", "dispatch", "--arm", "a=xgb"), "takes every decision before it"),
        (("create", "x", "--family", "dispatch"), "name the arms: --arm NAME=VARIANT:WEIGHT"),
        (("update", "dispatch", "--layer", "ui"), "--layer must be like LAYER:0-4999"),
        (("update", "dispatch", "--override", "u1"), "--override must be like UNIT=ARM, each name once"),
        (("layers", "delete", "nobody"), "there is no layer 'nobody'"),
        (
            ("create", "x", "--arm", "a=rules:1", "--arm", "a=xgb:2"),
            "--arm must be like NAME=VARIANT:WEIGHT, each name",
        ),
        (("create", "x", "--arm", "a=rules:heavy"), "--arm must be like NAME=VARIANT:WEIGHT, each name once"),
        (("create", "x", "--family", "dispatch", "--arm", "a b=rules:1"), "arms[a b]: must be 1 to 63 letters, digits"),
        (("create", "x", "--family", "dispatch", "--arm", "a=rules:1", "--hold-out", "150"), "must be under 100"),
        (("create", "x", "--family", "dispatch", "--arm", "a=rules:1", "--hold-out", "nan"), "must be a finite number"),
        (("create", "x", "--arm", "a=xgb", "--shadow", "lgb"), "--shadow must be like VARIANT=PERCENT, each name once"),
        (("set", "dispatch", "--weights", "xgb=1", "--time-zone", "Mars/X"), "--time-zone goes with --strategy time"),
        (("set", "dispatch", "--burn-in", "5m"), "--burn-in goes with --strategy time"),
        (("set", "dispatch", "--strategy", "time", "--time-zone", "Mars/X"), "'Mars/X' is not an IANA time zone"),
        (("set", "dispatch", "--strategy", "time", "--window", "0"), "window_seconds: must be at least 1"),
        (
            ("set", "dispatch", "--strategy", "time", "--window", "7m", "--time-zone", "Europe/Paris"),
            "strategy.time.window_seconds: with a time_zone windows must tile the day",
        ),
        (("set", "dispatch", "--strategy", "time", "--timetable", "08:00=xgb"), "a timetable starts at 0 and its"),
        (("layers", "set", "own", "--within", "own:0-9"), "layer.within: a layer is within itself: 'own' in 'own'"),
        (("decide", "weather", "--unit", "u"), "there is no family 'weather'"),
        (("decide", "dispatch"), "unit_id or decision_id must be given"),
        (("decide", "dispatch", "--unit", "u", "--at", "noon"), "--at must be like 2026-01-31T08:00"),
    ],
)
async def test_what_is_wrong_is_one_sentence(
    arguments: tuple[str, ...], says: str, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with an exit code above 0, and nothing on standard output; what runs stays."""
    async with control(tmp_path, url) as hub:
        code, out, err = await commands(hub, capsys)(*arguments)
        assert code in {main.WRONG_INPUT, main.FAILED}
        assert (out, len(err.splitlines())) == ("", 1)
        assert says in err
        assert (await hub.ask(experiment_pb2.GetStatusRequest())).version == 1


def test_shares_follow_a_ramp_and_a_conclusion() -> None:
    """Before a ramp its arms' own weights hold; a winner and a pause take everything."""
    experiment = experiment_pb2.Experiment(
        champion="a",
        strategy=experiment_pb2.Strategy(weighted=experiment_pb2.WeightedStrategy()),
        arms=[experiment_pb2.Arm(name=name, weight=50) for name in "ab"],
        ramp=experiment_pb2.Ramp(
            starts_at_unix_s=100, steps=[experiment_pb2.RampStep(after_seconds=10, weights={"b": 150})]
        ),
    )
    assert expected_shares(experiment, 109.0) == {"a": 0.5, "b": 0.5}
    assert expected_shares(experiment, 110.0) == {"a": 0.25, "b": 0.75}
    experiment.winner = "b"
    assert expected_shares(experiment, 110.0) == {"a": 0, "b": 1}
