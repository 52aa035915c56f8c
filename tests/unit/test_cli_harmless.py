"""Hostile texts on their way to a terminal."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from services.cli.harmless import HARMFUL, HarmlessConsole, in_json
from services.cli.output import Format, emit

HOSTILE = "\x1b]0;owned\x07\x1b[2Jname\u202etxt\x9b31m\r\x7f"


def test_a_table_shows_control_characters_and_does_not_send_them() -> None:
    """Whichever way a text gets into a table; line breaks stay, and so do the console's own colours."""
    told = io.StringIO()
    console = HarmlessConsole(file=told, force_terminal=True, width=200, color_system="standard")
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    table.add_row("two\nlines")
    console.print(table)
    console.print(HOSTILE, markup=False, soft_wrap=True)
    assert "\x1b[31m" in told.getvalue()
    assert "\x1b]" not in told.getvalue()
    assert "\x1b[2J" not in told.getvalue()
    assert not set("\x07\u202e\x9b\r\x7f") & set(told.getvalue())
    assert "name\N{REPLACEMENT CHARACTER}txt" in told.getvalue()


@pytest.mark.parametrize(("form", "load"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_programs_get_the_very_text(form: Format, load: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Escaped, so that whoever looks at it with their own eyes is safe as well."""
    emit(form, {"why": HOSTILE, HOSTILE: ["–", {"deep": HOSTILE}]}, Table)
    printed = capsys.readouterr().out
    assert not HARMFUL.search(printed)
    assert callable(load)
    assert load(printed) == {"why": HOSTILE, HOSTILE: ["–", {"deep": HOSTILE}]}


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=4))
def test_json_keeps_every_text(given_: dict[str, str]) -> None:
    """Whatever characters there are."""
    written = in_json(json.dumps(given_, ensure_ascii=False))
    assert json.loads(written) == given_
    assert not HARMFUL.search(written)
