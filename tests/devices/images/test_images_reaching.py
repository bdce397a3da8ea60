"""A picture that is damaged or deleted is left out; a place that is gone is an error of its own, and may come back."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from edgeplast_devices.images import (
    ImageSet,
    UnreachableImagesError,
    Unreadable,
    UnreadableImageError,
    batches,
    open_images,
)
from edgeplast_devices.images.storage import SharedFile


def returning(images: ImageSet, back: Callable[[], object]) -> tuple[ImageSet, list[str]]:
    """The same images, whose place comes back when it was asked for three times."""
    told: list[str] = []

    def wait(error: UnreachableImagesError) -> None:
        told.append(error.name)
        if len(told) == 3:
            back()

    return images.waiting(wait), told


class Failing:
    """A stream whose reads fail as those of a drive do that was pulled."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seek(self, *_: object) -> int:
        return 0

    def read(self, *_: object) -> bytes:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("gone", ["data", "data/train", "data/train/a"])
def test_a_folder_that_vanishes_is_no_damaged_picture(make_folder, how, tmp_path: Path, gone: str) -> None:
    make_folder({"train/a": 3, "train/b": 3})
    images, unreadable = open_images(tmp_path / "data"), Unreadable()
    whole = [batch.images.copy() for batch in batches(images, how, 2, unreadable=unreadable)]
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(UnreachableImagesError, match=r"train/a/000\.png cannot be reached \(no such file.*is gone"):
        list(batches(images, how, 2, unreadable=unreadable))
    waiting, told = returning(images, lambda: (tmp_path / "elsewhere").rename(tmp_path / gone))
    again = [batch.images for batch in batches(waiting.subset(range(6)), how, 2, unreadable=unreadable)]
    assert told == ["train/a/000.png"] * 3 and unreadable.count == 0
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


def test_a_place_that_comes_back_while_its_neighbours_are_asked(
    make_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 3, "b": 3})
    images, asked = open_images(root), []
    opener = images._source._open

    def blink(index: int) -> BinaryIO:
        asked.append(index)
        if len(asked) == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return opener(index)

    monkeypatch.setattr(images._source, "_open", blink)
    assert images.open(0).size and asked[0] == asked[-1] and len(asked) > 2


def test_an_empty_mount_point_is_a_place_that_is_gone(make_folder) -> None:
    root = make_folder({"a": 2, "b": 2})
    images = open_images(root)
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(UnreachableImagesError):
        images.open(1)


@pytest.mark.parametrize("beside", [0, 3])
def test_one_that_was_deleted_is_left_out_by_name(make_folder, how, beside: int) -> None:
    root = make_folder({"a": 1 + beside, "b": 3})
    images, unreadable = open_images(root), Unreadable()
    (root / "a/000.png").unlink()
    assert sum(map(len, batches(images, how, 2, unreadable=unreadable))) == 3 + beside
    assert unreadable.examples == [("a/000.png", "no such file or directory")]


def test_many_that_were_deleted_together(make_folder, how) -> None:
    root = make_folder({"a": 30, "b": 1})
    images, unreadable = open_images(root), Unreadable()
    for number in range(20):
        (root / f"a/{number:03d}.png").unlink()
    assert sum(map(len, batches(images, how, 4, unreadable=unreadable))) == 11 and unreadable.count == 20


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT])
def test_reads_that_fail_as_a_pulled_drive_does(make_folder, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    images = open_images(make_folder({"a": 2, "b": 1}))
    opener = images._source._open
    monkeypatch.setattr(images._source, "_open", lambda _: Failing(number))
    with pytest.raises(UnreachableImagesError, match=os.strerror(number)[1:]):
        images.open(0)
    # a bad sector, then: one picture alone cannot be read
    monkeypatch.setattr(images._source, "_open", lambda index: Failing(number) if index == 0 else opener(index))
    with pytest.raises(UnreadableImageError, match=os.strerror(number)[1:]):
        images.open(0)


def test_a_file_one_may_not_read_is_left_out(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(make_folder({"a": 1, "b": 1}))

    def refuse(_: int) -> BinaryIO:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(images._source, "_open", refuse)
    with pytest.raises(UnreadableImageError, match="permission denied"):
        images.open(0)


def test_an_archive_is_opened_again_when_its_drive_is_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    shared = SharedFile.at(path)
    shared._file.close()
    shared._file = Failing(errno.EIO)  # type: ignore[assignment]
    path.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        shared.read_at(10, 5)
    path.write_bytes(b"another one")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        shared.read_at(10, 5)
    (tmp_path / "away").replace(path)
    assert shared.read_at(10, 5) == bytes(range(10, 15))


def test_rows_of_an_array_on_a_drive_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / "d.npz", train_images=rows, train_labels=np.array([0, 1, 0, 1]))
    images, real = open_images(tmp_path / "d.npz"), SharedFile.read_at
    broken: set[int] = set()

    def read(shared: SharedFile, offset: int, count: int) -> bytes:
        if broken == {0} or offset in broken:
            raise OSError(errno.EIO, "Input/output error")
        return real(shared, offset, count)

    monkeypatch.setattr(SharedFile, "read_at", read)
    broken.add(images._source._offset + 64)
    with pytest.raises(UnreadableImageError, match="input/output error"):
        images.open(1)
    broken.clear()
    broken.add(0)
    with pytest.raises(UnreachableImagesError, match=r"train_images\[1\] cannot be reached"):
        images.open(1)
    broken.clear()
    assert images.open(1).size == (8, 8)
