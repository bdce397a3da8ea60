"""Command lines as they are typed, on a terminal of so many columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeplast.cli.app import run

Typed = Callable[..., tuple[int, str, str]]


def on_a_terminal(columns: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Return what runs a command line: its words in; exit code, standard output and standard error out."""
    monkeypatch.setenv("COLUMNS", str(columns))

    def run_it(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return code, shown.out, shown.err

    return run_it
