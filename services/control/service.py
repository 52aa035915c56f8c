"""ExperimentService without its transport: checks every field, changes the file, and says so in the audit log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from services.control.changes import Change, describe_changes
from services.control.file import ExperimentFile
from services.control.messages import changed_weights, experiment_message, strategy_form
from services.control.strategies import describe_strategies
from services.runtime.call import Call
from services.runtime.errors import Aborted, DeadlineExceeded, InvalidArgument, NotFound
from services.runtime.experiment import MAX_ARMS, Experiment
from services.runtime.identifiers import check_decision_id, check_text
from services.runtime.identity import DEFAULT_TENANT
from turnout.v1 import experiment_pb2, prediction_pb2

LONGEST_CALL_SECONDS: Final = 10.0
MAX_REMEMBERED: Final = 64
"""Revisions of a family that are remembered, to tell a stale caller what changed."""
_audit = structlog.get_logger("audit")
_T = TypeVar("_T")

Decide = Callable[[Experiment, experiment_pb2.DecideRequest], prediction_pb2.Assignment]
"""Chooses the arm just as a router would; the request's tenant and instant are filled in."""


class ExperimentService:
    """turnout.v1.ExperimentService.

    Args:
        file: where the experiments are.
        decide: the routers' own pure assignment.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(self, file: ExperimentFile, decide: Decide, *, now_us: Callable[[], int]) -> None:
        self._file = file
        self._decide = decide
        self._now_us = now_us
        self._seen: dict[str, dict[int, Experiment]] = {}
        self._remembering = threading.Lock()

    async def list_experiments(
        self, request: experiment_pb2.ListExperimentsRequest, call: Call
    ) -> experiment_pb2.ListExperimentsResponse:
        """Gives all experiments, by family."""
        del request
        experiments = await self._read(call)
        found = [experiment_message(experiments[name]) for name in sorted(experiments)]
        return experiment_pb2.ListExperimentsResponse(set=experiment_pb2.ExperimentSet(experiments=found))

    async def get_experiment(
        self, request: experiment_pb2.GetExperimentRequest, call: Call
    ) -> experiment_pb2.GetExperimentResponse:
        """Gives one experiment.

        Raises:
            NotFound: the family has none.
        """
        experiment = await self._one(request.name, call)
        return experiment_pb2.GetExperimentResponse(experiment=experiment_message(experiment))

    async def set_strategy(
        self, request: experiment_pb2.SetStrategyRequest, call: Call
    ) -> experiment_pb2.SetStrategyResponse:
        """Changes the strategy, the weights, or both; what is the same already makes no new revision.

        Raises:
            InvalidArgument: names the field.
            Aborted: base_revision is not the newest; the text tells what changed since.
            NotFound: the family has no experiment.
            FailedPrecondition: the file is wrong or cannot be written.
        """
        if not request.HasField("strategy") and not request.weights:
            raise InvalidArgument("strategy", "strategy or weights must say what to change")
        if len(request.weights) > MAX_ARMS:
            raise InvalidArgument("weights", f"weights must name at most {MAX_ARMS} arms")
        strategy = strategy_form(request.strategy) if request.HasField("strategy") else None
        weights = dict(request.weights)

        def make(experiment: Experiment) -> Change:
            return Change(strategy=strategy, weights=changed_weights(experiment, weights) if weights else None)

        after = await self._change(request.name, request.base_revision, request.why, make, call)
        return experiment_pb2.SetStrategyResponse(experiment=after)

    async def pause_experiment(
        self, request: experiment_pb2.PauseExperimentRequest, call: Call
    ) -> experiment_pb2.PauseExperimentResponse:
        """Sends all traffic to the champion; raises as `set_strategy` does."""
        change = Change(paused=True)
        after = await self._change(request.name, request.base_revision, request.why, lambda _: change, call)
        return experiment_pb2.PauseExperimentResponse(experiment=after)

    async def resume_experiment(
        self, request: experiment_pb2.ResumeExperimentRequest, call: Call
    ) -> experiment_pb2.ResumeExperimentResponse:
        """Ends a pause; raises as `set_strategy` does."""
        change = Change(paused=False)
        after = await self._change(request.name, request.base_revision, request.why, lambda _: change, call)
        return experiment_pb2.ResumeExperimentResponse(experiment=after)

    async def decide(self, request: experiment_pb2.DecideRequest, call: Call) -> experiment_pb2.DecideResponse:
        """Tells which arm a unit would get, and why; changes and records nothing.

        Raises:
            InvalidArgument: neither unit_id nor decision_id, or a field is over its bound.
            NotFound: the family has no experiment.
        """
        if not request.unit_id and not request.decision_id:
            raise InvalidArgument("unit_id", "unit_id or decision_id must be given")
        if request.decision_id:
            check_decision_id(request.decision_id)
        for field in ("unit_id", "tenant", "region"):
            check_text(field, getattr(request, field))
        if request.at_unix_us < 0:
            raise InvalidArgument("at_unix_us", "at_unix_us must be at least 0")
        experiment = await self._one(request.family, call)
        asked = experiment_pb2.DecideRequest()
        asked.CopyFrom(request)
        asked.tenant = request.tenant or DEFAULT_TENANT
        asked.at_unix_us = request.at_unix_us or self._now_us()
        return experiment_pb2.DecideResponse(assignment=self._decide(experiment, asked))

    async def list_strategies(
        self, request: experiment_pb2.ListStrategiesRequest, call: Call
    ) -> experiment_pb2.ListStrategiesResponse:
        """Gives the strategies with their parameters."""
        del request, call
        return experiment_pb2.ListStrategiesResponse(strategies=describe_strategies())

    async def _one(self, family: str, call: Call) -> Experiment:
        check_text("family", family)
        experiments = await self._read(call)
        if family not in experiments:
            raise NotFound("family", f"there is no experiment for {family[:64]!r}")
        return experiments[family]

    async def _read(self, call: Call) -> dict[str, Experiment]:
        experiments = await _in_time(self._file.read, call)
        for family, experiment in experiments.items():
            self._remember(family, experiment)
        return experiments

    async def _change(
        self, family: str, base_revision: int, why: str, make: Callable[[Experiment], Change], call: Call
    ) -> experiment_pb2.Experiment:
        check_text("family", family)
        check_text("why", why)
        if base_revision < 1:
            raise InvalidArgument("base_revision", "base_revision must be at least 1")

        def based(present: Experiment) -> None:
            if present.revision != base_revision:
                raise Aborted("base_revision", self._stale(family, base_revision, present))

        def work() -> Experiment:
            before, after = self._file.change(family, based, make)
            if after is not before:
                # Written here, in the thread that changed the file: a caller that left is in the audit log too.
                _audit.info(
                    "experiment changed",
                    who=who,
                    peer=peer,
                    why=why,
                    family=family,
                    revision_before=before.revision,
                    revision_after=after.revision,
                    changes=describe_changes(before, after),
                )
            self._remember(family, before)
            self._remember(family, after)
            return after

        who, peer = call.tenant, call.peer
        return experiment_message(await _in_time(work, call))

    def _remember(self, family: str, experiment: Experiment) -> None:
        with self._remembering:
            seen = self._seen.setdefault(family, {})
            seen[experiment.revision] = experiment
            while len(seen) > MAX_REMEMBERED:
                del seen[min(seen)]

    def _stale(self, family: str, base_revision: int, present: Experiment) -> str:
        base = self._seen.get(family, {}).get(base_revision)
        told = f"base_revision is {base_revision} and the experiment is at revision {present.revision}"
        if base is None:
            return f"{told}: look at it and try again"
        changes = describe_changes(base, present)
        return f"{told}; since then: {'; '.join(changes) or 'changed and changed back'}"


async def _in_time(work: Callable[[], _T], call: Call) -> _T:
    """Works in a thread, waiting at most as long as the caller does, and 10 s at most."""
    left = call.time_left()
    seconds = LONGEST_CALL_SECONDS if left is None else max(0.0, min(left, LONGEST_CALL_SECONDS))
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), seconds)
    except TimeoutError as error:
        sentence = f"the file was not done within {seconds:.3f} s; look before you try again"
        raise DeadlineExceeded("", sentence) from error
