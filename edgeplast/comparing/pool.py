"""The pictures of a contest: those to learn from, and those held out, on which plans are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.errors import InputError
from edgeplast.progress import Progress, silent

if TYPE_CHECKING:
    from edgeplast_devices.images import ImageSet

HELD_OUT, MOST_HELD_OUT, LEAST_HELD_OUT = 0.25, 400, 8
"""Share of the training pictures that is held out where there is no validation split, how many at most (each costs a
forward pass a run), and how few say nothing."""

VALIDATION = 0.15
"""Share of what is learned from that ``adapt`` holds back to choose its epoch by, as it does by default."""


@dataclass(frozen=True)
class Pool:
    """Pictures that never mix.

    Attributes:
        learning: in an order of which every beginning has all classes in about their shares.
        held_out: on which plans are compared, in such an order too.
        held_out_from: the split they are of: ``val``, or ``train`` where they were cut from it.
        taken_for: what the data set was taken for, and what was left out of it, a line each.
        fingerprint: changes when the pictures do.
    """

    learning: ImageSet
    held_out: ImageSet
    held_out_from: str
    taken_for: tuple[str, ...]
    fingerprint: str


def open_pool(path: Path, seed: int, progress: Progress = silent) -> Pool:
    """Open a data set for a contest; the same path and seed give the same pictures in every process.

    A ``test`` split is left alone: what is chosen by looking at it is no test any more.

    Raises:
        InputError: there are too few pictures to hold any out, or fewer than two classes.
    """
    from edgeplast_devices.images import open_splits, require_classes, stratified_split, understood

    splits = open_splits(path, seed=seed, val_fraction=0, progress=progress)
    require_classes(splits.train)
    if splits.val is not None:
        learning, held_out, origin = splits.train, splits.val, "val"
        if len(held_out) > MOST_HELD_OUT:
            held_out = stratified_split(held_out, MOST_HELD_OUT / len(held_out), seed)[1]
    else:
        share = min(HELD_OUT, MOST_HELD_OUT / len(splits.train))
        learning, held_out = stratified_split(splits.train, share, seed)
        origin = "train"
    if len(held_out) < LEAST_HELD_OUT:
        raise InputError(
            f"{path} has {len(splits.train)} training pictures, of which {len(held_out)} can be held out to compare "
            f"plans on; below {LEAST_HELD_OUT} that would be a throw of dice. Give more pictures, or export the plan "
            "that planning chooses: edgeplast export MODEL --data DIR -o bundle/"
        )
    return Pool(
        learning=_mixed(learning, seed),
        held_out=_mixed(held_out, seed),
        held_out_from=origin,
        taken_for=tuple(understood(splits)),
        fingerprint=f"{learning.fingerprint()}-{held_out.fingerprint()}",
    )


def _mixed(images: ImageSet, seed: int) -> ImageSet:
    """Return the pictures in an order of which every beginning is stratified, each class's first ones first."""
    rng = np.random.default_rng([seed, len(images)])
    place = np.zeros(len(images))
    for label in np.unique(images.labels).tolist():
        members = rng.permutation(np.flatnonzero(images.labels == label))
        place[members] = np.arange(len(members)) / len(members)
    return images.subset(np.argsort(place, kind="stable"))
