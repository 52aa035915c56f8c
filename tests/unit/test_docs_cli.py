"""docs/cli.md and the command say the same: what one has, the other has too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from benchmarks.suite import TOPICS
from services.cli.main import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROOT = typer.main.get_command(app)
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def commands(command: Any = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Gives each command that does something by its words, with its options."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        yield from commands(one, (*words, name))
    if not below:
        yield words, {text for one in command.params for text in (*one.opts, *one.secondary_opts)} | {"-h", "--help"}


COMMANDS = dict(commands())


def typed(text: str) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Gives the command lines in the shell blocks and the code spans of a page: words, and options."""
    blocks = re.findall(r"^ *```(?:sh|console)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`(turnout [^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (*lines, *(span.replace("\n", " ") for span in spans)):
        if not line.startswith("turnout ") or "|" in line or "…" in line:
            continue
        try:
            said = shlex.split(line, comments=True)[1:]
        except ValueError:
            continue
        yield tuple(said), {word.partition("=")[0] for word in said if OPTION.fullmatch(word.partition("=")[0])}


def named(said: tuple[str, ...]) -> tuple[str, ...] | None:
    """Gives the command that a line begins with, if there is one."""
    return next((said[:length] for length in (3, 2, 1) if said[:length] in COMMANDS), None)


@pytest.mark.parametrize(
    "page", sorted(DOCS.parent.glob("*.md")) + sorted(DOCS.glob("*.md")), ids=lambda page: page.name
)
def test_what_a_page_types_exists(page: Path) -> None:
    """Each `turnout …` in the pages is a command with these options; a group alone may be spoken of."""
    wrong = []
    for said, options in typed(page.read_text()):
        if said[0].startswith("-") or (len(said) == 1 and said[0] in {"split", "alerts", "models"}):
            continue
        words = named(said)
        if words is None or not options <= COMMANDS[words]:
            wrong.append(f"turnout {' '.join(said)}")
    assert wrong == []


def test_the_manual_of_the_command_names_every_command() -> None:
    """Nothing that `turnout --help` and the groups' help list is missing in cli.md."""
    text = (DOCS / "cli.md").read_text()
    for words in COMMANDS:
        section = text.partition(f"## `turnout {words[0]}`")[2].partition("\n## ")[0] if len(words) > 1 else text
        name = " ".join(words[1:]) or words[0]
        assert re.search(rf"`[^`]*(?<![\w-]){name}(?![\w-])[^`]*`", section), f"turnout {' '.join(words)}"


def test_the_manual_of_the_command_names_no_option_that_is_not_there() -> None:
    """Each --option in a section of cli.md is one of that command, or of a command of that group."""
    text = (DOCS / "cli.md").read_text()
    sections = re.findall(r"^## (`turnout [^\n]*)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(sections) > 5
    for heading, section in sections:
        spoken_of = set(re.findall(r"\w+", heading))
        there = set().union(*(options for words, options in COMMANDS.items() if words[0] in spoken_of))
        assert set(OPTION.findall(" ".join(re.findall(r"`([^`]+)`", section)))) <= there, heading


def test_every_figure_of_the_bench_has_its_line() -> None:
    """Who reads benchmarks.md knows each figure's meaning before it is measured."""
    text = (DOCS / "benchmarks.md").read_text()
    assert [name for topic in TOPICS for name in topic.names if f"`{name}`" not in text] == []
