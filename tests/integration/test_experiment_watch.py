"""The hub's experiments reach a router: applied whole or refused with the reason, kept on disk, never a call failed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from router.bootstrap import Router, running
from router.experiment_watch import ExperimentWatch
from services.runtime.call import Call
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_messages import set_to_message
from services.runtime.experiment_set import ExperimentSet
from services.runtime.grpc_binding import bind
from services.runtime.serving import Server, serving
from tests.integration.platform_under_test import Caller, Platform, experiment, platform
from turnout.v1 import experiment_pb2

WATCH = experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"]


def one(name: str = "dispatch", **fields: Any) -> Experiment:
    """An experiment of the family dispatch."""
    return Experiment.model_validate({"name": name, "family": "dispatch", **experiment(), **fields})


def a_set(
    version: int, *experiments: Experiment, layers: Mapping[str, Layer] | None = None
) -> experiment_pb2.ExperimentSet:
    """A set as the hub sends it."""
    return set_to_message(ExperimentSet(version, {member.name: member for member in experiments}, layers or {}))


@dataclass
class Hub:
    """Watch alone, whose words a test chooses."""

    hellos: list[experiment_pb2.WatchHello] = field(default_factory=list)
    acknowledged: list[experiment_pb2.WatchAcknowledgement] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    _outgoing: list[asyncio.Queue[experiment_pb2.WatchResponse | None]] = field(default_factory=list)
    _nonce: int = 0

    async def watch(
        self, requests: AsyncIterator[experiment_pb2.WatchRequest], _: Call
    ) -> AsyncIterator[experiment_pb2.WatchResponse]:
        outgoing: asyncio.Queue[experiment_pb2.WatchResponse | None] = asyncio.Queue()
        self._outgoing.append(outgoing)
        reading = asyncio.create_task(self._read(requests))
        try:
            while (response := await outgoing.get()) is not None:
                yield response
        finally:
            self._outgoing.remove(outgoing)
            reading.cancel()

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        # Every other method of the service.
        return self.watch

    async def _read(self, requests: AsyncIterator[experiment_pb2.WatchRequest]) -> None:
        async for request in requests:
            if request.HasField("hello"):
                self.hellos.append(request.hello)
            else:
                self.acknowledged.append(request.acknowledgement)
            self.heard.set()

    def tell(self, given: experiment_pb2.ExperimentSet | None = None) -> None:
        """Sends a set, or a heartbeat, to whoever watches."""
        self._nonce += 1
        for outgoing in self._outgoing:
            outgoing.put_nowait(experiment_pb2.WatchResponse(nonce=self._nonce, set=given))

    def hang_up(self) -> None:
        """Ends the streams."""
        for outgoing in self._outgoing:
            outgoing.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something heard."""
        async with asyncio.timeout(10):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    async def said(self, given: experiment_pb2.ExperimentSet) -> experiment_pb2.WatchAcknowledgement:
        """Sends a set and gives what the router answers."""
        self.tell(given)
        nonce = self._nonce
        await self.until(lambda: any(answer.nonce == nonce for answer in self.acknowledged))
        return next(answer for answer in self.acknowledged if answer.nonce == nonce)


@contextlib.asynccontextmanager
async def hub_serving(hub: Hub, address: str) -> AsyncIterator[Server]:
    async with serving(lambda _: [bind(WATCH, hub)], address, drain_seconds=0) as server:
        yield server


@contextlib.asynccontextmanager
async def watched(**changes: Any) -> AsyncIterator[tuple[Platform, Hub]]:
    """A router and the hub that it watches."""
    async with platform(**changes) as p:
        hub = Hub()
        async with hub_serving(hub, p.config["hub"]["grpc"]):
            await hub.until(lambda: bool(hub.hellos))
            yield p, hub


