"""Whole device processes under a budget: peaks as the kernel counts them, signals, huge pictures, resuming."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from PIL import Image
from small_models import blob_folder, small_bundle

from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, Bundle
from edgeplast_devices.memory import machine_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks and signals as Linux has them")

MiB = 1 << 20
ENVIRONMENT = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeplast", *map(str, arguments)]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), capture_output=True, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose activations are large beside Python: eight blocks of width 96 over 145 tokens."""
    return small_bundle(
        tmp_path_factory.mktemp("wide") / "bundle", embed_dim=96, depth=8, num_heads=4, img_size=96, patch_size=8
    )


class TestPeaks:
    def test_less_memory_means_a_smaller_peak_and_the_same_losses(
        self, wide: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        said = _run("adapt", wide.path, "--data", blobs, "-o", tmp_path / "none", "--memory", "1MiB", "--json")
        assert said.returncode == 4
        least = int(re.search(r"--memory (\d+)MiB", json.loads(said.stdout)["error"])[1])  # type: ignore[index]
        reports = []
        for more in (0, 12, 60):
            into = tmp_path / str(more)
            done = _run("adapt", wide.path, "--data", blobs, "-o", into, "--memory", f"{least + more}MiB", "--json",
                        "--epochs", 1, "--batch", 16, "--augment", "none")  # fmt: skip
            assert done.returncode == 0, done.stderr
            reports.append(json.loads(done.stdout))
            memory = reports[-1]["memory"]
            assert memory["measured_peak_bytes"] <= (least + more) * MiB and memory["enforced_by"] == "kernel"
        tiers = [report["tier"] for report in reports]
        assert tiers[0] in ("head", "quarter") and tiers[-1] == "full"
        assert reports[0]["memory"]["measured_peak_bytes"] < reports[-1]["memory"]["measured_peak_bytes"]

    def test_fifty_megapixels_do_not_break_it(self, bundle: Bundle, tmp_path: Path) -> None:
        data = blob_folder(tmp_path / "data", train=4, test=2)
        huge = Image.new("RGB", (8660, 5774), (60, 80, 200))
        huge.save(data / "train" / "blue" / "huge.jpg", quality=60)
        huge.save(data / "train" / "red" / "huge.png", compress_level=1)
        huge.save(data / "train" / "red" / "scans.jpg", quality=60, progressive=True)
        done = _run("adapt", bundle.path, "--data", data, "-o", tmp_path / "a", "--memory", "130MiB", "--json",
                    "--epochs", 1)  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["memory"]["measured_peak_bytes"] <= 130 * MiB
        assert report["unreadable"] == 1  # the JPEG is decoded at an eighth, the PNG a strip at a time
        [[name, reason]] = report["unreadable_examples"]
        assert name.endswith("red/scans.jpg") and "decoding 8660 x 5774 pixels takes" in reason
        assert "save it as a baseline JPEG, not a progressive one" in reason


_IN_A_TERMINAL = """
import pty, os, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])))
"""
_BARS_AT_ONCE = """
import threading
import edgeplast.cli.bars as bars
bars._PATIENCE_SECONDS = 0.0
started = []
start = threading.Thread.start
threading.Thread.start = lambda thread: (started.append(thread.name), start(thread))[1]
from edgeplast.cli import main
try:
    main()
finally:
    print("threads", started)
"""


class TestTerminals:
    @pytest.mark.parametrize("columns", [80, 120])
    def test_the_smallest_budget_is_enough_in_a_terminal(
        self, wide: Bundle, blobs: Path, tmp_path: Path, columns: int
    ) -> None:
        """A bar that draws itself in a thread of its own needs a stack that no budget has counted."""
        said = _run("adapt", wide.path, "--data", blobs, "-o", tmp_path / "none", "--memory", "1MiB")
        least = int(re.search(r"--memory (\d+)MiB", said.stderr)[1])  # type: ignore[index]
        done = subprocess.run(
            [sys.executable, "-c", _IN_A_TERMINAL, _BARS_AT_ONCE, "adapt", wide.path, "--data", blobs,
             "-o", tmp_path / "a", "--memory", f"{least}MiB", "--epochs", "2"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
            env={**ENVIRONMENT, "COLUMNS": str(columns), "TERM": "xterm"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        report = json.loads((tmp_path / "a" / "report.json").read_text())
        assert report["memory"]["measured_peak_bytes"] <= least * MiB and report["rung_changes"] == []
        assert "epoch 2 of 2" in done.stdout and "━" in done.stdout
        # Both start before the runtime is read in, after which what is mapped and not touched is measured.
        assert "threads ['edgeplast-memory', 'edgeplast-signals']" in done.stdout


class TestTheBundlesOwnBudget:
    def test_it_is_the_default_and_none_lifts_it(self, tmp_path: Path, blobs: Path) -> None:
        made = small_bundle(tmp_path / "bundle")
        manifest = msgspec.structs.replace(
            made.manifest, plan=msgspec.structs.replace(made.manifest.plan, budget=Budget(memory_bytes=150 * MiB))
        )
        manifest.write(made.path / MANIFEST)
        given = ("adapt", made.path, "--data", blobs, "--epochs", 1, "--json")
        by_default = _run(*given, "-o", tmp_path / "a")
        assert "Budget: 150 MiB of memory, as the bundle was exported for" in by_default.stderr
        assert "--memory none" in by_default.stderr
        assert json.loads(by_default.stdout)["memory"]["budget_bytes"] == 150 * MiB
        lifted = _run(*given, "-o", tmp_path / "b", "--memory", "none")
        assert json.loads(lifted.stdout)["memory"]["budget_bytes"] is None, lifted.stderr


@pytest.mark.skipif(machine_bytes() < 6 << 30, reason="this machine has less memory than the budget")
def test_a_budget_of_more_than_two_gibibytes_is_a_budget(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """The runtime counts a region in 32 bits."""
    done = _run("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "a", "--memory", "4800MiB", "--epochs", 1)
    assert done.returncode == 0, done.stderr


class TestSignals:
    def test_sigterm_saves_and_the_same_command_with_resume_goes_on(
        self, wide: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        given = ("adapt", wide.path, "--data", blobs, "-o", tmp_path / "a", "--epochs", 6, "--threads", 1)
        process = subprocess.Popen(_command(*given), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        telemetry = tmp_path / "a.partial" / "telemetry.jsonl"
        for _ in range(600):
            if telemetry.exists() and telemetry.read_text().count('"kind":"step"') >= 3:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        assert process.returncode == 130, said
        assert re.search(
            r"error: Interrupted by SIGTERM at step \d+\. The run is saved at step \d+ in .*--resume", said
        )
        again = _run(*given)
        assert again.returncode == 2 and "holds an unfinished run" in again.stderr and "--resume" in again.stderr
        other = _run(*given[:6], "--resume", "--epochs", 7)
        assert other.returncode == 3 and "--epochs is 7 and was 6" in other.stderr
        resumed = _run(*given[:6], "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert "Resumed at step" in resumed.stderr and "resumed" in resumed.stdout
        report = json.loads((tmp_path / "a" / "report.json").read_text())
        assert report["epochs"] == 6 and len(report["resumed_at"]) == 1


@pytest.mark.parametrize(
    ("memory", "code", "words"),
    [
        ("plenty", 2, "plenty"),
        ("1MiB", 4, r"are Python and the runtime\. Allow --memory \d+MiB"),
        ("90000GiB", 4, r"more than this machine has"),
    ],
)
def test_a_budget_that_cannot_be_is_explained(
    bundle: Bundle, blobs: Path, tmp_path: Path, memory: str, code: int, words: str
) -> None:
    done = _run("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "a", "--memory", memory)
    assert done.returncode == code and re.search(words, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())
