"""Pictures that are files, in a folder or in an archive: their names, and how each is opened."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from edgeplast.errors import InputError
from edgeplast_devices.images.decoding import UnreadableImageError, decode
from edgeplast_devices.images.formats import FORMAT_NAMES, HEAD_BYTES, foreign_format_of, format_of, promised_format
from edgeplast_devices.images.listing import LeftOut, Listing, is_junk_file, is_junk_folder, like_one_of
from edgeplast_devices.images.reaching import UnreachableImagesError, any_there, is_gone, reason_of
from edgeplast_devices.images.sampling import evenly_spread

if TYPE_CHECKING:
    from PIL import Image

    from edgeplast_devices.images.tables import Rows


Table = tuple[tuple[str, ...], str, Callable[[], BinaryIO]]
"""A table of labels: its folder, its name in small letters, and how it is opened."""

TABLE_NAMES = ("metadata.csv", "metadata.jsonl", "labels.csv", "labels.jsonl")

_NEIGHBOURS = 12
"""Pictures to look at before a place counts as gone."""

_TRIES = 3


class Files:
    """Encoded pictures that have a name and can be opened (a :class:`~.imageset.Source`).

    Attributes:
        listing: their names.
        left_out: what lies beside them and is no picture.
        formats: those that they have, as far as names and first bytes tell.
        tables: of labels beside them: folder, name, and how each is opened.
        notes: what was asked to be left out, a line.
        labels_beside: of a WebDataset shard: the label of each sample, by the sample's key; None of others.
        meant: where several archives are one data set: the folder that one of ``listing`` stands for.
    """

    def __init__(
        self,
        listing: Listing,
        opener: Callable[[int], BinaryIO],
        sizes: array[int] | None = None,
        left_out: LeftOut | None = None,
        formats: Iterable[str] = (),
        tables: Iterable[Table] = (),
        labels_beside: Rows | None = None,
    ) -> None:
        self.listing, self.left_out = listing, left_out or LeftOut()
        self.formats, self.tables, self.labels_beside = frozenset(formats), tuple(tables), labels_beside
        self.notes: tuple[str, ...] = ()
        self.meant: Callable[[tuple[str, ...]], tuple[str, ...]] | None = None
        self._open = opener
        self._sizes = sizes

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of one picture as a file; OSError where it is not there."""
        return self._open(index)

    @property
    def sizes(self) -> array[int]:
        """Bytes of each picture, where they are known without looking at it."""
        return array("q") if self._sizes is None else self._sizes

    @property
    def folders(self) -> list[tuple[str, ...]]:
        """The folders of ``listing`` as they say what pictures show: of archives, without the archive's name."""
        return [*map(self.meant, self.listing.folders)] if self.meant else self.listing.folders

    def __len__(self) -> int:
        return len(self.listing)

    def name(self, index: int) -> str:
        """Return the path below the root, printable."""
        return self.listing.path(index).encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without reading it: its path, and size where known."""
        size = f":{self._sizes[index]}" if self._sizes is not None else ""
        return (self.listing.path(index) + size).encode("utf-8", "surrogateescape")

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
        """Decode one picture to RGB; see :func:`~.decoding.decode`.

        Raises:
            UnreadableImageError: it is damaged, or was deleted while its neighbours are there.
            UnreachableImagesError: it is not there, and neither are the pictures beside it.
        """
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                return self._decode(index, at_least, limit_bytes)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                name = self.name(index)
                if not is_gone(error):
                    raise UnreadableImageError(name, reason_of(error)) from error
                if not any_there(self._look, self._neighbours(index)):
                    raise UnreachableImagesError(name, reason_of(error)) from error
                if not tries_left:
                    raise UnreadableImageError(name, reason_of(error)) from error
                # Its place is there: once more, for it may have come back since the picture was asked for.
        raise AssertionError

    def _decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
        try:
            with self._open(index) as stream:
                return decode(stream, self.name(index), at_least=at_least, limit_bytes=limit_bytes)
        except UnreadableImageError:
            self._look(index)  # a library of C may have met the drive's error and called it damage
            raise

    def _look(self, index: int) -> None:
        with self._open(index) as stream:
            stream.read(1)

    def _neighbours(self, index: int) -> list[int]:
        """Return some other pictures, of the same folder where it has any, else of all."""
        of = np.frombuffer(self.listing.folder_numbers, dtype=np.int32)
        beside = np.flatnonzero(of == of[index])
        among = beside if len(beside) > 1 else np.arange(len(self))
        # Spread over all of them: whoever deletes some often deletes those that lie together.
        some = among[evenly_spread(len(among), _NEIGHBOURS)]
        return [other for other in some.tolist() if other != index]

    def without(self, patterns: Sequence[str]) -> Files:
        """Return all but those whose path, or a folder or file name in it, is like one of these patterns.

        Raises:
            InputError: a pattern is like none.
        """
        kept, seen = array("i"), dict.fromkeys(patterns, 0)
        listing, left_out = Listing(), LeftOut()
        for index in range(len(self)):
            parts = self.listing.parts(index)
            if (pattern := like_one_of(parts, patterns)) is None:
                kept.append(index)
                listing.add(parts[:-1], parts[-1])
            else:
                seen[pattern] += 1
        for (folder, reason), (count, first) in self.left_out.found.items():
            if (pattern := like_one_of((*folder, first), patterns)) is None:
                left_out.found[folder, reason] = count, first
            else:
                seen[pattern] += count
        if unused := [repr(pattern) for pattern, count in seen.items() if not count]:
            raise InputError(
                f"Nothing is like {', '.join(unused)}, which was to be excluded. Patterns are names of folders or "
                "files, or paths from the top on, with * for anything: --exclude unsure, --exclude 'train/*/IMG_*'"
            )
        sizes = None if self._sizes is None else array("q", (self._sizes[index] for index in kept))
        found = Files(
            listing, lambda index: self._open(kept[index]), sizes, left_out, self.formats, self.tables,
            self.labels_beside,
        )  # fmt: skip
        found.meant = self.meant
        found.notes = (f"excluded: {sum(seen.values())} files like {', '.join(map(repr, seen))}",)
        return found

    def ordered(self, members: np.ndarray) -> np.ndarray:
        """Return these pictures by path, int32; of two with one path the later one."""
        return self.listing.ordered(members)


def from_folder(root: Path) -> Files:
    """List the pictures of a folder and the folders in it, and count what else lies there.

    Links are followed as long as they stay within the folder; the folder itself may be one. So a data set that
    someone hands over cannot show the device's other files.

    Raises:
        InputError: a folder cannot be read.
    """
    listing, left_out = Listing(), LeftOut()
    inside, formats, tables = _Inside(root), set(), list[Table]()
    for parts, entry in _entries(root, inside, left_out):
        if entry.name.lower() in TABLE_NAMES:
            tables.append((parts, entry.name.lower(), partial(_opened, Path(entry.path))))
            continue
        try:
            kind = promised_format(entry.name) or format_or_reason(read_head(Path(entry.path)))
        except OSError as error:
            kind = (error.strerror or str(error)).lower()
        if kind in FORMAT_NAMES:
            listing.add(parts, entry.name)
            formats.add(kind)
        else:
            left_out.add(parts, entry.name, kind)

    def opened(index: int) -> BinaryIO:
        path = root.joinpath(*listing.parts(index))
        if not inside.holds(path) and path.exists():  # it was no link, or another one, when the folder was listed
            raise OSError(errno.ELOOP, "a link that leads out of the data set")
        return path.open("rb")

    return Files(listing, opened, left_out=left_out, formats=formats, tables=tables)


def from_file(path: Path) -> Files:
    """List one picture."""
    listing = Listing()
    listing.add((), path.name)
    return Files(listing, lambda _: path.open("rb"), formats=filter(None, [format_of(read_head(path))]))


def key_of(path: str) -> str:
    """Return what a WebDataset's files of one sample have in common: the path up to the first dot of the name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}" if folder else name.partition(".")[0]


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, enough to tell what it is.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return file.read(HEAD_BYTES) or b""


