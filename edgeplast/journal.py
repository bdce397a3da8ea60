"""A journal of work done, one JSON line a piece, so that long work can be stopped or killed and started again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgeplast.errors import InputError
from edgeplast.files import disk_errors, make_parent


def read(journal: Path) -> list[dict[str, Any]]:
    """Return what was noted so far; a last line that a kill has torn off does not count.

    Raises:
        InputError: another line is damaged.
    """
    if not journal.exists():
        return []
    lines = journal.read_bytes().split(b"\n")[:-1]  # what follows the last line break was not written to its end
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"Line {number} of {journal} is no JSON. Mend or remove that line.") from error
        records.append(record)
    return records


def holds(journal: Path, key: dict[str, Any]) -> bool:
    """Whether a piece with these entries is done."""
    return any(all(record.get(k) == v for k, v in key.items()) for record in read(journal))


def note(journal: Path, record: dict[str, Any]) -> str:
    """Append a piece that is done, so that not even a power cut takes it back, and return its line.

    Raises:
        DiskFullError: there is no room for it.
    """
    line = json.dumps(record)
    with disk_errors(journal):
        make_parent(journal)
        with journal.open("ab+") as file:
            _cut_torn_line(file)
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    return line


def _cut_torn_line(file: Any) -> None:
    """Remove what a kill has left behind the last line break."""
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    file.seek(0, os.SEEK_END)
    if file.tell() != whole:
        file.truncate(whole)
