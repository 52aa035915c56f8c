"""Ten thousand buckets: of units for layers and hold-outs, of decisions for shadows, each independently."""

from __future__ import annotations

from typing import Final

from router.strategies.hashing import framed, keyed, utf8
from services.runtime.experiment import BUCKETS

LAYER: Final = b"l"
HOLD_OUT: Final = b"h"
"""What buckets of units are for: the first letter of the hashed message, so that one salt serves both."""


def bucket(key: bytes, purpose: bytes, tenant: str, unit_id: str, decision_id: str) -> int:
    """Gives the bucket, 0 to 9 999, of a unit, or of a decision that has none, for LAYER or HOLD_OUT."""
    subject = b"u" + framed(tenant) + utf8(unit_id) if unit_id else b"d" + framed(tenant) + utf8(decision_id)
    return keyed(key, purpose + subject) * BUCKETS >> 64


def shadow_bucket(key: bytes, variant: str, decision_id: str) -> int:
    """Gives the bucket, 0 to 9 999, of a decision: it is copied to a shadow of p percent when under 100 · p."""
    return keyed(key, b"cd" + framed(variant) + utf8(decision_id)) * BUCKETS >> 64
