"""Chooses an arm for an operator who asks, with the routers' own pure functions."""

from __future__ import annotations

from router.strategies import assign, compile_experiment
from services.runtime.experiment import Experiment
from turnout.v1 import experiment_pb2, prediction_pb2


def decide(experiment: Experiment, request: experiment_pb2.DecideRequest) -> prediction_pb2.Assignment:
    """Gives the assignment that a router would make; round-robin at the position that the request names."""
    chosen = assign(
        compile_experiment(experiment),
        unit_id=request.unit_id,
        decision_id=request.decision_id,
        tenant=request.tenant,
        region=request.region,
        at_unix_us=request.at_unix_us,
        sequence=request.sequence,
    )
    return prediction_pb2.Assignment(
        arm=chosen.arm,
        propensity=chosen.propensity,
        reason=prediction_pb2.AssignmentReason.ValueType(int(chosen.reason)),
        revision=chosen.revision,
        snapshot_digest=chosen.digest,
        sequence=chosen.sequence,
        burn_in=chosen.burn_in,
    )
