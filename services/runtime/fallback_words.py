"""Reasons of fallbacks as people write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from turnout.v1 import prediction_pb2

_BY_NUMBER: Final = prediction_pb2.FallbackReason.DESCRIPTOR.values_by_number


def fallback_word(number: int) -> str:
    """Gives a FallbackReason in small letters, such as "breaker_open"; "other" for one that this version does not know.

    A newer router may have written it, so that whoever reads a ledger meets numbers without a name.
    """
    known = _BY_NUMBER.get(number)
    return known.name.removeprefix("FALLBACK_REASON_").lower() if known is not None else "other"


def count_by_word(counts: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Gives counts of FallbackReasons by their words; all that are unknown are counted together."""
    words: Counter[str] = Counter()
    for number, count in counts:
        words[fallback_word(number)] += count
    return dict(words)
