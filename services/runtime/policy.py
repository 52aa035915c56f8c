"""What a family's configuration says about failures and overload, and what a tenant may use."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from services.runtime.experiment import Frozen, Name

PERIOD_SECONDS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
Reaction = Literal["serve", "rules"]
"""Whether the variant answers all the same, or the rules do."""


class BreakerPolicy(Frozen):
    """When the breaker of a backend opens, and for how long."""

    failures_in_a_row: int = Field(default=5, ge=1, le=1000)
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of failures among the calls of the window, from `fewest` calls on."""
    fewest: int = Field(default=20, ge=1, le=10_000)
    window_seconds: float = Field(default=10.0, ge=0.1, le=600)
    first_open_seconds: float = Field(default=1.0, ge=0.05, le=60)
    longest_open_seconds: float = Field(default=30.0, ge=0.05, le=600)
    slow_ms: float | None = Field(default=None, gt=0, le=5000)
    """Answers that took longer are used and count as failed; without it only those that came too late do."""

    @model_validator(mode="after")
    def _longest_is_longest(self) -> BreakerPolicy:
        if self.longest_open_seconds < self.first_open_seconds:
            raise ValueError("longest_open_seconds must not be under first_open_seconds")
        return self


class ConcurrencyPolicy(Frozen):
    """Bounds of the adaptive limit of calls under way at one backend."""

    lowest: int = Field(default=4, ge=1, le=4096)
    highest: int = Field(default=4096, ge=1, le=4096)
    first: int = Field(default=512, ge=1, le=4096)

    @model_validator(mode="after")
    def _in_order(self) -> ConcurrencyPolicy:
        if not self.lowest <= self.first <= self.highest:
            raise ValueError("lowest, first and highest must not decrease in this order")
        return self


class Policy(Frozen):
    """What happens when the assigned arm cannot answer, or had better not."""

    fallback_arms: tuple[Name, ...] = Field(default=(), max_length=8)
    """Variants that are asked one after the other when the assigned arm gave no answer, before the rules."""
    hedge: bool = False
    """Whether a second copy goes to another backend after the variant's own 95th percentile (≤ 5 % of calls)."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Answers of a model with less confidence are replaced by the rules'."""
    outside_training: Reaction = "serve"
    """Rows with a value outside of what the variant was trained on (0.1 % to 99.9 % quantile of each feature)."""
    critical_alert: Reaction = "serve"
    """Variants on which a critical alert stands."""
    breaker: BreakerPolicy = BreakerPolicy()
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy()


class RateLimit(Frozen):
    """At most so many decisions a period, in bursts of at most that many."""

    decisions: int = Field(ge=1, le=1_000_000_000)
    per: Literal["second", "minute", "hour", "day"]

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return PERIOD_SECONDS[self.per]


RateLimitList = Annotated[tuple[RateLimit, ...], Field(max_length=8)]
