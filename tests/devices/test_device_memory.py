"""A provider's own memory: from a scripted NVML, and from the files of Jetsons."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeplast.placement import ON_CPU, DeviceMemoryReport, Placement
from edgeplast_devices.device_memory import DeviceMemory

GiB, MiB = 1 << 30, 1 << 20
ME = 4711

# The lines of /proc/meminfo on a Jetson with JetPack 5 or 6; jetson_stats (rbonghi/jetson_stats,
# jtop/core/memory.py) reads the same names. Figures chosen.
MEMINFO = """MemTotal:        7802740 kB
MemFree:         3124156 kB
MemAvailable:    5432100 kB
HugePages_Total:       0
NvMapMemFree:          0 kB
NvMapMemUsed:     {used} kB
"""
RELEASE = "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64\n"


def _on(provider: str, limit: int | None = None) -> Placement:
    return Placement(asked=provider, used=provider, memory_limit_bytes=limit)


class Nvml:
    """The part of pynvml that is used: GPUs with what is in use, and processes with their share."""

    class NVMLError(Exception):
        pass

    def __init__(self, used: list[int], processes: dict[int, int | None] | None = None) -> None:
        self.used, self.processes = used, processes

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=self.used[handle], total=8 * GiB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        if self.processes is None:
            raise self.NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]


def _with_nvml(
    root: Path, nvml: Nvml, limit: int | None = None, budget: int | None = None, growth: int = 300 * MiB
) -> DeviceMemoryReport:
    memory = DeviceMemory(_on("cuda", limit), nvml=nvml, root=root, process=ME)
    nvml.used[0] += growth
    report = memory.report(budget, 100 * MiB)
    assert report is not None
    return report


def test_the_processor_has_no_memory_of_its_own(tmp_path: Path) -> None:
    assert DeviceMemory(ON_CPU, root=tmp_path).report(GiB, MiB) is None


def test_the_drivers_figure_for_this_process_goes_first(tmp_path: Path) -> None:
    report = _with_nvml(tmp_path, Nvml([GiB], {1: GiB, ME: 250 * MiB}), limit=400 * MiB, budget=512 * MiB)
    assert (report.source, report.used_bytes, report.total_bytes) == ("nvml", 250 * MiB, 8 * GiB)
    assert "held to 400 MiB" in report.note and "context" in report.note and "more than" not in report.note


@pytest.mark.parametrize("processes", [None, {1: GiB}, {ME: None}], ids=["refused", "other ids", "no figure"])
def test_without_it_the_growth_on_all_gpus_is_taken_and_said(tmp_path: Path, processes: dict | None) -> None:
    report = _with_nvml(tmp_path, Nvml([GiB, 2 * GiB], processes))
    assert (report.source, report.used_bytes, report.total_bytes) == ("nvml", 300 * MiB, 16 * GiB)
    assert "growth on all GPUs" in report.note


def test_memory_over_the_budget_is_said(tmp_path: Path) -> None:
    report = _with_nvml(tmp_path, Nvml([0], {ME: 250 * MiB}), limit=156 * MiB, budget=256 * MiB)
    assert "Together with the process 350 MiB: more than the budget of 256 MiB" in report.note


def test_without_nvml_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    report = DeviceMemory(_on("cuda", GiB), root=tmp_path).report(GiB, MiB)
    assert report is not None and (report.source, report.used_bytes) == ("none", None)
    assert "pip install nvidia-ml-py" in report.note


def test_a_jetson_shows_what_its_gpu_maps_of_the_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(RELEASE)
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(used=120_000))
    memory = DeviceMemory(_on("tensorrt"), nvml=Nvml([0], {ME: GiB}), root=tmp_path, process=ME)
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(used=420_000))
    report = memory.report(None, 100 * MiB)
    assert report is not None and report.source == "system"
    assert (report.used_bytes, report.total_bytes) == (300_000 * 1024, 7802740 * 1024)
    assert "other programs count as well" in report.note


def test_an_older_jetson_is_known_by_its_device_tree_and_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"nvidia,jetson-nano\0nvidia,tegra210\0")
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4059712 kB\n")
    report = DeviceMemory(_on("cuda", GiB), root=tmp_path).report(GiB, MiB)
    assert report is not None and (report.source, report.used_bytes) == ("none", None)
    assert "NvMapMemUsed" in report.note


def test_other_providers_say_that_neither_figure_nor_limit_is_there(tmp_path: Path) -> None:
    report = DeviceMemory(_on("coreml"), root=tmp_path).report(GiB, MiB)
    assert report is not None and report.used_bytes is None
    assert "memory of coreml cannot be read" in report.note and "cannot be held to a budget" in report.note
