"""SIGKILL at random moments, checkpoint writing included: nothing unreadable, nothing lost but the step under way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle

SCRIPT = Path(__file__).with_name("killed_runs.py")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks")
@pytest.mark.parametrize("kills", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_it_loses_one_step_at_most(bundle: Bundle, blobs: Path, tmp_path: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, bundle.path, blobs, tmp_path, str(kills), "7"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["killed"] == kills and result["same"] and result["finished"] >= 1
    assert result["most_lost"] <= 1  # the step whose checkpoint was not yet whole
