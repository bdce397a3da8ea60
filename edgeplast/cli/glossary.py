"""``edgeplast glossary``: what a word that is printed here means."""

from __future__ import annotations

import sys
import textwrap
from difflib import get_close_matches
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, say
from edgeplast.cli.wrapping import columns_of
from edgeplast.errors import UsageError

_NARROWEST, _WIDEST = 30, 98


def glossary(
    word: Annotated[
        list[str] | None,
        typer.Argument(help="What to look up: rung, tier, kept, summed score. Without one: all words."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print entries as JSON.")] = False,
) -> None:
    """Say what a word means that edgeplast prints, in tables, reports and messages."""
    from edgeplast.words import explained, words_of
    from edgeplast.words import glossary as all_words

    asked = " ".join(word or ())
    found = explained(asked) if asked else all_words()
    if not found:
        known = [each for heading in all_words() for each in words_of(heading)]
        near = get_close_matches(asked, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise UsageError(f"The glossary has no {asked!r}.{hint} All its words: edgeplast glossary")
    if as_json:
        print_json("glossary", {"words": found})
        return
    width = max(min(columns_of(sys.stdout) - 2, _WIDEST), _NARROWEST)
    for heading, text in found.items():
        say(f"{heading}\n{textwrap.fill(text, width, initial_indent='  ', subsequent_indent='  ')}\n")
