"""Set up an environment for the tests beside the code, and run them: ``python3 tests/run.py [pytest options]``.

Needs Python 3.10 to 3.12 and pip's package index, nothing else. ``--setup-only`` stops before the tests.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"


def environment(name: str, *packages: str) -> Path:
    """Make the virtual environment ``.venv/<name>`` with some packages in it; return its Python.

    A finished one is taken as it is, until the pins or the metadata change.
    """
    folder = ROOT / ".venv" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.txt"
    wanted = "\n".join([*packages, CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text()])
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Setting up {folder.relative_to(ROOT)} (a few minutes, once) …", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    # torch first and by its pin: left to a range, pip takes a build with gigabytes of CUDA libraries.
    if any("offline" in package for package in packages) and sys.version_info >= (3, 11):
        pinned = next(
            line.split(";")[0].strip() for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")
        )
        subprocess.run([*pip, pinned], check=True)
    subprocess.run([*pip, *packages], check=True, cwd=ROOT)
    stamp.write_text(wanted)
    return python


def main() -> int:
    """Set up, then hand over to pytest."""
    python = environment("tests", "-e", ".[offline,train,tensorboard,dev]")
    arguments = sys.argv[1:]
    if "--setup-only" in arguments:
        return 0
    return subprocess.run([str(python), "-m", "pytest", *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
