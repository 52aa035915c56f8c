"""Chooses an arm for an operator who asks, with the routers' own pure functions."""

from __future__ import annotations

from bentos import family
from router import dry_run
from services.runtime.errors import NotFound
from services.runtime.experiment_set import ExperimentSet
from turnout.v1 import experiment_pb2


def decide(given: ExperimentSet, request: experiment_pb2.DecideRequest) -> experiment_pb2.DecideResponse:
    """Gives the assignment that a router would make; round-robin at the position that the request names.

    Raises:
        NotFound: there is no such family, or it has no experiment.
        InvalidArgument: a feature breaks the family's schema.
    """
    declared = family.load(request.family)
    if not any(experiment.family == request.family for experiment in given.experiments.values()):
        raise NotFound("family", f"family {request.family!r} has no experiment")
    return dry_run.decide(given.experiments, given.layers, request, declared)
