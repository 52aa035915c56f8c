"""`turnout simulate`: how soon units arrive when a policy decides, against the targets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import Format, FormatOption, emit, messages, number

if TYPE_CHECKING:
    from services.dispatch.city import City
    from services.dispatch.incidents import Incident, OutcomeKnown, Policy

_STEP_CALLS = 100


class PolicyName(StrEnum):
    """Who decides."""

    CLOSEST = "closest"
    RULES = "rules"
    RANDOM = "random"
    PLAUSIBLE = "plausible"


def simulate(
    city: Annotated[Path | None, typer.Option("--city", help="Folder of a JEMSS city; else a built-in one.")] = None,
    calls: Annotated[int, typer.Option("--calls", min=1, max=1_000_000, help="How many calls.")] = 5000,
    policy: Annotated[
        PolicyName, typer.Option("--policy", help="Who decides which unit is sent.")
    ] = PolicyName.CLOSEST,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of city and calls.")] = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Simulate emergency calls; every policy faces the very same ones."""
    from services.cli.progress import Steps
    from services.cli.records import city_of
    from services.dispatch.history import simulate as prepare
    from services.dispatch.incidents import OutcomeKnown

    with Steps(messages()) as steps:
        with steps.step("building the city") as step:
            place = city_of(city, seed, step)
            step.note = f"{place.name}: {len(place.stations)} stations, {len(place.units)} units"
        outcomes: list[OutcomeKnown] = []
        with steps.step(f"simulating, policy {policy.value}") as step:
            for event in prepare(place, seed, calls).run(_policy(policy, seed)):
                if isinstance(event, OutcomeKnown):
                    outcomes.append(event)
                    if len(outcomes) % _STEP_CALLS == 0:
                        step.update(len(outcomes), calls)
            step.note = f"{len(outcomes)} incidents"
    result = {
        "city": place.name,
        "policy": policy.value,
        "seed": seed,
        "calls": calls,
        **response_times(place, outcomes),
    }
    emit(output, result, lambda: _table(result))


def _policy(name: PolicyName, seed: int) -> Policy:
    import numpy as np

    from services.dispatch.history import SendPlausible, SendRandom, send_closest

    rng = np.random.default_rng((seed, 0xDEC1DE))
    match name:
        case PolicyName.CLOSEST:
            return send_closest
        case PolicyName.RULES:
            return send_by_rules
        case PolicyName.RANDOM:
            return SendRandom(rng)
        case PolicyName.PLAUSIBLE:
            return SendPlausible(rng)


def send_by_rules(incident: Incident) -> int:
    """Sends the unit that the family's rules like best; of equals the one expected first."""
    from bentos.dispatch import FAMILY

    def rank(index: int) -> tuple[float, float]:
        vector = FAMILY.schema.encode(*FAMILY.schema.split(incident.features(index)))[1]
        answer = FAMILY.rules(FAMILY.row(*vector))
        return -answer.value, incident.candidates[index].response_time_min

    return min(range(len(incident.candidates)), key=rank)


def response_times(city: City, outcomes: list[OutcomeKnown]) -> dict[str, Any]:
    """Gives, by priority: incidents, mean, median and 90th percentile in minutes, share on time, share successful."""
    import numpy as np

    priorities = {}
    for index, priority in enumerate(city.priorities):
        chosen = [outcome for outcome in outcomes if outcome.priority == index]
        minutes = np.array([outcome.response_min for outcome in chosen])
        known = len(chosen) > 0
        priorities[priority.name] = {
            "target_min": priority.target_min,
            "incidents": len(chosen),
            "mean_min": float(minutes.mean()) if known else None,
            "p50_min": float(np.percentile(minutes, 50)) if known else None,
            "p90_min": float(np.percentile(minutes, 90)) if known else None,
            "on_time": float(np.mean([outcome.on_time for outcome in chosen])) if known else None,
            "success": float(np.mean([outcome.success for outcome in chosen])) if known else None,
        }
    return {"priorities": priorities}


def _table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"{result['city']}, {result['calls']} calls, policy {result['policy']}: minutes from call to arrival"
    table = Table("priority", title=title, title_justify="left")
    for name in ("target", "incidents", "mean", "median", "90 %", "on time", "success"):
        table.add_column(name, justify="right")
    for name, one in result["priorities"].items():
        times = (number(one[key], 2) for key in ("mean_min", "p50_min", "p90_min"))
        shares = ("–" if one[key] is None else f"{one[key]:.1%}" for key in ("on_time", "success"))
        table.add_row(name, f"{one['target_min']:g}", str(one["incidents"]), *times, *shares)
    return table
