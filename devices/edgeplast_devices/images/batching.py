"""Pictures in batches: decoded, varied and normalised one after the other, unreadable ones left out and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.errors import InputError, UsageError
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images.decoding import UnreadableImageError
from edgeplast_devices.images.imageset import ImageSet
from edgeplast_devices.images.splitting import picture_generator
from edgeplast_devices.images.transforms import Augmentation, preprocess, resized_size


class Unreadable:
    """Which pictures could not be read, each counted once however often it was tried.

    Attributes:
        examples: the first few, name and reason; none where names are to be kept private.
    """

    def __init__(self, most: int = 10, *, private: bool = False) -> None:
        """Start empty.

        Args:
            most: how many to remember with their reason.
            private: remember numbers in place of names, and no examples.
        """
        self.examples: list[tuple[str, str]] = []
        self._most, self._private = (0 if private else most), private
        self._seen: set[str] = set()

    @property
    def count(self) -> int:
        """How many different pictures could not be read."""
        return len(self._seen)

    @property
    def names(self) -> list[str]:
        """Which pictures could not be read; where names are private, by their numbers in the set, ``#17``."""
        return sorted(self._seen)

    def restore(self, names: Iterable[str], examples: Iterable[tuple[str, str]]) -> None:
        """Take over what an interrupted run had found."""
        self._seen.update(names)
        self.examples[:] = list(examples)

    def record(self, error: UnreadableImageError, index: int) -> None:
        """Take note of one, which has this number in its set."""
        known = f"#{index}" if self._private else error.name
        if known not in self._seen:
            self._seen.add(known)
            if len(self.examples) < self._most:
                self.examples.append((error.name, error.reason))

    def lines(self) -> list[str]:
        """Return what a user is told of them, a line each: the first few by name, and how many more there are."""
        return left_out(self.count, self.examples)

    def check(self, total: int) -> None:
        """Raise if not one of ``total`` pictures could be read.

        Raises:
            InputError: with the first few names and reasons.
        """
        if total and self.count >= total:
            some = "; ".join(f"{name}: {reason}" for name, reason in self.examples[:3])
            raise InputError(
                f"{'The picture' if total == 1 else f'None of the {total} pictures'} could "
                f"{'not ' if total == 1 else ''}be read{f' ({some})' if some else ''}. Check that the data set "
                "is complete and that its files are pictures."
            )


def left_out(count: int, examples: Sequence[tuple[str, str]]) -> list[str]:
    """Return what a user is told of pictures that could not be read, a line each.

    Args:
        count: how many there are.
        examples: the first few of them, name and reason.
    """
    lines = [f"left out: {name}: {reason}" for name, reason in examples]
    rest = count - len(examples)
    if rest > 0:
        lines.append(f"left out: {rest} {'more ' if examples else ''}picture{'' if rest == 1 else 's'}")
    return lines


@dataclass(frozen=True)
class Batch:
    """Some pictures, ready for a model.

    Attributes:
        images: float32 (b, channels, H, W), C-contiguous.
        labels: int64 (b,), index into the set's classes.
        indices: int64 (b,), index into the set.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


def batches(
    images: ImageSet,
    how: Preprocessing,
    size: int,
    *,
    order: Sequence[int] | np.ndarray | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    epoch: int = 0,
    unreadable: Unreadable,
) -> Iterator[Batch]:
    """Go through pictures once, ``size`` of them at a time.

    What lies in a batch depends on ``order`` and ``size`` alone: an unreadable picture is missing from its batch
    and none moves up for it. A batch without a readable picture is left out. This generator keeps no batch, so a
    loop that ends with ``del batch`` has one in memory, not two.

    Args:
        images: the pictures.
        how: the model's preprocessing.
        size: pictures a batch, 1 or more.
        order: which pictures, in which order; None is all as they are. See :func:`~.splitting.epoch_order`.
        augmentation: how they are varied; None as in evaluation.
        seed: with ``epoch`` and the picture's index it decides how that picture is varied, 0 or more.
        epoch: how often the set has been gone through, 0 or more.
        unreadable: takes note of what was left out.

    Raises:
        UsageError: ``size``, ``seed`` or ``epoch`` is out of range (raised by the first ``next``).
        InputError: at the end, when the order holds the whole set and not one picture could be read.
    """
    if size < 1:
        raise UsageError(f"A batch of {size} pictures cannot be made; give 1 or more.")
    chosen = np.arange(len(images)) if order is None else np.asarray(order, dtype=np.int64)
    found = False
    for start in range(0, len(chosen), size):
        batch = _read(images, how, chosen[start : start + size], augmentation, (seed, epoch), unreadable)
        if len(batch):
            found = True
            yield batch
        del batch
    # A resumed epoch may have only a damaged rest to go through; that is no reason to stop.
    if not found and len(chosen) and len(chosen) >= len(images):
        unreadable.check(len(images))


def require_readable(images: ImageSet, how: Preprocessing, unreadable: Unreadable) -> None:
    """Raise unless of each class that has pictures here at least one can be read.

    Args:
        images: what is to be learned from.
        how: the model's preprocessing.
        unreadable: takes note of pictures that were tried and could not be read.

    Raises:
        InputError: of a class not one picture can be read, so it could not be learned.
    """
    for label in np.unique(images.labels).tolist():
        members, first = np.flatnonzero(images.labels == label), None
        for index in members.tolist():
            try:
                images.open(index, at_least=resized_size(how))
                break
            except UnreadableImageError as error:
                unreadable.record(error, index)
                first = first or error
        else:
            assert first is not None
            raise InputError(
                f"Of class {images.classes[label]!r} not one of its {len(members)} pictures can be read "
                f"({first.name}: {first.reason}), so it cannot be learned. Replace them, or take the class out."
            )


def _read(
    images: ImageSet,
    how: Preprocessing,
    indices: np.ndarray,
    augmentation: Augmentation | None,
    chance: tuple[int, int],
    unreadable: Unreadable,
) -> Batch:
    values = np.empty((len(indices), how.channels, *how.image_size), dtype=np.float32)
    at_least = augmentation.needed_size(how) if augmentation else resized_size(how)
    kept: list[int] = []
    for index in indices.tolist():
        try:
            picture = images.open(index, at_least=at_least)
        except UnreadableImageError as error:
            unreadable.record(error, index)
            continue
        if augmentation is None:
            values[len(kept)] = preprocess(picture, how)
        else:
            values[len(kept)] = augmentation.augment(picture, how, picture_generator(*chance, index))
        del picture  # or it would be held while the next one is decoded
        kept.append(index)
    return Batch(values[: len(kept)], images.labels[kept].astype(np.int64), np.asarray(kept, dtype=np.int64))
