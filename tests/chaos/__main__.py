"""Runs the chaos suite: `python -m tests.chaos [--calls N] [--case WORD] [--seed S] [--long]`.

One line a case while running, and in the end one JSON line a case. The exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from dataclasses import replace

import structlog

from tests.chaos import suite
from tests.chaos.case import Case, Options, Result

LONG_CALLS = 20_000


def options_of(calls: int, seed: int, *, long: bool) -> Options:
    """Gives the sizes of a run: with 20 000 calls or more the counts that the promises name."""
    options = Options(seed=seed, calls=calls)
    if long or calls >= LONG_CALLS:
        return replace(options, kills=1000, swaps=1000, cuts=10_000, messages=1_000_000)
    return options


async def run(cases: list[Case], options: Options) -> list[tuple[Case, Result]]:
    """Runs cases one after the other; each starts from nothing."""
    results = []
    for case in cases:
        began = time.monotonic()
        try:
            result = await case.run(options)
        except Exception as error:  # noqa: BLE001 - a case that cannot run is a broken promise, and the next one runs
            result = Result(broken=[f"the case itself failed: {type(error).__name__}: {error}"])
        results.append((case, result))
        say(case, result, time.monotonic() - began, options.seed)
    return results


def say(case: Case, result: Result, seconds: float, seed: int) -> None:
    """Prints a case's line for people."""
    verdict = "holds " if result.holds else "BROKEN"
    figures = (
        f"calls {result.calls}, errors {result.errors}, late {result.late}, lost {result.lost}, double {result.double}"
    )
    why = "; ".join([*result.broken, *result.notes])
    print(f"{verdict} {case.name} ({seconds:.0f} s, seed {seed}): {case.promise} | {figures} | {why}", flush=True)


def main() -> int:
    """Reads the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--calls", type=int, default=Options(0).calls, help="calls a case; from 20 000 the long form")
    parser.add_argument("--case", action="append", default=[], help="only cases whose name holds this; repeatable")
    parser.add_argument("--seed", type=int, default=None, help="of everything random; printed with every case")
    parser.add_argument("--long", action="store_true", help="the counts of the long form, whatever --calls")
    parser.add_argument("--short", action="store_true", help="only the cases that `make test` runs")
    parser.add_argument("--list", action="store_true", help="print the cases' names and promises")
    for name in ("kills", "swaps", "cuts", "messages"):
        parser.add_argument(f"--{name}", type=int, default=None, help="overrides the form's count")
    arguments = parser.parse_args()
    cases = [
        case
        for case in suite.CASES
        if (not arguments.case or any(word in case.name for word in arguments.case))
        and (case.short or not arguments.short)
    ]
    if arguments.list:
        print("\n".join(f"{case.name}: {case.promise}" for case in cases))
        return 0
    # What the code under test logs in this process is no news here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    options = options_of(arguments.calls, seed, long=arguments.long)
    given = {name: getattr(arguments, name) for name in ("kills", "swaps", "cuts", "messages")}
    options = replace(options, **{name: value for name, value in given.items() if value is not None})
    results = asyncio.run(run(cases, options))
    for case, result in results:
        print(result.json(case.name))
    return 0 if all(result.holds is not False for _, result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
