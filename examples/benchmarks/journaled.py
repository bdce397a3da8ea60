"""What every benchmark with a journal asks for: where its runs are noted, and whether to print them as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def journaled(about: str | None, work: str = "", *, device: str = "what adapts") -> argparse.ArgumentParser:
    """Return a parser with ``--json`` and ``--table``, and ``--device-python`` and ``--work`` where runs need them.

    Args:
        about: docstring of the benchmark, whose first line says what it is.
        work: folder in which pictures and bundles are kept, by default; empty for none.
        device: what the device's Python does.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else "")
    parser.add_argument("--json", type=Path, required=True, help="the journal: one JSON line a run")
    parser.add_argument("--table", action="store_true", help="print the table of a journal and leave")
    if work:
        parser.add_argument("--device-python", type=Path, default=Path(sys.executable), help=device)
        parser.add_argument("--work", type=Path, default=Path(work), help="where pictures and bundles are kept")
    return parser
