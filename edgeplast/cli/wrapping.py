"""Lines as wide as a terminal: broken at words, and commands so that they can still be copied."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TextIO

_COMMAND = "edgeplast"
_FALLBACK_COLUMNS = 80
_UNITS = {"s", "ms", "min", "h", "KiB", "MiB", "GiB", "%", "×", "points", "GHz"}
_ENDS = (",", ";", ":", ")", ".")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at a stream; one that is closed is none."""
    return stream is not None and stream.isatty()


def columns_of(stream: TextIO | None) -> int:
    """Return how wide a terminal is: what the environment says (``COLUMNS``), else what it says itself.

    80 where neither says anything: a terminal that nobody told its size (a serial console, ``docker run -t``) says 0.
    """
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        told = os.get_terminal_size(stream.fileno()).columns if stream is not None else 0
    except (OSError, ValueError):
        told = 0
    return told or _FALLBACK_COLUMNS


def wrapped(text: str, columns: int, hanging: int = 0) -> str:
    r"""Break a text's lines at words where they are longer than ``columns``.

    What is indented stays so, and ``hanging`` columns more from a line's second on. Words longer than that stay whole.
    A command (``edgeplast VERB …``) stays on one line where it fits on one, else its lines end in a backslash, as a
    shell reads them.
    """
    return "\n".join(piece for line in text.split("\n") for piece in _broken(line, columns, hanging))


def _broken(line: str, columns: int, hanging: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    lines, further = [indent], indent + " " * hanging
    for space, piece in _pieces(line.strip()):
        if lines[-1].strip() and len(lines[-1]) + len(space) + len(piece) > columns:
            lines.append(further)
        at_start = not lines[-1].strip()
        room = columns - len(lines[-1])
        first, *rest = _continued(piece, room) if at_start and len(piece) > room else (piece,)
        lines[-1] += f"{'' if at_start else space}{first}"
        lines += [f"{further}{more}" for more in rest]
    return lines


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield what stays together (words, a number and its unit, a whole command), each with the space before it."""
    words = re.findall(r"(\s*)(\S+)", text)
    at = 0
    while at < len(words):
        start = at + (words[at][1] == "(next:" and at + 1 < len(words))
        end = start + 1
        if words[start][1].lstrip("(") == _COMMAND:
            while end < len(words) and not words[end - 1][1].endswith(_ENDS) and _is_argument(words, start, end):
                end += 1
        elif end < len(words) and words[start][1][-1].isdigit() and words[end][1].rstrip(",.;:)") in _UNITS:
            end += 1  # a number and its unit
        yield words[at][0], "".join((words[at][1], *(space + word for space, word in words[at + 1 : end])))
        at = end


def _is_argument(words: list[tuple[str, str]], start: int, at: int) -> bool:
    """Whether a word belongs to the command that starts before it, rather than to the sentence around it."""
    word, before = words[at][1].rstrip("".join(_ENDS)), words[at - 1][1]
    return at - start <= 2 or before.startswith("-") or not word.isalpha() or word.isupper()


def _continued(piece: str, columns: int) -> list[str]:
    """Break a command that is longer than a line."""
    lines = [""]
    for space, word in re.findall(r"(\s*)(\S+)", piece):
        if lines[-1] and len(lines[-1]) + len(space) + len(word) > columns - 2:  # of " \"
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f"{space if lines[-1] else ''}{word}"
    return lines
