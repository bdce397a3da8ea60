"""The control groups around this process: how much memory and processor time they leave it (Linux).

Both versions of the kernel's interface (Linux, Documentation/admin-guide/cgroup-v1 and -v2). A container, a systemd
service and a batch job are each such a group; what none of them limits is None here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def group_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest memory limit of the control groups around this process; None where there is none."""
    return min((limit for _, limit in _limited_groups(root)), default=None)


def group_available_bytes(root: Path = Path("/")) -> int | None:
    """Return what the control groups around this process still leave; None where none sets a limit.

    Pages of files that nobody used lately (``inactive_file``) count as free: the kernel takes them back first.
    """
    return min((limit - _group_used(folder) for folder, limit in _limited_groups(root)), default=None)


def group_cpus(root: Path = Path("/")) -> float | None:
    """Return the processors that this process may keep busy, by the smallest quota; None where none is set."""
    shares = []
    for folder, version in _groups(root, "cpu"):
        if version == 2:
            quota, period = _numbers(folder / "cpu.max")
        else:
            (quota,), (period,) = _numbers(folder / "cpu.cfs_quota_us", 1), _numbers(folder / "cpu.cfs_period_us", 1)
        if quota is not None and period and quota > 0:  # version 1 writes "no limit" as -1
            shares.append(quota / period)
    return min(shares, default=None)


def _limited_groups(root: Path) -> list[tuple[Path, int]]:
    found = []
    for folder, version in _groups(root, "memory"):
        (limit,) = _numbers(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"), 1)
        if limit is not None and limit < 1 << 60:  # version 1 writes "no limit" as nearly 2⁶³
            found.append((folder, limit))
    return found


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the folders of the groups around this process, innermost first, with their interface's version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / (f"sys/fs/cgroup/{controllers}" if controllers else "sys/fs/cgroup")
        if controllers and not top.is_dir():
            top = root / f"sys/fs/cgroup/{controller}"
        inside = top / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(top):
                yield folder, 1 if controllers else 2


def _group_used(folder: Path) -> int:
    used = next((n for name in ("memory.current", "memory.usage_in_bytes") for n in _numbers(folder / name, 1) if n), 0)
    try:
        figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return used
    return used - int(figures.get("total_inactive_file", figures.get("inactive_file", 0)))


def _numbers(path: Path, count: int = 2) -> list[int | None]:
    """Return the first words of a file as numbers; None for what is absent, or "max"."""
    try:
        words = path.read_text().split()
    except OSError:
        words = []
    numbers = [int(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return numbers + [None] * (count - len(numbers))
