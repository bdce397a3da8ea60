"""How much memory a provider holds beside the process's resident set: from the driver, or from a Jetson's system.

The only file that imports pynvml (package ``nvidia-ml-py``), and only where it is installed and CUDA computes.

On a Jetson CPU and GPU share one memory, and what the GPU maps is not part of a process's resident set. The driver
does not tell users what each process has mapped, but ``/proc/meminfo`` has its sum (``NvMapMemUsed``, from
JetPack 5 on; jetson_stats reads the same line): its growth since the run began is taken for the run's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgeplast.placement import DeviceMemoryReport, Placement
from edgeplast.units import format_bytes
from edgeplast_devices.providers import CPU, WITH_CUDA_ARENA


class DeviceMemory:
    """Looks at a provider's memory before a run and after it.

    Args:
        placement: where the run computes.
        nvml: the module pynvml or one like it; None imports it.
        root: where ``proc`` and ``etc`` lie.
        process: id of the process that computes.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        nvml: Any = None,
        root: Path = Path("/"),
        process: int | None = None,
    ) -> None:
        self._placement, self._root = placement, root
        self._process = os.getpid() if process is None else process
        self._nvml: Any = None
        self._source = _source(placement, root)
        if self._source == "nvml":
            self._nvml = nvml or _import_nvml()
        self._before = self._in_use()

    def report(self, budget_bytes: int | None, resident_peak_bytes: int) -> DeviceMemoryReport | None:
        """Return what the provider holds now, and what of the budget was beyond reach; None on the CPU.

        Args:
            budget_bytes: of the process.
            resident_peak_bytes: of the process, without the provider's memory.
        """
        if self._source == "cpu":
            return None
        used, notes = self._used()
        if self._placement.memory_limit_bytes is None:
            if budget_bytes is not None:
                notes.append(f"{self._placement.used} cannot be held to a budget.")
        else:
            limit = format_bytes(self._placement.memory_limit_bytes)
            notes.append(
                f"Each session's arena was held to {limit}; the driver's own memory (context, libraries) cannot be."
            )
        if used is not None and budget_bytes is not None and resident_peak_bytes + used > budget_bytes:
            total = format_bytes(resident_peak_bytes + used)
            notes.append(f"Together with the process {total}: more than the budget of {format_bytes(budget_bytes)}.")
        return DeviceMemoryReport(
            source=self._source if used is not None else "none",
            used_bytes=used,
            total_bytes=self._in_use()[1],
            note=" ".join(notes),
        )

    def _used(self) -> tuple[int | None, list[str]]:
        """Return what this run holds, and what is uncertain about it."""
        now, before = self._in_use()[0], self._before[0]
        growth = None if now is None or before is None else max(now - before, 0)
        if self._source == "system":
            if growth is None:
                return None, ["This Jetson does not show what the GPU has mapped (no NvMapMemUsed in /proc/meminfo)."]
            return growth, ["Growth of what the GPU has mapped since the run began; other programs count as well."]
        if self._source == "nvml":
            own = _of_process(self._nvml, self._process) if self._nvml is not None else None
            if own is not None:
                return own, []
            if growth is not None:
                return growth, ["The driver shows no figure for this process (a container?): growth on all GPUs."]
            return None, ["The GPU's memory cannot be read; with pip install nvidia-ml-py it can."]
        return None, [f"The memory of {self._placement.used} cannot be read."]

    def _in_use(self) -> tuple[int | None, int | None]:
        """Return bytes in use and in all, of whatever this source sees."""
        if self._source == "system":
            lines = _meminfo(self._root)
            return lines.get("NvMapMemUsed"), lines.get("MemTotal")
        if self._nvml is not None:
            return _of_all_gpus(self._nvml)
        return None, None


def _source(placement: Placement, root: Path) -> str:
    if placement.used == CPU:
        return "cpu"
    if placement.used not in WITH_CUDA_ARENA:
        return "none"
    jetson = (root / "etc/nv_tegra_release").exists() or b"nvidia,tegra" in _read(root / "proc/device-tree/compatible")
    return "system" if jetson else "nvml"


def _import_nvml() -> Any:
    """Return pynvml, or None where it or the driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or one of another version: each is "cannot be read"
        return None
    return pynvml


def _of_process(nvml: Any, process: int) -> int | None:
    """Return bytes of one process on all GPUs; None where it is not listed or its figure is not available."""
    sizes = []
    try:
        for i in range(nvml.nvmlDeviceGetCount()):
            running = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(i))
            sizes += [entry.usedGpuMemory for entry in running if entry.pid == process]
    except Exception:  # pynvml raises a class per code; not supported, no permission: the same to us
        return None
    return sum(sizes) if sizes and None not in sizes else None


def _of_all_gpus(nvml: Any) -> tuple[int | None, int | None]:
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        figures = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
    except Exception:  # see _of_process
        return None, None
    return sum(f.used for f in figures), sum(f.total for f in figures)


def _meminfo(root: Path) -> dict[str, int]:
    """Return the lines of ``/proc/meminfo`` in bytes."""
    found = {}
    for line in _read(root / "proc/meminfo").decode("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
