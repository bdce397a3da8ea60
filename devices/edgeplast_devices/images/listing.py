"""The names of many pictures in little memory: eight bytes and the file's own name for each."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from heapq import merge

import numpy as np

_RUN = 4096
_JUNK_FOLDERS = (
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
)
_JUNK_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")


class Listing:
    """File names in the order in which they were found, each in a folder; folders are kept once.

    A hundred thousand Python strings take 10 MB; as one run of bytes they take 2.

    Attributes:
        folders: the folders that hold pictures, each as its parts below the root.
    """

    def __init__(self) -> None:
        self.folders: list[tuple[str, ...]] = []
        self._folder_numbers: dict[tuple[str, ...], int] = {}
        self._folder_of = array("i")
        self._ends = array("I", [0])
        self._text = bytearray()

    def add(self, folder: tuple[str, ...], file_name: str) -> None:
        """Append one picture."""
        number = self._folder_numbers.setdefault(folder, len(self.folders))
        if number == len(self.folders):
            self.folders.append(folder)
        self._folder_of.append(number)
        # File names are bytes on most systems; what is no UTF-8 survives the round trip this way.
        self._text += file_name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._folder_of)

    @property
    def folder_numbers(self) -> array[int]:
        """The position in ``folders`` of each picture's folder, int32 (n,)."""
        return self._folder_of

    def parts(self, index: int) -> tuple[str, ...]:
        """Return a picture's folders and file name."""
        name = self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")
        return (*self.folders[self._folder_of[index]], name)

    def path(self, index: int) -> str:
        """Return a picture's path below the root, with slashes."""
        return "/".join(self.parts(index))

    def ordered(self, members: np.ndarray) -> np.ndarray:
        """Return these pictures by path; of two with one path (a tar that was appended to) the later one.

        A few thousand names at a time are held as text: they are sorted in runs, and the runs merged one name at a
        time.

        Args:
            members: integers (n,), positions in this listing.

        Returns:
            int32 (n or fewer,).
        """
        runs = [
            array("i", sorted(members[start : start + _RUN].tolist(), key=self.path))
            for start in range(0, len(members), _RUN)
        ]
        kept, last = array("i"), None
        for path, index in merge(*(self._with_paths(run) for run in runs), key=lambda entry: entry[0]):
            if path == last:
                kept[-1] = index
            else:
                kept.append(index)
            last = path
        return np.frombuffer(kept, dtype=np.int32) if len(kept) else np.empty(0, dtype=np.int32)

    def _with_paths(self, run: array[int]) -> Iterator[tuple[str, int]]:
        for index in run:
            yield self.path(index), index


class LeftOut:
    """Files that are no pictures, or none that can be read here: how many in each folder, why, and one by name.

    Attributes:
        found: by folder (its parts below the root) and reason: how many, and the first one's name.
    """

    NO_PICTURE = "no picture"
    LINK = "a link out of the folder"

    def __init__(self) -> None:
        self.found: dict[tuple[tuple[str, ...], str], tuple[int, str]] = {}

    def add(self, folder: tuple[str, ...], file_name: str, reason: str) -> None:
        """Count one file.

        Args:
            folder: where it lies, as parts below the root.
            file_name: its name.
            reason: one of the constants above, or the format that cannot be read.
        """
        count, first = self.found.get((folder, reason), (0, file_name))
        self.found[folder, reason] = (count + 1, first)

    def moved(self, meant: Callable[[tuple[str, ...]], tuple[str, ...]] | None) -> LeftOut:
        """Return the same files, in the folders that theirs stand for."""
        if meant is None:
            return self
        moved = LeftOut()
        for (folder, reason), (count, first) in self.found.items():
            before, first = moved.found.get((meant(folder), reason), (0, first))
            moved.found[meant(folder), reason] = (before + count, first)
        return moved


def like_one_of(parts: Sequence[str], patterns: Sequence[str]) -> str | None:
    """Return the pattern that a path, or a folder or name in it, is like (``*`` is anything); None if none is."""
    path = "/".join(parts)
    for pattern in patterns:
        plain = pattern.strip("/")
        if fnmatchcase(path, plain) or ("/" not in plain and any(fnmatchcase(part, plain) for part in parts)):
            return pattern
        if "/" in plain and fnmatchcase(path, f"{plain}/*"):
            return pattern
    return None


def is_junk_file(name: str) -> bool:
    """Tell whether a file is one that no person made: hidden, ``Thumbs.db``, ``desktop.ini``."""
    return name.startswith(".") or name.lower() in _JUNK_FILES


def is_junk_folder(name: str) -> bool:
    """Tell whether a folder is one that no person made: ``.git``, ``.thumbnails``, ``__MACOSX``, ``@eaDir``."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS
