"""SIGKILL at random moments, while drives vanish, the disk is full and others write: one step is lost at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle

SCRIPT = Path(__file__).with_name("killed_runs.py")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks")
@pytest.mark.parametrize("kills", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_it_loses_one_step_at_most(bundle: Bundle, blobs: Path, tmp_path: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, bundle.path, blobs, tmp_path, str(kills), "7"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["killed"] >= kills and result["same"] and result["finished"] >= 1
    assert result["went_back"] == 0
    assert result["most_lost"] <= 1  # the step whose checkpoint was not yet whole
    if kills >= 300:
        assert result["vanished"] and result["full"] and result["second"]
        assert result["gave_up"] and result["stopped_full"] and result["refused"]
