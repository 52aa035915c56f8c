"""What each tenant may use of this router: decisions per period, and calls under way.

A call counts whether it is answered or refused for its content. Calls of critical families count as well, but are never
refused: who limits a tenant means its reports and its experiments, not its ambulances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from router.resilience.rate_limits import Rate, RateLimits
from services.runtime.config import Tenant
from services.runtime.errors import ResourceExhausted


class Quota:
    """The bounds of one tenant; `with quota:` is a call under way, after `admit`."""

    __slots__ = ("_clock", "_limits", "_most", "_rates", "_tenant", "under_way")

    def __init__(self, name: str, tenant: Tenant, clock: Callable[[], float]) -> None:
        self._tenant = name
        self._clock = clock
        self._rates = tenant.rate_limits
        limits = [Rate(limit.decisions, limit.seconds) for limit in tenant.rate_limits]
        self._limits = RateLimits(limits, clock())
        self._most = tenant.max_concurrent_calls
        self.under_way = 0

    def admit(self, decisions: int, *, critical: bool) -> None:
        """Lets a call with so many decisions in.

        Raises:
            ResourceExhausted: the tenant has used up what it may; says when to come again.
        """
        if critical:
            self._limits.take(decisions, self._clock())
            return
        if self._most is not None and self.under_way >= self._most:
            raise ResourceExhausted("", f"tenant {self._tenant!r} has {self._most} calls under way, its bound; wait")
        wait = self._limits.take(decisions, self._clock())
        if wait:
            allowed = " and ".join(f"{rate.decisions} a {rate.per}" for rate in self._rates)
            raise ResourceExhausted("", f"tenant {self._tenant!r} may make {allowed} decisions", retry_after=wait)

    def __enter__(self) -> None:
        self.under_way += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.under_way -= 1


class _Unlimited(Quota):
    """Of all tenants without bounds; keeps no count."""

    __slots__ = ()

    def __init__(self) -> None:
        """Needs nothing."""

    def admit(self, decisions: int, *, critical: bool) -> None:
        """Lets every call in."""

    def __enter__(self) -> None:
        """Counts nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Counts nothing."""


UNLIMITED: Final[Quota] = _Unlimited()


class Quotas:
    """The quotas of all tenants that have any. `clock` is monotonic, in seconds."""

    def __init__(self, tenants: Mapping[str, Tenant], clock: Callable[[], float]) -> None:
        self._by_tenant = {
            name: Quota(name, tenant, clock)
            for name, tenant in tenants.items()
            if tenant.rate_limits or tenant.max_concurrent_calls is not None
        }

    def of(self, tenant: str) -> Quota:
        """Gives a tenant's quota."""
        return self._by_tenant.get(tenant, UNLIMITED)