async def test_set_is_applied_acknowledged_and_decides() -> None:
    """From the acknowledgement on every decision is made under the set; its parts stand in the journal before."""
    async with watched() as (p, hub):
        assert (hub.hellos[0].router, hub.hellos[0].applied_version) == ("r1", 0)
        for version in (3, 4):
            split = experiment(rules=100.0 * (version % 2), model=100.0 * (version % 2 == 0), revision=version)
            fields: dict[str, Any] = dict(split)
            answer = await hub.said(a_set(version, one(**fields)))
            assert (answer.applied_version, answer.refusal) == (version, "")
            said = await p.call.predict(unit_id="u")
            assert (said.assignment.revision, said.served_variant) == (version, "rules" if version % 2 else "fake")
            assert said.assignment.experiment == "dispatch"
        known: set[int] = set()
        for record in p.records():
            if record.HasField("snapshot"):
                known.add(record.snapshot.digest)
            elif record.HasField("decision"):
                assert record.decision.prediction.assignment.snapshot_digest in known


REFUSED: dict[str, tuple[experiment_pb2.ExperimentSet, str]] = {
    "family": (a_set(9, one("x", family="elsewhere")), "no family 'elsewhere'"),
    "variant": (a_set(9, one(arms={"control": {"variant": "gone"}})), "no variant 'gone'"),
    "shadow": (a_set(9, one(shadows={"gone": 5})), "no variant 'gone'"),
    "no arms": (
        experiment_pb2.ExperimentSet(
            version=9, experiments=[experiment_pb2.Experiment(name="a", family="dispatch", revision=1)]
        ),
        "experiments[a]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_set_that_does_not_fit_is_refused_and_the_old_one_stays(name: str) -> None:
    """The reason goes back to the hub, the version stays, and not one call notices."""
    given, reason = REFUSED[name]
    async with watched() as (p, hub):
        await hub.said(a_set(5, one(revision=5)))
        answer = await hub.said(given)
        assert answer.applied_version == 5
        assert reason in answer.refusal
        assert (await p.call.predict()).assignment.revision == 5
        assert (await hub.said(a_set(10, one(revision=10)))).applied_version == 10


async def test_old_versions_are_ignored_and_known_ones_confirmed() -> None:
    """A late word of an older state changes nothing; the same version again is acknowledged at once."""
    async with watched() as (p, hub):
        await hub.said(a_set(7, one(revision=7)))
        late = await hub.said(a_set(6, one(revision=6)))
        assert late.applied_version == 7
        assert "older" in late.refusal
        assert (await hub.said(a_set(7, one(revision=7)))).refusal == ""
        assert (await p.call.predict()).assignment.revision == 7


async def test_set_of_another_database_is_taken_whatever_its_version() -> None:
    """A hub that lost its database counts anew: what it says now is newer than what it said before."""
    async with watched() as (p, hub):
        await hub.said(a_set(70, one(revision=70)))
        other = a_set(3, one(revision=3))
        other.origin = "another"
        assert (await hub.said(other)).applied_version == 3
        assert (await p.call.predict()).assignment.revision == 3


async def test_stream_that_ends_is_opened_again_with_the_version() -> None:
    """A hub that restarts learns what each router applies."""
    async with watched() as (_, hub):
        await hub.said(a_set(2, one(revision=2)))
        hub.hang_up()
        await hub.until(lambda: len(hub.hellos) > 1)
        assert hub.hellos[-1].applied_version == 2


async def test_last_word_of_the_hub_outlives_it_and_the_router(tmp_path: Path) -> None:
    """Without the hub a router starts with the set that it applied last, and the file's experiments do not count."""
    async with watched() as (p, hub):
        await hub.said(a_set(8, one(revision=8)))
        folder = p.config_path.parent
        copy = tmp_path / "copy"
        await asyncio.to_thread(shutil.copytree, folder, copy, ignore=shutil.ignore_patterns("*.sock"))
    async with started(copy / "turnout.yaml") as (router, call):
        assert router.applier.version == 8
        assert (await call.predict()).assignment.revision == 8
    kept = copy / "home" / "routers" / "r1" / "experiments"
    damaged = bytearray(kept.read_bytes())
    damaged[-1] ^= 1
    kept.write_bytes(damaged)
    async with started(copy / "turnout.yaml") as (router, call):
        assert router.applier.version == 0
        assert (await call.predict()).assignment.revision == 1


@contextlib.asynccontextmanager
async def started(path: Path) -> AsyncIterator[tuple[Router, Caller]]:
    async with running(path, name="r1", registry=CollectorRegistry()) as router:
        caller = Caller(router.server.address)
        try:
            yield router, caller
        finally:
            await caller.close()


async def test_kept_set_that_no_longer_fits_gives_way_to_the_file(tmp_path: Path) -> None:
    """A variant that went while the router was down: the file's own experiments hold until the hub is back."""
    async with watched() as (p, hub):
        both = p.config["families"]["dispatch"]["variants"] | {"other": {"addresses": ["127.0.0.1:1"]}}
        p.write(families={"dispatch": {"variants": both}})
        arms = {"control": {"variant": "rules"}, "candidate": {"variant": "other"}}
        assert (await hub.said(a_set(8, one(revision=8, arms=arms)))).refusal == ""
        copy = tmp_path / "copy"
        await asyncio.to_thread(shutil.copytree, p.config_path.parent, copy, ignore=shutil.ignore_patterns("*.sock"))
        text = (copy / "turnout.yaml").read_text()
    (copy / "turnout.yaml").write_text(text.replace("other:", "another:"))
    async with started(copy / "turnout.yaml") as (router, call):
        assert router.applier.version == 0
        assert (await call.predict()).assignment.revision == 1


async def test_file_and_hub_may_each_be_ahead_of_the_other() -> None:
    """A variant that the file declares a moment after the hub's set, and one that it drops a moment before."""
    async with watched() as (p, hub):
        declared = dict(p.config["families"]["dispatch"]["variants"])
        arms = {"control": {"variant": "rules"}, "candidate": {"variant": "late"}}
        needs_late = a_set(2, one(revision=2, arms=arms))
        answer = await hub.said(needs_late)
        assert "no variant 'late'" in answer.refusal
        p.write(families={"dispatch": {"variants": declared | {"late": {"addresses": ["127.0.0.1:1"]}}}})
        async with asyncio.timeout(10):
            while not p.router.applier.configurations:
                await asyncio.sleep(0.01)
        hub.tell()
        await hub.until(lambda: hub.acknowledged[-1].applied_version == 2)
        assert (hub.acknowledged[-1].nonce, hub.acknowledged[-1].refusal) == (answer.nonce, "")
        p.write(families={"dispatch": {"variants": declared}})
        counter = p.router.decider.metrics._configuration.labels("refused")._value
        async with asyncio.timeout(10):
            while not counter.get():
                await asyncio.sleep(0.01)
        assert "late" in p.router.decider.table.routes["dispatch"].pools
        assert (await hub.said(a_set(3, one(revision=3)))).refusal == ""
        assert "late" not in p.router.decider.table.routes["dispatch"].pools


async def test_tenants_have_their_own_experiments_and_see_no_others() -> None:
    """What one tenant's experiment says is in no other tenant's answer, explanation or error."""
    import hashlib

    tenants = {name: {"token_sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("acme", "globex")}
    async with watched(tenants=tenants) as (p, hub):
        secret = {"secret-arm": {"variant": "rules"}}
        own = one("secret-plan", tenant="acme", champion="secret-arm", arms=secret)
        assert (await hub.said(a_set(2, own, one(revision=2)))).refusal == ""
        said = {name: await told_everything(p, (("authorization", f"Bearer {name}"),)) for name in tenants}
        assert all("secret" in str(answer) for answer in said["acme"][:1])
        assert not any("secret" in str(answer) for answer in said["globex"])
        assert said["globex"][0].assignment.experiment == "dispatch"


async def told_everything(p: Platform, metadata: tuple[tuple[str, str], ...]) -> list[Any]:
    """What a tenant hears by every way there is."""
    from inference import open_inference_pb2 as oip
    from tests.integration.platform_under_test import ROW
    from turnout.v1 import prediction_pb2

    request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
    heard: list[Any] = [await p.call("Predict", request, metadata=metadata)]
    heard.append(await p.call("Explain", prediction_pb2.ExplainRequest(request=request), metadata=metadata))
    caller = Caller(p.router.server.address, oip.DESCRIPTOR.services_by_name["GRPCInferenceService"])
    tensors = [
        oip.ModelInferRequest.InferInputTensor(
            name=name, datatype="FP64", shape=[1], contents=oip.InferTensorContents(fp64_contents=[value])
        )
        for name, value in ROW.items()
    ]
    heard.append(
        await caller("ModelInfer", oip.ModelInferRequest(model_name="dispatch", inputs=tensors), metadata=metadata)
    )
    heard.append(await caller("ModelMetadata", oip.ModelMetadataRequest(name="dispatch"), metadata=metadata))
    await caller.close()
    wrong = prediction_pb2.ExplainRequest(request=request, variant="nowhere")
    for bad in (wrong, prediction_pb2.ExplainRequest(request=prediction_pb2.PredictRequest(family="x"))):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await p.call("Explain", bad, metadata=metadata)
        heard.append(refused.value.details())
    return heard


async def test_conditions_see_features_attributes_and_metadata_and_are_recorded() -> None:
    """The request's attributes stand before the call's metadata, and what conditions look at is in the ledger."""
    conditional = one(
        "beta",
        when='metadata["channel"] == "beta" && numbers["severity"] > 3.0',
        champion="only",
        arms={"only": {"variant": "rules"}},
    )
    async with watched() as (p, hub):
        assert (await hub.said(a_set(2, conditional, one("rest", priority=-1)))).refusal == ""
        said = await p.call.predict(attributes={"channel": "beta", "other": "x"})
        assert (said.assignment.experiment, said.assignment.arm) == ("beta", "only")
        assert dict(p.decisions()[-1].attributes) == {"channel": "beta"}
        from tests.integration.platform_under_test import ROW
        from turnout.v1 import prediction_pb2

        metadata = (("channel", "beta"), ("x-noise", "1"), ("channel-bin", b"\0"))
        request = prediction_pb2.PredictRequest(family="dispatch", numbers=ROW)
        assert (await p.call("Predict", request, metadata=metadata)).assignment.experiment == "beta"
        request.attributes["channel"] = "web"
        assert (await p.call("Predict", request, metadata=metadata)).assignment.experiment == "rest"
        assert (await p.call.predict()).assignment.experiment == "rest"
        counted = p.router.decider.experiment_metrics._unevaluable.labels("dispatch", "beta")._value.get()
        assert counted == 1
        with pytest.raises(grpc.aio.AioRpcError, match="at most 32"):
            await p.call.predict(attributes={str(i): "x" for i in range(33)})


async def test_revisions_leak_no_memory() -> None:
    """A router that was steered all day holds what it held after the first hour; the benchmark makes 1 000 changes."""
    async with watched() as (p, hub):

        async def steer(first: int, count: int) -> int:
            for version in range(first, first + count):
                await hub.said(a_set(version, one(revision=version), one("own", tenant="acme", revision=version)))
                hub.acknowledged.clear()
                await p.call.predict(unit_id=str(version))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            await steer(1, 50)
            before = await steer(51, 50)
            after = await steer(101, 150)
        finally:
            tracemalloc.stop()
        assert (await p.call.predict()).assignment.revision == 250
        # The memory of recent decisions grows by 150 entries of a few hundred bytes; a set is 20 KB or so.
        assert after - before < 150 * 1_500


@dataclass
class Taken:
    """An applier that only takes note."""

    version: int = 0
    configurations: int = 0
    origin: str = ""

    def ready(self) -> frozenset[tuple[str, str]]:
        return frozenset()

    async def apply_set(self, message: experiment_pb2.ExperimentSet, *, patience_seconds: float = 0.0) -> str:  # noqa: ARG002 - the interface's
        self.version = message.version
        return ""


async def test_silent_stream_is_dead(tmp_path: Path) -> None:
    """A hub that says nothing for too long is asked anew; heartbeats keep a stream."""
    hub, taken = Hub(), Taken()
    address = f"unix:{tmp_path}/hub.sock"
    async with hub_serving(hub, address), grpc.aio.insecure_channel(address) as channel:
        loop = asyncio.get_running_loop()
        watch = ExperimentWatch(
            channel, taken, router="r", token=None, jitter=lambda: 0.0, monotonic=loop.time, silence_seconds=0.3
        )
        task = asyncio.create_task(watch.run())
        await hub.until(lambda: len(hub.hellos) > 2)
        count = len(hub.hellos)
        for _ in range(10):
            await asyncio.sleep(0.1)
            hub.tell()
        assert len(hub.hellos) <= count + 1
        assert watch.silent_seconds() < 1
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
