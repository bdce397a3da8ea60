"""How far a verb is, on standard error: in a terminal a line at once and then a bar, elsewhere a line now and then.

A bar moves when a verb tells something; there is no thread.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from edgeplast.cli.wrapping import columns_of
from edgeplast.printable import printable
from edgeplast.progress import Bytes, shown
from edgeplast.units import format_bytes

_LASTING_SECONDS = 2.0
"""What took longer is worth a line in a log."""

_PATIENCE_SECONDS = 1.0
"""From a verb's first line to its bar: two seconds, less what starting the interpreter and loading rich take."""

_STILL_SECONDS, _TICK_SECONDS = 1.0, 0.5
"""How long a line stands before it moves, and how often it does then."""

_CELLS, _LIT = 16, 4
"""Columns in which something moves, and how many of them are lit."""

_FRAME_SECONDS = 0.1
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 60.0
"""Between lines about what is not done yet, where there is no terminal: a log is read by people too."""


class Line:
    """A line at the bottom of a terminal that is written over: all there is of a bar until rich is worth loading.

    rich takes 3 MB and a tenth of a second, which a verb that is done at once need not spend. No control codes are
    written but a carriage return, so that any terminal will do.

    What stands for a second begins to move, twice a second, with the seconds beside it: work that tells nothing until
    it is done, such as loading torch, is seen to go on. A timer of the system's interrupts it for that (SIGALRM),
    because a thread would map a stack that no budget has counted.

    It moves and is erased where it stands, also while something else takes the place of standard error: torch.export
    is kept quiet in that way, and is the longest of what tells nothing.
    """

    def __init__(self) -> None:
        self._text = self._shown = ""
        self._since = 0.0
        self._stream: TextIO = sys.stderr
        self._terminal: tuple[int, int] | None = None

    def show(self, text: str) -> None:
        """Put a text in the place of the one before, cut where the terminal ends."""
        if text == self._text:
            return
        if not self._text:
            self._stream, self._terminal = sys.stderr, _file_of(sys.stderr)
            _every(_TICK_SECONDS, self._tick, first=_STILL_SECONDS)
        self._text, self._since = text, time.monotonic()
        shown = self._fitting(text)
        self._stream.write(f"\r{shown.ljust(len(self._shown))}")
        self._stream.flush()
        self._shown = shown

    def erase(self) -> None:
        """Leave the line empty, if one stands: something else is about to be printed."""
        if self._text:
            _every(0, None)
            self._text, shown, self._shown = "", self._shown, ""
            self._stream.write(f"\r{' ' * len(shown)}\r")
            self._stream.flush()

    def _tick(self, *_: object) -> None:
        """Let it move; called between any two instructions of Python's, so the stream's buffer is let alone."""
        seconds = time.monotonic() - self._since
        if not self._text or seconds < _STILL_SECONDS or self._terminal is None:
            return
        if _file_of(self._stream) != self._terminal:  # its descriptor was closed, or leads elsewhere by now
            return
        at = int(seconds / _TICK_SECONDS) % (_CELLS + _LIT)
        cells = "".join("━" if at - _LIT <= i < at else " " for i in range(_CELLS))
        shown = self._fitting(f"{self._text} {cells} {seconds:.0f} s")
        with contextlib.suppress(OSError, ValueError):
            line = f"\r{shown.ljust(len(self._shown))}".encode(self._stream.encoding or "ascii", "replace")
            os.write(self._stream.fileno(), line)
            self._shown = shown

    def _fitting(self, text: str) -> str:
        return printable(text)[: max(columns_of(self._stream) - 1, 1)]


def _file_of(stream: TextIO) -> tuple[int, int] | None:
    """Return which file a stream's descriptor leads to; None where it has none, or it is closed."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _every(seconds: float, call: Callable[..., None] | None, first: float = 0.0) -> None:
    """Call something every so many seconds, in the main thread; 0 ends that. Nothing where the system has no timer."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return
    if call is not None and signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:
        signal.signal(signal.SIGALRM, call)
        signal.siginterrupt(signal.SIGALRM, False)  # no call of a library's ends early for it
        signal.setitimer(signal.ITIMER_REAL, first, seconds)
    elif call is None and signal.getsignal(signal.SIGALRM) == LINE._tick:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


