"""The changing half of ExperimentService, without its transport: checks each field, changes the store, counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from services.control.edits import Edit, conclusion_edit, pause, resume, stop_ramp_edit, strategy_edit
from services.control.fitting import Serving, check_fit, check_ready
from services.control.metrics import ControlMetrics
from services.control.plans import Author
from services.control.store import ExperimentStore
from services.runtime.call import Call
from services.runtime.deadlines import in_time
from services.runtime.errors import InvalidArgument, TurnoutError
from services.runtime.experiment import MAX_ARMS, Experiment
from services.runtime.experiment_messages import (
    experiment_from_message,
    experiment_to_message,
    layer_from_message,
    layer_to_message,
)
from services.runtime.field_paths import below
from services.runtime.identifiers import check_stored_text
from turnout.v1 import experiment_pb2

LONGEST_CALL_SECONDS: Final = 10.0
MAX_REVISION: Final = 2**62
"""One more must still fit into a database's 64 bits."""
_T = TypeVar("_T")


class Steering:
    """Everything that changes experiments and layers.

    Args:
        store: where they are.
        serving: gives what is served at this moment.
        metrics: where changes and refusals are counted.
        now_us: microseconds since 1970-01-01T00:00Z.
    """

    def __init__(
        self,
        store: ExperimentStore,
        *,
        serving: Callable[[], Serving],
        metrics: ControlMetrics,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._serving = serving
        self._metrics = metrics
        self._now_us = now_us

    async def create_experiment(
        self, request: experiment_pb2.CreateExperimentRequest, call: Call
    ) -> experiment_pb2.CreateExperimentResponse:
        """Makes an experiment.

        Raises:
            AlreadyExists: the name is taken.
            InvalidArgument: names the field of the experiment that breaks a rule.
            FailedPrecondition: turnout.yaml lacks what it names, or no router has an arm's variant ready.
        """

        async def create(author: Author) -> Experiment:
            experiment = _definition(request.experiment)
            serving = self._serving()
            check_fit(None, experiment, serving)
            if not request.allow_unready:
                check_ready(None, experiment, serving, lambda arm: f"experiment.arms[{arm}].variant")
            return await self._store.create(experiment, author)

        made = await self._change("create", create, request.why, call)
        return experiment_pb2.CreateExperimentResponse(experiment=experiment_to_message(made))

    async def update_experiment(
        self, request: experiment_pb2.UpdateExperimentRequest, call: Call
    ) -> experiment_pb2.UpdateExperimentResponse:
        """Replaces a whole definition; what is the same already makes no new revision.

        Raises:
            NotFound: there is none of that name.
            Aborted: base_revision is not the newest; the text tells what changed since.
            InvalidArgument: names the field of the experiment that breaks a rule.
            FailedPrecondition: turnout.yaml lacks what it names, or no router has an arm's variant ready.
        """

        async def update(author: Author) -> Experiment:
            experiment = _definition(request.experiment)
            serving = self._serving()

            def edit(before: Experiment) -> Experiment:
                check_fit(before, experiment, serving)
                if not request.allow_unready:
                    check_ready(before, experiment, serving, lambda arm: f"experiment.arms[{arm}].variant")
                return experiment

            return await self._store.change(experiment.name, request.base_revision, edit, author)

        after = await self._change("update", update, request.why, call, base=request.base_revision)
        return experiment_pb2.UpdateExperimentResponse(experiment=experiment_to_message(after))

    async def set_strategy(
        self, request: experiment_pb2.SetStrategyRequest, call: Call
    ) -> experiment_pb2.SetStrategyResponse:
        """Changes the strategy, the weights, the ramp, or several of them; raises as `update_experiment` does."""

        async def change(author: Author) -> Experiment:
            if len(request.weights) > MAX_ARMS:
                raise InvalidArgument("weights", f"weights must name at most {MAX_ARMS} arms")
            wanted = strategy_edit(request, self._now_us() // 1_000_000)
            edit = wanted if request.allow_unready else self._ready(wanted, lambda arm: f"weights[{arm}]")
            return await self._edit(request.name, request.base_revision, edit, author)

        after = await self._change("set_strategy", change, request.why, call, base=request.base_revision)
        return experiment_pb2.SetStrategyResponse(experiment=experiment_to_message(after))

    async def pause_experiment(
        self, request: experiment_pb2.PauseExperimentRequest, call: Call
    ) -> experiment_pb2.PauseExperimentResponse:
        """Sends all traffic to the champion; raises as `update_experiment` does."""

        async def change(author: Author) -> Experiment:
            return await self._edit(request.name, request.base_revision, pause, author)

        after = await self._change("pause", change, request.why, call, base=request.base_revision)
        return experiment_pb2.PauseExperimentResponse(experiment=experiment_to_message(after))

    async def resume_experiment(
        self, request: experiment_pb2.ResumeExperimentRequest, call: Call
    ) -> experiment_pb2.ResumeExperimentResponse:
        """Ends a pause; raises as `update_experiment` does."""

        async def change(author: Author) -> Experiment:
            return await self._edit(request.name, request.base_revision, resume, author)

        after = await self._change("resume", change, request.why, call, base=request.base_revision)
        return experiment_pb2.ResumeExperimentResponse(experiment=experiment_to_message(after))

    async def stop_ramp(self, request: experiment_pb2.StopRampRequest, call: Call) -> experiment_pb2.StopRampResponse:
        """Ends a ramp and keeps the weights that it has reached; raises as `update_experiment` does."""

        async def change(author: Author) -> Experiment:
            edit = stop_ramp_edit(self._now_us() // 1_000_000)
            return await self._edit(request.name, request.base_revision, edit, author)

        after = await self._change("stop_ramp", change, request.why, call, base=request.base_revision)
        return experiment_pb2.StopRampResponse(experiment=experiment_to_message(after))

    async def conclude_experiment(
        self, request: experiment_pb2.ConcludeExperimentRequest, call: Call
    ) -> experiment_pb2.ConcludeExperimentResponse:
        """Sends everything to the winner from now on; raises as `update_experiment` does."""

        async def change(author: Author) -> Experiment:
            wanted = conclusion_edit(request.winner)
            edit = wanted if request.allow_unready else self._ready(wanted, lambda _: "winner")
            return await self._edit(request.name, request.base_revision, edit, author)

        after = await self._change("conclude", change, request.why, call, base=request.base_revision)
        return experiment_pb2.ConcludeExperimentResponse(experiment=experiment_to_message(after))

    async def undo_experiment(
        self, request: experiment_pb2.UndoExperimentRequest, call: Call
    ) -> experiment_pb2.UndoExperimentResponse:
        """Takes the newest change back, whatever is ready; twice does it again.

        Raises:
            NotFound: there never was one of that name.
            Aborted: base_revision is not the newest; the text tells what changed since.
            FailedPrecondition: nothing was there before, or it no longer fits to the other experiments.
        """

        async def change(author: Author) -> Experiment:
            check_stored_text("name", request.name)
            return await self._store.undo(request.name, request.base_revision, author)

        after = await self._change("undo", change, request.why, call, base=request.base_revision)
        return experiment_pb2.UndoExperimentResponse(experiment=experiment_to_message(after))

    async def delete_experiment(
        self, request: experiment_pb2.DeleteExperimentRequest, call: Call
    ) -> experiment_pb2.DeleteExperimentResponse:
        """Ends an experiment and frees its name; raises as `update_experiment` does."""

        async def change(author: Author) -> None:
            check_stored_text("name", request.name)
            await self._store.delete(request.name, request.base_revision, author)

        await self._change("delete", change, request.why, call, base=request.base_revision)
        return experiment_pb2.DeleteExperimentResponse()

    async def set_layer(self, request: experiment_pb2.SetLayerRequest, call: Call) -> experiment_pb2.SetLayerResponse:
        """Makes or changes a layer.

        Raises:
            Aborted: base_revision is not the newest, 0 for a new layer.
            InvalidArgument: names the field; a cycle, or slices that would overlap.
        """

        async def change(author: Author) -> experiment_pb2.Layer:
            try:
                name, layer = layer_from_message(request.layer)
            except InvalidArgument as error:
                raise below("layer", error) from error
            revision = await self._store.set_layer(name, layer, request.base_revision, author)
            return layer_to_message(name, layer, revision=revision)

        return experiment_pb2.SetLayerResponse(layer=await self._change("set_layer", change, request.why, call))

    async def delete_layer(
        self, request: experiment_pb2.DeleteLayerRequest, call: Call
    ) -> experiment_pb2.DeleteLayerResponse:
        """Removes a layer that nothing uses.

        Raises:
            NotFound: there is none of that name.
            Aborted: base_revision is not the newest.
            FailedPrecondition: an experiment or another layer uses it.
        """

        async def change(author: Author) -> None:
            check_stored_text("name", request.name)
            await self._store.delete_layer(request.name, request.base_revision, author)

        await self._change("delete_layer", change, request.why, call, base=request.base_revision)
        return experiment_pb2.DeleteLayerResponse()

    async def _edit(self, name: str, base_revision: int, edit: Edit, author: Author) -> Experiment:
        check_stored_text("name", name)
        return await self._store.change(name, base_revision, edit, author)

    def _ready(self, wanted: Edit, place: Callable[[str], str]) -> Edit:
        serving = self._serving()

        def edit(before: Experiment) -> Experiment:
            after = wanted(before)
            check_ready(before, after, serving, place)
            return after

        return edit

    async def _change(
        self, kind: str, change: Callable[[Author], Awaitable[_T]], why: str, call: Call, *, base: int | None = None
    ) -> _T:
        try:
            check_stored_text("why", why)
            if base is not None and not 1 <= base < MAX_REVISION:
                raise InvalidArgument("base_revision", "base_revision must be at least 1 and under 2^62")
            result = await in_time(
                change(Author(call.tenant, why, call.peer)), call, longest_seconds=LONGEST_CALL_SECONDS
            )
        except TurnoutError as error:
            self._metrics.refused(kind, error.code)
            raise
        self._metrics.changed(kind)
        return result


def _definition(message: experiment_pb2.Experiment) -> Experiment:
    try:
        return experiment_from_message(message, revision=1)
    except InvalidArgument as error:
        raise below("experiment", error) from error
