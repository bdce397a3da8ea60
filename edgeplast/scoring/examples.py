"""The pictures that scores are measured on, as torch takes them: batches, and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgeplast.drawing import Examples as Examples
from edgeplast.drawing import Picture as Picture
from edgeplast.drawing import draw_pairs as draw_pairs
from edgeplast.drawing import draw_pictures as draw_pictures
from edgeplast.errors import InputError


def labels_of(images: Examples, indices: Sequence[int]) -> torch.Tensor:
    """Return the labels of some pictures, int64 (n,), as torch's losses take them; a set may keep smaller integers."""
    return torch.from_numpy(np.asarray(images.labels)[list(indices)].astype(np.int64))


def check_labels(images: Examples, method: str) -> None:
    """Raise unless the pictures have labels of at least two classes.

    Raises:
        InputError: the method needs labels that the pictures do not have.
    """
    labels = np.asarray(images.labels)
    if len(images.classes) < 2 or len(np.unique(labels)) < 2 or labels.min() < 0:
        raise InputError(
            f"Score method {method!r} needs labelled pictures of at least two classes; the data has "
            f"{', '.join(images.classes) or 'no labels'}, and {int((labels < 0).sum())} pictures without a label. "
            "Put each class in a folder of its own, or choose a method that needs no labels: plasticity, "
            "plasticity-branch, jacobian, fps."
        )


def to_batch(
    model: torch.nn.Module, pictures: Sequence[Picture], shape: tuple[int, int, int], entrance: str
) -> torch.Tensor:
    """Stack pictures for a model: (B, C, H, W) in the dtype and on the device of its parameters.

    Args:
        model: gives dtype and device.
        pictures: of one set or of several.
        shape: channels, height and width that the model takes.
        entrance: the component that they enter, for messages.

    Raises:
        InputError: a picture has another size than the model takes, or holds NaN or infinite values.
    """
    stack = []
    for group, index in pictures:
        array = np.asarray(group.tensor(index), dtype=np.float32)
        if array.shape != shape:
            raise InputError(
                f"{entrance}: picture {index} has shape {_times(array.shape)}, but the model takes "
                f"{_times(shape)} (channels × height × width in pixels). Preprocess the pictures to that "
                "size, or load the model with the size of the pictures (--image-size)."
            )
        if not np.isfinite(array).all():
            raise InputError(f"{entrance}: picture {index} holds NaN or infinite pixels. Remove it.")
        stack.append(array)
    weight = next(p for p in model.parameters() if p.is_floating_point())
    return torch.from_numpy(np.stack(stack)).to(device=weight.device, dtype=weight.dtype)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in shape)
