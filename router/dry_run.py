"""Chooses an arm for somebody who only asks, with the very functions that answer calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from bentos.family import Family
from bentos.schema import Missing, Schema
from router.conditions import row_of
from router.strategies import Assignment
from router.strategies.family import FamilyExperiments, compile_family
from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment, Layer
from services.runtime.identity import DEFAULT_TENANT
from services.runtime.targeting import Row
from turnout.v1 import experiment_pb2, prediction_pb2

NO_EXPERIMENT: Final = prediction_pb2.Assignment(propensity=1.0)
"""Of a family that has no experiment."""


def decide(
    experiments: Mapping[str, Experiment],
    layers: Mapping[str, Layer],
    request: experiment_pb2.DecideRequest,
    family: Family,
) -> experiment_pb2.DecideResponse:
    """Gives the assignment that a router with these experiments would make, and why others were passed over.

    Args:
        experiments: All experiments by name; those of other families take no part.
        layers: All layers by name.
        request: What to assign; its instant must be set. Features may be left out, also those that a prediction
            needs: a condition that looks at them cannot be evaluated then.
        family: The family that the request names.

    Raises:
        InvalidArgument: neither a unit nor a decision is named, or a feature breaks the schema.
    """
    if not request.unit_id and not request.decision_id:
        raise InvalidArgument("unit_id", "name a unit_id, or a decision_id for a decision without a unit")
    compiled = compile_family(family.name, experiments, layers)
    if compiled is None:
        return experiment_pb2.DecideResponse(assignment=NO_EXPERIMENT)
    schema = _lenient(family.schema)
    _, vector = schema.encode(request.numbers, request.categories, request.flags)
    tenant = request.tenant or DEFAULT_TENANT
    seen = row_of(schema, vector, tenant, compiled.attributes.of(request.attributes))
    chosen = assign_as_recorded(
        compiled,
        unit_id=request.unit_id,
        decision_id=request.decision_id,
        tenant=tenant,
        region=request.region,
        at_unix_us=request.at_unix_us,
        sequence=request.sequence,
        row=seen,
    )
    _, told = compiled.passed_over(
        tenant=tenant, unit_id=request.unit_id, decision_id=request.decision_id, look=lambda: seen
    )
    return experiment_pb2.DecideResponse(assignment=message(chosen), passed_over=told)


def assign_as_recorded(
    experiments: FamilyExperiments,
    *,
    unit_id: str,
    decision_id: str,
    tenant: str,
    region: str,
    at_unix_us: int,
    sequence: int,
    row: Row,
) -> Assignment:
    """Assigns where all that a decision hangs on is known beforehand, the position in a rotation included."""
    return experiments.assign(
        unit_id=unit_id,
        decision_id=decision_id,
        tenant=tenant,
        region=region,
        at_unix_us=at_unix_us,
        position=lambda _: sequence,
        look=lambda: row,
        unevaluable=lambda _: None,
    )


def message(chosen: Assignment) -> prediction_pb2.Assignment:
    """Gives an assignment as a message."""
    return prediction_pb2.Assignment(
        arm=chosen.arm,
        propensity=chosen.propensity,
        reason=prediction_pb2.AssignmentReason.ValueType(int(chosen.reason)),
        revision=chosen.revision,
        snapshot_digest=chosen.digest,
        sequence=chosen.sequence,
        burn_in=chosen.burn_in,
        experiment=chosen.experiment,
    )


@lru_cache(maxsize=64)
def _lenient(schema: Schema) -> Schema:
    return Schema(tuple(replace(feature, missing=Missing.KEEP) for feature in schema.features))
