"""Lines in a terminal: broken at words, commands so that they can be copied, and in a pipe as they are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgeplast.cli import console
from edgeplast.cli.wrapping import columns_of, wrapped


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short enough", ["short enough"]),
        ("  a sentence that is longer than the line", ["  a sentence that is", "  longer than the line"]),
        ("two\nlines, of which one is too long", ["two", "lines, of which one is", "too long"]),
        ("a /path/that/is/longer/than/a/line stays", ["a", "/path/that/is/longer/than/a/line", "stays"]),
        ("it took all in all some 7.64 s, a peak of 12 MiB", ["it took all in all some", "7.64 s, a peak of 12 MiB"]),
        ("a number on its own is 12", ["a number on its own is", "12"]),
        ("", [""]),
    ],
)
def test_lines_are_broken_at_words(text: str, lines: list[str]) -> None:
    assert wrapped(text, 24).split("\n") == lines


def test_what_is_left_of_a_line_may_hang_below_its_second_column() -> None:
    said = wrapped("name   an explanation of some words", 24, hanging=7).split("\n")
    assert said == ["name   an explanation of", "       some words"]


def test_a_command_stays_whole_where_it_fits_on_a_line_of_its_own() -> None:
    line = "Written: adapted  (next: edgeplast deploy adapted -o model.onnx)"
    assert wrapped(line, 80) == line
    assert wrapped(line, 60).split("\n") == ["Written: adapted", "(next: edgeplast deploy adapted -o model.onnx)"]


def test_a_command_that_fits_on_no_line_can_still_be_pasted() -> None:
    line = "  Write: edgeplast deploy bundle -o model.onnx --weight-bits 8 --data images/"
    said = wrapped(line, 40)
    assert all(len(each) <= 40 for each in said.split("\n"))
    command = said[said.index("edgeplast") :].replace("edgeplast", "echo", 1)
    read = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert read.split() == line.split()[2:]


@pytest.mark.parametrize(
    "line",
    [
        "None was timed here yet: edgeplast doctor bundle/ --measure times them, one after the other.",
        "Scores are in scores.json (next: edgeplast report scores.json -o r.html, or edgeplast plan scores.json …)",
        "What it knew: edgeplast glossary tier. One more sentence that stands behind it and is long enough to break.",
    ],
)
def test_words_behind_a_command_are_no_part_of_it(line: str) -> None:
    said = wrapped(line, 60)
    assert all(len(each) <= 60 for each in said.split("\n")) and "\\" not in said
    assert said.split() == line.split()


def test_a_pipe_gets_lines_as_they_are_and_a_terminal_broken_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    line = "words " * 30
    monkeypatch.setenv("COLUMNS", "40")
    console.say(line)
    assert capsys.readouterr().out == f"{line}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    console.say(line)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert console.fail(line, 3, as_json=True) == 3
    said = capsys.readouterr()
    assert line.strip() in said.out  # JSON is for programs: no line break within a text
    assert max(map(len, said.err.splitlines())) <= 40


def test_how_wide_a_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert columns_of(None) == 123
    monkeypatch.setenv("COLUMNS", "wide")
    assert columns_of(None) == 80
    with open("/dev/null") as no_terminal:  # noqa: PTH123
        assert columns_of(no_terminal) == 80


@pytest.mark.skipif(os.name != "posix", reason="there is no pty")
def test_a_terminal_that_nobody_told_its_size_is_taken_to_have_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import pty
    import struct
    import termios

    monkeypatch.delenv("COLUMNS", raising=False)
    inner, outer = pty.openpty()
    with os.fdopen(inner, "rb", 0), os.fdopen(outer, "w") as terminal:
        assert os.get_terminal_size(outer).columns == 0 and columns_of(terminal) == 80
        fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 40, 0, 0))
        assert columns_of(terminal) == 40
