"""Runs a demo from an empty home to its verified result."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any, Final

from bentos.family import load
from services.cli.child import Change
from services.cli.demo.plan import FAMILY, Events, Plan, Verification
from services.cli.demo.preparation import Prepared, prepare
from services.cli.demo.report import as_dict
from services.cli.demo.steering import Steering
from services.cli.demo.tally import CountingPredictor, Tally
from services.cli.demo.verification import verify
from services.cli.hub import Hub
from services.cli.platform import ROUTER, running
from services.cli.progress import Step, Steps
from services.client import TurnoutClient
from services.runtime.errors import Unavailable
from services.training.pipeline import TrainedVariant

_READY_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 0.25


def run(plan: Plan, root: Path, steps: Steps) -> tuple[dict[str, Any], list[TrainedVariant]]:
    """Gives the result as plain values, and the trained variants for the report.

    Raises:
        InvalidArgument, FailedPrecondition: the data or the city is wrong or too small.
        StartFailed: a process did not become ready.
        Unavailable: the platform did not do what it must.
    """
    prepared = prepare(plan, load(FAMILY), root, steps)
    try:
        tally, events, found, seconds = asyncio.run(_live(plan, prepared, steps))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    return as_dict(plan, prepared.trained, tally, events, found, seconds=seconds), prepared.trained


async def _live(plan: Plan, prepared: Prepared, steps: Steps) -> tuple[Tally, Events, Verification, float]:
    def tell(change: Change) -> None:
        if change.reason:
            steps.say(f"  {change.name}: {change.reason}")

    work = asyncio.current_task()
    assert work is not None
    # Whoever ends this process gets what Ctrl-C gives: everything stopped in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    tally = Tally()
    with steps.step("starting hub, model servers and router") as step:
        started = running(prepared.config, tell)
        platform = await started.__aenter__()
        step.note = f"{len(platform.children)} processes"
    try:
        with Hub(platform.config.hub.grpc) as hub:
            address = platform.children[ROUTER].addresses["grpc"]
            async with TurnoutClient(address, families=(FAMILY,)) as client:
                if not await client.ready(_READY_SECONDS):
                    raise Unavailable("", f"the router at {address} does not serve")
                steering = Steering(platform, hub, tally, steps, plan.seconds)
                began = time.monotonic()
                await _flow(prepared, client, steering, steps, seconds=plan.seconds)
                seconds = time.monotonic() - began
            with steps.step("waiting for the ledger, replaying every decision") as step:
                found = await asyncio.to_thread(verify, hub, tally)
                step.note = f"{found.decisions} decisions, {found.outcomes_joined} outcomes"
            return tally, steering.events, found, seconds
    finally:
        with steps.step("stopping everything"):
            await started.__aexit__(None, None, None)


async def _flow(prepared: Prepared, client: TurnoutClient, steering: Steering, steps: Steps, *, seconds: float) -> None:
    """Lets traffic flow while the script is played; the traffic's end is the script's end."""
    stop, tally = asyncio.Event(), steering.tally
    predictor = CountingPredictor(client, tally)
    with steps.step("traffic") as step:
        showing = asyncio.create_task(_show(step, tally, seconds))
        try:
            async with asyncio.TaskGroup() as group:
                traffic = group.create_task(prepared.traffic.run(predictor, stop))
                await steering.run(prepared.champion)
                stop.set()
                await traffic
        except* Unavailable as failures:
            raise failures.exceptions[0] from None
        finally:
            showing.cancel()
        step.note = f"{tally.predictions} predictions, {tally.errors} failed, {sum(tally.fallbacks.values())} fallbacks"


async def _show(step: Step, tally: Tally, seconds: float) -> None:
    began = time.monotonic()
    while True:
        step.doing(f"{tally.predictions} predictions, {tally.errors} failed")
        step.update(min(time.monotonic() - began, seconds), seconds)
        await asyncio.sleep(_TICK_SECONDS)
