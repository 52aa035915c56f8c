"""What a model finds wrong is told in plain words, with the field as whoever wrote it knows it."""

from __future__ import annotations

from typing import Any

import pytest

from services.runtime.errors import InvalidArgument
from services.runtime.experiment import Experiment
from services.runtime.field_paths import checked

GOOD: dict[str, Any] = {
    "name": "n",
    "family": "f",
    "salt": "s",
    "champion": "a",
    "strategy": {"kind": "weighted"},
    "arms": {"a": {"variant": "rules"}},
}
NAME = "must be 1 to 63 letters, digits, '_', '.' and '-', the first one a letter or a digit"


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("name", "../x", f"name: {NAME}"),
        ("name", "a\n", f"name: {NAME}"),
        ("family", "Dispatch", "family: must be 1 to 63 small letters, digits and '_', the first one a letter"),
        ("arms", {"a b": {"variant": "rules"}}, f"arms[a b]: {NAME}"),
        ("arms", {}, "arms: must not be empty"),
        ("arms", {f"a{n}": {"variant": "r"} for n in range(33)}, "arms: must have at most 32 entries"),
        ("salt", "", "salt: must not be empty"),
        ("salt", "s" * 65, "salt: must be at most 64 characters"),
        ("priority", 1001, "priority: must be at most 1000"),
        ("hold_out_percent", -0.5, "hold_out_percent: must be at least 0"),
        ("hold_out_percent", 100, "hold_out_percent: must be under 100"),
        ("hold_out_percent", float("nan"), "hold_out_percent: must be a finite number"),
        ("shadows", {"x": 0}, "shadows[x]: must be above 0"),
    ],
)
def test_a_limit_is_told_in_plain_words(field: str, value: Any, told: str) -> None:
    """One sentence that names the field and the limit."""
    with pytest.raises(InvalidArgument) as refused:
        checked(Experiment, GOOD | {field: value})
    assert refused.value.message == told
