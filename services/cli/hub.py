"""Calls to the hub: experiments and the ledger. Every call has a deadline, every error is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import Message

from services.cli.hub_connection import HubConnection, Reply
from turnout.v1 import experiment_pb2, ledger_pb2

_SECONDS: Final = 5.0
_STREAM_SECONDS: Final = 300.0


class Hub(HubConnection):
    """Experiments and the ledger; use it inside `with`."""

    def experiment(self, name: str) -> experiment_pb2.Experiment:
        """Gives an experiment as it stands; the main one of a family is called like it."""
        request = experiment_pb2.GetExperimentRequest(name=name)
        return self._experiments("GetExperiment", request, experiment_pb2.GetExperimentResponse).experiment

    def experiments(self, family: str = "") -> experiment_pb2.ExperimentSet:
        """Gives all experiments, or those of a family, and all layers."""
        request = experiment_pb2.ListExperimentsRequest(family=family)
        return self._experiments("ListExperiments", request, experiment_pb2.ListExperimentsResponse).set

    def create(self, request: experiment_pb2.CreateExperimentRequest) -> experiment_pb2.Experiment:
        """Makes an experiment."""
        return self._experiments("CreateExperiment", request, experiment_pb2.CreateExperimentResponse).experiment

    def update(self, request: experiment_pb2.UpdateExperimentRequest) -> experiment_pb2.Experiment:
        """Replaces an experiment's whole definition."""
        return self._experiments("UpdateExperiment", request, experiment_pb2.UpdateExperimentResponse).experiment

    def set_strategy(self, request: experiment_pb2.SetStrategyRequest) -> experiment_pb2.Experiment:
        """Changes strategy, weights or ramp."""
        return self._experiments("SetStrategy", request, experiment_pb2.SetStrategyResponse).experiment

    def pause(self, request: experiment_pb2.PauseExperimentRequest) -> experiment_pb2.Experiment:
        """Sends all traffic to the champion."""
        return self._experiments("PauseExperiment", request, experiment_pb2.PauseExperimentResponse).experiment

    def resume(self, request: experiment_pb2.ResumeExperimentRequest) -> experiment_pb2.Experiment:
        """Ends a pause."""
        return self._experiments("ResumeExperiment", request, experiment_pb2.ResumeExperimentResponse).experiment

    def stop_ramp(self, request: experiment_pb2.StopRampRequest) -> experiment_pb2.Experiment:
        """Ends a ramp at the weights that it has reached."""
        return self._experiments("StopRamp", request, experiment_pb2.StopRampResponse).experiment

    def conclude(self, request: experiment_pb2.ConcludeExperimentRequest) -> experiment_pb2.Experiment:
        """Sends everything to the winner."""
        return self._experiments("ConcludeExperiment", request, experiment_pb2.ConcludeExperimentResponse).experiment

    def undo(self, request: experiment_pb2.UndoExperimentRequest) -> experiment_pb2.Experiment:
        """Takes the newest change back."""
        return self._experiments("UndoExperiment", request, experiment_pb2.UndoExperimentResponse).experiment

    def delete(self, request: experiment_pb2.DeleteExperimentRequest) -> None:
        """Ends an experiment."""
        self._experiments("DeleteExperiment", request, experiment_pb2.DeleteExperimentResponse)

    def revisions(self, name: str, limit: int) -> list[experiment_pb2.ExperimentRevision]:
        """Gives the newest revisions of an experiment, also of a deleted one."""
        request = experiment_pb2.ListRevisionsRequest(name=name, limit=limit)
        return list(self._experiments("ListRevisions", request, experiment_pb2.ListRevisionsResponse).revisions)

    def set_layer(self, request: experiment_pb2.SetLayerRequest) -> experiment_pb2.Layer:
        """Makes or changes a layer."""
        return self._experiments("SetLayer", request, experiment_pb2.SetLayerResponse).layer

    def delete_layer(self, request: experiment_pb2.DeleteLayerRequest) -> None:
        """Removes a layer."""
        self._experiments("DeleteLayer", request, experiment_pb2.DeleteLayerResponse)

    def layer_revisions(self, name: str, limit: int) -> list[experiment_pb2.LayerRevision]:
        """Gives the newest revisions of a layer, also of a deleted one."""
        request = experiment_pb2.ListLayerRevisionsRequest(name=name, limit=limit)
        reply = experiment_pb2.ListLayerRevisionsResponse
        return list(self._experiments("ListLayerRevisions", request, reply).revisions)

    def decide(self, request: experiment_pb2.DecideRequest) -> experiment_pb2.DecideResponse:
        """Gives the arm that a unit would get."""
        return self._experiments("Decide", request, experiment_pb2.DecideResponse)

    def strategies(self) -> list[experiment_pb2.StrategyDescription]:
        """Gives the strategies with their parameters."""
        request = experiment_pb2.ListStrategiesRequest()
        return list(self._experiments("ListStrategies", request, experiment_pb2.ListStrategiesResponse).strategies)

    def status(self) -> experiment_pb2.GetStatusResponse:
        """Gives every router with the version that it applies."""
        return self._experiments("GetStatus", experiment_pb2.GetStatusRequest(), experiment_pb2.GetStatusResponse)

    def summary(self, family: str, since_unix_us: int = 0) -> ledger_pb2.SummarizeArmsResponse:
        """Gives the results of a family's arms and shadows."""
        request = ledger_pb2.SummarizeArmsRequest(family=family, since_unix_us=since_unix_us)
        return self._unary("LedgerService/SummarizeArms", request, ledger_pb2.SummarizeArmsResponse, _SECONDS)

    def snapshots(self, family: str = "") -> list[ledger_pb2.ExperimentSnapshot]:
        """Gives the experiments that decisions were made under."""
        request = ledger_pb2.ListSnapshotsRequest(family=family)
        pages = self._stream("LedgerService/ListSnapshots", request, ledger_pb2.ListSnapshotsResponse, _STREAM_SECONDS)
        return [snapshot for page in pages for snapshot in page.snapshots]

    def decisions(self, request: ledger_pb2.ListDecisionsRequest) -> Iterator[ledger_pb2.LedgerEntry]:
        """Gives decisions with their outcomes, oldest first."""
        for page in self._stream(
            "LedgerService/ListDecisions", request, ledger_pb2.ListDecisionsResponse, _STREAM_SECONDS
        ):
            yield from page.entries

    def _experiments(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        return self._unary(f"ExperimentService/{method}", request, reply, _SECONDS)
