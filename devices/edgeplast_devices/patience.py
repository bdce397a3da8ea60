"""Waiting for a place that is gone: a drive that was pulled and put back, a share whose server starts anew."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgeplast.errors import InterruptedRunError
from edgeplast_devices.images import UnreachableImagesError
from edgeplast_devices.interrupts import Interrupts

PATIENCE_SECONDS = 60.0
"""How long a run waits. A USB drive is back within seconds, a share after its server has started; what is gone for
longer wants a person, and a run that stopped loses nothing."""

_INTERVAL_SECONDS = 0.5


class Patience:
    """Asked by an image set where its pictures cannot be reached: returns to have it try again, or gives up.

    The picture that was asked for is tried again, so a run that waited gives the same result as one that did not.

    Args:
        interrupts: whether someone asked to stop.
        notice: told once that it waits.
        seconds: to wait for the same picture.
        sleep: waits so many seconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        interrupts: Interrupts,
        notice: Callable[[str], None],
        seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interrupts, self._notice, self._seconds = interrupts, notice, seconds
        self._sleep, self._clock = sleep, clock
        self._name, self._began, self._asked = "", 0.0, float("-inf")

    def __call__(self, error: UnreachableImagesError) -> None:
        """Wait a moment.

        Raises:
            UnreachableImagesError: it was waited for long enough.
            InterruptedRunError: someone asked to stop.
        """
        now = self._clock()
        if error.name != self._name or now - self._asked > 10 * _INTERVAL_SECONDS:
            self._name, self._began = error.name, now
            self._notice(f"{error} Waiting for it, {self._seconds:g} seconds at most.")
        if self._interrupts.requested:
            raise InterruptedRunError(f"Interrupted by {self._interrupts.requested} while waiting for {error.name}.")
        if now - self._began >= self._seconds:
            raise error
        self._sleep(_INTERVAL_SECONDS)
        self._asked = self._clock()
