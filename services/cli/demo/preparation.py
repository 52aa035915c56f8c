"""From past decisions to a configured home: history, training, packaging, turnout.yaml."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bentos.family import Family, Record
from services.cli.configuration_file import first_file, write_first
from services.cli.demo.plan import FAMILY, RATE, Plan
from services.cli.demo.recorded import RecordedTraffic
from services.cli.demo.simulated import SimulatedTraffic
from services.cli.preparing import best, package_variants, train_variants
from services.cli.progress import Steps
from services.cli.records import city_of, from_file, simulated
from services.runtime.errors import InvalidArgument
from services.runtime.home import Home
from services.training.pipeline import TrainedVariant

_LIVE_SEED: Final = 1_000_003
"""Added to the seed for the live calls, which must be others than those of the past."""
_FEWEST_PAST: Final = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """A home that is ready to be started, and the traffic that will flow."""

    config: Path
    champion: str
    trained: list[TrainedVariant]
    traffic: SimulatedTraffic | RecordedTraffic


def prepare(plan: Plan, family: Family, root: Path, steps: Steps) -> Prepared:
    """Does everything that comes before the first process.

    Raises:
        InvalidArgument: the data file or the city's folder is wrong, or holds too little.
        FailedPrecondition: the data cannot be learnt from.
    """
    if plan.data is not None:
        past, traffic = _recorded(plan, family, plan.data, steps)
    else:
        past, traffic = _simulated(plan, steps)
    trained = train_variants(family, past, plan.variants, plan.seed, steps)
    home = Home(root)
    tags = package_variants(trained, home, steps)
    champion = best(trained)
    text = first_file(
        FAMILY,
        tags,
        champion=champion,
        home=str(root),
        grpc={"router": "127.0.0.1:0", "hub": home.socket("hub")},
        metrics={"router": "127.0.0.1:0", "hub": "127.0.0.1:0"},
        http="127.0.0.1:0",
    )
    config = root / "turnout.yaml"
    write_first(config, text)
    return Prepared(config, champion, trained, traffic)


def _simulated(plan: Plan, steps: Steps) -> tuple[Sequence[Record], SimulatedTraffic]:
    with steps.step("building the city") as step:
        city = city_of(plan.city, plan.seed, step)
        step.note = f"{city.name}: {len(city.stations)} stations, {len(city.units)} units"
    with steps.step("simulating the past") as step:
        past = list(simulated(city, plan.seed, plan.calls, step))
        step.note = f"{len(past)} decisions of a dispatcher without a model"
    return past, SimulatedTraffic(city, plan.seed + _LIVE_SEED)


def _recorded(
    plan: Plan, family: Family, path: Path, steps: Steps
) -> tuple[Sequence[Record], SimulatedTraffic | RecordedTraffic]:
    live = round(plan.seconds * RATE)
    with steps.step(f"reading {path.name}") as step:
        newest = deque(from_file(family, path, step), maxlen=plan.calls + live)
        # A small file is shared: at most a quarter of it is live traffic.
        live = min(live, len(newest) // 4)
        records = list(newest)
        if len(records) - live < _FEWEST_PAST:
            raise InvalidArgument(
                "data", f"{path} holds {len(records)} usable decisions; the demo needs at least {_FEWEST_PAST * 4 // 3}"
            )
        step.note = f"the newest {len(records)} decisions: {len(records) - live} to learn from, {live} as live traffic"
    return records[: len(records) - live], RecordedTraffic(records[len(records) - live :], plan.seconds)
