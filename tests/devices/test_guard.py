"""The guard of the budget: when it calls memory short, what the kernel's wall refuses, how training gives way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wrapped_sessions import Training, Wrapped, adapt_over

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError
from edgeplast_devices import control_groups, guard, memory, training, wall
from edgeplast_devices.control_groups import group_available_bytes, group_cpus
from edgeplast_devices.guard import Guard, reserve_bytes, short_of
from edgeplast_devices.memory import Reading
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import Climbing

MiB, GiB = 1 << 20, 1 << 30


class TestShort:
    @pytest.mark.parametrize(
        ("reading", "allowed", "words"),
        [
            (Reading(100 * MiB, GiB), 200 * MiB, None),
            (Reading(201 * MiB, GiB), 200 * MiB, "this process holds 201 MiB of 200 MiB allowed"),
            (Reading(100 * MiB, 30 * MiB), None, "the machine has only 30 MiB of memory left"),
            (Reading(100 * MiB, GiB, 3 * MiB), None, r"the control group \(container or service\) has only 3 MiB"),
            (Reading(100 * MiB, GiB, 200 * MiB), None, None),
        ],
    )
    def test_it_says_what_is_short(self, reading: Reading, allowed: int | None, words: str | None) -> None:
        found = short_of(reading, allowed, reserve_bytes(GiB))
        assert (found is None) == (words is None)
        if words:
            assert re.search(words, found)

    @given(st.integers(64 * MiB, 1024 * GiB))
    def test_the_reserve_is_small_beside_the_machine(self, total: int) -> None:
        assert 32 * MiB <= reserve_bytes(total) <= 256 * MiB and reserve_bytes(total) <= total / 2

    def test_a_budget_larger_than_the_machine_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "machine_bytes", lambda: 4 * GiB)
        with pytest.raises(
            BudgetError, match=r"--memory 5 GiB is more than this machine has \(4 GiB\).*--memory 4096MiB"
        ):
            guard.allowed_bytes(5 * GiB)

    def test_a_lower_limit_of_the_control_group_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard, "group_limit", lambda: 300 * MiB)
        assert guard.allowed_bytes(400 * MiB) == 300 * MiB == guard.allowed_bytes(None)
        assert guard.allowed_bytes(200 * MiB) == 200 * MiB

    def test_pages_of_files_nobody_uses_count_as_free_in_a_group(self, tmp_path: Path) -> None:
        inside = tmp_path / "sys/fs/cgroup/a/b"
        inside.mkdir(parents=True)
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
        (inside.parent / "memory.max").write_text(f"{100 * MiB}\n")
        (inside.parent / "memory.current").write_text(f"{90 * MiB}\n")
        (inside.parent / "memory.stat").write_text(f"anon 5\ninactive_file {30 * MiB}\n")
        (inside / "memory.max").write_text("max\n")
        assert group_available_bytes(tmp_path) == 40 * MiB
        assert control_groups.group_limit(tmp_path) == 100 * MiB


_WALL = """
import json, sys
import numpy as np
from edgeplast_devices.memory import peak_bytes, resident_bytes
from edgeplast_devices.wall import Wall
MiB = 1 << 20
spare = np.ones(20 * MiB, np.uint8)  # reserved before, given back inside
allowed = resident_bytes() + 60 * MiB
with Wall(allowed) as wall:
    held, refused = [], 0
    for _ in range(200):
        try:
            held.append(np.ones(MiB, np.uint8))
        except MemoryError:
            refused += 1
    first = len(held)
    del spare
    wall.follow()
    for _ in range(200):
        try:
            held.append(np.ones(MiB, np.uint8))
        except MemoryError:
            refused += 1
    inside = peak_bytes()
