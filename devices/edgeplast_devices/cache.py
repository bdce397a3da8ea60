"""Latents of pictures on disk, so that what never changes is computed once.

One file a split, of equal slots, one for each view of each picture; a slot that was not written is a hole and takes
no room. It is read by ``pread`` into an array, not mapped: nothing of it is resident but one micro-batch. Each slot
carries a checksum, so one that a crash or a power cut left half written is computed again, and nothing need be flushed.
The name of a file says what it belongs to: bundle, pictures, how they are varied, rounding; others are removed.

What a disk refuses is not kept, and computed again each time; the results are the same, because what trains is rounded
before it is used for the first time.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

_HEADER = struct.Struct("<II")
_WHOLE = 0x65706C31
_NAME = re.compile(r"\.latents-[a-z]+-[0-9a-f]{16}")
_LEAST_ROW = 32
"""Numbers that share a scale, at least: with fewer, scales weigh more than an eighth of what they scale."""

BITS = (32, 16, 8)
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Rounding:
    """How the latents of one picture are stored.

    Attributes:
        shape: of them, float32.
        bits: 32: as they are. 16: float16, cut off at its largest. 8: integers of −127 to 127 and a float32 scale for
            each row (a token, or a channel).
    """

    shape: tuple[int, ...]
    bits: int

    @cached_property
    def _row(self) -> int:
        row, *before = reversed(self.shape)
        for size in before:
            if row >= _LEAST_ROW:
                break
            row *= size
        return row

    @cached_property
    def _elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Of one picture."""
        scales = 4 * (self._elements // self._row) if self.bits == 8 else 0
        return self._elements * self.bits // 8 + scales

    def encoded(self, latents: np.ndarray) -> bytes:
        """Return the stored form of one picture's latents."""
        if self.bits == 32:
            return latents.tobytes()
        if self.bits == 16:
            return np.clip(latents, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2").tobytes()
        rows = latents.reshape(-1, self._row)
        scales = (np.abs(rows).max(1, keepdims=True) / np.float32(127)).astype("<f4")
        integers = np.rint(rows / np.where(scales > 0, scales, np.float32(1))).astype(np.int8)
        return scales.tobytes() + integers.tobytes()

    def decoded(self, data: memoryview, into: np.ndarray) -> None:
        """Write what :meth:`encoded` returned as float32 into an array of one picture."""
        if self.bits == 8:
            count = self._elements // self._row
            scales = np.frombuffer(data, "<f4", count).reshape(-1, 1)
            integers = np.frombuffer(data, np.int8, offset=4 * count).reshape(-1, self._row)
            np.multiply(integers, scales, out=into.reshape(-1, self._row), casting="unsafe")
        else:
            into.reshape(-1)[...] = np.frombuffer(data, "<f4" if self.bits == 32 else "<f2")


class Cache:
    """Latents of one split.

    Args:
        path: of its file; None keeps nothing.
        pictures: how many the split has.
        views: of each picture.
        rounding: how they are stored.
        most_bytes: that the file may take; None for no limit. Of the last pictures nothing is kept where it is less
            than all take.

    Attributes:
        views: as given.
    """

    def __init__(
        self, path: Path | None, pictures: int, views: int, rounding: Rounding, most_bytes: int | None = None
    ) -> None:
        self.views, self._pictures, self._rounding = views, pictures, rounding
        self._slot = slot_bytes(rounding)
        self._slots = pictures * views if most_bytes is None else most_bytes // self._slot
        self._left_out: set[int] = set()
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
                if os.fstat(self._file).st_size > self._slots * self._slot:  # of a run that had more room
                    os.ftruncate(self._file, self._slots * self._slot)
            except OSError:  # a full disk, one that can only be read: nothing is kept
                self._file = None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def is_left_out(self, index: int) -> bool:
        """Whether a picture was found to be unreadable by this process."""
        return index in self._left_out

    def leave_out(self, indices: Iterable[int]) -> None:
        """Take note of pictures that cannot be read."""
        self._left_out.update(indices)

    def read(self, view: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the latents that are there, float32 (b, …), and which of ``indices`` they belong to, bool."""
        found = np.empty((len(indices), *self._rounding.shape), np.float32)
        whole = np.zeros(len(indices), bool)
        count = 0
        for i, index in enumerate(indices.tolist()):
            data = self._slot_of(view, index)
            if data is not None:
                self._rounding.decoded(data, found[count])
                whole[i] = True
                count += 1
        return found[:count], whole

    def keep(self, view: int, indices: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Store latents, float32 (b, …), and return them as they will be read."""
        for index, one in zip(indices.tolist(), latents, strict=True):
            data = self._rounding.encoded(one)
            self._write(view, index, data)
            self._rounding.decoded(memoryview(data), one)
        return latents

    def _slot_of(self, view: int, index: int) -> memoryview | None:
        if self._file is None:
            return None
        try:
            data = os.pread(self._file, self._slot, (view * self._pictures + index) * self._slot)
        except OSError:  # a bad sector, a drive that is away
            return None
        if len(data) < self._slot:
            return None
        mark, checksum = _HEADER.unpack_from(data)
        payload = memoryview(data)[_HEADER.size :]
        return payload if mark == _WHOLE and zlib.crc32(payload) == checksum else None

    def _write(self, view: int, index: int, data: bytes) -> None:
        if self._file is None or view * self._pictures + index >= self._slots:
            return
        try:
            whole = _HEADER.pack(_WHOLE, zlib.crc32(data)) + data
            os.pwrite(self._file, whole, (view * self._pictures + index) * self._slot)
        except OSError:
            return  # half a slot has no right checksum


def slot_bytes(rounding: Rounding) -> int:
    """Return what one view of one picture takes on disk."""
    return _HEADER.size + rounding.size


def cache_file(folder: Path, split: str, *belongs_to: str) -> Path:
    """Return the file for the latents of a split, named after everything that decides them."""
    digest = hashlib.sha256("\0".join(belongs_to).encode()).hexdigest()
    return folder / f".latents-{split}-{digest[:16]}"


def is_latents(name: str) -> bool:
    """Whether a file of this name holds latents."""
    return _NAME.fullmatch(name) is not None


def clear_latents(folder: Path, but: Iterable[Path] = ()) -> None:
    """Remove files of latents, except for some."""
    kept = {path.name for path in but}
    for file in folder.glob(".latents-*"):
        if is_latents(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)
