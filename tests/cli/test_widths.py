"""What is printed is as wide as the terminal: help on a wide one, tables on one of 80 columns."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import small_bundle


@pytest.mark.parametrize("train", ["attn,head", "all"])
def test_inspect_takes_a_line_a_graph_at_80_columns(train: str, tmp_path: Path) -> None:
    made = small_bundle(tmp_path / "b", train=train, weight_bits=8, depth=4)
    settings = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path)), "COLUMNS": "80"}
    words = [sys.executable, "-m", "edgeplast", "inspect", str(made.path)]
    said = subprocess.run(words, capture_output=True, text=True, env=settings, check=True).stdout
    table = said[said.index("activation memory") :].splitlines()[2:]
    graphs = [graph for tier in made.manifest.tiers for graph in tier.graphs]
    rows = [line for line in table if "MiB" in line or "KiB" in line]
    assert any(line.startswith(("full", "full, half")) and " train" in line for line in table if line not in rows)
    assert len(rows) == len(graphs) and max(map(len, rows)) <= 80
    assert any("partly recomputed" in line for line in rows)


def test_a_shell_completes_verbs_and_options(tmp_path: Path) -> None:
    settings = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path)}
    start = [sys.executable, "-c", "import sys; sys.argv[0] = 'edgeplast'; from edgeplast.cli import main; main()"]

    def offered(*words: str) -> list[str]:
        asked = {
            "_EDGEPLAST_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        return subprocess.run(start, capture_output=True, text=True, env=settings | asked).stdout.split()

    assert offered("edgeplast", "ad") == ["adapt"]
    assert offered("edgeplast", "adapt", "--mem") == ["--memory"]
    assert (
        "--install-completion"
        in subprocess.run([*start, "--help"], capture_output=True, text=True, env=settings).stdout
    )


def widest_in_a_terminal(columns: int, *words: str) -> int:
    """Return how long the longest line of a command is in a terminal that says it has so many columns."""
    import fcntl
    import pty
    import struct
    import termios

    inner, outer = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    settings = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {
        "PYTHONPATH": ":".join(filter(None, sys.path))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeplast", *words], stdin=outer, stdout=outer, stderr=outer, env=settings
    )
    os.close(outer)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(inner, 1 << 16):
            said += piece
    os.close(inner)
    process.wait()
    return max(len(line) for line in said.decode().splitlines())


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of its own")
@pytest.mark.parametrize(("columns", "least", "most"), [(200, 110, 200), (80, 60, 80), (0, 60, 80)])
def test_what_is_printed_is_as_wide_as_the_terminal(columns: int, least: int, most: int) -> None:
    """One that nobody told its size, a serial console or a container's, says that it has 0 columns."""
    assert least <= widest_in_a_terminal(columns, "adapt", "--help") <= most
    assert 60 <= widest_in_a_terminal(columns, "glossary", "rung") <= min(most, 100)
    nowhere = "no/folder/of/this/name/and/no/model.onnx"
    assert least <= widest_in_a_terminal(columns, "predict", nowhere, "photos/") <= most
