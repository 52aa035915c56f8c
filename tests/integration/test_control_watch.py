"""Routers watch: the whole set at once and after each change, acknowledged or refused, whatever happens to streams."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from services.control.plans import Plan
from services.control.store import ExperimentStore
from services.control.watching import Pace
from services.runtime.errors import Unavailable
from tests.integration.control_under_test import Watcher, control, until
from turnout.v1 import experiment_pb2

QUICK = Pace(heartbeat=0.05, hello=0.2, acknowledgement=0.3)


async def test_the_whole_set_comes_at_once_and_after_each_change(tmp_path: Path, database_url: str) -> None:
    """With rising nonces; heartbeats in between carry the newest version and no set."""
    async with control(tmp_path, database_url, pace=Pace(heartbeat=0.05)) as hub:
        watcher = hub.watcher()
        first = await watcher.hello()
        assert (first.nonce, first.version, first.set.version) == (1, 1, 1)
        assert [one.name for one in first.set.experiments] == ["dispatch"]
        heartbeat = await watcher.read()
        assert (heartbeat.nonce, heartbeat.version, heartbeat.HasField("set")) == (2, 1, False)
        changed = await hub.toggle(1)
        second = await watcher.next_set()
        assert second.nonce > heartbeat.nonce
        assert second.set.version == second.version == 2
        assert second.set.experiments[0] == changed
        assert second.set.origin == first.set.origin != ""


async def test_what_routers_answer_is_told_with_their_lag(tmp_path: Path, database_url: str) -> None:
    """An acknowledgement gives the lag; a refusal gives its reason and the version that is applied all the same."""
    async with control(tmp_path, database_url) as hub:
        watcher = hub.watcher()
        await watcher.answer(await watcher.hello())

        async def acknowledged() -> bool:
            return (await hub.status("router-1")).applied_version == 1

        await until(acknowledged)
        good = await hub.status("router-1")
        assert good.connected
        assert good.HasField("lag_ms")
        assert 0 <= good.lag_ms < 10_000
        assert good.refusal == ""
        await hub.toggle(1)
        await watcher.answer(await watcher.next_set(), version=1, refusal="no variant\n 'xgb' here")

        async def refused() -> str:
            return (await hub.status("router-1")).refusal

        assert await until(refused) == "no variant 'xgb' here"
        bad = await hub.status("router-1")
        assert (bad.applied_version, bad.HasField("lag_ms")) == (1, False)
        assert hub.registry.get_sample_value("turnout_control_acknowledgements_total", {"result": "refused"}) == 1
        assert hub.registry.get_sample_value("turnout_control_lag_seconds_count") == 1
        assert hub.registry.get_sample_value("turnout_control_watchers") == 1


async def test_a_set_that_was_refused_may_be_taken_later(tmp_path: Path, database_url: str) -> None:
    """The second answer to the same nonce counts: the router that applied it after all is told without its refusal."""
    async with control(tmp_path, database_url) as hub:
        watcher = hub.watcher()
        first = await watcher.hello()
        await watcher.answer(first, version=0, refusal="not yet")

        async def refused() -> str:
            return (await hub.status("router-1")).refusal

        await until(refused)
        await watcher.answer(first)

        async def taken() -> bool:
            status = await hub.status("router-1")
            return status.applied_version == 1 and not status.refusal

        await until(taken)


async def test_a_slow_router_gets_only_the_newest_set(tmp_path: Path, database_url: str) -> None:
    """What was made while it did not read is not queued for it."""
    async with control(tmp_path, database_url) as hub:
        fast, slow = hub.watcher("fast"), hub.watcher("slow", options=(("grpc.http2.lookahead_bytes", 1024),))
        await slow.hello()
        await fast.hello()
        for revision in range(1, 41):
            await hub.toggle(revision)
            response = await fast.next_set()
            await fast.answer(response)
        got = [(await slow.next_set()).set.version]
        while got[-1] < 41:
            got.append((await slow.next_set()).set.version)
        assert got == sorted(set(got))


async def test_a_router_that_does_not_answer_a_set_is_dropped(tmp_path: Path, database_url: str) -> None:
    """One that answers stays, however long it waits for the next change."""
    async with control(tmp_path, database_url, pace=QUICK) as hub:
        silent, good = hub.watcher("silent"), hub.watcher("good")
        await good.answer(await good.hello())
        await silent.hello()
        assert await silent.end() == (grpc.StatusCode.DEADLINE_EXCEEDED, "a set was not acknowledged within 0.3 s")
        assert (await good.read()).version == 1
        assert not (await hub.status("silent")).connected
        assert (await hub.status("good")).connected


async def test_a_router_that_does_not_read_is_dropped(tmp_path: Path, database_url: str) -> None:
    """Its stream hangs in the middle of a large set; it holds nothing up and is ended all the same."""
    async with control(tmp_path, database_url, pace=QUICK) as hub:
        units = {f"{number:03}" + "u" * 1000: "rules" for number in range(800)}
        present = (await hub.ask(experiment_pb2.GetExperimentRequest(name="dispatch"))).experiment
        present.overrides.update(units)
        for number in range(8):
            copy = experiment_pb2.Experiment()
            copy.CopyFrom(present)
            copy.name, copy.tenant = f"big-{number}", f"tenant-{number}"
            await hub.ask(experiment_pb2.CreateExperimentRequest(experiment=copy))
        # A fixed window of 64 KiB: on a fast connection gRPC would grow it until the whole set has room on the way.
        window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
        stuck = hub.watcher("stuck", options=(("grpc.max_receive_message_length", 1 << 26), *window))
        told = experiment_pb2.WatchHello(router="stuck")
        await stuck.call.write(experiment_pb2.WatchRequest(hello=told))
        good = hub.watcher("good", options=(("grpc.max_receive_message_length", 1 << 26),))
        response = await good.hello()
        await good.answer(response)
        # The first set may still find room on the way; a second one does not.
        await hub.toggle(1)
        response = await good.next_set()
        await good.answer(response)

        async def gone() -> bool:
            return not (await hub.status("stuck")).connected

        await until(gone)
        assert hub.registry.get_sample_value("turnout_control_watchers_dropped_total", {"reason": "stuck"}) == 1
        assert (await good.read()).version == response.version


async def test_the_newer_stream_of_a_router_takes_over(tmp_path: Path, database_url: str) -> None:
    """A router that lost its connection is known at once, although the old stream was not noticed to be dead."""
    async with control(tmp_path, database_url, pace=QUICK) as hub:
        old, new = hub.watcher("same"), hub.watcher("same")
        await old.answer(await old.hello())
        await new.answer(await new.hello(version=1))
        assert await old.end() == (grpc.StatusCode.ABORTED, "another stream of same took over")
        await hub.toggle(1)
        assert (await new.next_set()).version == 2
        assert (await hub.status("same")).connected


async def test_streams_that_make_no_sense_are_ended(tmp_path: Path, database_url: str) -> None:
    """Each with the field that is wrong; the others go on."""
    acknowledgement = experiment_pb2.WatchAcknowledgement(nonce=1)
    async with control(tmp_path, database_url, pace=QUICK) as hub:
        no_hello = hub.watcher()
        await no_hello.call.write(experiment_pb2.WatchRequest(acknowledgement=acknowledgement))
        assert (await no_hello.end())[0] == grpc.StatusCode.INVALID_ARGUMENT
        nothing = hub.watcher()
        assert (await nothing.end())[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        for name in ("", "a/b", "a\nb", "r" * 129):
            named = Watcher(name, hub.channel)
            told = experiment_pb2.WatchHello(router=name)
            await named.call.write(experiment_pb2.WatchRequest(hello=told))
            code, sentence = await named.end()
            assert (code, "hello.router" in sentence) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        foreseen = hub.watcher("foreseen")
        response = await foreseen.hello()
        response.nonce = 99
        await foreseen.answer(response)
        assert (await foreseen.end())[0] == grpc.StatusCode.INVALID_ARGUMENT
        twice = hub.watcher("twice")
        await twice.hello()
        await twice.call.write(experiment_pb2.WatchRequest(hello=experiment_pb2.WatchHello(router="twice")))
        assert (await twice.end())[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_restarted_hub_goes_on_where_it_was(tmp_path: Path, database_url: str) -> None:
    """Streams end when the hub drains; the next one sends the whole set, never an empty one, and knows its routers."""
    async with control(tmp_path, database_url) as hub:
        # On a connection of its own, which the test does not close.
        watcher = hub.watcher(options=(("grpc.enable_retries", 0),))
        first = await watcher.hello()
        await watcher.answer(first)
        await hub.pause(1)
        response = await watcher.next_set()
        await watcher.answer(response)

        async def acknowledged() -> bool:
            return (await hub.status("router-1")).applied_version == 2

        await until(acknowledged)
        ending = asyncio.create_task(watcher.end())
    assert (await ending)[0] == grpc.StatusCode.OK
    async with control(tmp_path, database_url) as hub:
        before = await hub.status("router-1")
        assert (before.connected, before.applied_version) == (False, 2)
        again = await hub.watcher().hello(version=2)
        assert (again.version, again.set.origin) == (2, first.set.origin)
        assert again.set.experiments[0].paused
        assert (await hub.status("router-1")).connected


async def test_a_changed_file_reaches_routers_and_a_wrong_one_does_not(tmp_path: Path, database_url: str) -> None:
    """What operators changed stays while the file says nothing new about it."""
    async with control(tmp_path, database_url) as hub:
        watcher = hub.watcher()
        await watcher.hello()
        await hub.toggle(1)
        await watcher.next_set()
        config = tmp_path / "turnout.yaml"
        text = config.read_text()

        def write(new: str) -> None:
            beside = tmp_path / "new"
            beside.write_text(new)
            os.replace(beside, config)  # noqa: PTH105 - one step, as an editor does it

        write(text.replace("champion: rules", "champion: nobody"))

        async def refused() -> bool:
            counted = hub.registry.get_sample_value("turnout_control_imports_total", {"result": "refused"})
            return counted == 1

        await until(refused)
        assert (await hub.ask(experiment_pb2.GetStatusRequest())).version == 2
        rest = "salt: s, champion: a, strategy: {kind: random}, arms: {a: {variant: lgb}}"
        write(f"{text}  second: {{family: dispatch, tenant: t, {rest}}}\n")
        third = (await watcher.next_set()).set
        assert [(one.name, one.revision) for one in third.experiments] == [("dispatch", 2), ("second", 1)]
        write(text)
        fourth = (await watcher.next_set()).set
        assert [(one.name, one.revision) for one in fourth.experiments] == [("dispatch", 2)]


async def test_a_file_that_changes_while_the_database_is_away_is_taken_over_later(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to touch it again; nor does a step that breaks end the following."""
    declare = ExperimentStore.declare
    failures = [RuntimeError("broken"), Unavailable("", "away")]

    async def failing(self: ExperimentStore, *given: Any) -> Plan:
        if failures:
            raise failures.pop()
        return await declare(self, *given)

    async with control(tmp_path, database_url) as hub:
        watcher = hub.watcher()
        await watcher.answer(await watcher.hello())
        monkeypatch.setattr(ExperimentStore, "declare", failing)
        config = tmp_path / "turnout.yaml"
        beside = tmp_path / "new"
        beside.write_text(config.read_text().replace("weight: 50", "weight: 40"))
        with structlog.testing.capture_logs() as logged:
            os.replace(beside, config)  # noqa: PTH105 - one step, as an editor does it
            async with asyncio.timeout(20):
                given = await watcher.next_set()
        assert [arm.weight for arm in given.set.experiments[0].arms] == [40, 40]
        assert not failures
        assert [one["log_level"] for one in logged if "look after itself" in one["event"]] == ["error"]


async def test_many_routers_hear_of_every_toggle(tmp_path: Path, database_url: str) -> None:
    """Five routers, each of which reconnects now and then, end with the newest version, and none sees one go back."""
    async with control(tmp_path, database_url) as hub:
        seen: dict[str, list[int]] = {f"router-{number}": [] for number in range(5)}

        async def follow(name: str, patience: int) -> None:
            while not seen[name] or seen[name][-1] < 31:
                watcher = hub.watcher(name)
                response = await watcher.hello(version=seen[name][-1] if seen[name] else 0)
                for _ in range(patience):
                    seen[name].append(response.set.version)
                    await watcher.answer(response)
                    if response.set.version >= 31:
                        break
                    response = await watcher.next_set()
                watcher.call.cancel()

        following = [asyncio.create_task(follow(name, 3 + number)) for number, name in enumerate(seen)]
        for revision in range(1, 31):
            await hub.toggle(revision)
        async with asyncio.timeout(20):
            await asyncio.gather(*following)
        assert all(versions == sorted(versions) and versions[-1] == 31 for versions in seen.values())
