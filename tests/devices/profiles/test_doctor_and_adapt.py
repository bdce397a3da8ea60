"""What the doctor says of a budget is what ``adapt`` finds: both in processes of their own, as people start them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle


def held_mib(*words: object) -> float:
    """Run a command in a budget that is too small; return what it says that Python and the runtime take."""
    command = [sys.executable, "-m", "edgeplast", *map(str, words), "--memory", "30MiB", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    found = re.search(r"30 MiB of memory are not enough to train .* of which ([\d.]+) MiB are Python", said)
    assert found is not None, said
    return float(found[1])


@pytest.mark.skipif(sys.platform != "linux", reason="code is given back on Linux alone")
def test_both_count_the_same_for_python_and_the_runtime(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """Else the doctor would refuse budgets in which adapting works."""
    examined = held_mib("doctor", bundle.path)
    adapting = held_mib("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "a")
    assert abs(examined - adapting) < 4
