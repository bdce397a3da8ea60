"""Starts a run in a process of its own, listens to it, and ends it when the time is over."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgeplast.comparing.trial import Answer, Order
from edgeplast.progress import Bytes, Progress

_LOOK_SECONDS = 0.5


class RunFailedError(Exception):
    """A run ended in an error; the message is what it said, ``exit_code`` what it would have exited with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def carried_out(
    order: Order, scratch: Path, left: Callable[[], float], progress: Progress
) -> tuple[dict[str, Any], float] | None:
    """Run an order to its end; return its result and the seconds it took, or None where the time was over before.

    Args:
        order: what to do.
        scratch: a folder for files of the run.
        left: returns the seconds that are left.
        progress: told of the run's progress, and again where it is silent: the time that is left goes on.

    Raises:
        RunFailedError: it ended in an error.
    """
    start = time.monotonic()
    place = scratch / "order.json"
    place.write_bytes(msgspec.json.encode(order))
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeplast.comparing.trial", str(place)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the contest, which ends its runs itself
        )
        try:
            answer = _listened(process, left, progress)
        finally:
            process.kill()
            process.wait()
        if answer is None:
            return None
        if answer.result is not None:
            return answer.result, time.monotonic() - start
        if answer.error is not None:
            raise RunFailedError(answer.error, answer.exit_code)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()[-500:]
        code = process.returncode
        raise RunFailedError(f"The process ended with {code}{f': {said}' if said else ''}", 3)


def _listened(process: subprocess.Popen[bytes], left: Callable[[], float], progress: Progress) -> Answer | None:
    """Return the last answer of a process, an empty one where it died without; None: the time was over."""
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    heard: tuple[str, int, int] = ("starting", 0, 0)
    while left() > 0:
        progress(*heard)
        try:
            line = lines.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if not line:
            process.wait()
            return Answer()
        answer = msgspec.json.decode(line, type=Answer)
        if answer.progress is None:
            process.wait()
            return answer
        activity, done, total = answer.progress
        heard = (activity, Bytes(done), Bytes(total)) if answer.in_bytes else answer.progress
    return None


def _read(stream: Any, lines: queue.Queue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")
