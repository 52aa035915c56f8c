"""Conditions of targeting rules: compiled once, never an error to a caller, and bounded in cost."""

from __future__ import annotations

import pytest

from services.runtime.targeting import Row, compile_condition

ROW = Row(
    tenant="north",
    metadata={"app": "web"},
    numbers={"speed": 12.5, "age": 3.0},
    categories={"kind": "fire"},
    flags={"urgent": True},
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('tenant == "north"', True),
        ('tenant == "south" || numbers["speed"] > 20.0', False),
        ('metadata["app"].startsWith("we") && flags["urgent"]', True),
        ('categories["kind"] in ["fire", "flood"]', True),
        ('numbers.exists(name, name == "speed" && numbers[name] > 10.0)', True),
        ('numbers["height"] > 1.0', None),
        ('metadata["app"] == "web" && numbers["height"] > 1.0', None),
        ('"height" in numbers && numbers["height"] > 1.0', False),
        ('tenant == "north" || numbers["height"] > 1.0', True),
    ],
)
def test_a_condition_holds_or_not_or_cannot_be_evaluated(text: str, holds: bool | None) -> None:  # noqa: FBT001 - data
    """What looks at a feature that is absent gives None; CEL's own logic decides where the other side is enough."""
    assert compile_condition(text).holds(ROW) is holds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenant ==", "not a CEL condition: 1:"),
        ("tenant", "must give a bool, not string"),
        ("numbers['a'] == 'x'", "not a CEL condition"),
        ("colour == 'red'", "undeclared reference"),
        ("true || " * 200 + "true", "at most 1024 bytes"),
        ("numbers.all(a, numbers.all(b, numbers.all(c, true)))", "not through a third"),
        ("numbers.all(a, (numbers . exists (b, numbers.filter(c, true).size() > 0)))", "not through a third"),
        ("""'(' != "\\"" && numbers.all(a, numbers.all(b, numbers.all(c, true)))""", "not through a third"),
    ],
)
def test_a_wrong_condition_is_refused_with_a_sentence(text: str, says: str) -> None:
    """Before anything goes by it."""
    with pytest.raises(ValueError, match="condition") as refusal:
        compile_condition(text)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "numbers.all(a, numbers.all(b, true)) && numbers.all(a, numbers.all(b, true))",
        "numbers.all(a, numbers.all(b, '.all(.all(.all(' != r'\\\\'))",
        "numbers.all(a, numbers.all(b, true // .all(.all(\n))",
        "numbers.filter(a, true).map(b, 1).all(c, true)",
    ],
)
def test_what_only_looks_nested_is_taken(text: str) -> None:
    """Macros one after the other, and words in strings and comments, count for nothing."""
    assert compile_condition(text).holds(ROW) is True


def test_the_longest_evaluation_is_ended() -> None:
    """With very many features a nested macro is given up, and the condition passed over."""
    many = Row("t", {}, {f"n{i}": 1.0 for i in range(1000)}, {}, {})
    assert compile_condition("numbers.all(a, numbers.all(b, true))").holds(many) is None
