"""The words of commands, tables and pages, and what they mean: the glossary of the documentation, where it is read."""

from __future__ import annotations

import re
from pathlib import Path

from edgeplast.errors import InputError

_PLACES = (Path(__file__).parent / "glossary.md", Path(__file__).parents[1] / "docs" / "glossary.md")
"""In a wheel, and in a checkout."""

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def glossary() -> dict[str, str]:
    """Return each heading of the glossary (``rung``; several words that are one thing stand together), and its text.

    Raises:
        InputError: the installation has none.
    """
    place = next((place for place in _PLACES if place.is_file()), None)
    if place is None:
        raise InputError("This installation has no glossary: the file glossary.md is missing in edgeplast's folder.")
    _, *entries = re.split(r"^### +", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for entry in entries:
        heading, _, text = entry.partition("\n")
        found[heading.strip()] = re.sub(r"[*`]", "", _LINK.sub(r"\1", " ".join(text.split())))
    return found


def words_of(heading: str) -> list[str]:
    """Return the words that one heading explains: ``round, seed, a first try`` are three."""
    return [re.sub(r" \(.*\)$", "", word) for word in re.split(r", (?![^(]*\))", heading)]


def explained(word: str) -> dict[str, str]:
    """Return the entries for a word: that of the word itself, else those whose words hold it, else whose text does."""
    entries, wanted = glossary(), " ".join(word.split()).casefold()
    parts = {heading: [part.casefold() for part in (heading, *words_of(heading))] for heading in entries}
    own = [heading for heading, words in parts.items() if wanted in words]
    like = [heading for heading, words in parts.items() if any(_holds(p, wanted) or _holds(wanted, p) for p in words)]
    told = [heading for heading, text in entries.items() if wanted in text.casefold()]
    return {heading: entries[heading] for heading in own or like or told}


def _holds(text: str, words: str) -> bool:
    return bool(words) and f" {words} " in f" {text} "


def occurring(text: str) -> dict[str, str]:
    """Return the entries whose words occur in a text, but for those that have an everyday meaning too."""
    found = {}
    for heading, meaning in glossary().items():
        words = [word for word in words_of(heading) if len(word) > 1 and word not in _EVERYDAY]
        if any(re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", text, re.IGNORECASE) for word in words):
            found[heading] = meaning
    return found


_EVERYDAY = ("kept", "left out", "finished", "full", "half", "names", "pairs", "round", "score", "unchanged", "worse",
             "an epoch", "at a time", "dropped", "not run", "expires", "quarter", "types", "unknown", "wall",
             "train", "T", "made from", "seed", "changed")  # fmt: skip
