"""What runs at this moment, as the check cycle wants to know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from bentos import manifest
from monitoring.cycle.platform import Platform, Served, Split
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
    served = tuple(
        Served(
            family=family,
            variant=variant,
            trained_at_us=_trained_at(home.bento(declared.bento)) if declared.bento else None,
            ready=None if ready is None else (family, variant) in ready,
            sleeps=declared.scale_to_zero,
        )
        for family, settings in config.families.items()
        for variant, declared in settings.variants.items()
    )
    return Platform(tuple(config.families), served, tuple(_split(one, now_us) for one in experiments))


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


@lru_cache(maxsize=1024)
def _trained_at(folder: Path) -> int | None:
    """Gives when a bento was trained; a bento never changes. None where its manifest does not say."""
    try:
        said = manifest.read(folder).provenance.get("created_at")
        at = datetime.fromisoformat(str(said))
    except (FailedPrecondition, ValueError):
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)
