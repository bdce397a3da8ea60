"""Fenced blocks and links of the documentation's pages, as the tests of them need them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("edgeplast", "exporters", "devices", "examples")
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *SITE, *sorted(p for room in ROOMS for p in (ROOT / room).rglob("README.md"))]
"""All texts for users: the README, the site's pages, the rooms' READMEs."""

MODEL = "vit_tiny_patch16_224"
KWARGS = '{"depth": 3}'
SIDE = "32"
"""What stands in for every model of the pages where they are run: three blocks, four patches."""

_FENCE = re.compile(r"^(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=ticks)", re.M | re.S)
_CALLED = re.compile(r"(?:^|(?<=[\s/]))edgeplast (?=[a-z-])")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: page, first line, language, text."""

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that a page shows, its words after ``edgeplast``; alone, or inside another program's (docker)."""

    page: Path
    line: int
    words: tuple[str, ...]
    alone: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: edgeplast {shlex.join(self.words)}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Fenced blocks of a page in some languages, in its order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start("text")) + 1, found["language"], found["text"])
        for found in _FENCE.finditer(text)
        if found["language"] in languages
    ]


def commands(page: Path) -> list[Command]:
    """The commands of edgeplast in a page's shell blocks, units of services, and blocks without a language."""
    return [command for block in blocks(page, "bash", "console", "ini", "") for command in _commands(block)]


def _commands(block: Block) -> Iterator[Command]:
    pending, first = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        first = first if pending else number
        pending += line.removeprefix("$ ")
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if found := _CALLED.search(pending):
            words = tuple(shlex.split(pending[found.end() :], comments=True))
            yield Command(block.page, first, words, alone=found.start() == 0)
        pending = ""


def links(page: Path) -> list[str]:
    """Targets of a page's links to other files."""
    text = _FENCE.sub("", page.read_text())
    return [target for target in _LINK.findall(text) if "://" not in target]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What ``#…`` may name on a page, by the rule that GitHub and mkdocs share for plain headings."""
    found = set()
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading)).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found
