"""A journal of runs, one JSON line each, so that a benchmark can be stopped and started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(journal: Path) -> list[dict[str, Any]]:
    """Return the runs done so far."""
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def holds(journal: Path, key: dict[str, Any]) -> bool:
    """Whether a run with these entries is done."""
    return any(all(run.get(k) == v for k, v in key.items()) for run in read(journal))


def note(journal: Path, record: dict[str, Any]) -> None:
    """Append a run, and show it."""
    line = json.dumps(record)
    with journal.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
