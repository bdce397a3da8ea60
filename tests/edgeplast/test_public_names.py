"""What ``import edgeplast`` offers: every public name, whatever was imported before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import edgeplast

MODULES = {path.stem for path in Path(edgeplast.__file__).parent.iterdir() if not path.name.startswith("_")}


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """Importing ``edgeplast.plan`` would set the attribute ``plan`` of the package to the module."""
    assert not MODULES & set(edgeplast.__all__)


def test_every_public_name_is_there_and_importing_loads_nothing() -> None:
    code = (
        "import sys, edgeplast\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "names = [name for name in edgeplast.__all__ if getattr(edgeplast, name) is None]\n"
        "print(sorted(heavy), names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "[] []", done.stderr