def format_or_reason(head: bytes) -> str:
    """Return the format that these first bytes are the start of, else a reason for :class:`LeftOut`."""
    return format_of(head) or foreign_format_of(head) or LeftOut.NO_PICTURE


class _Inside:
    """Tells whether paths, with all links followed, stay within a folder."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._lead = self._root.rstrip(os.sep) + os.sep

    def holds(self, path: Path | str) -> bool:
        real = os.path.realpath(path)
        return real == self._root or real.startswith(self._lead)


def _entries(root: Path, inside: _Inside, left_out: LeftOut) -> Iterator[tuple[tuple[str, ...], os.DirEntry[str]]]:
    """Yield each file that a person may have put there, with its folder's parts; folders in order of their names."""
    waiting: list[tuple[tuple[str, ...], frozenset[str]]] = [((), frozenset())]
    while waiting:
        parts, above = waiting.pop()
        folder = root.joinpath(*parts)
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder around it: following it would never end
            continue
        inner = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_junk_folder(entry.name) or is_junk_file(entry.name):
                        continue
                    if entry.is_symlink() and not inside.holds(entry.path):
                        meant = entry.is_dir() or promised_format(entry.name)
                        left_out.add(parts, entry.name, LeftOut.LINK if meant else LeftOut.NO_PICTURE)
                    elif entry.is_dir():
                        inner.append(entry.name)
                    elif entry.is_file():
                        yield parts, entry
        except OSError as error:
            raise InputError(f"Cannot read the folder {folder}: {error.strerror}. Check its permissions.") from error
        waiting += [((*parts, name), above | {real}) for name in sorted(inner, reverse=True)]
