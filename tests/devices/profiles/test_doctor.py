"""The doctor: every check's lines, a runtime that loads and cannot train, and whole examinations by command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import recorded_trees as trees
from make_practice_graph import practice_graph

from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle
from edgeplast.cli.app import run
from edgeplast_devices.control_groups import group_limit
from edgeplast_devices.detection import recognise, this_machine
from edgeplast_devices.doctor import machine
from edgeplast_devices.doctor.findings import Finding, failed, passed, split_advice, worst_exit_code
from edgeplast_devices.doctor.jetpack import check_jetpack
from edgeplast_devices.doctor.runtime import attempt, check_bundle_steps, check_runtime
from edgeplast_devices.doctor.trial import PRACTICE_GRAPH, Outcome, Request
from edgeplast_devices.thermals import read_thermals

GiB = 1 << 30
STOCK = "pip install 'edgeplast[stock]'"


def _at(millidegrees: str) -> trees.Tree:
    zone = "sys/class/thermal/thermal_zone0"
    return {f"{zone}/type": "x86_pkg_temp", f"{zone}/temp": millidegrees}


def _is(finding: Finding, status: str, message: str, advice: str = "", code: int = 0) -> None:
    assert (finding.status, finding.exit_code) == (status, code), finding
    assert re.search(message, finding.message), finding.message
    assert re.search(advice, finding.advice) and bool(advice) == bool(finding.advice), finding.advice


# -- the machine ------------------------------------------------------------------------------------------------


def test_python() -> None:
    _is(machine.check_python((3, 11, 7), 64, "x86_64"), "pass", "3.11.7, 64-bit on x86_64")
    _is(machine.check_python((3, 6, 9), 64, "aarch64"), "fail", "edgeplast needs 3.10", "uv python install", 3)
    _is(machine.check_python((3, 11, 2), 32, "aarch64"), "fail", "no 32-bit wheels", "64-bit system", 3)


def test_packages() -> None:
    versions = {"numpy": "2.4.6", "psutil": "7.2.2"}
    _is(machine.check_packages(versions, {"onnxruntime": "1.32.0"}, STOCK), "pass", "onnxruntime 1.32.0, numpy 2.4.6")
    _is(machine.check_packages(versions, {}, STOCK), "fail", "no onnxruntime", r"^pip install 'edgeplast\[stock\]'$", 3)
    _is(machine.check_packages(versions | {"numpy": None}, {}, STOCK), "fail", "numpy missing", "pip install numpy", 3)
    clash = machine.check_packages(versions, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.20.0"}, STOCK)
    way_out = r"^pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgeplast\[stock\]'$"
    _is(clash, "fail", "onnxruntime 1.32.0 and onnxruntime-gpu 1.20.0 are installed together", way_out, 3)


def test_the_command_suits_the_python_and_the_installed_are_seen() -> None:
    assert machine.suited_install("pip install 'edgeplast[train]'", (3, 12, 1)) == "pip install 'edgeplast[train]'"
    assert machine.suited_install("pip install 'edgeplast[train]'", (3, 14, 0)) == STOCK
    assert len(machine.installed_runtimes()) == 1 and None not in machine.installed_packages().values()


def test_memory() -> None:
    _is(machine.check_memory(None, 8 * GiB, 5 * GiB, None), "pass", "5 GiB free of 8 GiB; no budget to check")
    _is(machine.check_memory(GiB, 8 * GiB, 5 * GiB, None), "pass", "the budget is 1 GiB")
    _is(machine.check_memory(GiB, 8 * GiB, GiB // 2, None), "warn", "more than is free now", "Close other programs")
    _is(machine.check_memory(9 * GiB, 8 * GiB, GiB, None), "fail", "8 GiB that the machine has", "8192MiB", 4)
    group = machine.check_memory(GiB, 8 * GiB, 5 * GiB, GiB // 2)
    _is(group, "fail", "512 MiB that the control group", "less than --memory 512MiB", 4)


def test_wall_and_swap() -> None:
    _is(machine.check_wall(-1, GiB), "pass", "can enforce")
    _is(machine.check_wall(None, GiB), "warn", "no hard wall", "Leave some room")
    _is(machine.check_wall(GiB // 2, GiB), "fail", r"only 512 MiB \(ulimit -d\)", "--memory 512MiB", 4)
    _is(machine.check_swap(0, 0), "pass", "none")
    _is(machine.check_swap(4 * GiB, GiB), "pass", "1 GiB of 4 GiB")
    _is(machine.check_swap(4 * GiB, 3 * GiB), "warn", "short of memory", "Close other programs")


def test_disk_and_clock(tmp_path: Path) -> None:
    _is(machine.check_disk(tmp_path, GiB, True, 1 << 20), "pass", "1 GiB free")
    _is(machine.check_disk(tmp_path, 1 << 20, True, GiB), "fail", "need 1.06 GiB", "Free some space", 3)
    _is(machine.check_disk(tmp_path, GiB, False, 0), "fail", "cannot be written", "another folder", 3)
    _is(machine.check_clock(1.7e9, 1.6e9), "pass", "2023-11-1")
    _is(machine.check_clock(0.0, 1.7e9), "warn", "before files that exist already", "set-ntp true")


@pytest.mark.parametrize(
    ("tree", "status", "message"),
    [
        (trees.ORIN_NANO_SUPER, "warn", r"slowed down now by cpu-throttle-alert \(54 °C, 9.7 W, clock up to 100%"),
        (trees.NANO, "warn", "clock up to 62% of its maximum"),
        (trees.PI_4, "warn", "slowed down now by soft temperature limit"),
        (trees.LAPTOP, "warn", "by Processor"),
        (_at("83000"), "warn", "may"),
        (_at("99000"), "warn", "will"),
        (_at("40000"), "pass", "40 °C"),
        ({}, "skip", "no sensors"),
    ],
)  # fmt: skip
def test_heat(tmp_path: Path, tree: trees.Tree, status: str, message: str) -> None:
    finding = machine.check_thermals(read_thermals(trees.plant(tmp_path, tree)))
    _is(finding, status, message, "." if status == "warn" else "")


def test_device_line(tmp_path: Path) -> None:
    for tree, message in (
        (trees.PI_5, r"\(raspberry-pi-5\)"),
        (trees.ROCK_5, "Radxa ROCK 5B: 4 cores.*not in the list"),
    ):
        root = trees.plant(tmp_path / tree["proc/device-tree/model"][:5], tree)
        known = recognise(this_machine(root, system="Linux", architecture="aarch64", memory_bytes=8 * GiB, cores=4))
        _is(machine.check_device(known), "pass", message)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/user/memory.max": "500\n",
          "sys/fs/cgroup/user/me/memory.max": "max\n"}, 500),
        ({"proc/self/cgroup": "4:cpu,memory:/box\n9:name=systemd:/\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
          "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "700\n"}, 700),
        ({"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/memory.max": "900\n"}, 900),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_limits_of_control_groups_are_found_up_to_the_top(tmp_path: Path, files: trees.Tree, limit: int | None) -> None:
    assert group_limit(trees.plant(tmp_path, files)) == limit


# -- the runtime ------------------------------------------------------------------------------------------------


def test_the_practice_graph_is_what_its_script_makes() -> None:
    pytest.importorskip("onnx", reason="the exporters need it")
    assert PRACTICE_GRAPH.read_bytes() == practice_graph() and PRACTICE_GRAPH.stat().st_size < 6000


def test_the_practice_graphs_loss_falls() -> None:
    outcome = attempt(Request())
    assert (outcome.stage, outcome.error) == ("done", "")
    assert outcome.last_loss < 0.1 * outcome.first_loss
    findings = check_runtime(outcome, STOCK)
    assert [f.status for f in findings] == ["pass"] * 3 and "a practice model learns" in findings[2].message


FAKE = """
__version__ = "1.16.3"
import os, signal, sys
class _Any:
    def __init__(self, *a, **k): pass
    def __getattr__(self, name): return _Any()
    def __call__(self, *a, **k): return _Any()
