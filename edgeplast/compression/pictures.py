"""The pictures that pruning looks at: what a set must offer, and how it is drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from edgeplast.errors import InputError


class Pictures(Protocol):
    """A set of preprocessed pictures; labels are not looked at."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def tensor(self, index: int) -> np.ndarray:
        """Return one picture, float32 (3, H, W), preprocessed as the model expects it."""


def sample(images: Pictures, most: int, seed: int) -> list[int]:
    """Return at most ``most`` different picture indices, shuffled."""
    return [int(i) for i in np.random.default_rng(seed).permutation(len(images))[:most]]


def endless(images: Pictures, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of picture indices for ever, each pass over the pictures shuffled anew."""
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += [int(i) for i in rng.permutation(len(images))]
        yield waiting[:size]
        del waiting[:size]


def batch_of(model: torch.nn.Module, images: Pictures, indices: Sequence[int]) -> torch.Tensor:
    """Return pictures as float32 (B, 3, H, W).

    Raises:
        InputError: a picture is not what the model takes.
    """
    m: Any = model
    expected = (3, *(int(side) for side in m.patch_embed.img_size))
    arrays = [np.asarray(images.tensor(i), dtype=np.float32) for i in indices]
    for i, array in zip(indices, arrays, strict=True):
        if array.shape != expected or not np.isfinite(array).all():
            raise InputError(
                f"Picture {i} has shape {array.shape}, the model takes finite numbers of shape {expected}. "
                "Preprocess the pictures for this model."
            )
    return torch.from_numpy(np.stack(arrays))
