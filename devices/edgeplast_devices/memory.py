"""What this process and this machine hold in memory, and the kernel's wall around the process.

The only file that imports psutil. What to do about the figures is decided in ``guard.py``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_STATUS, _STATM = Path("/proc/self/status"), Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Reading:
    """What was held at one moment, in bytes.

    Attributes:
        resident: by this process.
        available: what the machine can still give without swapping.
        group_available: what the control group around the process can still give; None where there is none.
    """

    resident: int
    available: int
    group_available: int | None = None


def read() -> Reading:
    """Take a reading: a few tenths of a millisecond."""
    return Reading(resident_bytes(), available_bytes(), group_available_bytes())


def resident_bytes() -> int:
    """Return the resident set of this process: 10 µs on Linux."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the largest resident set this process ever had.

    Exact on Linux (``VmHWM``; polling sees a third of short peaks), macOS (``ru_maxrss``) and Windows
    (``peak_wset``).
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def machine_bytes() -> int:
    """Return the memory of this machine."""
    return int(psutil.virtual_memory().total)


def available_bytes() -> int:
    """Return what the machine can still give without swapping."""
    return int(psutil.virtual_memory().available)


def swap_bytes() -> tuple[int, int]:
    """Return the size of the swap space and how much of it is in use; zeros where none is shown."""
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError):  # some containers and sandboxes show none
        return 0, 0
    return int(swap.total), int(swap.used)


def data_limit() -> int | None:
    """Return the limit that the kernel can be given on this process's memory, in force or not.

    Returns:
        the highest limit that this process may set itself, ``-1`` for none; None where the kernel has no such wall
        (it is Linux's ``RLIMIT_DATA``).
    """
    if not hasattr(psutil, "RLIMIT_DATA"):
        return None
    return int(psutil.Process().rlimit(psutil.RLIMIT_DATA)[1])


def usable_threads() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count(logical=False) or 1


class Wall:
    """Lets the kernel refuse memory that would take this process beyond its budget, while the block runs.

    Linux's ``RLIMIT_DATA`` bounds what a process may map for writing. The resident set grows by such mappings and by
    pages of files that are mapped (weights, code), so the limit is what is mapped now, plus what is left of the
    budget, less the files to come. Pages that are mapped already and were never touched (stacks of sleeping threads)
    are taken to stay so; as long as that holds the resident set cannot pass the budget. What the kernel refuses
    arrives as MemoryError or as the runtime's allocation error, and the run goes on with less.

    Args:
        allowed_bytes: of resident memory for the process; None builds no wall.
        mapped_bytes: of files that will be mapped and touched from here on.
        untouched_bytes: that will be mapped for writing and never be touched, until :meth:`move` is next called.

    Attributes:
        stands: whether there is a wall; there cannot be where the kernel has none (macOS, Windows).
    """

    def __init__(self, allowed_bytes: int | None, *, mapped_bytes: int = 0, untouched_bytes: int = 0) -> None:
        self.stands = allowed_bytes is not None and data_limit() is not None and _STATUS.exists()
        self._allowed, self._mapped, self._untouched = allowed_bytes or 0, mapped_bytes, untouched_bytes

    def __enter__(self) -> Wall:
        if self.stands:
            self._process = psutil.Process()
            self._before = self._process.rlimit(psutil.RLIMIT_DATA)
            self._files = _status_bytes("VmRSS") - _status_bytes("RssAnon")
            self._set(self._untouched)
        return self

    def __exit__(self, *_: object) -> None:
        if self.stands:
            self._process.rlimit(psutil.RLIMIT_DATA, self._before)

    def move(self) -> None:
        """Set the limit anew from what is mapped and resident now: 0.1 ms."""
        if self.stands:
            self._set(0)

    def _set(self, untouched_bytes: int) -> None:
        resident = _status_bytes("VmRSS")
        files = resident - _status_bytes("RssAnon")
        to_come = max(self._mapped - (files - self._files), 0)
        limit = _status_bytes("VmData") + untouched_bytes + max(self._allowed - resident - to_come, 0)
        if self._before[1] != psutil.RLIM_INFINITY:
            limit = min(limit, self._before[1])
        self._process.rlimit(psutil.RLIMIT_DATA, (limit, self._before[1]))


def stack_bytes() -> int:
    """Return what the system maps for the stack of a new thread."""
    if not hasattr(psutil, "RLIMIT_STACK"):
        return 0
    soft = psutil.Process().rlimit(psutil.RLIMIT_STACK)[0]
    return int(soft) if 0 < soft < 1 << 30 else 8 << 20


def group_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest memory limit of the control groups around this process; None where there is none.

    Both versions of the kernel's interface (Linux, Documentation/admin-guide/cgroup-v1 and -v2).
    """
    return min((limit for _, limit in _limited_groups(root)), default=None)


def group_available_bytes(root: Path = Path("/")) -> int | None:
    """Return what the control groups around this process still leave; None where none sets a limit.

    Pages of files that nobody used lately (``inactive_file``) count as free: the kernel takes them back first.
    """
    return min((limit - _group_used(folder) for folder, limit in _limited_groups(root)), default=None)


def _limited_groups(root: Path) -> list[tuple[Path, int]]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inside = top / path.lstrip("/")
        for folder in (inside, *inside.parents):
            limit = _read_number(folder / name) if folder.is_relative_to(top) else None
            if limit is not None and limit < 1 << 60:  # version 1 writes "no limit" as nearly 2⁶³
                found.append((folder, limit))
    return found


def _group_used(folder: Path) -> int:
    used = _read_number(folder / "memory.current") or _read_number(folder / "memory.usage_in_bytes") or 0
    try:
        figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return used
    return used - int(figures.get("total_inactive_file", figures.get("inactive_file", 0)))


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
