"""Check that a wheel holds the three packages, the glossary and nothing else: ``python tests/wheel.py dist/*.whl``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (ROOT / "edgeplast", ROOT / "exporters/edgeplast_exporters", ROOT / "devices/edgeplast_devices")


def main() -> int:
    """Print what is missing and what is too much; return 1 if anything is."""
    held = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}
    wanted = {
        str(file.relative_to(package.parent))
        for package in PACKAGES
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    } | {"edgeplast/glossary.md"}
    for name in sorted(wanted - held):
        print(f"missing in the wheel: {name}")
    for name in sorted(held - wanted):
        print(f"does not belong in the wheel: {name}")
    return int(held != wanted)


if __name__ == "__main__":
    raise SystemExit(main())
