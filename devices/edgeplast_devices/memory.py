"""What this process and this machine hold in memory, and the one limit on it that the kernel can be given.

The only file that imports psutil. What to do about the figures is decided in ``wall.py`` and ``guard.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeplast_devices.control_groups import group_available_bytes, group_cpus

_STATUS, _STATM = Path("/proc/self/status"), Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MADV_DONTNEED = 4  # sys/mman.h
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
        return _status_bytes("VmHWM")["VmHWM"]
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


def set_data_limit(limit_bytes: int) -> None:
    """Let the kernel refuse to map more than this for writing; ``-1`` for no limit, never above the hard limit."""
    process = psutil.Process()
    hard = process.rlimit(psutil.RLIMIT_DATA)[1]
    if hard != psutil.RLIM_INFINITY:
        limit_bytes = hard if limit_bytes == psutil.RLIM_INFINITY else min(limit_bytes, hard)
    process.rlimit(psutil.RLIMIT_DATA, (limit_bytes, hard))


def current_data_limit() -> int:
    """Return the limit in force on what this process maps for writing; ``-1`` for none."""
    return int(psutil.Process().rlimit(psutil.RLIMIT_DATA)[0])


@dataclass(frozen=True)
class Mapped:
    """What this process has mapped, in bytes (Linux).

    Attributes:
        data: privately and for writing, touched or not: what the kernel's limit counts.
        anonymous: resident pages that belong to no file.
        files: resident pages of files: code, mapped weights.
    """

    data: int
    anonymous: int
    files: int

    @property
    def untouched(self) -> int:
        """Mapped for writing, and not resident as such: stacks of sleeping threads, weights that are read alone."""
        return max(self.data - self.anonymous, 0)


def mapped() -> Mapped:
    """Return what this process has mapped now: 0.1 ms."""
    found = _status_bytes("VmData", "RssAnon", "VmRSS")
    return Mapped(found["VmData"], found["RssAnon"], found["VmRSS"] - found["RssAnon"])


def usable_threads() -> int:
    """Return how many cores this process may use: those it may run on, or its share of them where that is less.

    A container with ``--cpus=1`` sees all cores of the machine and is stopped again and again if it uses more than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(logical=False) or 1
    share = group_cpus()
    return cores if share is None else max(1, min(cores, round(share)))


def stack_bytes() -> int:
    """Return what the system maps for the stack of a new thread."""
    if not hasattr(psutil, "RLIMIT_STACK"):
        return 0
    soft = psutil.Process().rlimit(psutil.RLIMIT_STACK)[0]
    return int(soft) if 0 < soft < 1 << 30 else 8 << 20


def _status_bytes(*fields: str) -> dict[str, int]:
    found = {}
    for line in _STATUS.read_text().splitlines():
        name = line.partition(":")[0]
        if name in fields:
            found[name] = int(line.split()[1]) * 1024
    missing = [field for field in fields if field not in found]
    if missing:
        raise OSError(f"{_STATUS} has no {missing[0]}")
    return found


def give_back_code(library: str = "") -> None:
    """Let the kernel take back pages of libraries that are not in use at the moment (Linux): some 10 ms.

    Most of a runtime's code runs when it is loaded or opens a graph, and not while the graph runs. What is needed after
    all is mapped anew, from the system's cache of files; nothing is lost, since only what is as it lies in the file is
    given back.

    Args:
        library: a part of its path; all of them without one.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library, or no such file
        advise = ctypes.CDLL(None).madvise
        for start, size in _code_of(library, Path("/proc/self/smaps").read_text()):
            advise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def _code_of(library: str, smaps: str) -> Iterator[tuple[int, int]]:
    """Yield start and size of code and constants of libraries of which no page was changed, as Linux lists them."""
    start = size = 0
    for line in smaps.splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):  # a mapping: range, permissions, offset, device, inode, path
            begin, end = (int(text, 16) for text in fields[0].split("-"))
            is_code = fields[1] in ("r-xp", "r--p") and len(fields) > 5 and library in line and ".so" in fields[-1]
            start, size = (begin, end - begin) if is_code else (0, 0)
        elif fields[0] == "Anonymous:" and size:  # of this mapping: pages of the process's own
            if fields[1] == "0":
                yield start, size
            size = 0


def return_memory_at_once() -> None:
    """Ask the C library to give large blocks back to the system as soon as they are freed (glibc).

    Left alone it learns from the first freed picture to keep blocks of up to 32 MiB, and to hand them out in pieces:
    what is resident then grows beyond what is in use.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, size in ((_M_MMAP_THRESHOLD, 256 << 10), (_M_TRIM_THRESHOLD, 512 << 10)):
        mallopt(option, size)
