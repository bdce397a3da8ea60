"""Standard streams that decide no result: closed, full, cut off, or in an encoding that lacks a character.

A verb that writes a file or a folder has done its work whether or not anyone could read of it; its exit code speaks of
the work. Of a verb that only prints, the printed text is the result: where it cannot be written, that is an error, and
where its reader has seen enough (``| head``), it ends quietly.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, TextIO

_OUTPUTS = ("-o", "--output", "--tensorboard")
"""Options by which a verb's result goes elsewhere than to standard output."""

_PLAIN = {"→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "²": "2"}
_PLAINLY = "edgeplast-plainly"


class Streams:
    """Standard output and error of one command.

    Args:
        arguments: of the command.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._printed = not any(word.split("=")[0] in _OUTPUTS or _is_glued(word) for word in arguments)
        codecs.register_error(_PLAINLY, _plainly)
        _open_closed_descriptors()
        self._out = _Sink(sys.stdout, quits=self._printed)
        sys.stdout = self._out.text()
        sys.stderr = _Sink(sys.stderr).text()

    def finish(self, code: int) -> int:
        """Write out what is left, and return the exit code."""
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        failure = self._out.failure
        if code == 0 and failure is not None and failure.errno != errno.EPIPE:
            reason = failure.strerror or str(failure)
            if self._printed:
                sys.stderr.write(f"error: The result could not be written to standard output: {reason}.\n")
                code = 3
            else:
                sys.stderr.write(f"note: Standard output could not be written: {reason}. The result is whole.\n")
        sys.stderr.flush()
        return code


class _Sink(io.RawIOBase):
    """The end of a stream, whose first failure is remembered; from then on it swallows what it is given.

    Args:
        stream: as Python made it, or None.
        quits: raise BrokenPipeError, once, when the reader has gone.
    """

    def __init__(self, stream: TextIO | None, *, quits: bool = False) -> None:
        # None and no raw file: a stream that was closed before Python began, or one of a host program.
        self._stream, self._quits = stream, quits
        buffer = getattr(stream, "buffer", None)
        self._raw: Any = getattr(buffer, "raw", buffer)  # PYTHONUNBUFFERED leaves the buffer out
        self.failure: OSError | None = None

    def text(self) -> TextIO:
        """Return a text stream that ends here, in the encoding of the stream before."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        at_once = any(getattr(self._stream, how, False) for how in ("line_buffering", "write_through"))
        return io.TextIOWrapper(io.BufferedWriter(self), encoding, _PLAINLY, line_buffering=at_once)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, "no descriptor")
        return int(self._raw.fileno())

    def write(self, data: Any) -> int:
        if self._raw is None or self.failure is not None:
            return len(data)
        try:
            written = self._raw.write(data)
            while written is None:  # a pipe that does not block, whose reader is slow
                select.select([], [self.fileno()], [], 1.0)
                written = self._raw.write(data)
        except OSError as error:
            self.failure = error
            if self._quits and error.errno == errno.EPIPE:
                raise
            return len(data)
        return int(written)


def _open_closed_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming files of ours, into which a library that prints would then write."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def _is_glued(word: str) -> bool:
    return word.startswith("-o") and len(word) > 2


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Say in ASCII what an encoding has no character for."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end