LINE = Line()
"""That of standard error; whoever prints erases it first, and the next thing that is told puts it back."""

atexit.register(_every, 0, None)  # Python lets go of handlers before it ends, and a timer without one ends it with -14


class Lines:
    """A line when an activity that took over two seconds ends, and now and then while nothing else was said.

    Args:
        say: prints a line.
        told_otherwise: how activities begin of which the command itself writes a line when they are done.
    """

    def __init__(self, say: Any, told_otherwise: tuple[str, ...] = ()) -> None:
        self._print, self._told_otherwise = say, told_otherwise
        self._activity, self._started = "", 0.0
        self._said, self._has_spoken, self._pause = time.monotonic(), False, _PAUSE_SECONDS

    def __call__(self, activity: str, done: int, total: int) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if activity != self._activity:
            self._activity, self._started, self._pause = activity, now, _PAUSE_SECONDS
        if total and done >= total:
            self._activity = ""
            if now - self._started > _LASTING_SECONDS and not activity.startswith(self._told_otherwise):
                self._say(f"{activity}: {_amount(total)} in {now - self._started:.0f} s", now)
        elif now - self._said > self._pause or not (total or self._has_spoken):
            # Of what tells nothing until it is done the first is named at once: a program that begins loads something.
            named = shown(activity)
            self._say(f"{named}: {done:,} of {_amount(total)}" if total else f"{named} …", now)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)  # a log of hours is read from its end

    def _say(self, text: str, now: float) -> None:
        self._print(text, err=True)
        self._said, self._has_spoken = now, True


def _amount(count: int) -> str:
    """Write how much was done: bytes with a unit, pieces as a number."""
    return format_bytes(count) if isinstance(count, Bytes) else f"{count:,}"


class Bars:
    """A line from the first thing that is told, and rich's bar once the verb has worked for two seconds.

    From then on there is always one, as long as a verb works: what follows a long activity need not be short, and a bar
    that is full stays until something else is told. Of work that tells nothing until it is done there is the line, and
    so there is of what has one piece, such as opening a model.
    """

    def __init__(self) -> None:
        self._begun, self._drawn = time.monotonic(), 0.0
        self._activity = ""
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, activity: str, done: int, total: int) -> None:
        """Draw what is told, as a line or as a bar."""
        now = time.monotonic()
        if activity != self._activity or not total:
            self._stop()
            self._activity = activity
        if self._bar is None and total > 1 and done < total and now - self._begun > _PATIENCE_SECONDS:
            LINE.erase()
            self._open(total)
        if self._bar is None:
            LINE.show(f"{shown(activity)}: {done:,} of {_amount(total)}" if total > 1 else f"{shown(activity)} …")
            return
        drawn = now - self._drawn > _FRAME_SECONDS or done >= total
        self._bar.update(self._task, completed=done, total=total, description=_described(activity), refresh=drawn)
        self._drawn = now if drawn else self._drawn

    def _open(self, total: int) -> None:
        from rich import progress as parts
        from rich.console import Console

        self._bar = parts.Progress(
            parts.TextColumn("{task.description}", markup=False),  # an archive may be called [red].tar
            parts.BarColumn(),
            parts.DownloadColumn(binary_units=True) if isinstance(total, Bytes) else parts.MofNCompleteColumn(),
            parts.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            # Its own thread would map a stack that no budget has counted.
            auto_refresh=False,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # else a file would miss what is printed
        )
        self._bar.start()
        self._task = self._bar.add_task(_described(self._activity), total=total)

    def close(self) -> None:
        """Take the line or the bar away."""
        LINE.erase()
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _described(activity: str) -> str:
    return printable(shown(activity))
