"""ExperimentService without its transport: what operators read, and what routers watch; see `steering` for changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final

from services.control.fitting import Ready, Serving
from services.control.metrics import ControlMetrics
from services.control.routers import Routers
from services.control.rows import Revision
from services.control.steering import LONGEST_CALL_SECONDS, Steering
from services.control.store import ExperimentStore
from services.control.strategies import describe_strategies
from services.control.watching import Watching
from services.runtime.call import Call
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument, NotFound
from services.runtime.experiment import Experiment, Layer
from services.runtime.experiment_messages import experiment_to_message, layer_to_message
from services.runtime.experiment_set import ExperimentSet
from services.runtime.identifiers import check_decision_id, check_stored_text, check_text
from services.runtime.identity import DEFAULT_TENANT
from turnout.v1 import experiment_pb2

MAX_PAGE: Final = 1000
_PAGE: Final = 50
MAX_FEATURES: Final = 1024
Decide = Callable[[ExperimentSet, experiment_pb2.DecideRequest], experiment_pb2.DecideResponse]
"""Chooses the arm just as a router would; the request's tenant and instant are filled in."""


class ExperimentService(Steering):
    """turnout.v1.ExperimentService.

    Args:
        store: where the experiments are.
        watching: the routers' streams.
        routers: what is known of the routers.
        decide: the routers' own pure assignment.
        serving: gives what is served at this moment.
        metrics: where changes and refusals are counted.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(
        self,
        store: ExperimentStore,
        watching: Watching,
        routers: Routers,
        decide: Decide,
        *,
        serving: Callable[[], Serving],
        metrics: ControlMetrics,
        now_us: Callable[[], int],
    ) -> None:
        super().__init__(store, serving=serving, metrics=metrics, now_us=now_us)
        self._watching = watching
        self._routers = routers
        self._decide = decide

    async def list_experiments(
        self, request: experiment_pb2.ListExperimentsRequest, call: Call
    ) -> experiment_pb2.ListExperimentsResponse:
        """Gives all experiments and layers, by name."""
        del call
        check_text("family", request.family)
        state = self._store.state
        reply = experiment_pb2.ListExperimentsResponse()
        reply.set.version, reply.set.origin = state.set.version, state.set.origin
        for _, experiment in sorted(state.set.experiments.items()):
            if request.family in {"", experiment.family}:
                reply.set.experiments.append(experiment_to_message(experiment))
        for name, layer in sorted(state.set.layers.items()):
            reply.set.layers.append(layer_to_message(name, layer, revision=state.layer_revisions[name]))
        return reply

    async def get_experiment(
        self, request: experiment_pb2.GetExperimentRequest, call: Call
    ) -> experiment_pb2.GetExperimentResponse:
        """Gives one experiment.

        Raises:
            NotFound: there is none of that name.
        """
        del call
        check_stored_text("name", request.name)
        experiment = self._store.state.set.experiments.get(request.name)
        if experiment is None:
            raise NotFound("name", f"there is no experiment {request.name[:64]!r}")
        return experiment_pb2.GetExperimentResponse(experiment=experiment_to_message(experiment))

    async def list_revisions(
        self, request: experiment_pb2.ListRevisionsRequest, call: Call
    ) -> experiment_pb2.ListRevisionsResponse:
        """Gives a page of an experiment's history, newest first.

        Raises:
            InvalidArgument: a field is over its bound.
            NotFound: there never was one of that name.
        """
        history = self._store.history(request.name, request.before_revision, _page_limit(request))
        found = await in_time(history, call, longest_seconds=LONGEST_CALL_SECONDS)
        reply = experiment_pb2.ListRevisionsResponse()
        for one in found:
            message = reply.revisions.add(**_told(one))
            if one.after is not None:
                message.experiment.CopyFrom(experiment_to_message(one.after))
        return reply

    async def list_layer_revisions(
        self, request: experiment_pb2.ListLayerRevisionsRequest, call: Call
    ) -> experiment_pb2.ListLayerRevisionsResponse:
        """Gives a page of a layer's history, newest first; raises as `list_revisions` does."""
        history = self._store.layer_history(request.name, request.before_revision, _page_limit(request))
        found = await in_time(history, call, longest_seconds=LONGEST_CALL_SECONDS)
        reply = experiment_pb2.ListLayerRevisionsResponse()
        for one in found:
            message = reply.revisions.add(**_told(one))
            if one.after is not None:
                message.layer.CopyFrom(layer_to_message(request.name, one.after, revision=one.revision))
        return reply

    async def decide(self, request: experiment_pb2.DecideRequest, call: Call) -> experiment_pb2.DecideResponse:
        """Tells which arm a unit would get, and why; changes and records nothing.

        Raises:
            InvalidArgument: neither unit_id nor decision_id, or a field is over its bound.
            NotFound: the family has no experiment.
        """
        del call
        if not request.unit_id and not request.decision_id:
            raise InvalidArgument("unit_id", "unit_id or decision_id must be given")
        if request.decision_id:
            check_decision_id(request.decision_id)
        for field in ("family", "unit_id", "tenant", "region"):
            check_text(field, getattr(request, field))
        if request.at_unix_us < 0:
            raise InvalidArgument("at_unix_us", "at_unix_us must be at least 0")
        for field in ("attributes", "numbers", "categories", "flags"):
            if len(getattr(request, field)) > MAX_FEATURES:
                raise InvalidArgument(field, f"{field} must have at most {MAX_FEATURES} entries")
        asked = experiment_pb2.DecideRequest()
        asked.CopyFrom(request)
        asked.tenant = request.tenant or DEFAULT_TENANT
        asked.at_unix_us = request.at_unix_us or self._now_us()
        return self._decide(self._store.state.set, asked)

    async def list_strategies(
        self, request: experiment_pb2.ListStrategiesRequest, call: Call
    ) -> experiment_pb2.ListStrategiesResponse:
        """Gives the strategies with their parameters."""
        del request, call
        return experiment_pb2.ListStrategiesResponse(strategies=describe_strategies())

    async def get_status(
        self, request: experiment_pb2.GetStatusRequest, call: Call
    ) -> experiment_pb2.GetStatusResponse:
        """Gives every router with the version that it applies, and how far behind it is."""
        del request, call
        version = self._store.state.set.version
        return experiment_pb2.GetStatusResponse(version=version, routers=self._routers.statuses(version))

    def running(self) -> tuple[Sequence[Experiment], Ready | None]:
        """Gives the experiments, and the variants that routers have ready, None when no router has told."""
        return tuple(self._store.state.set.experiments.values()), self._routers.ready()

    def ends_with(self, stopping: asyncio.Event) -> None:
        """Ends the routers' streams when the server begins to drain; call it before the first of them."""
        self._watching.stopping = stopping

    def watch(
        self, requests: AsyncIterator[experiment_pb2.WatchRequest], call: Call
    ) -> AsyncGenerator[experiment_pb2.WatchResponse, None]:
        """Serves one router; see `Watching.watch`."""
        return self._watching.watch(requests, call)


def _page_limit(request: experiment_pb2.ListRevisionsRequest | experiment_pb2.ListLayerRevisionsRequest) -> int:
    """Checks which page of a history is asked for, and gives how many revisions it has at most."""
    check_stored_text("name", request.name)
    if "\0" in request.name:
        raise InvalidArgument("name", "name must not hold a NUL character")
    if request.before_revision < 0:
        raise InvalidArgument("before_revision", "before_revision must be at least 0")
    if not 0 <= request.limit <= MAX_PAGE:
        raise InvalidArgument("limit", f"limit must be 1 to {MAX_PAGE}, or 0 for {_PAGE}")
    return request.limit or _PAGE


def _told(revision: Revision[Experiment] | Revision[Layer]) -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "who": revision.who,
        "at_unix_us": revision.at_us,
        "why": revision.why,
        "changes": revision.changes,
    }
