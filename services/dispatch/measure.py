"""Measures the simulator: `python -m services.dispatch.measure [--calls N] [--seeds N] [CITY_FOLDER ...]`.

Prints, for the synthetic city and each folder, the time to load, the speed of the simulation, and how 'send closest'
meets the response-time targets, as rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.dispatch.city import City
from services.dispatch.history import send_closest, simulate
from services.dispatch.incidents import OutcomeKnown
from services.dispatch.jemss import read_city
from services.dispatch.synthetic import synthetic_city
from services.runtime.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of 'send closest' gave: outcomes by priority, and the speed in decisions and events a second."""

    responses: dict[int, list[tuple[float, bool, bool]]]
    decisions_per_s: float
    events_per_s: float


def run_closest(city: City, seeds: range, calls: int, clock: Callable[[], float]) -> Run:
    """Serves `calls` calls of each seed with 'send closest'."""
    responses: dict[int, list[tuple[float, bool, bool]]] = {index: [] for index in range(len(city.priorities))}
    handled, begin = 0, clock()
    for seed in seeds:
        simulation = simulate(city, seed, calls)
        for event in simulation.run(send_closest):
            if isinstance(event, OutcomeKnown):
                responses[event.priority].append((event.response_min, event.on_time, event.success))
        handled += simulation.handled
    seconds = clock() - begin
    return Run(responses, calls * len(seeds) / seconds, handled / seconds)


def table(city: City, run: Run) -> list[str]:
    """Rows: city, priority, target, calls, mean and 90th percentile of the response time, on time, success."""
    rows = []
    for index, priority in enumerate(city.priorities):
        if run.responses[index]:
            response, on_time, success = np.array(run.responses[index], dtype=float).T
            rows.append(
                f"| {city.name} | {priority.name} | {priority.target_min:g} | {len(response)} | {response.mean():.1f} "
                f"| {np.quantile(response, 0.9):.1f} | {on_time.mean():.1%} | {success.mean():.1%} |"
            )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.dispatch.measure", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="JEMSS city folders")
    parser.add_argument("--calls", type=int, default=5_000, help="calls of each seed")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 1 on")
    given = parser.parse_args(arguments)
    clock = time.perf_counter
    lines = []
    for folder in (None, *given.folders):
        begin = clock()
        try:
            city = synthetic_city(1) if folder is None else read_city(folder)
        except InvalidArgument as error:
            sys.stderr.write(f"{error.message}\n")
            return 2
        loaded = clock() - begin
        run = run_closest(city, range(1, given.seeds + 1), given.calls, clock)
        nodes, places = len(city.roads.xy_km), len(city.travel.call_nodes)
        sys.stdout.write(
            f"{city.name}: {nodes} nodes, {places} places, {len(city.units)} units; loaded in {loaded:.2f} s; "
            f"{run.decisions_per_s:.0f} decisions/s, {run.events_per_s:.0f} events/s\n"
        )
        lines += table(city, run)
    sys.stdout.write("\n| city | priority | target min | calls | mean min | p90 min | on time | success |\n")
    sys.stdout.write("|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