OrtMemoryInfo = OrtArenaCfg = SessionOptions = RunOptions = _Any
OrtAllocatorType = OrtMemType = ExecutionOrder = GraphOptimizationLevel = _Any()
def create_and_register_allocator(*a): pass
def get_available_providers(): return ["TensorrtExecutionProvider", "CPUExecutionProvider"]
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Outcome]:
    """Put another onnxruntime before the installed one, in the doctor's own process."""

    def with_code(code: str) -> Outcome:
        (tmp_path / "onnxruntime").mkdir()
        (tmp_path / "onnxruntime" / "__init__.py").write_text(FAKE + code)
        monkeypatch.syspath_prepend(str(tmp_path))
        return attempt(Request(), timeout_seconds=20)

    return with_code


def test_a_runtime_that_loads_but_cannot_train_has_its_own_message(pretend: Callable[[str], Outcome]) -> None:
    outcome = pretend(
        "class InferenceSession:\n"
        "    def __init__(self, *a, **k): raise RuntimeError('Could not find an implementation for FusedMatMul')\n"
    )
    runtime, providers, training = check_runtime(outcome, STOCK)
    _is(runtime, "pass", "1.16.3")
    _is(providers, "pass", "tensorrt, cpu")
    _is(training, "fail", r"1\.16\.3 loads but cannot train: .*implementation for FusedMatMul\. Predicting may work",
        r"^pip install --force-reinstall 'edgeplast\[stock\]'$", 3)  # fmt: skip


