"""Another name for a file that does not change, where the file system has links; else a copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_OF_A_FINISHED_FILE = 0o644


def link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where the file system has no links."""
    try:
        if source.stat().st_mode & 0o777 != _OF_A_FINISHED_FILE:  # a finished folder's files get it, links and all
            raise OSError
        os.link(source, target, follow_symlinks=False)
    except OSError:  # FAT and some shares have none
        shutil.copyfile(source, target)
