"""The guard of a memory budget: what the process may hold, whether memory is getting short, and since when.

Three things stand behind a budget. The plan and the ladder choose a step whose predicted peak fits (``rungs.py``).
On Linux the kernel refuses what goes beyond it (``wall.py``). And a watcher, everywhere, looks twenty times a
second at this process: where there is no wall it stops a run of the graph that has gone over. Between micro-batches the
trainer asks about the machine as well, and backs off when other programs eat its memory, before it swaps or kills.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError
from edgeplast.units import format_bytes
from edgeplast_devices.control_groups import group_limit
from edgeplast_devices.memory import (
    Reading,
    give_back_code,
    machine_bytes,
    read,
    resident_bytes,
    return_memory_at_once,
    stack_bytes,
)
from edgeplast_devices.runtime import LIBRARY, OutOfMemoryError
from edgeplast_devices.wall import Wall

_INTERVAL_SECONDS = 0.05

_LISTING_BYTES = 40 << 20
"""What may be spent before the ladder has said whether the budget is enough at all."""

_LIBRARIES_BYTES = 26 << 20
"""Pages of code that are read in before the first session opens, mostly the runtime (stock 1.32: 22 MB)."""

_READ_IN_BYTES = 14 << 20
"""Pages of code that a first training graph reads in (stock 1.32: 10 MB)."""

_RUNNING_BYTES = 9 << 20
"""Pages of the runtime's code while a graph runs (stock 1.32: 8.5 MB, 1.19.2: 7). Opening one takes a little more, when
there is no region and no picture yet."""

_SESSION_SLACK_BYTES = 12 << 20
"""Mapped for writing while a session opens and not touched then, beside its threads' stacks: 6 to 10 MiB measured."""


