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


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of its own")
@pytest.mark.parametrize(("columns", "least", "most"), [(200, 110, 200), (80, 60, 80)])
def test_help_is_as_wide_as_the_terminal(columns: int, least: int, most: int) -> None:
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
        [sys.executable, "-m", "edgeplast", "adapt", "--help"], stdin=outer, stdout=outer, stderr=outer, env=settings
    )
    os.close(outer)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(inner, 1 << 16):
            said += piece
    os.close(inner)
    assert process.wait() == 0
    assert least <= max(len(line) for line in said.decode().splitlines()) <= most
