"""Every link of the manual leads somewhere, and every page can be reached from the front door."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(\s*([^)\s]+)\s*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


class Page(NamedTuple):
    """What links and anchors a page has."""

    links: list[str]
    anchors: set[str]


def read(text: str) -> Page:
    """Gives the relative links of a page, and the anchors that a hosting site makes of its headings."""
    prose = FENCE.sub("", text)
    anchors: set[str] = set()
    for heading in HEADING.findall(prose):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in anchors:
            number += 1
        anchors.add(numbered)
    links = [link for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose)) if not re.match(r"[a-z]+:", link)]
    return Page(links, anchors)


def pages() -> list[Path]:
    """Gives the pages of the repository, none of those that tools leave beside it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
    return sorted(ROOT / name for name in found.stdout.splitlines() if (ROOT / name).exists())


def broken(page: Path) -> list[str]:
    """Gives the links of a page that lead nowhere."""
    wrong = []
    for link in read(page.read_text()).links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            wrong.append(f"{link}: there is no such file")
        elif anchor and (target.suffix != ".md" or anchor not in read(target.read_text()).anchors):
            wrong.append(f"{link}: {target.name} has no such heading")
    return wrong


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_exists(page: Path) -> None:
    """A page that was moved or a heading that was renamed takes its links along."""
    assert broken(page) == []


def test_every_page_of_the_manual_can_be_reached_from_the_readme() -> None:
    """Nobody has to guess a file's name: the README, or a page that it leads to, links it."""
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in read(page.read_text()).links)
        ahead.extend(target for target in targets if target.suffix == ".md" and target.exists())
    assert [str(page.relative_to(ROOT)) for page in pages() if page not in reached] == []


def test_what_stands_in_code_is_no_link_and_a_repeated_heading_gets_a_number() -> None:
    """The reading of a page itself: code aside, punctuation gone, the second of two headings told apart."""
    page = read("# A `b`, c!\n[x](y.md#z) `[no](no.md)` [w](https://example.org)\n```\n# no\n[no](no)\n```\n## A b c\n")
    assert page == Page(["y.md#z"], {"a-b-c", "a-b-c-1"})
