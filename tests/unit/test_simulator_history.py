"""Training history: what earlier dispatchers did, and how it ended."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from bentos.dispatch import FAMILY
from services.dispatch.history import SendPlausible, history, send_closest
from services.dispatch.incidents import Incident
from services.dispatch.synthetic import synthetic_city
from services.runtime.identifiers import check_decision_id

CITY = synthetic_city(1)


def test_a_history_is_the_same_every_time() -> None:
    """One seed gives one history, ids included; another seed gives another."""
    first, again, other = (list(history(CITY, seed, 120)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_there_is_one_valid_record_a_call_in_order_of_decision() -> None:
    """Ids are unique and valid, features pass the schema, outcomes are 0 or 1, time never goes back."""
    records = list(history(CITY, 1, 400))
    assert len(records) == 400
    assert len({record.decision_id for record in records}) == 400
    assert all(a.at <= b.at for a, b in itertools.pairwise(records))
    for record in records:
        check_decision_id(record.decision_id)
        assert record.decision_id.startswith(f"{record.unit_id}:")
        assert record.region in {station.name for station in CITY.stations}
        assert record.outcome in {0.0, 1.0}
        FAMILY.schema.encode(*FAMILY.schema.split(record.features))


def test_records_come_while_the_run_goes_on() -> None:
    """The first record of a very long history is there at once."""
    assert next(history(CITY, 1, 10_000_000)).decision_id.startswith("synthetic-1-1-")


def test_a_dispatcher_who_explores_sends_others_than_the_nearest_too() -> None:
    """Without exploration it sends the closest; with it every place in the order occurs, the first most often."""
    chosen: Counter[int] = Counter()

    def watched(policy: SendPlausible) -> Counter[int]:
        chosen.clear()

        def decide(incident: Incident) -> int:
            index = policy(incident)
            chosen[index] += 1
            if policy.exploration == 0:
                assert index == send_closest(incident)
            return index

        list(history(CITY, 1, 500, decide))
        return chosen.copy()

    rng = np.random.default_rng(3)
    assert set(watched(SendPlausible(rng, exploration=0.0))) == {0}
    counts = watched(SendPlausible(rng))
    assert set(counts) == set(range(6))
    assert counts[0] == max(counts.values())


def test_some_ages_are_not_known() -> None:
    """A feature that nobody knew is left out, in about one call of twelve."""
    records = list(history(CITY, 1, 1_000))
    unknown = sum("patient_age" not in record.features for record in records)
    assert unknown == pytest.approx(80, abs=4 * np.sqrt(80))


def test_outcomes_depend_on_time_and_skill_and_the_rules_see_only_a_part() -> None:
    """Fast and skilled assignments succeed more often; the rules rank outcomes better than chance, not perfectly."""
    records = list(history(CITY, 1, 4_000))
    outcomes = np.array([record.outcome for record in records])
    rows = np.array([FAMILY.schema.encode(*FAMILY.schema.split(record.features))[1] for record in records])
    names = FAMILY.schema.names
    fast = rows[:, names.index("response_time_min")] < 6
    skilled = rows[:, names.index("expertise")] > 0.5
    assert outcomes[fast].mean() > outcomes[~fast].mean() + 0.1
    assert outcomes[skilled].mean() > outcomes[~skilled].mean() + 0.1
    said = np.array([FAMILY.rules(FAMILY.row(*row)).value for row in rows])
    order = said.argsort(kind="stable")
    ranks = np.empty(len(said))
    ranks[order] = np.arange(len(said))
    for value in np.unique(said):
        ranks[said == value] = ranks[said == value].mean()
    good = int(outcomes.sum())
    auc = (ranks[outcomes == 1].sum() - good * (good - 1) / 2) / (good * (len(outcomes) - good))
    assert 0.6 < auc < 0.9
