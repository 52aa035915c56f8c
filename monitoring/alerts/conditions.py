"""What somebody saw: whether a condition holds, where, and with which numbers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from monitoring.alerts.kinds import AlertType, Severity
from services.runtime.errors import InvalidArgument

MAX_LABELS: Final = 16
MAX_LABEL_BYTES: Final = 256
MAX_SUMMARY_BYTES: Final = 1024
RESERVED: Final = frozenset({"type", "severity", "alertname", "priority"})
"""Labels that notifications add themselves."""
_GROUPED_BY: Final = ("family", "experiment")
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Verdict(Enum):
    """Whether a condition holds."""

    HOLDS = "holds"
    CLEAR = "clear"
    UNKNOWN = "unknown"
    """Not enough data, or the look failed: whatever stands, stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One look at one condition. The same type and labels mean the same condition.

    Args:
        type: what would be wrong.
        labels: where: family, experiment, arm, variant, tenant, feature; at most 16.
        verdict: whether it holds.
        summary: one sentence with the numbers, at most 1 KiB.
        severity: how bad it is by its effect; None takes the rule's, and the worse of both counts.
        value: the number that was compared.
        limit: what it was compared with.

    Raises:
        InvalidArgument: names the label or text at fault.
    """

    type: AlertType
    labels: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict = Verdict.HOLDS
    summary: str = ""
    severity: Severity | None = None
    value: float | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if len(self.summary.encode()) > MAX_SUMMARY_BYTES or "\0" in self.summary:
            raise InvalidArgument("summary", f"summary must be at most {MAX_SUMMARY_BYTES} bytes without NUL")
        for name in ("value", "limit"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InvalidArgument(name, f"{name} must be a finite number")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this condition from others."""
        return fingerprint(self.type, self.labels)

    @property
    def group(self) -> str:
        """Alerts of the same type in the same family and experiment reach a handler together."""
        return "/".join((self.type.value, *(self.labels.get(name, "") for name in _GROUPED_BY)))


def fingerprint(kind: AlertType, labels: Mapping[str, str]) -> str:
    """Gives 16 hexadecimal digits of the SHA-256 of type and labels; the labels' order does not matter."""
    canonical = json.dumps([kind.value, sorted(labels.items())], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def fitting(sentence: str) -> str:
    """Cuts a sentence to what a summary may hold."""
    return sentence.replace("\0", "").encode()[:MAX_SUMMARY_BYTES].decode(errors="ignore")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuses labels that are too many, reserved, or no labels.

    Raises:
        InvalidArgument: names the label.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidArgument("labels", f"labels must be at most {MAX_LABELS}")
    for name, value in labels.items():
        place = f"labels[{name[:64]}]"
        if not _NAME.fullmatch(name):
            raise InvalidArgument(place, f"{place}: a label's name is made of [a-z_][a-z0-9_]*, at most 63 characters")
        if name in RESERVED:
            raise InvalidArgument(place, f"{place}: this label is set by the alert itself")
        if not value or len(value.encode()) > MAX_LABEL_BYTES or "\0" in value:
            raise InvalidArgument(place, f"{place} must be 1 to {MAX_LABEL_BYTES} bytes without NUL")
