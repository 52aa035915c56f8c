"""`turnout predict`, `outcome` and `explain`: one call each, through the client library."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.cli.output import Format, FormatOption, emit
from services.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config
from services.runtime.errors import DeadlineExceeded, InvalidArgument, TurnoutError, Unavailable

if TYPE_CHECKING:
    from services.client import Answer, Explanation, TurnoutClient

FamilyArgument = Annotated[str, typer.Argument(help="Prediction problem, for example dispatch.")]
FeaturesOption = Annotated[
    str, typer.Option("--features", help="Features as a JSON object, e.g. '{\"severity\": 4}'; - reads standard input.")
]
UnitOption = Annotated[str, typer.Option("--unit", help="What is assigned and stays assigned.")]
RegionOption = Annotated[str, typer.Option("--region", help="Region of the switchback block.")]
TokenOption = Annotated[
    str | None, typer.Option("--token", envvar="TURNOUT_TOKEN", help="The tenant's bearer token, where one is needed.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar="TURNOUT_ADDRESS", help="The router's gRPC address; else from the file."),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.001, max=5.0, help="Deadline in seconds.")]
_OUTCOME_SECONDS = 5.0
Reply = TypeVar("Reply")


def predict(
    family: FamilyArgument,
    *,
    features: FeaturesOption = "{}",
    unit: UnitOption = "",
    region: RegionOption = "",
    decision: Annotated[str, typer.Option("--decision", help="Your id for this decision.")] = "",
    token: TokenOption = None,
    address: AddressOption = None,
    timeout: TimeoutOption = 0.5,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Ask for one prediction."""
    row = _features(features)

    async def ask(client: TurnoutClient) -> Answer:
        return await client.predict(family, row, unit_id=unit, region=region, decision_id=decision, timeout=timeout)

    answer = _call(ask, _router(address, config), token)
    result = _plain(asdict(answer))
    emit(output, result, lambda: _facts(result))


def outcome(
    decision_id: Annotated[str, typer.Argument(help="The decision's id.")],
    value: Annotated[float, typer.Argument(help="What really happened: 0 or 1, or the number.")],
    *,
    cost: Annotated[float | None, typer.Option("--cost", help="What it cost, in the family's unit of costs.")] = None,
    token: TokenOption = None,
    address: AddressOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Report what really happened for a decision."""

    async def tell(client: TurnoutClient) -> str:
        from services.client import Outcome

        (result,) = await client.record_outcomes([Outcome(decision_id, value, cost=cost)], timeout=_OUTCOME_SECONDS)
        if isinstance(result, TurnoutError):
            raise result
        return result.name.lower()

    result = {"decision_id": decision_id, "value": value, "durability": _call(tell, _router(address, config), token)}
    emit(output, result, lambda: _facts(result))


def explain(
    family: FamilyArgument,
    *,
    features: FeaturesOption = "{}",
    variant: Annotated[str, typer.Option("--variant", help="Variant to explain; else the assigned one.")] = "",
    unit: UnitOption = "",
    region: RegionOption = "",
    token: TokenOption = None,
    address: AddressOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show how much each feature moved an answer away from the reference row's."""
    row = _features(features)

    async def ask(client: TurnoutClient) -> Explanation:
        return await client.explain(family, row, unit_id=unit, region=region, variant=variant)

    explanation = _call(ask, _router(address, config), token)
    emit(output, _plain(asdict(explanation)), lambda: _contributions(explanation))


def _router(address: str | None, config: Path) -> str:
    return address or load_config(config).router.grpc


def _features(text: str) -> dict[str, Any]:
    content = sys.stdin.read() if text == "-" else text
    try:
        row = json.loads(content)
    except ValueError as error:
        raise InvalidArgument("features", f"--features is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidArgument("features", '--features must be a JSON object, for example {"severity": 4}')
    return row


def _call(work: Callable[[TurnoutClient], Awaitable[Reply]], address: str, token: str | None) -> Reply:
    """Runs one call against the router, without the client's own rules: whoever types wants the router's answer."""

    async def run() -> Reply:
        from services.client import TurnoutClient

        async with TurnoutClient(address, token, fallback=False) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except (Unavailable, DeadlineExceeded) as error:
        raise Unavailable(
            "address", f"the router at {address} does not answer: start it with `turnout up`, or correct --address"
        ) from error


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.name.lower()
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case _:
            return value


def _facts(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in result.items():
        if isinstance(value, dict):
            for inner, part in value.items():
                table.add_row(f"{name}.{inner}", str(part))
        else:
            table.add_row(name, "; ".join(value) if isinstance(value, list) else str(value))
    return table


def _contributions(explanation: Explanation) -> Any:
    from rich.table import Table

    title = f"{explanation.variant}: {explanation.value:.4f} (reference {explanation.base_value:.4f})"
    table = Table("feature", "value", "contribution", title=title, title_justify="left")
    for part in explanation.contributions:
        table.add_row(part.feature, part.value, f"{part.contribution:+.4f}")
    for reason in explanation.reasons:
        table.add_row(reason, "", "")
    return table
