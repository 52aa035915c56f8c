"""Reasons of fallbacks in words, also those of a router that is newer than its reader."""

from __future__ import annotations

from bentos.family import load
from monitoring.cycle.shadows import shadow_quality
from monitoring.ledger.aggregates import Totals
from monitoring.ledger.reading import ShadowResults
from monitoring.ledger.statistics import Statistics
from router.resilience.reasons import Fallback
from services.runtime.fallback_words import count_by_word, fallback_word

NEWER = max(Fallback) + 1000


def test_every_reason_has_its_word() -> None:
    """The router's names, in small letters; 0 is what the protocol calls the lack of one."""
    assert fallback_word(Fallback.NONE) == "unspecified"
    some = [one for one in Fallback if one]
    assert [fallback_word(one) for one in some] == [one.name.lower() for one in some]


def test_reasons_that_nobody_knows_are_counted_together() -> None:
    """Nothing is left out of a sum, and nothing breaks."""
    counts = [(Fallback.TIMEOUT, 3), (NEWER, 2), (NEWER + 1, 5)]
    assert count_by_word(counts) == {"timeout": 3, "other": 7}


def test_a_shadow_that_failed_for_a_new_reason_is_reported_all_the_same() -> None:
    """The ledger stores any number from 0 on."""
    nothing = Totals(Statistics())
    results = ShadowResults(0, {NEWER: 2, Fallback.ERROR: 1}, nothing, nothing)
    told = shadow_quality(load("dispatch"), ("trial", "new"), results, since_us=0, until_us=1)
    assert dict(told.failures) == {"other": 2, "error": 1}
