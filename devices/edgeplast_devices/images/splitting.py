"""Chance that repeats itself: which pictures are held back, in which order they come, how each is cropped.

Every draw has a generator of its own, seeded by what it is for. So the tenth picture of the third epoch is
cropped in the same way whatever the batch size, and also when a run is resumed in the middle of that epoch.
(NumPy keeps these numbers stable within a release, and says so when it changes them: NEP 19.)
"""

from __future__ import annotations

import numpy as np

from edgeplast.errors import UsageError
from edgeplast_devices.images.imageset import ImageSet

_SPLIT, _ORDER, _PICTURE = range(3)


def stratified_split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Cut a set in two, with the same share of each class in both.

    Args:
        images: what to cut.
        fraction: the share of each class, rounded, that goes to the second part; between 0 and 1, without both.
        seed: decides which pictures, 0 or more.

    Returns:
        the first part, in which each class keeps at least one picture, and the second, which may lack rare
        classes; both in the order of ``images``.

    Raises:
        UsageError: ``fraction`` or ``seed`` is out of range.
    """
    if not 0 < fraction < 1:
        raise UsageError(
            f"Cannot hold back a fraction of {fraction} of the pictures; give one between 0 and 1, as 0.15."
        )
    held = np.zeros(len(images), dtype=bool)
    for label in np.unique(images.labels).tolist():
        members = np.flatnonzero(images.labels == label)
        count = min(int(len(members) * fraction + 0.5), len(members) - 1)
        held[_generator(seed, _SPLIT, label + 1).permutation(members)[:count]] = True
    return images.subset(np.flatnonzero(~held)), images.subset(np.flatnonzero(held))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers 0 to ``n - 1`` shuffled, int64 (n,); another order each epoch.

    Raises:
        UsageError: ``seed`` or ``epoch`` is negative.
    """
    return _generator(seed, _ORDER, epoch).permutation(n).astype(np.int64)


def batch_order(order: np.ndarray, batch: int) -> list[np.ndarray]:
    """Cut an epoch's order into batches; a last one of less than half a batch joins the one before."""
    pieces = [order[start : start + batch] for start in range(0, len(order), batch)]
    if len(pieces) > 1 and len(pieces[-1]) < batch / 2:
        pieces[-2:] = [np.concatenate(pieces[-2:])]
    return pieces


def picture_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator that decides how one picture is varied in one epoch.

    Raises:
        UsageError: ``seed`` or ``epoch`` is negative.
    """
    return _generator(seed, _PICTURE, epoch, index)


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    if min(seed, *purpose) < 0:
        raise UsageError(f"Seed {seed} and epoch must be whole numbers from 0.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
