"""What experiments cost on the way of a prediction: features that nobody uses, shadows, and a thousand revisions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc
import structlog
import yaml
from prometheus_client import CollectorRegistry

from benchmarks import load
from benchmarks.figures import Figure, Topic
from benchmarks.platform import prepared
from benchmarks.processes import Process, started
from router import deciding
from router.attributes import attributes_for
from router.bootstrap import Router, running
from router.deciding import Decider
from router.prepared import NO_ATTRIBUTES
from router.routing import Rotation, Route, choose
from router.strategies import Assignment, assign
from router.strategies.family import Unevaluable
from services.runtime.experiment import Experiment
from services.runtime.experiment_messages import set_to_message
from services.runtime.experiment_set import ExperimentSet
from services.runtime.home import Home
from turnout.v1 import prediction_pb2

ROUNDS: Final = 105
CALLS: Final = 200
REVISIONS: Final = 1_000
WARM: Final = 200
SHADOW_ROUNDS: Final = 15
SHADOW_CALLS: Final = 300
NAMES: Final = ("unused_features_cost_ratio", "revision_leak_blocks", "shadow_p50_ratio")


def measure(progress: Callable[[str], None], say: Callable[[str], None]) -> Iterator[Figure]:
    """Measures everything; yields the figures in the order of NAMES."""
    # Thousands of revisions in this process need not be told one by one.
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    try:
        progress("predictions with and without what experiments can do")
        yield Figure("unused_features_cost_ratio", asyncio.run(unused_features()), "x", 1.02)
        progress(f"{REVISIONS} revisions in a row")
        yield Figure("revision_leak_blocks", asyncio.run(leaked_by_revisions()), "blocks/revision", 1.0)
    finally:
        structlog.configure(**before)
    with prepared(progress) as (home, tag), shadowed(home, tag) as routers:
        progress("predictions with and without a shadow")
        ratio, copied = asyncio.run(shadow_ratio(*routers))
        say(f"  the shadow got {copied:.0%} of the rows")
        yield Figure("shadow_p50_ratio", ratio, "x", 1.05)


TOPIC: Final = Topic(NAMES, measure)


@contextlib.asynccontextmanager
async def rules_router() -> AsyncIterator[Router]:
    """A router in this process whose one plain experiment gives the rules, so that nothing but the router works."""
    experiment = {
        "salt": "bench",
        "champion": "a",
        "strategy": {"kind": "weighted"},
        "arms": {"a": {"variant": "rules", "weight": 70}, "b": {"variant": "rules", "weight": 30}},
    }
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        path = Path(folder) / "turnout.yaml"
        config = {
            "home": "home",
            "router": {"grpc": "127.0.0.1:0", "metrics": "127.0.0.1:0"},
            "hub": {"grpc": f"unix:{folder}/no-hub.sock"},
            "families": {"dispatch": {}},
            "experiments": {"dispatch": experiment},
        }
        path.write_text(yaml.safe_dump(config))
        async with running(path, name="bench", registry=CollectorRegistry()) as router:
            yield router


def bare_choose(
    route: Route,
    rotation: Rotation,  # noqa: ARG001 - as `choose` has it
    *,
    unit_id: str,
    decision_id: str,
    tenant: str,
    region: str,
    at_unix_us: int,
    vector: Sequence[float],  # noqa: ARG001 - as `choose` has it
    attributes: Mapping[str, str],  # noqa: ARG001 - as `choose` has it
    unevaluable: Unevaluable,  # noqa: ARG001 - as `choose` has it
) -> Assignment:
    """What `choose` was while an experiment was nothing but its strategy."""
    experiments = route.experiments
    assert experiments is not None
    assert experiments.sole is not None
    return assign(
        experiments.sole,
        unit_id=unit_id,
        decision_id=decision_id,
        tenant=tenant,
        region=region,
        at_unix_us=at_unix_us,
        sequence=0,
    )


async def unused_features() -> float:
    """CPU time of a prediction (decoded, assigned, answered, written) over that with a bare strategy in its place.

    Both go through the very same code but for `choose`, and for the look at what conditions want of the call's
    attributes. Rounds of both alternate, in turns first; median of the rounds' ratios.
    """
    async with rules_router() as router:
        decider = router.decider
        route = decider.table.route("dispatch")
        ratios = []
        # The collector would come in some rounds and not in others.
        gc.disable()
        for number in range(ROUNDS):
            took = {full: await _cpu(decider, route, full=full) for full in ((True, False), (False, True))[number % 2]}
            ratios.append(took[True] / took[False])
        gc.enable()
    # The first rounds warm up.
    return statistics.median(ratios[5:])


class OneCall:
    """A call whose metadata nobody may look at."""

    tenant = "default"
    peer = "bench"

    def metadata(self) -> Mapping[str, str]:
        """Raises, for no condition wants it."""
        raise AssertionError("the metadata were looked at")

    def time_left(self) -> float:
        """Seconds."""
        return 1.0


async def _cpu(decider: Decider, route: Route, *, full: bool) -> float:
    deciding.choose = choose if full else bare_choose  # type: ignore[attr-defined, assignment]
    request, call = prediction_pb2.PredictRequest(), OneCall()
    begin = time.thread_time()
    for number in range(CALLS):
        attributes = attributes_for(route, request.attributes, call) if full else NO_ATTRIBUTES
        row = decider.prepare(
            route,
            tenant="default",
            decision_id="",
            unit_id=f"incident-{number}",
            region="",
            numbers=load.NUMBERS,
            categories=load.CATEGORIES,
            flags={},
            time_left=1.0,
            attributes=attributes,
        )
        decider.admit((row,))
        await decider.answer((row,))
    return time.thread_time() - begin


async def leaked_by_revisions() -> float:
    """Growth of what Python holds, in blocks of memory a revision, over 1 000 applied sets after 200 for warming up."""
    async with rules_router() as router:
        version = 0

        async def steer(count: int) -> int:
            nonlocal version
            for _ in range(count):
                version += 1
                given = ExperimentSet(version, {one.name: one for one in _experiments(version)}, {})
                refusal = await router.applier.apply_set(set_to_message(given))
                if refusal:
                    raise RuntimeError(refusal)
            gc.collect()
            return sys.getallocatedblocks()

        before = await steer(WARM)
        return (await steer(REVISIONS) - before) / REVISIONS


def _experiments(version: int) -> Sequence[Experiment]:
    arms = {"a": {"variant": "rules", "weight": 70}, "b": {"variant": "rules", "weight": 30}}
    form = {"family": "dispatch", "salt": "s", "champion": "a", "arms": arms, "revision": version}
    return [
        Experiment.model_validate(form | fields)
        for fields in (
            {"name": f"own-{version % 7}", "tenant": "acme", "strategy": {"kind": "round_robin"}},
            {"name": "beta", "when": f'metadata["build"] == "{version % 7}"', "strategy": {"kind": "random"}},
            {"name": "zz", "strategy": {"kind": "time", "window_seconds": 60}, "overrides": {f"u{version}": "b"}},
        )
    ]


@contextlib.contextmanager
def shadowed(home: Home, tag: str) -> Iterator[tuple[Process, Process, str]]:
    """Two routers before the same model server; the second also copies every row to another server of that model.

    Gives both, and where the second's metrics are.
    """
    log = home.root / "log"
    with contextlib.ExitStack() as stack:
        for variant in ("xgboost", "shadow"):
            server = ["-m", "services.model_server", "--bento", str(home.bento(tag)), "--metrics", "127.0.0.1:0"]
            stack.enter_context(started([*server, "--listen", home.variant_socket("dispatch", variant)], log))
        routers, metrics = [], f"127.0.0.1:{_free_port()}"
        for name, shadows in (("plain", {}), ("shadowed", {"shadow": 100})):
            config = {
                "home": str(home.root),
                "router": {"grpc": "127.0.0.1:0", "metrics": metrics if shadows else "127.0.0.1:0"},
                "hub": {"grpc": home.socket("no-hub")},
                "families": {"dispatch": {"variants": {"xgboost": {"bento": tag}, "shadow": {"bento": tag}}}},
                "experiments": {
                    "dispatch": {
                        "salt": "bench",
                        "champion": "xgboost",
                        "strategy": {"kind": "weighted"},
                        "arms": {"xgboost": {"variant": "xgboost"}},
                        "shadows": shadows,
                    }
                },
            }
            path = home.root / f"{name}.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            routers.append(stack.enter_context(started(["-m", "router", "--config", str(path), "--name", name], log)))
        yield routers[0], routers[1], metrics


async def shadow_ratio(plain: Process, shadow: Process, metrics: str) -> tuple[float, float]:
    """The median latency of one caller with a shadow over that without, and the part of the rows that was copied.

    Rounds of both alternate, in turns first; median of the rounds' ratios.
    """
    async with (
        grpc.aio.insecure_channel(plain.address) as one,
        grpc.aio.insecure_channel(shadow.address) as other,
    ):
        calls = {"plain": load.unary(one), "shadowed": load.unary(other)}
        for call in calls.values():
            await _until_answered(call)
        ratios = []
        for number in range(SHADOW_ROUNDS):
            names = list(calls) if number % 2 else list(calls)[::-1]
            p50 = {
                name: statistics.median(await load.drive(calls[name], calls=SHADOW_CALLS, callers=1)) for name in names
            }
            ratios.append(p50["shadowed"] / p50["plain"])
        # Once for each that is measured, and those before the model answered.
        answered = SHADOW_ROUNDS * SHADOW_CALLS
        await asyncio.sleep(1)
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5).read())
    copied = sum(
        float(line.split()[-1])
        for line in text.decode().splitlines()
        if line.startswith("turnout_shadow_rows_total") and ('"agrees"' in line or '"differs"' in line)
    )
    return statistics.median(ratios), min(copied / answered, 1.0)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def _until_answered(call: load.Call) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await call(0)
            except RuntimeError:
                await asyncio.sleep(0.05)
            else:
                return
