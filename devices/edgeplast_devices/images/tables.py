"""Labels in a table beside the pictures, as Hugging Face's imagefolder has them, or beside each in a WebDataset shard.

``metadata.csv``, ``metadata.jsonl``, ``labels.csv`` or ``labels.jsonl`` lies at the top or in a split's folder; its
column ``file_name`` is a path from there, one other column says what the picture shows, and ``split`` may say where it
belongs. In a shard ``0001.cls`` holds the label of ``0001.jpg``. Rows are numbers in arrays here, twenty bytes each:
names are told by their 64-bit hash.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from edgeplast.errors import InputError
from edgeplast_devices.images.files import Files, key_of
from edgeplast_devices.images.imageset import NO_LABEL, ImageSet
from edgeplast_devices.images.layout import SPLITS, split_called

_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_path")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
_SPLIT_COLUMN = "split"
_NO_ROW = (
    "Not one row of its table in {} names a picture that is there. Paths in file_name begin at the table's folder."
)
_NO_CLS = "Not one file .cls in {} lies beside a picture of its name. 0001.cls says what 0001.jpg beside it shows."
_LINE_BYTES = 1 << 16
_LABEL_CHARACTERS = 1000


@dataclass(frozen=True)
class Labels:
    """What tables say of pictures.

    Attributes:
        classes: names, sorted; as numbers where all are some.
        numbers: int32 (n,), index into ``classes``, -1 where nothing is said.
        splits: those that there are; empty for none.
        split_of: int8 (n,), index into ``layout.SPLITS``, -1 for none.
        notes: what is left out, a line each.
    """

    classes: tuple[str, ...]
    numbers: np.ndarray
    splits: tuple[str, ...]
    split_of: np.ndarray
    notes: tuple[str, ...]

    def images(self, files: Files, split: str | None) -> ImageSet:
        """Return the pictures of a split that have a label (None: all), in order of class and path."""
        chosen = self.numbers != NO_LABEL
        if split is not None:
            chosen &= self.split_of == SPLITS.index(split)
        members = [
            files.ordered(np.flatnonzero(chosen & (self.numbers == number)).astype(np.int32))
            for number in range(len(self.classes))
        ]
        numbers = np.repeat(np.arange(len(members), dtype=np.int32), [len(part) for part in members])
        return ImageSet(files, np.concatenate(members), numbers, self.classes, notes=self.notes)


class Rows:
    """Rows of tables: which picture, label and split, as numbers."""

    def __init__(self) -> None:
        self.pictures, self.labels, self.splits = array("q"), array("i"), array("b")
        self.names: dict[str, int] = {}

    def add(self, picture: str, label: str, split: str | None = None) -> None:
        """Append one.

        Args:
            picture: its path, or what it is told by.
            label: what it shows; empty where that is not said.
            split: where it belongs.
        """
        self.pictures.append(hash(picture))
        self.labels.append(self.names.setdefault(label, len(self.names)) if label else NO_LABEL)
        self.splits.append(SPLITS.index(split) if split else -1)


def labels_of_tables(files: Files, where: Path) -> Labels | None:
    """Return what the tables among files say; None where there is none, or none has labels.

    Raises:
        InputError: a table cannot be read; several columns may be the label; a cell holds several labels; a picture is
            named twice, as two things; or no row names a picture that is there.
    """
    rows, read = Rows(), False
    for folder, name, opened in files.tables:
        shown = "/".join((str(where), *folder, name))
        split = next((found for part in folder if (found := split_called(part))), None)
        with opened() as stream:
            table = _jsonl(stream, shown) if name.endswith(".jsonl") else _csv(stream, shown)
            read |= _take(table, folder, split, shown, rows)
    return _matched(files, rows, where, _NO_ROW) if read else None


def labels_of_shard(files: Files, where: Path) -> Labels | None:
    """Return what ``.cls`` files say of the pictures beside them; None where there are none, but class folders.

    Raises:
        InputError: there are neither; or not one lies beside a picture, or two beside one say two things.
    """
    rows = files.labels_beside
    if rows is None:
        return None
    if not rows.pictures:
        if not len(files) or any(len(folder) > bool(split_called(folder[0])) for folder in files.folders if folder):
            return None
        raise InputError(
            f"The archives in {where} hold neither files .cls nor class folders, so nothing says what their pictures "
            "show. Put 0001.cls beside 0001.jpg, with the class in it, or the pictures in one folder a class."
        )
    keys = [hash(key_of(files.listing.path(index))) for index in range(len(files))]
    return _matched(files, rows, where, _NO_CLS, np.asarray(keys, np.int64))


def label_in(data: bytes, shown: str) -> str:
    """Return the label that a ``.cls`` file holds.

    Raises:
        InputError: it holds none, or more than one word.
    """
    label = _text(data, shown).strip()
    if len(label) > _LABEL_CHARACTERS or not label or "\n" in label:
        raise InputError(f"{shown} holds no label: {label[:40]!r}. It is one word or number.")
    return label


def _take(
    table: Iterator[Mapping[str, str]], folder: tuple[str, ...], split: str | None, shown: str, rows: Rows
) -> bool:
    """Add a table's rows; False where it has no label in it."""
    columns: tuple[str, str, str | None] | None = None
    for row in table:
        if columns is None:
            columns = _columns(list(row), shown)
            if columns is None:
                return False
        file, label, named = columns
        path = "/".join((*folder, *(part for part in row.get(file, "").split("/") if part not in ("", "."))))
        of = (row.get(named) or "").strip() if named else ""
        meant = split_called(of) if of else split
        if of and meant is None:
            raise InputError(f"{shown} has the split {of[:40]!r}. Splits are {', '.join(SPLITS)}.")
        if meant is None:
            meant = split_called(path.split("/")[0])
        rows.add(path, row.get(label, "").strip(), meant)
    return columns is not None


