"""Names of strangers in a terminal: control codes, bidirectional marks and broken bytes become visible escapes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast import errors
from edgeplast.cli.console import json_text, print_table, say
from edgeplast.printable import printable

ESCAPES = "cat\x1b[2J\x1b]0;title\x07\x9b31m\r\u202edog\x7f"


def test_control_codes_become_visible_and_the_rest_stays() -> None:
    assert printable("a\x1b[2Jb") == r"a\x1b[2Jb"
    assert printable("\u202egpj.exe") == r"\u202egpj.exe"
    assert printable("naïve 猫 [red] :dog:") == "naïve 猫 [red] :dog:"
    assert printable(b"a\xff".decode("utf-8", "surrogateescape")) == r"a\udcff"
    assert printable("two\nlines\t", keep="\n") == "two\nlines\\t"


@given(st.text())
def test_whatever_a_name_holds_what_is_shown_prints_and_can_be_encoded(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert printable(shown) == shown


def test_every_error_is_fit_for_a_terminal() -> None:
    for kind in (errors.EdgeplastError, *errors.EdgeplastError.__subclasses__()):
        assert str(kind(f"There is no {ESCAPES}.\nLook.")).replace("\n", "").isprintable()


def test_lines_and_tables_do_not_pass_control_codes_on(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"left out: {ESCAPES}", err=True)
    print_table(ESCAPES, ("picture",), [(ESCAPES,)], note=ESCAPES)
    captured = capsys.readouterr()
    assert captured.out.replace("\n", "").isprintable() and captured.err.replace("\n", "").isprintable()
    assert r"\x1b" in captured.out and r"\x1b" in captured.err


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same_without_control_codes(name: str) -> None:
    text = json_text(json.dumps({"image": name}, ensure_ascii=False).encode())
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"image": name}