def test_a_runtime_that_trains_garbage_is_found_out(pretend: Callable[[str], Outcome]) -> None:
    outcome = pretend("class InferenceSession(_Any):\n    def get_inputs(self): return []\n")  # and does nothing
    _is(check_runtime(outcome, STOCK)[2], "fail", "cannot train: .*gradient norm of 0", "--force-reinstall", 3)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL: its wheel is for a processor"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died of SIGKILL: most likely the kernel"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "does not load.*libcudart"),
        ("sys.exit(7)", "ended with code 7"),
    ],
)
def test_a_runtime_that_does_not_load_or_takes_the_process_with_it(
    pretend: Callable[[str], Outcome], code: str, reason: str
) -> None:
    runtime, *rest = check_runtime(pretend(code + "\n"), STOCK)
    _is(runtime, "fail", reason, "--force-reinstall", 3)
    assert [f.status for f in rest] == ["skip", "skip"]


def test_a_runtime_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = attempt(Request(), timeout_seconds=0.01)
    assert "no answer within 10 ms" in outcome.error


# -- a bundle ---------------------------------------------------------------------------------------------------


def _outcome(**changes: object) -> Outcome:
    settings: dict = {"stage": "done", "runtime": "stock 1.32.0", "rung": "tier full, micro-batch 4", "batch": 8,
                      "predicted_bytes": 250 << 20, "peak_bytes": 240 << 20, "image_seconds": 0.02,
                      "update_seconds": 0.1}  # fmt: skip
    return Outcome(**(settings | changes))


def test_lines_of_a_bundle_that_works() -> None:
    step, budget, speed = check_bundle_steps(_outcome(), 256 << 20, 1000)
    _is(step, "pass", "the head trains")
    _is(budget, "pass", "tier full, micro-batch 4: predicted peak 250 MiB, measured 240 MiB, allowed 256 MiB")
    _is(speed, "pass", "an epoch of 1000 images takes about 32 s")
    assert budget.figures["measured_peak_bytes"] == 240 << 20 and speed.figures["epoch_seconds"] == pytest.approx(32.5)
    _is(check_bundle_steps(_outcome(), None, None)[2], "pass", "100 images take about 3.30 s")