beyond = np.ones(100 * MiB, np.uint8)
print(json.dumps([wall.stands, first, len(held), refused, inside, allowed, len(beyond)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_the_kernel_refuses_what_exceeds_the_budget_and_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", _WALL], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    stands, first, total, refused, peak, allowed, beyond = json.loads(done.stdout)
    assert stands and refused > 0 and peak <= allowed
    assert 45 <= first <= 60 and 62 <= total <= 80  # nearly all of the budget can be used, also after a move
    assert beyond == 100 * MiB  # and the wall is gone with the block


_TWO_WALLS = """
import json, resource
import numpy as np
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.wall import Wall
MiB = 1 << 20
limit = lambda: resource.getrlimit(resource.RLIMIT_DATA)[0]
before, low, high = limit(), Wall(resident_bytes() + 50 * MiB), Wall(resident_bytes() + 200 * MiB)
high.__enter__()
alone = limit()
low.__enter__()
both = limit()
high.__exit__()  # as threads do: not the other way round
left = limit()
low.__exit__()
print(json.dumps([before, alone, both, left, limit()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_of_two_walls_the_lower_counts_and_the_last_leaves_no_limit_behind() -> None:
    done = subprocess.run([sys.executable, "-c", _TWO_WALLS], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"})  # fmt: skip
    before, alone, both, left, after = json.loads(done.stdout)
    assert both < alone and left == both and after == before


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "100000 100000\n"}, 1.0),
        ({"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
          "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/box\n", "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n",
          "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/box\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_share_of_the_processor_is_read_from_both_versions(
    files: dict[str, str], cpus: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert group_cpus(tmp_path) == cpus
    monkeypatch.setattr(memory, "group_cpus", lambda: cpus)
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    assert memory.usable_threads() == {None: 4, 0.5: 1, 1.0: 1, 1.5: 2, 2.0: 2}[cpus]


class TestWatcher:
    def test_it_stops_a_run_that_has_gone_over_where_there_is_no_wall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wall, "data_limit", lambda: None)
        now = [Reading(50 * MiB, GiB)]
        watching, stopped = Guard(100 * MiB, GiB, lambda: now[0], lambda: now[0].resident), []
        watching.stop_run = stopped.append
        with watching.standing():
            time.sleep(0.2)
            assert not stopped and not watching.walled
            now[0] = Reading(150 * MiB, GiB)
            for _ in range(100):
                if stopped:
                    break
                time.sleep(0.02)
        assert stopped[0] == "this process holds 150 MiB of 100 MiB allowed"
        assert watching.take_highest() == 150 * MiB

    def test_a_run_of_the_graph_that_is_stopped_is_a_lack_of_memory(
        self, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        """Stop the first run of the graph from outside: the step goes down a rung and the losses stay."""
        plain = _adapt(bundle, blobs, tmp_path / "plain")
        wrapped, stopped = Wrapped(tmp_path / "stopped"), []

        def stop_once(session: Training, _: np.ndarray) -> None:
            if not stopped:
                stopped.append(session.stop("this process holds too much"))

        wrapped.before = stop_once
        options = TrainingOptions(epochs=2, learning_rate=3e-3, threads=1, micro_batch=4)
        report = adapt_over(wrapped, bundle, blobs, tmp_path / "stopped", options)
        assert [change.reason for change in report.rung_changes] == ["this process holds too much"]
        np.testing.assert_allclose(report.losses, plain.losses, atol=1e-4)


def _adapt(bundle: Bundle, data: Path, into: Path, guard: Guard | None = None, **how: object) -> Adaptation:
    settings: dict = {"epochs": 2, "learning_rate": 3e-3, "threads": 1, "micro_batch": 4}
    return adapt_over(Wrapped(into), bundle, data, into, TrainingOptions(**(settings | how)), guard=guard)


def _machine(*available: int, sleep: Callable[[float], None] = time.sleep) -> Guard:
    """A machine that has so much left, reading by reading; what was read last stays."""
    left, last = iter(available), [8 * GiB]

    def read() -> Reading:
        last[0] = next(left, last[0])
        return Reading(100 * MiB, last[0])

    return Guard(None, 8 * GiB, read, sleep=sleep)


class TestOtherPrograms:
    def test_training_gives_way_and_comes_back(
        self, bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = _adapt(bundle, blobs, tmp_path / "plain", epochs=8)
        monkeypatch.setattr(training, "Climbing", lambda: Climbing(patience=5))
        watching = _machine(*[8 * GiB] * 5, 10 * MiB, 8 * GiB)
        report = _adapt(bundle, blobs, tmp_path / "pressed", guard=watching, epochs=8)
        down, up = report.rung_changes
        assert "machine has only 10 MiB" in down.reason and up.reason == "there is memory again"
        assert (down.before, down.after) == (up.after, up.before) and up.step >= down.step + 5
        np.testing.assert_allclose(report.losses, plain.losses, atol=1e-3)
        lines = map(json.loads, (tmp_path / "pressed" / "telemetry.jsonl").read_text().splitlines())
        assert [line["step"] for line in lines if line["kind"] == "rung"] == [down.step, up.step]

    def test_on_the_last_rung_it_waits_and_then_stops_with_everything_saved(
        self, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        waited: list[float] = []
        watching = _machine(*[8 * GiB] * 4, 10 * MiB, sleep=waited.append)
        with pytest.raises(
            BudgetError, match=r"smallest step.*machine has only 10 MiB of memory left.*saved.*--resume"
        ):
            _adapt(bundle, blobs, tmp_path / "pressed", guard=watching)
        assert sum(waited) == training._WAIT_SECONDS


class TestClimbing:
    def test_patience_doubles_with_each_try_that_fails_soon(self) -> None:
        climbing, step, tries = Climbing(), 0, []
        climbing.fell(0)
        for step in range(1, 400):
            if climbing.is_due(step):
                climbing.rose(step)
                tries.append(step)
                climbing.fell(step + 1)
        assert [b - a for a, b in zip([1, *tries], tries, strict=False)] == [19, 41, 81, 161]

    def test_a_try_that_lasted_leaves_the_patience(self) -> None:
        climbing = Climbing()
        climbing.rose(100)
        climbing.fell(200)
        assert climbing.patience == 20 and climbing.is_due(220) and not climbing.is_due(219)
