"""What a real hub knows of its models: what routers tell it over their streams, and what bentos say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from bentos import family
from bentos.manifest import MANIFEST, Manifest
from monitoring.cycle.platform import Training
from services.hub.bootstrap import Hub, running
from services.hub.platform import platform_of
from services.runtime.config import read_config
from services.runtime.home import Home
from tests.integration.alerts_under_test import Clock
from tests.integration.control_under_test import Watcher

CONFIG = """\
hub: {grpc: "127.0.0.1:0", metrics: "127.0.0.1:0"}
families:
  dispatch:
    variants:
      xgb: {bento: "dispatch_xgb:1", addresses: ["127.0.0.1:9"]}
experiments:
  dispatch:
    salt: s
    champion: rules
    strategy: {kind: weighted}
    arms:
      rules: {variant: rules, weight: 50}
      xgb: {variant: xgb, weight: 50}
"""
DAY = 86_400


def package(folder: Path, clock: Clock, *, days: float) -> None:
    """Puts a bento's manifest where the hub looks for it, trained so many days ago."""
    names = family.load("dispatch").schema.names

    def moment(before: float) -> str:
        return datetime.fromtimestamp(clock.seconds() - before * DAY, UTC).isoformat(timespec="seconds")

    manifest = Manifest(
        family="dispatch",
        variant="xgb",
        features=names,
        outputs=("value",),
        schema_digest=0,
        input_name="x",
        output_name="y",
        model_file="model.onnx",
        sha256="",
        background=(),
        metrics={},
        bounds=((0.0, 9.0), (None, None), *(((1.0, 2.0),) * (len(names) - 2))),
        provenance={
            "created_at": moment(days),
            "rows": {"train": 700},
            "from": moment(days + 30),
            "test_from": moment(days + 10),
            "to": moment(days),
        },
    )
    place = Home(read_config(folder / "turnout.yaml").home).bento("dispatch_xgb:1")
    place.mkdir(parents=True)
    (place / MANIFEST).write_text(manifest.dumps())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "turnout.yaml").write_text(CONFIG)
    return tmp_path


@contextlib.asynccontextmanager
async def a_hub(folder: Path, clock: Clock) -> AsyncIterator[tuple[Hub, grpc.aio.Channel]]:
    """A hub whose time a test moves, after its first cycle."""
    started = running(
        folder / "turnout.yaml", registry=CollectorRegistry(), now_us=clock, clock=clock.seconds, drain_seconds=1.0
    )
    async with started as hub, grpc.aio.insecure_channel(hub.server.address) as channel:
        async with asyncio.timeout(10):
            while not hub.cycle.health.checked_at_us:
                await asyncio.sleep(0.005)
        yield hub, channel


def firing(hub: Hub) -> set[str]:
    """Gives the types of the active alerts that are about the variant."""
    labels = {"family": "dispatch", "variant": "xgb"}
    return {
        one.type.value for one in hub.cycle.alerting.engine.active() if dict(one.labels) == labels and one.fired_at_us
    }


async def until(hub: Hub, clock: Clock, holds: Callable[[], bool]) -> None:
    """Lets minutes pass, with a cycle in each, until something holds."""
    async with asyncio.timeout(20):
        while not holds():
            clock.forward(60)
            await hub.cycle.once()
            await asyncio.sleep(0.005)


async def test_a_model_that_routers_lose_and_find_again(folder: Path) -> None:
    """A router's stream says that it reaches no xgb: MODEL_UNAVAILABLE after a minute, and its end once it does."""
    clock = Clock()
    async with a_hub(folder, clock) as (hub, channel):
        assert any("no router has told yet" in reason for part in hub.cycle.health.parts for reason in part.reasons)
        router = Watcher("router-1", channel)
        await router.answer(await router.hello())
        await router.ready()
        await until(hub, clock, lambda: firing(hub) == {"model_unavailable"})
        await router.ready(("dispatch", "xgb"))
        await until(hub, clock, lambda: firing(hub) == set())
        router.call.cancel()


async def test_a_bento_that_is_old_is_told_and_a_new_one_ends_it(folder: Path) -> None:
    """STALE_MODEL goes by the manifest of the bento that turnout.yaml names; here a hub with a new one follows."""
    clock = Clock()
    package(folder, clock, days=90)
    async with a_hub(folder, clock) as (hub, _):
        assert firing(hub) == {"stale_model"}
    config = folder / "turnout.yaml"
    config.write_text(config.read_text().replace("dispatch_xgb:1", "dispatch_xgb:2"))
    place = Home(read_config(config).home).bento("dispatch_xgb:1")
    newer = json.loads((place / MANIFEST).read_text())
    newer["provenance"]["created_at"] = datetime.fromtimestamp(clock.seconds() - DAY, UTC).isoformat()
    (place.parent / "2").mkdir()
    (place.parent / "2" / MANIFEST).write_text(json.dumps(newer))
    clock.forward(600)
    async with a_hub(folder, clock) as (hub, _):
        await until(hub, clock, lambda: firing(hub) == set())


def test_what_a_bento_was_trained_on_is_read_from_its_manifest(folder: Path) -> None:
    """Bounds by feature, infinite where training never knew it; rows and their time. Before it is packaged: nothing."""
    clock, config = Clock(), read_config(folder / "turnout.yaml")
    (one,) = platform_of(config, ((), None), now_us=clock.now_us).served
    assert (one.trained_at_us, one.training) == (None, None)
    package(folder, clock, days=1)
    (one,) = platform_of(config, ((), None), now_us=clock.now_us).served
    first, second, *others = family.load("dispatch").schema.names
    unknown = (float("-inf"), float("inf"))
    now = clock.seconds()
    assert one.trained_at_us == clock.now_us - DAY * 1_000_000
    assert one.training == Training(
        bounds={first: (0.0, 9.0), second: unknown} | dict.fromkeys(others, (1.0, 2.0)),
        rows=700,
        since_s=now - 31 * DAY,
        until_s=now - 11 * DAY,
    )
