"""What operators and faults do while traffic flows: the strategy is toggled, a model server is killed."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from services.cli.child import State
from services.cli.demo.plan import FAMILY, RECOVERY_SECONDS, Events, SplitChange
from services.cli.demo.tally import Tally
from services.cli.hub import Hub
from services.cli.platform import Platform, server_name
from services.cli.progress import Steps
from services.runtime.errors import Unavailable
from turnout.v1 import experiment_pb2

_APPLIED_SECONDS: Final = 10.0


class Steering:
    """Follows the script: at one third the strategy becomes round-robin, at one half a model server is killed.

    Args:
        platform: the running processes.
        hub: the operators' connection.
        tally: what callers see.
        steps: where it is told.
        seconds: length of the run.
    """

    def __init__(self, platform: Platform, hub: Hub, tally: Tally, steps: Steps, seconds: float) -> None:
        self.events = Events()
        self._platform = platform
        self._hub = hub
        self.tally = tally
        self._steps = steps
        self._seconds = seconds
        self._started = time.monotonic()

    async def run(self, victim: str) -> None:
        """Plays the script; `victim` is the variant whose model server is killed.

        Raises:
            Unavailable: a change did not reach the router, or the model server did not come back.
        """
        rotation = experiment_pb2.Strategy(round_robin=experiment_pb2.RoundRobinStrategy())
        await self._at(1 / 3)
        await self._toggle(rotation, "the demo shows an exact rotation")
        await self._at(1 / 2)
        await self._kill(victim)
        await self._at(1)

    async def _at(self, share: float) -> None:
        await asyncio.sleep(max(0.0, self._started + self._seconds * share - time.monotonic()))

    async def _toggle(self, strategy: experiment_pb2.Strategy, why: str) -> None:
        before = await asyncio.to_thread(self._hub.experiment, FAMILY)
        request = experiment_pb2.SetStrategyRequest(
            name=FAMILY, base_revision=before.revision, strategy=strategy, why=why
        )
        asked = time.monotonic()
        after = await asyncio.to_thread(self._hub.set_strategy, request)
        if not await self.tally.until(lambda: self.tally.revision >= after.revision, _APPLIED_SECONDS):
            raise Unavailable("", f"revision {after.revision} did not reach the router within {_APPLIED_SECONDS:g} s")
        change = SplitChange(
            at=asked - self._started,
            before=str(before.strategy.WhichOneof("kind")),
            after=str(after.strategy.WhichOneof("kind")),
            revision=after.revision,
            applied_seconds=time.monotonic() - asked,
        )
        self.events.split_changes.append(change)
        self._steps.say(
            f"  {change.at:.1f} s: strategy {change.before} → {change.after}, "
            f"answers follow after {change.applied_seconds * 1000:.0f} ms"
        )

    async def _kill(self, variant: str) -> None:
        name = server_name(FAMILY, variant)
        child = self._platform.children[name]
        restarts, killed = child.restarts, time.monotonic()
        self.events.killed = name
        child.kill()
        self._steps.say(f"  {killed - self._started:.1f} s: killed model server {name} (SIGKILL); its rules answer")
        back = await child.until(lambda one: one.restarts > restarts and one.state is State.READY, RECOVERY_SECONDS)
        served = self.tally.served[variant]
        if not back or not await self.tally.until(lambda: self.tally.served[variant] > served, RECOVERY_SECONDS):
            raise Unavailable("", f"the killed model server {name} did not answer again; its log is in the home's logs")
        self.events.recovered_seconds = time.monotonic() - killed
        self._steps.say(f"  {name} answers again after {self.events.recovered_seconds:.1f} s")
