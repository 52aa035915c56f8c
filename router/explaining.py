"""Explains one answer: Shapley values from the variant's model server, or the reasons of the rules."""

from __future__ import annotations

from typing import Final

from bentos.family import RULES
from router.backends.results import Failure
from router.deciding import Decider
from router.prepared import Prepared
from router.routing import Rotation, choose, pool_of
from services.runtime.errors import NotFound, Unavailable
from turnout.v1 import prediction_pb2

_LONGEST_SECONDS: Final = 5.0


async def explain(row: Prepared, variant: str, decider: Decider) -> prediction_pb2.ExplainResponse:
    """Explains a prepared row, by `variant` or by the one that the experiment would assign; records nothing.

    Raises:
        NotFound: the family has no such variant.
        Unavailable: no backend of the variant answers.
    """
    route = row.route
    if not variant:
        variant = _would_assign(row, decider.now_unix_us())
    if variant == RULES:
        answer = route.family.rules(route.family.row._make(row.vector))
        return prediction_pb2.ExplainResponse(
            value=answer.value,
            base_value=answer.value,
            variant=RULES,
            model_version=route.family.rules_version,
            reasons=answer.reasons,
        )
    pool = pool_of(route, variant)
    if pool is None:
        names = ", ".join((RULES, *route.pools))
        raise NotFound("variant", f"family {route.family.name!r} has no variant {variant[:64]!r}; it has: {names}")
    link = pool.pick()
    served = link.served if link is not None else None
    if link is None or served is None:
        raise Unavailable("variant", f"no backend of variant {variant!r} is connected; try again")
    reply = await link.attribute(row.packed, min(row.time_left, _LONGEST_SECONDS))
    if isinstance(reply, Failure) or len(reply.contributions) != len(route.family.schema):
        raise Unavailable("variant", f"variant {variant!r} gave no explanation in time; try again")
    named = route.family.schema.named(row.vector)
    contributions = [
        prediction_pb2.Contribution(feature=name, value=_text(named.get(name)), contribution=contribution)
        for name, contribution in zip(route.family.schema.names, reply.contributions, strict=True)
    ]
    contributions.sort(key=lambda one: -abs(one.contribution))
    return prediction_pb2.ExplainResponse(
        value=reply.value,
        base_value=reply.base_value,
        variant=variant,
        model_version=served.version,
        contributions=contributions,
    )


def _would_assign(row: Prepared, now_unix_us: int) -> str:
    # A rotation of its own: asking must not move the router's.
    chosen = choose(
        row.route,
        Rotation(),
        unit_id=row.unit_id,
        decision_id=row.decision_id,
        tenant=row.tenant,
        region=row.region,
        at_unix_us=now_unix_us,
        vector=row.vector,
        attributes=row.attributes,
    )
    return RULES if chosen is None else chosen.variant


def _text(value: float | str | None) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return str(value).lower()
        case str():
            return value
        case _:
            return f"{value:g}"
