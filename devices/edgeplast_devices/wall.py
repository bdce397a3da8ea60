"""The kernel's wall around a process: memory that would take it beyond its budget is refused.

Linux's ``RLIMIT_DATA`` bounds what a process maps for writing, touched or not. The resident set is what it touched of
that, and pages of files. So, at any time,

    resident = mapped for writing - never touched + files  ≤  limit - never touched + files

and the limit that keeps the resident set within the budget is

    limit = budget - files, now and to come + mapped for writing and never touched - a reserve

"Never touched" is measured when it is known to stay so: stacks of the runtime's sleeping threads, weights that the
runtime maps for writing and only reads. The arena's region is no such thing, so it is measured while the region is not
mapped (:meth:`Wall.settle`). What the kernel refuses arrives as MemoryError or as the runtime's allocation error, and
the run goes on with less.
"""

from __future__ import annotations

import threading

from edgeplast.footprint import STACK_BYTES
from edgeplast_devices.memory import current_data_limit, data_limit, mapped, set_data_limit

_STEADY_FILES_BYTES = 1 << 20
"""Pages of files that still come once every kernel has run."""


class Wall:
    """Keeps this process to a budget while the block runs.

    Several walls can stand at once (runs in threads of one process): the lowest limit counts, and the one that was in
    force before the first is put back by the last.

    Args:
        allowed_bytes: of resident memory for the process; None builds no wall.
        files_bytes: of files, code above all, that will be mapped and read before :meth:`expect` is called.

    Attributes:
        stands: whether there is a wall; there cannot be where the kernel has none (macOS, Windows).
    """

    _lock = threading.Lock()
    _standing: list[Wall] = []
    _before = -1

    def __init__(self, allowed_bytes: int | None, *, files_bytes: int = 0) -> None:
        self.stands = allowed_bytes is not None and data_limit() is not None
        self._allowed, self._files_bytes = allowed_bytes or 0, files_bytes
        self._untouched = self._files = self._limit = 0

    def __enter__(self) -> Wall:
        if self.stands:
            now = mapped()
            self._untouched, self._files = now.untouched, now.files + self._files_bytes
            with Wall._lock:
                if not Wall._standing:
                    Wall._before = current_data_limit()
                Wall._standing.append(self)
            self._set()
        return self

    def __exit__(self, *_: object) -> None:
        if self.stands:
            with Wall._lock:
                Wall._standing.remove(self)
                Wall._apply()

    def allow(self, allowed_bytes: int) -> None:
        """Change the budget."""
        if self.stands:
            self._allowed = allowed_bytes
            self._set()

    def expect(self, *, files_bytes: int, untouched_bytes: int) -> None:
        """Make room for what is about to be mapped and is no burden: call :meth:`settle` when it is there.

        Args:
            files_bytes: that will be mapped and read.
            untouched_bytes: that will be mapped for writing and not be touched.
        """
        if self.stands:
            now = mapped()
            self._untouched, self._files = now.untouched + untouched_bytes, now.files + files_bytes
            self._set()

    def settle(self, usable_bytes: int = 0) -> None:
        """Measure what is mapped and was never touched; call it while the arena's region is not mapped.

        Args:
            usable_bytes: of what was never touched that will be used all the same.
        """
        if self.stands:
            self._untouched = max(mapped().untouched - usable_bytes, 0)
            self._set()

    def follow(self) -> None:
        """Let the limit follow the files that are resident now, once every kernel has run: 0.2 ms."""
        if self.stands:
            self._files = mapped().files + _STEADY_FILES_BYTES
            self._set()

    def _set(self) -> None:
        self._limit = max(self._allowed - self._files - STACK_BYTES, 0) + self._untouched
        with Wall._lock:
            Wall._apply()

    @classmethod
    def _apply(cls) -> None:
        limits = [wall._limit for wall in cls._standing] + ([cls._before] if cls._before >= 0 else [])
        set_data_limit(min(limits, default=-1))
