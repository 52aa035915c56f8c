"""What Prometheus sees of the backends' guards, read when it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.backends.pool import Pool
from router.resilience.breaker import BreakerState

_LABELS: Final = ("family", "variant", "address")


class GuardCollector(Collector):
    """State of every backend, by family, variant and address; all of these come from the configuration."""

    def __init__(self, pools: Callable[[], Mapping[tuple[str, str], Pool]]) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        """Gives the metrics as they are now."""
        ready = GaugeMetricFamily("turnout_backend_connected", "Whether the link is open.", labels=_LABELS)
        state = GaugeMetricFamily(
            "turnout_breaker_open", "1 while the breaker is open, 0.5 while half-open, 0 while closed.", labels=_LABELS
        )
        opened = CounterMetricFamily("turnout_breaker_opened", "How often the breaker opened.", labels=_LABELS)
        limit = GaugeMetricFamily("turnout_concurrency_limit", "Calls that may be under way.", labels=_LABELS)
        under_way = GaugeMetricFamily("turnout_backend_under_way", "Calls that are under way.", labels=_LABELS)
        shown = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}
        for (family, variant), pool in list(self._pools().items()):
            for link in pool.links:
                labels = (family, variant, link.address)
                ready.add_metric(labels, float(link.served is not None))
                state.add_metric(labels, shown[link.guard.state])
                opened.add_metric(labels, link.guard.opened)
                limit.add_metric(labels, link.guard.limit)
                under_way.add_metric(labels, link.in_flight)
        return (ready, state, opened, limit, under_way)


def follow_guards(registry: CollectorRegistry, pools: Callable[[], Mapping[tuple[str, str], Pool]]) -> None:
    """Shows the guards of the pools in a registry."""
    registry.register(GuardCollector(pools))
