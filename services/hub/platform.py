"""What runs at this moment, as the check cycle wants to know it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from bentos import manifest
from monitoring.cycle.platform import Platform, Served, Split, Training
from services.control.fitting import Ready
from services.runtime.config import Config
from services.runtime.errors import FailedPrecondition
from services.runtime.experiment import Experiment, Random, Time
from services.runtime.home import Home

Running = tuple[Sequence[Experiment], Ready | None]


def platform_of(config: Config, running: Running, *, now_us: int) -> Platform:
    """Gives the platform that turnout.yaml and the experiments make.

    Args:
        config: the file.
        running: the experiments, and what routers have ready.
        now_us: microseconds since 1970-01-01T00:00Z.
    """
    experiments, ready = running
    home = Home(config.home)
    served = []
    for family, settings in config.families.items():
        for variant, declared in settings.variants.items():
            at_us, training = _trained(home.bento(declared.bento)) if declared.bento else (None, None)
            one = Served(
                family=family,
                variant=variant,
                trained_at_us=at_us,
                ready=None if ready is None else (family, variant) in ready,
                training=training,
                sleeps=declared.scale_to_zero,
            )
            served.append(one)
    return Platform(tuple(config.families), tuple(served), tuple(_split(one, now_us) for one in experiments))


def platform_source(
    config: Config, running: Callable[[], Running], now_us: Callable[[], int]
) -> Callable[[], Platform]:
    """Gives what asks for the platform as it is now."""
    return lambda: platform_of(config, running(), now_us=now_us())


def _split(experiment: Experiment, now_us: int) -> Split:
    """Gives what the arms should get; none where units do not follow weights, or followed others before."""
    ramping = experiment.ramp is not None and experiment.ramp.starts_at_unix_s * 1_000_000 <= now_us
    plain = not (isinstance(experiment.strategy, Time) or experiment.paused or experiment.winner or ramping)
    equal = isinstance(experiment.strategy, Random)
    shares = {name: 1.0 if equal else float(weight) for name, weight in experiment.whole_weights().items()}
    weights = shares if plain else None
    return Split(family=experiment.family, experiment=experiment.name, revision=experiment.revision, weights=weights)


def _trained(folder: Path) -> tuple[int | None, Training | None]:
    """Gives when a bento was trained, and on what; None where nobody says."""
    try:
        return _read(folder)
    except FailedPrecondition:
        # It may not be packaged yet: the next look may find it.
        return None, None


@lru_cache(maxsize=1024)
def _read(folder: Path) -> tuple[int | None, Training | None]:
    """Reads a manifest once: a bento never changes."""
    said = manifest.read(folder)
    at = _instant(said.provenance.get("created_at"))
    at_us = None if at is None else int(at * 1e6)
    if not said.bounds or len(said.bounds) != len(said.features):
        return at_us, None
    rows = said.provenance.get("rows")
    training = Training(
        bounds={
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in zip(said.features, said.bounds, strict=True)
        },
        rows=int(rows.get("train", 0)) if isinstance(rows, dict) else 0,
        since_s=_instant(said.provenance.get("from")) or 0.0,
        until_s=_instant(said.provenance.get("test_from") or said.provenance.get("to")) or 0.0,
    )
    return at_us, training


def _instant(said: object) -> float | None:
    """Reads a manifest's ISO instant, in seconds since 1970; None where it is none."""
    try:
        at = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
