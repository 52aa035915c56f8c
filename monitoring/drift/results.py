"""What a test of drift says: windows compared, effect, confidence, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a test concludes."""

    OK = "ok"
    """Nothing beyond what the thresholds allow was found."""
    DRIFT = "drift"
    """The difference is real (the stated false-alarm rate holds) and larger than the threshold allows."""
    NOT_ENOUGH_DATA = "not enough data"
    """Too few decisions, or an interval too wide, to conclude either way."""


class Aspect(Enum):
    """What was looked at. Each but JOINT matches a type of alert."""

    FEATURE = "feature drift"
    JOINT = "joint feature drift"
    PREDICTION = "prediction drift"
    CONCEPT = "concept drift"
    QUALITY = "data quality"
    PERFORMANCE = "performance degradation"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of decisions: what counts, and where it lies.

    `start` and `end` are seconds since 1970-01-01T00:00Z in comparisons of windows, and numbers of decisions since
    the start of the run in online monitors; `end` is not included.
    """

    decisions: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """How far two windows' distributions are from each other."""

    ks: float
    """Kolmogorov-Smirnov distance of numbers, total variation distance of categories; in [0, 1]."""
    lower: float
    """The same, less what sketches may be wrong by."""
    psi: float
    """Population stability index, in nats."""
    js: float
    """Jensen-Shannon distance, in [0, 1]."""
    p_value: float
    """Before any correction; NaN where one side has no values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult:
    """One test's result.

    `effect` is `measure` (named in words, with its unit); `limit` the value of it that is still fine. `p_value` is
    already corrected for the number of columns and of looks: `verdict` is DRIFT only where it is at most
    `false_alarm_rate`. `detail` is one sentence for people.
    """

    aspect: Aspect
    subject: str
    """Name of the feature or of the quantity."""
    test: str
    reference: Window
    current: Window
    measure: str
    effect: float
    limit: float
    p_value: float
    false_alarm_rate: float
    verdict: Verdict
    detail: str
    raised_at: float | None = None
    """Decision number (online) at which this test first said DRIFT since it was last reset."""
    distances: Distances | None = None
    """Of comparisons of windows."""


def waits_for(seen: int, reference: int, after: int, what: str) -> str:
    """Says what a test waits for that can tell nothing yet.

    Without how many there are: so it is one sentence for arms that are not equally far.

    Args:
        seen: decisions so far.
        reference: how many of the first become the reference.
        after: how many more are needed after these.
        what: decisions, or labelled decisions.
    """
    if seen < reference:
        return f"the first {reference} {what} become the reference, and {after} after them are needed"
    return f"{after} more {what} after the reference are needed"
