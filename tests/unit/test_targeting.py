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
        ("['a']" + ".map(x, x + x)" * 24 + ".exists(x, x.size() > 5)", "may call map once"),
        ("metadata . map (k, k).map(k, k).size() > 0", "may call map once"),
        ("metadata.exists(k, metadata.exists(j, j.matches('(x?){200}' + k)))", "not stand inside"),
        ("numbers.all(n, n.matches('a'))", "not stand inside"),
        ("tenant.matches(metadata['pattern'])", "text that is written out"),
        ("matches(tenant, 'a')", "text that is written out"),
        ("tenant.matches('a' + 'b')", "text that is written out"),
        (f"tenant.matches('{'a' * 129}')", "at most 128 characters"),
        (r"tenant.matches(r'\pL+')", "may not use"),
        (r"tenant.matches('(x?)\x7b200}')", "may not use"),
        ("tenant.matches('(x?){200}(x?){200}')", "repeats too much"),
        ("tenant.matches('((x?){10}){99}')", "repeats too much"),
        ("tenant.matches // '\n ('(x?){200}(x?){200}')", "repeats too much"),
        ("numbers . // a\n all // b\n (a, numbers.all(b, numbers.all(c, true)))", "not through a third"),
        ("[" + "+".join(["tenant"] * 6) + "].exists(x, x == 'a')", "at most 4 additions"),
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
        "numbers.map(a, 1).all(c, '.map(+.map(+++++' != tenant) // .map(+++++",
        "tenant.matches('^n[a-z]+$') && 'matches(x)' != tenant",
        r"!tenant.matches(r'^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$')",
        r"""tenant.matches('^\\w+$') && tenant.matches("n")""",
    ],
)
def test_what_only_looks_nested_or_costly_is_taken(text: str) -> None:
    """Macros one after the other, and words in strings and comments, count for nothing."""
    assert compile_condition(text).holds(ROW) is True


def test_the_longest_evaluation_is_ended() -> None:
    """With very many features a nested macro is given up, and the condition passed over."""
    many = Row("t", {}, {f"n{i}": 1.0 for i in range(1000)}, {}, {})
    assert compile_condition("numbers.all(a, numbers.all(b, true))").holds(many) is None
