"""Versions: what an adapted bundle was before, each with the hash of the one that it came from.

They lie in the bundle's folder, ``versions/v3/``: manifest and weights of what trains, the report, and a record. Frozen
weights and graphs are the bundle's own; a graph for fewer classes is made again from it (``growing.py`` on the device).
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from edgeplast.bundle import MANIFEST, Bundle, Manifest
from edgeplast.documents import Count, Document
from edgeplast.errors import InputError
from edgeplast.files import possible
from edgeplast.stored_files import TRAINABLE

VERSIONS, RECORD = "versions", "version.json"
"""The folder of all versions, and the file of a version's record in its own."""

_NAME = re.compile(r"v(0|[1-9][0-9]{0,8})")


class Version(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of an adapted bundle.

    Attributes:
        number: counted from 0, the bundle as it came.
        digest: SHA-256 of its manifest.
        parent: that of the version that it came from; None where there is none.
        made_at: when.
        by: ``bundle`` (as it came), ``adapt``, ``learn``, ``add class`` or ``calibrate``.
        classes: how many it knows.
        new_classes: those that it knows and its parent did not.
        steps: optimizer steps that made it.
        measured_on: the split that accuracy was measured on; empty for none.
        before: accuracy of its parent there, None where it was not measured.
        after: its own.
        weights_bytes: size of what trains, which is what it takes.
        weights_sha256: its hash.
    """

    KIND: ClassVar[str] = "version"

    number: Count
    digest: str
    parent: str | None
    made_at: datetime
    by: str
    classes: int
    new_classes: tuple[str, ...] = ()
    steps: Count = 0
    measured_on: str = ""
    before: float | None = None
    after: float | None = None
    weights_bytes: Count
    weights_sha256: str

    @property
    def name(self) -> str:
        """As commands call it: ``v3``."""
        return f"v{self.number}"


def folders_of(bundle: Path) -> dict[int, Path]:
    """Return the folder of each version of a bundle's folder, by number, rising; links are passed over."""
    inside = bundle / VERSIONS
    if inside.is_symlink() or not inside.is_dir():
        return {}
    found = {
        int(match[1]): folder
        for folder in inside.iterdir()
        if (match := _NAME.fullmatch(folder.name)) and folder.is_dir() and not folder.is_symlink()
    }
    return dict(sorted(found.items()))


def history(bundle: str | Path) -> list[Version]:
    """Return the versions that the folder of an adapted bundle keeps, the oldest first.

    Raises:
        InputError: there is no bundle, or a record makes no sense.
    """
    folder = possible(bundle)
    if not (folder / MANIFEST).is_file():
        Bundle.open(folder)  # says what is there instead
    return [Version.read(place / RECORD) for place in folders_of(folder).values()]


def current(bundle: str | Path, versions: list[Version]) -> Version | None:
    """Return the version whose weights are those of the bundle: the newest one, unless it was rolled back."""
    manifest = Manifest.read(possible(bundle) / MANIFEST)
    weights = manifest.files[TRAINABLE].sha256
    same = [v for v in versions if v.weights_sha256 == weights and v.classes == len(manifest.classes)]
    return same[-1] if same else None


def named(name: str, versions: list[Version]) -> Version:
    """Return the version of a name such as ``v3``.

    Raises:
        InputError: there is none; those that are kept are named.
    """
    name = str(name)
    for version in versions:
        if version.name == name.strip().lower():
            return version
    kept = ", ".join(version.name for version in versions)
    given = name if len(name) <= 40 else f"{name[:40]}…"
    raise InputError(
        f"There is no version {given!r}. Kept are {kept}."
        if kept
        else "No version is kept of this bundle: it has learned nothing yet, or was adapted with --versions 0."
    )
