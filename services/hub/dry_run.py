"""Chooses an arm for an operator who asks, with the routers' own pure functions."""

from __future__ import annotations

from router.strategies.family import compile_family
from services.runtime.errors import NotFound
from services.runtime.experiment_set import ExperimentSet
from services.runtime.targeting import Row
from turnout.v1 import experiment_pb2, prediction_pb2


def decide(given: ExperimentSet, request: experiment_pb2.DecideRequest) -> experiment_pb2.DecideResponse:
    """Gives the assignment that a router would make; round-robin at the position that the request names.

    Raises:
        NotFound: the family has no experiment.
    """
    family = compile_family(request.family, given.experiments, given.layers)
    if family is None:
        raise NotFound("family", f"there is no experiment of family {request.family[:64]!r}")
    row = Row(
        tenant=request.tenant,
        metadata=dict(request.attributes),
        numbers=dict(request.numbers),
        categories=dict(request.categories),
        flags=dict(request.flags),
    )
    _, passed_over = family.passed_over(
        tenant=request.tenant, unit_id=request.unit_id, decision_id=request.decision_id, look=lambda: row
    )
    chosen = family.assign(
        unit_id=request.unit_id,
        decision_id=request.decision_id,
        tenant=request.tenant,
        region=request.region,
        at_unix_us=request.at_unix_us,
        position=lambda _: request.sequence,
        look=lambda: row,
        unevaluable=lambda _: None,
    )
    assignment = prediction_pb2.Assignment(
        arm=chosen.arm,
        propensity=chosen.propensity,
        reason=prediction_pb2.AssignmentReason.ValueType(int(chosen.reason)),
        revision=chosen.revision,
        snapshot_digest=chosen.digest,
        sequence=chosen.sequence,
        burn_in=chosen.burn_in,
    )
    return experiment_pb2.DecideResponse(assignment=assignment, passed_over=passed_over)
