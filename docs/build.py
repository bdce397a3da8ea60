"""Build the documentation as a site into ``build/site``: ``python3 docs/build.py``; with ``--serve`` look at it.

Makes ``.venv/docs`` with what that needs, once. Every link is checked, and a dead one ends the build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from run import environment  # noqa: E402

SITE = ("docs", "-e", ".[docs]")
"""Name of the environment, and what is in it."""


def main() -> int:
    """Build, or serve pages that follow the files."""
    command = ["serve"] if "--serve" in sys.argv[1:] else ["build", "--strict", "--quiet", "--clean"]
    python = environment(*SITE)
    settings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # advertising in six lines
    return subprocess.run([str(python), "-m", "mkdocs", *command], cwd=ROOT, env=settings).returncode


if __name__ == "__main__":
    sys.exit(main())
