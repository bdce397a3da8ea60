"""Ctrl-C, SIGTERM and a terminal that hangs up, as a request that is seen between two micro-batches.

Python runs the handler of a signal when the call in progress returns. A graph that never ends does not return; so the
system also writes each signal into a pipe (``signal.set_wakeup_fd``), and a small thread reads there. At the second
signal it ends the graph's run, and the process where that does not help: what is on the disk is whole.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_SECONDS = 5.0
"""Between a second signal and the end of a process that does not come back from a call; a third one waits no longer."""

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_STACK_BYTES = 1 << 18
_INTERRUPTED = 130


class Interrupts:
    """Whether someone asked this run to stop.

    Attributes:
        requested: the name of the first signal that came, or None.
        end_call: ends the call in progress, from another thread; None where nothing could.
        kept: says what of the run is on the disk, and how to go on from there; asked from another thread, and last.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.end_call: Callable[[str], None] | None = None
        self.kept: Callable[[], str] = lambda: "What was written before is whole."

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take note of a signal; the second one interrupts at once."""
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Interrupts]:
    """Catch SIGINT, SIGTERM and SIGHUP while the block runs, but for those that are ignored (``nohup`` does that).

    Python delivers signals to the main thread alone; in any other nothing is caught, and nothing is requested.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    with _watched(interrupts, caught):
        before = {number: signal.signal(number, interrupts) for number in caught}
        try:
            yield interrupts
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def _watched(interrupts: Interrupts, numbers: list[int]) -> Iterator[None]:
    """Let a thread count signals, also those that Python cannot handle yet."""
    if os.name != "posix":  # there the pipe would have to be a socket
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stack = threading.stack_size(_STACK_BYTES)  # the default maps 8 MiB, for which a budget may have no room
    thread = threading.Thread(target=_watch, args=(reading, numbers, interrupts), name="edgeplast-signals", daemon=True)
    try:
        thread.start()
    finally:
        threading.stack_size(stack)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _watch(pipe: int, numbers: list[int], interrupts: Interrupts) -> None:
    """Read signals until the pipe is closed; at the second do what the main thread may not be able to."""
    seen = 0
    while seen < 2:
        came = os.read(pipe, 64)
        if not came:
            return
        seen += sum(number in numbers for number in came)
    if interrupts.end_call is not None:
        interrupts.end_call("interrupted")
    deadline = time.monotonic() + GRACE_SECONDS
    while seen == 2 and select.select([pipe], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        came = os.read(pipe, 64)
        if not came:
            return  # the main thread came back and left
        seen += sum(number in numbers for number in came)  # others that Python handles come too: those of a timer, say
    try:
        text = f"error: Interrupted; a call did not come back, so the process ends here. {interrupts.kept()}\n"
        below = "\n" if os.isatty(2) else ""  # a line that moves, and the terminal's own ^C
        os.write(2, f"{below}{text}".encode("utf-8", "replace"))
    finally:
        os._exit(_INTERRUPTED)
