"""Set up environments for the tests beside the code, and run them: ``python3 tests/run.py [pytest options]``.

All tests run in ``.venv/tests``: torch, and the training build of onnxruntime. Those of the device side run again in
``.venv/stock``: stock onnxruntime and no torch, as on a device; they read the bundles that the first run exported.

With ``--fleet`` those of a fleet run once more in ``.venv/fleet``, slow ones too: Flower and stock onnxruntime. That
takes a minute to set up, half a gigabyte and an older rich, so it is not made by default (Python 3.11 or newer).

Needs Python 3.10 to 3.12 and pip's package index, nothing else. ``--setup-only`` stops before the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
WORKSTATION = ("tests", "-e", ".[offline,train,signing,tensorboard,parquet,dev]")
DEVICE = ("stock", "-e", ".[stock,signing]", "pytest", "hypothesis")
FLEET = ("fleet", "-e", ".[fleet,stock,signing]", "pytest", "hypothesis")
"""Names of environments, and what is in them."""

NOT_PINNED = {"fleet": ("rich", "typer")}
"""What an environment takes in another version than the others, since something in it asks for that."""

DEVICE_SIDE = ("tests/devices", "tests/trust", "tests/cli", "tests/fleet", "tests/flow", "tests/fuzz")
INTERRUPTED, NOTHING_TO_RUN = 2, 5
"""Exit codes of pytest."""


def environment(name: str, *packages: str) -> Path:
    """Make the virtual environment ``.venv/<name>`` with some packages in it; return its Python.

    A finished one is taken as it is, until the pins or the metadata change.
    """
    folder = ROOT / ".venv" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.txt"
    pins = _pins(name)
    wanted = "\n".join([*packages, pins, (ROOT / "pyproject.toml").read_text()])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Setting up {folder.relative_to(ROOT)} (a few minutes, once) …", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(pins)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(constraints)]
    # torch first and by its pin: left to a range, pip takes a build with gigabytes of CUDA libraries.
    if any("offline" in package for package in packages) and sys.version_info >= (3, 11):
        pinned = next(line.split(";")[0].strip() for line in pins.splitlines() if line.startswith("torch=="))
        subprocess.run([*pip, pinned], check=True)
    subprocess.run([*pip, *packages], check=True, cwd=ROOT)
    stamp.write_text(wanted)
    return python


def _pins(name: str) -> str:
    """Return the pins that hold in an environment."""
    others = tuple(f"{package}==" for package in NOT_PINNED.get(name, ()))
    return "".join(
        line for line in CONSTRAINTS.read_text().splitlines(keepends=True) if not (others and line.startswith(others))
    )


def main() -> int:
    """Set up, then hand over to pytest, once for each build of onnxruntime."""
    python, stock = environment(*WORKSTATION), environment(*DEVICE)
    arguments = [word for word in sys.argv[1:] if word != "--fleet"]
    fleet = environment(*FLEET) if "--fleet" in sys.argv[1:] else None
    if "--setup-only" in arguments:
        return 0
    with tempfile.TemporaryDirectory() as bundles:
        settings = os.environ | {"EDGEPLAST_TEST_BUNDLES": bundles, "EDGEPLAST_STOCK_PYTHON": str(stock)}
        code = subprocess.run([str(python), "-m", "pytest", *arguments], cwd=ROOT, env=settings).returncode
        if fleet is not None and code != INTERRUPTED:
            print(f"\nA fleet, with Flower ({fleet.parent}):", flush=True)
            every = ["tests/fleet", "-m", "slow or not slow"]
            code = subprocess.run([str(fleet), "-m", "pytest", *every], cwd=ROOT, env=settings).returncode or code
        again = for_the_device(arguments)
        if again is None or code == INTERRUPTED:
            return code
        print(f"\nThe device side once more, with stock onnxruntime and without torch ({stock.parent}):", flush=True)
        device = subprocess.run([str(stock), "-m", "pytest", *again], cwd=ROOT, env=settings).returncode
    return code or (device if device != NOTHING_TO_RUN else 0)


def for_the_device(arguments: list[str]) -> list[str] | None:
    """Return pytest's arguments for the device side: the same options, and of the paths those that lie there.

    None if paths are given and none of them does.
    """
    paths = [word for word in arguments if not word.startswith("-") and (ROOT / word.partition("::")[0]).exists()]
    if not paths:
        return [*arguments, *DEVICE_SIDE]
    others = [word for word in paths if not word.startswith(DEVICE_SIDE)]
    return None if len(others) == len(paths) else [word for word in arguments if word not in others]


if __name__ == "__main__":
    sys.exit(main())
