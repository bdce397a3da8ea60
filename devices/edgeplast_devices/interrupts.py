"""Ctrl-C and SIGTERM as a request that is seen between two micro-batches, where the state is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Whether someone asked this run to stop.

    Attributes:
        requested: the name of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take note of a signal; the second one interrupts at once."""
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Interrupts]:
    """Catch SIGINT and SIGTERM while the block runs.

    Python delivers signals to the main thread alone; in any other nothing is caught, and nothing is requested.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