def _columns(names: Sequence[str], shown: str) -> tuple[str, str, str | None] | None:
    """Return the columns of file, label and split; None where nothing but the file is there."""
    lower = {name.strip().lower(): name for name in names}
    file = next((lower[name] for name in _FILE_COLUMNS if name in lower), None)
    if file is None:
        raise InputError(
            f"{shown} has the columns {_listed(names)}, and none says which picture a row is about. Call that one "
            "file_name; it holds paths from the table's folder on."
        )
    split = lower.get(_SPLIT_COLUMN)
    label = label_column([name for name in names if name not in (file, split)], shown)
    return (file, label, split) if label else None


def label_column(others: Sequence[str], shown: str) -> str | None:
    """Return which of some columns says what a picture shows; None where there are none.

    Raises:
        InputError: several may.
    """
    known = [name for name in others if name.strip().lower() in _LABEL_COLUMNS]
    chosen = known or others
    if len(chosen) > 1:
        raise InputError(
            f"{shown} has several columns that may say what a picture shows: {_listed(chosen)}. A model here learns "
            "one label a picture. Keep one of them, called label."
        )
    return chosen[0] if chosen else None


def _matched(files: Files, rows: Rows, where: Path, none: str, keys: np.ndarray | None = None) -> Labels:
    """Find the row of each picture; ``none`` is the message where none has one."""
    if keys is None:
        keys = np.fromiter((hash(files.listing.path(i)) for i in range(len(files))), np.int64, len(files))
    pictures = np.frombuffer(rows.pictures, np.int64) if rows.pictures else np.empty(0, np.int64)
    labels = np.frombuffer(rows.labels, np.int32) if rows.labels else np.empty(0, np.int32)
    order = np.argsort(pictures, kind="stable")
    pictures, labels = pictures[order], labels[order]
    splits = np.frombuffer(rows.splits, np.int8)[order] if rows.splits else np.empty(0, np.int8)
    twice = np.flatnonzero((pictures[1:] == pictures[:-1]) & (labels[1:] != labels[:-1]))
    names = list(rows.names)
    if len(twice):
        told = [names[label] if label >= 0 else "" for label in labels[twice[0] : twice[0] + 2]]
        index = np.flatnonzero(keys == pictures[twice[0]])
        name = files.name(int(index[0])) if len(index) else "a picture"
        raise InputError(
            f"{where} says of {name} that it is {told[0]!r} and {told[1]!r}. One label a picture is learned."
        )
    place = np.minimum(np.searchsorted(pictures, keys), max(len(pictures) - 1, 0))
    found = pictures[place] == keys if len(pictures) else np.zeros(len(keys), bool)
    if not found.any():
        raise InputError(none.format(where))
    numbers = np.where(found, labels[place], NO_LABEL).astype(np.int32)
    of = np.where(found, splits[place], -1).astype(np.int8)
    ranked = sorted(names, key=_rank(names))
    table = np.asarray([*(ranked.index(name) for name in names), NO_LABEL], np.int32)
    notes = list(files.notes)
    if lost := int((numbers == NO_LABEL).sum()):
        first = files.name(int((numbers == NO_LABEL).argmax()))
        notes.append(f"left out: {lost} picture{'s' if lost > 1 else ''} without a label (such as {first})")
    if missing := int((~np.isin(pictures, keys)).sum()):
        notes.append(f"{missing} label{'s' if missing > 1 else ''} of pictures that are not there")
    present = tuple(split for i, split in enumerate(SPLITS) if ((of == i) & (numbers != NO_LABEL)).any())
    if present and ((of == -1) & (numbers != NO_LABEL)).any():
        raise InputError(
            f"{where} says of some pictures in which split they are, and of others not. Say it of all or none."
        )
    return Labels(tuple(ranked), table[numbers], present, of, tuple(notes))


def _rank(names: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """Return what to sort classes by: numbers where all are, else text."""
    numbered = all(name.isdecimal() and len(name) < 10 for name in names)
    return lambda name: (int(name) if numbered else 0, name)


def _csv(stream: BinaryIO, shown: str) -> Iterator[dict[str, str]]:
    lines = csv.reader(_lines(stream, shown))
    try:
        names = next(lines, [])
        if len({name.strip().lower() for name in names}) != len(names):
            raise InputError(f"{shown} has two columns of one name: {_listed(names)}. Rename one.")
        for row in lines:
            if row:
                yield dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise InputError(f"{shown} is no table that can be read (line {lines.line_num}: {error}).") from error


def _jsonl(stream: BinaryIO, shown: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(_lines(stream, shown), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            yield {name: _cell(name, msgspec.json.decode(value), shown, number) for name, value in row.items()}
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InputError(f"Line {number} of {shown} is no JSON object: {str(error)[:200]}.") from error


def _cell(name: str, value: object, shown: str, number: int) -> str:
    """Return a value as text; what is no single one is refused where it would be the label, and else of no use."""
    if isinstance(value, list | dict):
        if name.strip().lower() in _LABEL_COLUMNS:
            raise InputError(
                f"Line {number} of {shown}: {name} holds several values. A model here learns one label a picture."
            )
        return ""
    return "" if value is None else str(value)


def _lines(stream: BinaryIO, shown: str) -> Iterator[str]:
    first = True
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    while line := buffered.readline(_LINE_BYTES + 1):
        if len(line) > _LINE_BYTES:
            raise InputError(f"{shown} has a line of more than 64 KiB, which no row of labels is.")
        yield _text(line.removeprefix(b"\xef\xbb\xbf") if first else line, shown)
        first = False


def _text(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not in UTF-8. Save it as such.") from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:12])
