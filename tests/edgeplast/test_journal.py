"""The journal: lines that stay, a torn one that does not count, and damage that is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeplast import journal
from edgeplast.errors import InputError


def test_what_is_noted_is_read_and_found(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "runs.jsonl"
    assert journal.read(path) == [] and not journal.holds(path, {"a": 1})
    assert journal.note(path, {"a": 1, "name": "käse\n"}) == path.read_text().rstrip("\n")
    journal.note(path, {"a": 2})
    assert journal.read(path) == [{"a": 1, "name": "käse\n"}, {"a": 2}]
    assert journal.holds(path, {"a": 1}) and not journal.holds(path, {"a": 2, "name": "käse\n"})


def test_a_line_that_was_torn_off_anywhere_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    journal.note(path, {"run": 1})
    whole = path.read_bytes()
    for end in range(1, len(whole)):
        path.write_bytes(whole + whole[:end])
        assert journal.read(path) == [{"run": 1}]
        journal.note(path, {"run": 2})
        assert journal.read(path) == [{"run": 1}, {"run": 2}]


def test_damage_before_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"run": 1}\n{"run": \n{"run": 3}\n')
    with pytest.raises(InputError, match=r"Line 2 of .*runs\.jsonl is no JSON\. Mend or remove that line\."):
        journal.read(path)