@pytest.mark.parametrize(
    ("changes", "statuses", "message", "advice", "code"),
    [
        ({"stage": "train", "error": "cannot load head.onnx"}, ["fail", "skip", "skip"],
         "stock 1.32.0 cannot train this bundle: cannot load head.onnx", "Export it again", 3),
        ({"stage": "fit", "error": "60 MiB are not enough. Allow --memory 77MiB.", "exit_code": 4},
         ["pass", "fail", "skip"], "not enough", "Allow --memory 77MiB", 4),
        ({"stage": "step"}, ["pass", "warn", "skip"], "more than is free now; it was not tried", "Close other", 0),
        ({"stage": "step", "error": "Memory ran out", "exit_code": 4}, ["pass", "fail", "skip"],
         "but the step failed: Memory ran out", "smaller --memory", 4),
        ({"peak_bytes": 300 << 20}, ["pass", "warn", "pass"], "measured 300 MiB", "Give --memory 300MiB", 0),
    ],
)  # fmt: skip
def test_lines_of_a_bundle_that_does_not(
    changes: dict, statuses: list[str], message: str, advice: str, code: int
) -> None:
    findings = check_bundle_steps(_outcome(**changes), 256 << 20, None)
    assert [f.status for f in findings] == statuses
    _is(next(f for f in findings if f.status in ("warn", "fail")), findings[statuses.index(
        "fail" if "fail" in statuses else "warn")].status, message, advice, code)  # fmt: skip


def test_the_highest_code_wins_and_messages_are_cut_into_finding_and_advice() -> None:
    assert worst_exit_code([passed("a", "")]) == 0
    assert worst_exit_code([failed("a", "", "", 3), failed("b", "", "", 5), failed("c", "", "", 4)]) == 5
    assert split_advice("It broke. It is 1.5 years old. Buy one.") == ("It broke. It is 1.5 years old.", "Buy one.")
    assert split_advice("It broke") == ("It broke", "")


# -- by command line --------------------------------------------------------------------------------------------