class Guard:
    """Watches one process against its budget and against the machine running short.

    Args:
        allowed_bytes: resident memory that this process may hold; None watches the machine alone.
        machine_total_bytes: memory of the machine, which the reserve is taken from.
        read_memory: takes a reading; handed in so that tests can script it.
        read_resident: reads the resident set alone, for the watcher.
        sleep: waits so many seconds, for memory to come back.
    """

    def __init__(
        self,
        allowed_bytes: int | None,
        machine_total_bytes: int,
        read_memory: Callable[[], Reading] = read,
        read_resident: Callable[[], int] = resident_bytes,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.allowed_bytes, self.sleep = allowed_bytes, sleep
        self.reserve_bytes = reserve_bytes(machine_total_bytes)
        self._wall = Wall(None)
        self.stop_run: Callable[[str], None] | None = None  # ends the run of the graph in progress, from any thread
        self._read, self._read_resident = read_memory, read_resident
        self._highest = 0
        self._ended = threading.Event()
        self._stands = False
        self._threads_before = threading.active_count()
        self.threads_to_come = 0  # that a caller's program may start while the wall stands

    def pressure(self) -> str | None:
        """Look now, and say what is short, or None."""
        reading = self._read()
        self._highest = max(self._highest, reading.resident)
        return short_of(reading, self.allowed_bytes, self.reserve_bytes)

    def has_room_for(self, more_bytes: int) -> bool:
        """Say whether the process could hold so much more without anything getting short."""
        now = self._read()
        group = None if now.group_available is None else now.group_available - more_bytes
        then = Reading(now.resident + more_bytes, now.available - more_bytes, group)
        return short_of(then, self.allowed_bytes, self.reserve_bytes) is None

    def take_highest(self) -> int:
        """Return the largest resident set seen since this was last called."""
        highest = max(self._highest, self._read_resident())
        self._highest = 0
        return highest

    @property
    def walled(self) -> bool:
        """Whether the kernel stands behind the budget."""
        return self._wall.stands

    @property
    def enforced_by(self) -> str:
        """What stands behind the budget, as reports name it."""
        return "nothing" if self.allowed_bytes is None else "kernel" if self.walled else "watcher"

    def move_wall(self) -> None:
        """Let the kernel's limit follow what is resident: after each step."""
        self._wall.follow()

    @contextlib.contextmanager
    def standing(self) -> Iterator[Guard]:
        """Build the wall where there is one, and watch while the block runs; within such a block, do nothing."""
        if self._stands:
            yield self
            return
        watcher = threading.Thread(target=self._watch, name="edgeplast-memory", daemon=True)
        watcher.start()  # before the wall: its stack is counted by it
        # A budget below what the runtime alone takes is refused with what would be enough, once that is known.
        least = resident_bytes() + _LIBRARIES_BYTES + _LISTING_BYTES
        first = None if self.allowed_bytes is None else max(self.allowed_bytes, least)
        self._wall = Wall(first, files_bytes=_LIBRARIES_BYTES)
        return_memory_at_once()
        self._stands = True
        try:
            with self._wall:
                yield self
        except MemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        finally:
            self._stands = False
            self._ended.set()
            watcher.join()

    def commit(self) -> None:
        """Hold the process to its budget from now on, which the ladder has found to be enough."""
        if self.allowed_bytes is not None:
            self._wall.allow(self.allowed_bytes)

    @contextlib.contextmanager
    def able_to_end(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Let the watcher end runs of a graph by ``stop`` while the block runs, in place of those of another one."""
        before, self.stop_run = self.stop_run, stop
        try:
            yield
        finally:
            self.stop_run = before

    @contextlib.contextmanager
    def opening(self, mapped_bytes: int, threads: int) -> Iterator[None]:
        """Leave room for what a session maps and never touches, and count it when it is open.

        The arena must hold no large region by then (``runtime.release_arena``).

        Args:
            mapped_bytes: of frozen weights that the session maps from files and reads. The runtime maps them privately
                and for writing: they count as such, and are pages of files all the same.
            threads: of the session; their stacks are mapped and stay nearly untouched.
        """
        self._give_back_code(LIBRARY)
        self._wall.expect(
            files_bytes=mapped_bytes + _RUNNING_BYTES,
            untouched_bytes=mapped_bytes + _unused_bytes(threads),
        )
        try:
            yield
        finally:
            self._give_back_code(LIBRARY)
            self.settle()

    @contextlib.contextmanager
    def reading_in(self, threads: int) -> Iterator[None]:
        """Leave room for what a session that is thrown away maps and never touches, before there is an arena.

        What importing libraries took and nothing else needs is given back first, where there is a budget.
        """
        self._give_back_code()
        self._wall.expect(files_bytes=_READ_IN_BYTES, untouched_bytes=_unused_bytes(threads))
        try:
            yield
        finally:
            self._wall.settle()

    def _give_back_code(self, library: str = "") -> None:
        if self.allowed_bytes is not None:  # without a budget nobody needs the room, and reading code again takes time
            give_back_code(library)

    def settle(self) -> None:
        """Measure what is mapped and never touched, while the arena holds no large region.

        What a run places in the arena's first region, it does not place in the large one.
        """
        started = threading.active_count() - self._threads_before - 1  # the watcher is no caller's
        self._wall.settle(-max(self.threads_to_come - max(started, 0), 0) * stack_bytes())

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            resident, stop = self._read_resident(), self.stop_run
            self._highest = max(self._highest, resident)
            if stop is not None and self.allowed_bytes is not None and resident > self.allowed_bytes:
                stop(_over(resident, self.allowed_bytes))
            del stop  # it holds a session, which is to go as soon as nobody else does


def _unused_bytes(threads: int) -> int:
    """Return what a session maps for writing and does not touch."""
    return (threads - 1) * stack_bytes() + _SESSION_SLACK_BYTES


def guard_for(bundle: Bundle, budget: Budget | None, notice: Callable[[str], None]) -> Guard:
    """Return the guard of a run: of the budget that was given, else of the one that the bundle was exported for.

    Raises:
        BudgetError: the budget is more than the machine has.
    """
    if budget is None:
        budget = bundle.manifest.plan.budget
        if budget.memory_bytes is not None:
            budget = Budget(memory_bytes=min(budget.memory_bytes, machine_bytes()))
            notice(
                f"Budget: {budget}, as the bundle was exported for. --memory SIZE sets another one, "
                "--memory none lifts it."
            )
    return Guard(allowed_bytes(budget.memory_bytes), machine_bytes())


def allowed_bytes(budget_bytes: int | None) -> int | None:
    """Return what this process may hold: its budget, or the limit of its control group where that is lower.

    Raises:
        BudgetError: the budget is more than the machine has.
    """
    total, group = machine_bytes(), group_limit()
    if budget_bytes is not None and budget_bytes > total:
        raise BudgetError(
            f"--memory {format_bytes(budget_bytes)} is more than this machine has ({format_bytes(total)}). "
            f"Give at most --memory {total >> 20}MiB."
        )
    return min((limit for limit in (budget_bytes, group) if limit is not None), default=None)


def reserve_bytes(machine_total_bytes: int) -> int:
    """Return what must stay free for the rest of the machine: one hundredth, at least 32 and at most 256 MiB."""
    return min(max(machine_total_bytes // 100, 32 << 20), 256 << 20)


def short_of(reading: Reading, allowed_bytes: int | None, reserve_bytes: int) -> str | None:
    """Say what a reading is short of, or None."""
    if allowed_bytes is not None and reading.resident > allowed_bytes:
        return _over(reading.resident, allowed_bytes)
    if reading.available < reserve_bytes:
        return f"the machine has only {format_bytes(reading.available)} of memory left"
    group = reading.group_available
    if group is not None and group < reserve_bytes // 8:
        return f"the control group (container or service) has only {format_bytes(group)} of memory left"
    return None


def _over(resident: int, allowed: int) -> str:
    return f"this process holds {format_bytes(resident)} of {format_bytes(allowed)} allowed"
