"""All figures of `turnout bench`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks import assignment, control, drift, experiment_path, ledger, monitoring, overload, peers, serving
from benchmarks.figures import Figure, Topic

TOPICS: Final[tuple[Topic, ...]] = (
    Topic((*serving.NAMES, *peers.names()), serving.measure),
    assignment.TOPIC,
    experiment_path.TOPIC,
    control.TOPIC,
    drift.TOPIC,
    ledger.TOPIC,
    monitoring.TOPIC,
    overload.TOPIC,
)


def run_suite(
    *, only: str | None = None, progress: Callable[[str], None], say: Callable[[str], None]
) -> Iterator[Figure]:
    """Measures and yields the figures, or the one called `only`.

    `progress` hears what is being done, `say` what a reader should still see afterwards.

    Raises:
        LookupError: there is no figure called `only`; the text names them all.
    """
    names = [name for topic in TOPICS for name in topic.names]
    if only is not None and only not in names:
        raise LookupError(f"there is no figure {only!r}; there are: {', '.join(names)}")
    for topic in TOPICS:
        if only is not None and only not in topic.names:
            continue
        # What earlier topics left in this process must not cost the collector's time in later ones.
        gc.collect()
        gc.freeze()
        for figure in topic.measure(progress, say):
            if only is None or figure.name == only:
                yield figure
