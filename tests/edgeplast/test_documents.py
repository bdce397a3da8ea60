"""Records with a file of their own: read back as written, and refused with a reason when they are not valid."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.budget import Budget
from edgeplast.documents import Document
from edgeplast.errors import InputError


class Recipe(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    KIND: ClassVar[str] = "recipe"
    FORMAT: ClassVar[int] = 2
    format_version: int = 2
    name: str
    cups: tuple[float, ...] = ()
    budget: Budget = Budget()


@given(st.text(), st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_a_record_reads_back_as_written(name: str, cups: list[float]) -> None:
    recipe = Recipe(name=name, cups=tuple(cups))
    assert Recipe.from_json(recipe.to_json(), where="here") == recipe


def test_a_file_is_indented_and_ends_with_a_newline(tmp_path: Path) -> None:
    Recipe(name="tea").write(tmp_path / "tea.json")
    text = (tmp_path / "tea.json").read_text()
    assert text.startswith('{\n  "format_version": 2') and text.endswith("}\n")
    assert Recipe.read(tmp_path / "tea.json").name == "tea"


def test_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(InputError, match=r"recipe here has format 3; this edgeplast reads up to 2.*pip install"):
        Recipe.from_json(b'{"format_version": 3, "sugar": true}', where="here")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the recipe"):
        Recipe.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b'{"name": 3}',
        b'{"name": "x", "spoons": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"name": "x", "budget": {"memory_bytes": -4}}',  # the record's own check, not the JSON's
    ],
)
def test_what_is_no_record_says_where_and_what_it_should_be(data: bytes) -> None:
    with pytest.raises(InputError, match="here is not a valid recipe: "):
        Recipe.from_json(data, where="here")


@given(st.binary())
def test_any_bytes_are_a_record_or_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError):
        Recipe.from_json(data, where="here")


def test_a_file_larger_than_a_record_can_be_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(Recipe.MOST_BYTES + 1)
    with pytest.raises(
        InputError, match=r"big.json has 16 MiB; a recipe has 16 MiB at most, and this one was not read"
    ):
        Recipe.read(tmp_path / "big.json")
    with pytest.raises(InputError, match=r"here has .* a recipe has 16 MiB at most"):
        Recipe.from_json(b" " * (Recipe.MOST_BYTES + 1), where="here")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="Cannot read the recipe"):
        Recipe.read(Path(name))


def test_a_reason_that_quotes_the_file_is_cut() -> None:
    data = b'{"name": "x", "' + b"y" * 5000 + b'": 1}'
    with pytest.raises(InputError, match="here is not a valid recipe: ") as caught:
        Recipe.from_json(data, where="here")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("number", ["9" * 30, "9" * 400, "9" * 5000, "1e999", "-" + "9" * 30])
def test_numbers_beyond_what_json_carries_are_refused(number: str) -> None:
    with pytest.raises(InputError, match="here is not a valid recipe: "):
        Recipe.from_json(f'{{"name": "x", "budget": {{"memory_bytes": {number}}}}}'.encode(), where="here")


def test_paths_may_be_strings(tmp_path: Path) -> None:
    Recipe(name="tea").write(str(tmp_path / "tea.json"))
    assert Recipe.read(str(tmp_path / "tea.json")).name == "tea"
