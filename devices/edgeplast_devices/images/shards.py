"""A folder whose pictures lie in several archives: the shards of a WebDataset, or parquet files."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from edgeplast.errors import InputError
from edgeplast.progress import Progress
from edgeplast_devices.images.files import Files
from edgeplast_devices.images.kinds import PARQUET
from edgeplast_devices.images.layout import split_called, wrapping_folders
from edgeplast_devices.images.listing import LeftOut, Listing, is_junk_file, is_junk_folder
from edgeplast_devices.images.tables import Rows

MOST_SHARDS = 512
"""Each stays open: half of what a process may usually open."""

_TAR = re.compile(r"\.tar(\.(gz|xz|bz2))?$|\.tgz$", re.IGNORECASE)


def from_shards(root: Path, progress: Progress) -> Files | None:
    """Index the archives of a folder as one data set; None where it holds none.

    A shard belongs to the split that its folder or the first word of its name means (``train/0000.tar``,
    ``train-0000.tar``, ``train.tar``). What its pictures show is said by files ``.cls`` or by class folders inside.

    Args:
        root: the folder.
        progress: told of each archive.

    Raises:
        InputError: an archive cannot be read, there are both kinds or too many, or pyarrow is not installed.
    """
    found = _archives(root)
    tables = [entry for entry in found if entry[1].suffix.lower() == PARQUET]
    if not found:
        return None
    if tables and len(tables) < len(found):
        other = next(path for _, path in found if path.suffix.lower() != PARQUET)
        raise InputError(
            f"{root} holds parquet files and archives ({tables[0][1].name}, {other.name}). A data set is one or the "
            "other: give the folder of one kind."
        )
    if tables:
        from edgeplast_devices.images.parquet import from_parquet

        return from_parquet(tables, progress)
    from edgeplast_devices.images.tars import from_tar

    if len(found) == 1:
        return from_tar(found[0][1], progress)
    if len(found) > MOST_SHARDS:
        raise InputError(
            f"{root} holds {len(found)} archives, and {MOST_SHARDS} at most are opened. Join some of them."
        )
    rows, parts = Rows(), []
    splits = {(*folder, path.name): split_of(folder, path.name) for folder, path in found}
    for done, ((_, path), (lead, split)) in enumerate(zip(found, splits.items(), strict=True)):
        progress("opening shards", done, len(found))
        parts.append(from_tar(path, progress, lead, rows, split))
    progress("opening shards", len(found), len(found))
    files = _as_one(parts, rows)
    files.meant = folders_meant(files.listing.folders, splits)
    return files


def folders_meant(
    folders: Sequence[tuple[str, ...]], splits: Mapping[tuple[str, ...], str | None]
) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Return what tells the folder that one inside an archive stands for: ``train-0.tar/cat`` is ``train/cat``.

    Args:
        folders: all that hold pictures.
        splits: of each archive, by its folder and name, which begin the folders inside it.
    """

    def lead_of(folder: tuple[str, ...]) -> tuple[str, ...]:
        return next(folder[:end] for end in range(len(folder) + 1) if folder[:end] in splits)

    around = wrapping_folders([folder[len(lead_of(folder)) :] for folder in folders])

    def meant(folder: tuple[str, ...]) -> tuple[str, ...]:
        lead = lead_of(folder)
        split, inside = splits[lead], folder[len(lead) + around :]
        if split is None:
            return inside
        return (split, *(inside[1:] if inside and split_called(inside[0]) == split else inside))

    return meant


def split_of(folder: Sequence[str], name: str) -> str | None:
    """Return the split that a shard's folder or the first word of its name means."""
    words = [*folder, re.split(r"[-_.]", name)[0]]
    return next((split for word in words if (split := split_called(word))), None)


def _archives(root: Path) -> list[tuple[tuple[str, ...], Path]]:
    """Folder and path of each, in order; links are not followed."""
    found = []
    for path in sorted(root.rglob("*")):
        *folder, name = path.relative_to(root).parts
        if any(map(is_junk_folder, folder)) or is_junk_file(name) or path.is_symlink() or not path.is_file():
            continue
        if _TAR.search(name) or path.suffix.lower() == PARQUET:
            found.append((tuple(folder), path))
    return found


def _as_one(parts: Sequence[Files], rows: Rows) -> Files:
    listing, left_out, sizes = Listing(), LeftOut(), array("q")
    for part in parts:
        for index in range(len(part)):
            *folder, name = part.listing.parts(index)
            listing.add(tuple(folder), name)
        sizes.extend(part.sizes)
        left_out.found |= part.left_out.found
    ends = [*accumulate(map(len, parts))]

    def opened(index: int) -> BinaryIO:
        number = bisect_right(ends, index)
        return parts[number].open(index - (ends[number] - len(parts[number])))

    formats = {kind for part in parts for kind in part.formats}
    tables = [table for part in parts for table in part.tables]
    return Files(listing, opened, sizes, left_out, formats, tables, rows)
