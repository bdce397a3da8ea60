"""Which pictures of a set something is measured on: pairs of them, or some of each class; numpy alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeplast.errors import InputError


class Examples(Protocol):
    """A set of preprocessed pictures with labels; anything with these members will do.

    Attributes:
        classes: class names in label order; empty if the pictures have no labels.
        labels: integers (len,), the class index of each picture; -1 where nobody said.
    """

    classes: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of pictures."""

    def tensor(self, index: int) -> np.ndarray:
        """Return one picture, float32 (C, H, W), preprocessed as the model expects it."""


Picture = tuple[Examples, int]
"""One picture of one set."""


def draw_pairs(images: Examples, reference: Examples | None, pairs: int, seed: int) -> list[tuple[Picture, Picture]]:
    """Draw pairs of pictures: across the two sets, or within ``images`` if there is no reference.

    Passes over the data until there are enough pairs; within a pass each picture is used at most once (once
    in each set, or once in all), and each pass is shuffled anew.

    Args:
        images: the pictures to adapt to.
        reference: pictures of the source domain; the paper pairs one of each.
        pairs: how many pairs to draw.
        seed: of the shuffles.

    Raises:
        InputError: too few pictures for two different pairs.
    """
    least = 2 if reference is not None else 4
    for what, group in (("data", images), ("reference", reference)):
        if group is not None and len(group) < least:
            raise InputError(
                f"The {what} set has {len(group)} pictures; scoring pairs of pictures needs at least {least}. "
                "Add pictures."
            )
    rng = np.random.default_rng(seed)
    drawn: list[tuple[Picture, Picture]] = []
    while len(drawn) < pairs:
        left = pairs - len(drawn)  # of a pass over many pictures no more become objects than are wanted
        if reference is None:
            order = rng.permutation(len(images))[: 2 * left]
            first, second = order[0 : len(order) // 2 * 2 : 2], order[1::2]
            drawn += [((images, int(i)), (images, int(j))) for i, j in zip(first, second, strict=True)]
        else:
            first, second = rng.permutation(len(reference))[:left], rng.permutation(len(images))[:left]
            drawn += [((reference, int(i)), (images, int(j))) for i, j in zip(first, second, strict=False)]
    return drawn


def draw_pictures(images: Examples, count: int, seed: int) -> list[int]:
    """Return at most ``count`` different picture indices, shuffled, classes taken in turn.

    Raises:
        InputError: fewer than two pictures.
    """
    if len(images) < 2:
        raise InputError(f"The data set has {len(images)} pictures; scoring needs at least 2. Add pictures.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    if len(images.classes) > 1:
        labels = np.asarray(images.labels)[order]
        turn = np.empty(len(order), dtype=np.int64)
        for c in np.unique(labels):
            turn[labels == c] = np.arange((labels == c).sum())
        order = order[np.argsort(turn, kind="stable")]
    return [int(i) for i in order[:count]]
