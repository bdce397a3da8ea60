"""Words that are printed are explained where they are read: on a terminal, and on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeplast import words
from edgeplast.cli.app import run
from edgeplast.errors import InputError


def test_a_word_is_looked_up_by_itself_by_what_it_is_part_of_and_in_what_is_said() -> None:
    assert [*words.explained("rung")] == ["rung"]
    assert [*words.explained(" Summed  SCORE")] == ["summed score"]
    assert [*words.explained("no worse")] == ["dropped, no worse, worse, not run"]
    assert [*words.explained("accuracy (val)")] == ["accuracy (test), (val), (train)"]
    assert "linear probe" in words.explained("probe")
    assert "runtime" in words.explained("ort-training")
    assert words.explained("quark") == {}


def test_entries_are_plain_text() -> None:
    for heading, text in words.glossary().items():
        assert text and not re.search(r"\]\(|`|\*\*|#", text), heading


def test_what_stands_on_a_page_is_found_whole_and_in_the_plural() -> None:
    found = words.occurring("Two tiers. Changes of rung; a linear probe.")
    assert {"tier", "rung", "linear probe"} <= {*found} and "fitted head" not in found
    assert "tier" not in words.occurring("the frontier of tiering, sub-tier")


def test_a_terminal_has_them(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["glossary", "summed", "score"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("summed score\n  The scores of all components that train")
    assert max(map(len, shown.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "1")
    assert run(["glossary", "summed", "score"]) == 0 and "The scores of all" in capsys.readouterr().out
    assert run(["glossary"]) == 0 and capsys.readouterr().out.count("\n\n") == len(words.glossary())
    assert run(["glossary", "teir"]) == 2
    error = capsys.readouterr().err
    assert "The glossary has no 'teir'. Did you mean 'tier'" in error and "All its words: edgeplast glossary" in error
    assert run(["glossary", "tier", "--json"]) == 0 and '"kind": "glossary"' in capsys.readouterr().out


def test_an_installation_without_it_says_so_and_writes_pages_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.reporting.pages import Page, Section, write_page

    page = Page("T", "T", [("a", "rung")], [], [Section("S", "A tier.", "<p></p>", [])])
    write_page(page, tmp_path / "with.html")
    monkeypatch.setattr(words, "_PLACES", (tmp_path / "glossary.md",))
    write_page(page, tmp_path / "without.html")
    assert "<dt>rung</dt>" in (tmp_path / "with.html").read_text()
    assert "<dt>" not in (tmp_path / "without.html").read_text()
    with pytest.raises(InputError, match=r"no glossary: the file glossary\.md is missing"):
        words.glossary()
    assert run(["glossary", "tier"]) == 3