def _doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    code = run(["doctor", *arguments, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code and said["works"] == (code == 0)
    return code, {finding["check"]: finding for finding in said["findings"]}


def test_a_sound_bundle_passes(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _doctor(capsys, str(bundle.path), "--memory", "1GiB", "--images", "48")
    assert code == 0 and list(found)[:4] == ["device", "python", "packages", "memory"]
    assert {found[name]["status"] for name in ("runtime", "training", "bundle", "its step", "budget", "speed")} == {
        "pass"
    }
    figures = found["budget"]["figures"]
    assert 0.5 < figures["measured_peak_bytes"] / figures["predicted_peak_bytes"] < 1.3
    assert found["speed"]["figures"]["epoch_seconds"] > 0


def test_ways_to_take_a_step_are_shown_and_once_timed_known_to_adapt(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, found = _doctor(capsys, str(bundle.path), "--memory", "1GiB", "--threads", "1")
    ways = found["ways"]["ways"]
    assert len(ways) > 3 and ways[0]["is_taken"] and not any(way["image_seconds"] for way in ways)
    assert all(0 < way["peak_bytes"] < 1 << 30 for way in ways) and "0 of them timed" in found["ways"]["message"]
    _, found = _doctor(capsys, str(bundle.path), "--memory", "1GiB", "--threads", "1", "--measure")
    timed = [way for way in found["ways"]["ways"] if way["image_seconds"]]
    assert len(timed) > 3 and sum(way["is_taken"] for way in timed) == 1
    _, again = _doctor(capsys, str(bundle.path), "--memory", "1GiB", "--threads", "1")
    known = {way["key"]: way["image_seconds"] for way in again["ways"]["ways"]}
    assert known == {way["key"]: way["image_seconds"] for way in found["ways"]["ways"] if way["threads"] == 1}
    assert run(["doctor", str(bundle.path), "--memory", "1GiB", "--threads", "1"]) == 0
    assert "way to take a step" in capsys.readouterr().out
    assert run(["doctor", "--measure"]) == 2
    assert "--measure times ways to take a step of a bundle" in capsys.readouterr().err


def test_a_budget_too_small_fails_with_4(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _doctor(capsys, str(bundle.path), "--memory", "30MiB")
    assert code == 4 and found["budget"]["status"] == "fail" and found["its step"]["status"] == "pass"
    assert re.search(r"Allow --memory \d+MiB", found["budget"]["advice"])


def test_the_budget_is_the_bundles_own_as_it_is_in_adapt(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    plan = msgspec.structs.replace(bundle.manifest.plan, budget=Budget(memory_bytes=30 << 20))
    msgspec.structs.replace(bundle.manifest, plan=plan).write(copy / MANIFEST)
    code, found = _doctor(capsys, str(copy))
    assert code == 4 and found["budget"]["status"] == "fail"
    assert "the budget is 30 MiB" in found["memory"]["message"]
    code, found = _doctor(capsys, str(copy), "--memory", "none")
    assert code == 0 and "no budget" in found["memory"]["message"]


def test_a_damaged_bundle_fails_with_5_and_is_not_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    data = bytearray((copy / TRAINABLE).read_bytes())
    data[-1] ^= 1
    (copy / TRAINABLE).write_bytes(data)
    code, found = _doctor(capsys, str(copy))
    assert code == 5 and "its SHA-256 differs" in found["bundle"]["message"]
    assert "Copy it to the device again" in found["bundle"]["advice"]
    assert found["its step"]["status"] == found["speed"]["status"] == "skip"


def test_people_get_a_line_a_check_and_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["doctor", str(tmp_path / "none")]) == 3
    out = capsys.readouterr().out
    assert "✗ bundle " in out and "There is no" in out and "→ Make a bundle with: edgeplast export" in out
    assert out.rstrip().endswith("Adaptation will not work here: bundle.")
    assert max(map(len, out.splitlines())) <= 60 + len(str(tmp_path))


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--images", "0"]) == 2
    assert "--images 0 is out of range" in capsys.readouterr().err
    assert run(["doctor", "--device", "jetson"]) == 2
    assert "Unknown device 'jetson'" in capsys.readouterr().err


def test_devices_lists_shows_and_detects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices"]) == 0
    assert "jetson-orin-nano-8gb" in capsys.readouterr().out
    assert run(["devices", "jetson-nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["budget_bytes"] == 512 << 20
    assert run(["devices", "raspberry-pi-5"]) == 0
    assert "BCM2712" in capsys.readouterr().out
    assert run(["devices", "--detect", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["cores"] >= 1 and said["profile"] and said["defaults"]["budget_bytes"] > 0
    assert run(["devices", "--detect"]) == 0
    assert "--device auto" in capsys.readouterr().out
    assert run(["devices", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["devices"]) >= 13


def test_adapting_does_not_pay_for_any_of_this() -> None:
    mine = ("doctor", "profiles", "thermals", "detection", "tomllib", "tomli")
    code = f"import edgeplast_devices.adapting, sys; print([m for m in sys.modules if m.endswith({mine})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("release", "named", "wheel"),
    [
        ("R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "JetPack 6 (L4T R36)", "jp6/cu126"),
        ("R39 (release), REVISION: 2.0", "JetPack 7 (L4T R39)", "CUDA 13 and aarch64"),
        ("R35 (release), REVISION: 4.1, BOARD: t186ref", "JetPack 5 (L4T R35)", ""),
        ("R32 (release), REVISION: 7.1", "JetPack 4 (L4T R32)", ""),
        *((f"R{number} (release), REVISION: 1.0", f"unknown (L4T R{number})", "") for number in (33, 37, 41)),
    ],
)
def test_a_jetson_is_told_where_its_wheel_comes_from_and_what_cuda_takes(release: str, named: str, wheel: str) -> None:
    found = check_jetpack(release)
    assert found.status == "pass" and found.message.startswith(named) and wheel in found.message
    assert ("1,750 MiB" in found.message) == bool(wheel) != ("use the processor" in found.message)


def test_upstream_issues_are_named_by_their_address() -> None:
    for number in range(30, 45):
        assert not re.search(r"\w#\d", check_jetpack(f"R{number} (release)").message)


def test_a_release_of_a_jetson_that_cannot_be_read_is_shown() -> None:
    found = check_jetpack("nonsense")
    assert found.status == "skip" and found.message == "cannot read 'nonsense' in /etc/nv_tegra_release"
