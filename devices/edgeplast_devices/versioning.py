"""Versions of an adapted bundle on the device: taken down as they are made, thinned, and put back.

A version takes no more room than its weights: its files are links to those of the bundle, where the file system has
links. What is put back is verified like a bundle that came from elsewhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import MANIFEST, REPORT, TRAINABLE, Bundle, Manifest
from edgeplast.errors import DamagedError, UsageError
from edgeplast.files import disk_errors, sha256, write_bytes
from edgeplast.outputs import building_folder, only_writer
from edgeplast.progress import Progress, silent
from edgeplast.stored_files import SIGNATURES, fault_of, is_graph
from edgeplast.versions import RECORD, VERSIONS, Version, folders_of, history, named
from edgeplast_devices.growing import axes_of, head_of
from edgeplast_devices.linking import link
from edgeplast_devices.protobuf import resized_values
from edgeplast_devices.replaying import carry

_OF_A_VERSION = (MANIFEST, TRAINABLE, REPORT, SIGNATURES)


def take_down(
    folder: Path,
    *,
    before: Path,
    start: Bundle,
    by: str,
    keep: int,
    number: int | None = None,
    report: Adaptation | None = None,
    is_replaced: bool = False,
) -> None:
    """Note a finished bundle as a version, in its own folder, after those that the bundle before it had.

    Args:
        folder: of the bundle, complete but for its versions.
        before: folder of the bundle that it was made from, with the versions before.
        start: that bundle; where it had no version, it becomes the first one. Its weights may lie elsewhere by now.
        by: what made it: ``adapt``, ``learn``, ``add class`` or ``calibrate``.
        keep: how many versions are kept beside the bundle as it came; 0 keeps none at all.
        number: that it gets, in place of a version of this number; the next one by default.
        report: of what was learned.
        is_replaced: whether ``before`` is the folder whose place the finished one takes, and no bundle of the user's.
    """
    shutil.rmtree(folder / VERSIONS, ignore_errors=True)
    if not keep:
        return
    known = folders_of(before)
    for place in known.values():
        _linked(place, folder / VERSIONS / place.name, but=None if is_replaced else before / TRAINABLE)
    if not known and (before / MANIFEST).is_file() and sha256(before / MANIFEST) == start.fingerprint:
        first = folder / VERSIONS / "v0"
        first.mkdir(parents=True)
        for name in (MANIFEST, REPORT, SIGNATURES):
            if (before / name).is_file():
                shutil.copyfile(before / name, first / name)
        if start.is_copy:
            link(start.path / TRAINABLE, first / TRAINABLE)
        else:  # the user's own file: a link to it would change its times
            shutil.copyfile(start.path / TRAINABLE, first / TRAINABLE)
        _record(first, 0, start.manifest.adapted_from, "bundle", start.manifest, None, ())
        known = {0: first}
    number = max(known, default=-1) + 1 if number is None else number
    place = folder / VERSIONS / f"v{number}"
    shutil.rmtree(place, ignore_errors=True)
    weights, classes = start.manifest.files[TRAINABLE].sha256, len(start.manifest.classes)
    same = [v.digest for v in history(folder) if v.weights_sha256 == weights and v.classes == classes]
    parent = same[-1] if same else start.fingerprint
    place.mkdir(parents=True)
    for name in _OF_A_VERSION:
        if (folder / name).is_file():
            link(folder / name, place / name)
    manifest = Manifest.read(folder / MANIFEST)
    added = tuple(name for name in manifest.classes if name not in start.manifest.classes)
    _record(place, number, parent, by, manifest, report, added)
    for old in [n for n in folders_of(folder) if n][: -keep or None]:
        shutil.rmtree(folder / VERSIONS / f"v{old}")


def next_number(folder: Path) -> int:
    """Return the number of the version that is made next in a folder, whose first is 0."""
    return max(folders_of(folder), default=0) + 1


def _record(
    place: Path,
    number: int,
    parent: str | None,
    by: str,
    manifest: Manifest,
    report: Adaptation | None,
    added: tuple[str, ...],
) -> None:
    weights = manifest.files[TRAINABLE]
    version = Version(
        number=number,
        digest=sha256(place / MANIFEST),
        parent=parent,
        made_at=datetime.now(timezone.utc).replace(microsecond=0),
        by=by,
        classes=len(manifest.classes),
        new_classes=added,
        steps=report.steps if report else 0,
        measured_on=report.measured_on if report else "",
        before=report.accuracy.before if report else None,
        after=report.accuracy.after if report else None,
        weights_bytes=weights.bytes,
        weights_sha256=weights.sha256,
    )
    version.write(place / RECORD)


def roll_back(bundle: str | Path, version: str, *, progress: Progress = silent) -> Version:
    """Put a version of an adapted bundle back in its place, as a whole; the versions after it stay.

    Args:
        bundle: folder of an adapted bundle.
        version: its name, such as ``"v3"``.
        progress: told of bytes that are verified.

    Returns:
        the version.

    Raises:
        InputError: there is no such version.
        UsageError: another process writes the bundle.
        DamagedError: the bundle or the version is not whole; the bundle is as it was.
        DiskFullError: there is no room; the bundle is as it was.
    """
    folder = Path(os.path.realpath(bundle))
    chosen = named(version, history(folder))
    with only_writer(folder):
        found = Bundle.open(folder, progress=progress)
        with building_folder(folder, force=True) as temporary:
            restore(found, chosen, temporary, lambda name: folder / name)
            carry(folder, temporary)  # kept pictures are no part of a version
    return chosen


def restore(bundle: Bundle, version: Version, folder: Path, place_of: Callable[[str], Path]) -> Manifest:
    """Write a version of a bundle into an empty folder, with all versions that there are.

    Args:
        bundle: as it is now.
        version: that is wanted.
        folder: to write.
        place_of: where a file or folder of the bundle lies, by name.

    Returns:
        its manifest, as it is written.

    Raises:
        DamagedError: the version is not what its record says.
    """
    place = place_of(VERSIONS) / version.name
    manifest = _verified(place, version)
    now, head = bundle.manifest, head_of(bundle.manifest) if _differs(bundle.manifest, manifest) else None
    with disk_errors(folder):
        for name, stored in manifest.files.items():
            if name == TRAINABLE:
                link(place / name, folder / name)
            elif now.files.get(name) == stored:
                link(place_of(name), folder / name)
            else:
                if head is None or not is_graph(name) or name not in now.files:
                    raise _of_another(version, name)
                data = resized_values(place_of(name).read_bytes(), axes_of(head), head.classes, len(manifest.classes))
                write_bytes(folder / name, data)
            if (fault := fault_of(folder / name, stored, {})) is not None:
                raise DamagedError(f"Version {version.name} is damaged: {fault}. Roll back to another one.")
        if manifest.adapted_from is None:  # as it came: it stays an adapted bundle, which can learn on
            manifest = msgspec.structs.replace(manifest, adapted_from=version.digest)
            manifest.write(folder / MANIFEST)
        else:
            link(place / MANIFEST, folder / MANIFEST)
            if (place / SIGNATURES).is_file():
                link(place / SIGNATURES, folder / SIGNATURES)
        if (place / REPORT).is_file():
            link(place / REPORT, folder / REPORT)
        for each in folders_of(place_of(VERSIONS).parent).values():
            _linked(each, folder / VERSIONS / each.name)
    return manifest


def _differs(now: Manifest, then: Manifest) -> bool:
    return any(is_graph(name) and now.files.get(name) != stored for name, stored in then.files.items())


def _verified(place: Path, version: Version) -> Manifest:
    if not (place / MANIFEST).is_file() or sha256(place / MANIFEST) != version.digest:
        raise DamagedError(f"Version {version.name} is damaged: its {MANIFEST} is missing or was changed.")
    manifest = Manifest.read(place / MANIFEST)
    if (fault := fault_of(place / TRAINABLE, manifest.files[TRAINABLE], {})) is not None:
        raise DamagedError(f"Version {version.name} is damaged: {fault}. Roll back to another one.")
    return manifest


def _of_another(version: Version, name: str) -> UsageError:
    return UsageError(
        f"Version {version.name} belongs to another bundle: its {name} is not this one's. Roll back where it was made."
    )


def _linked(source: Path, target: Path, but: Path | None = None) -> None:
    """Link the files of a folder into another one, but for one that is a user's own: a link would change its times."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and not file.is_symlink():
            if but is not None and file.samefile(but):
                shutil.copyfile(file, target / file.name)
            else:
                link(file, target / file.name)
