"""Pictures as a model gets them to be measured on: preprocessed, each with a stand-in where it cannot be read."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.drawing import draw_pictures
from edgeplast.errors import FallbackWarning, InputError
from edgeplast.preprocessing import Preprocessing

if TYPE_CHECKING:
    from edgeplast_devices.images import ImageSet, UnreadableImageError

_WORKSTATION_DECODE_BYTES = 1 << 30
"""What decoding one picture may take where there is no budget to keep to."""

_NAMED_UNREADABLE = 10


class PreparedImages:
    """An image set as tensors: what scoring, calibration and pruning ask for, on the workstation and on a device.

    A picture that cannot be read is replaced by the next one of its class that can, and named in a FallbackWarning.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        labels_for: str = "",
        decode_limit_bytes: int | None = None,
    ) -> None:
        """Prepare images.

        Args:
            images: a set.
            preprocessing: the model's.
            labels_for: what needs their labels, for the message; empty where nothing does.
            decode_limit_bytes: the most memory that decoding one picture may take, where there is a budget.

        Raises:
            InputError: labels are needed and some have none.
        """
        from edgeplast_devices.images import require_labels

        if labels_for:
            require_labels(images, labels_for)
        most = max(images.decode_limit_bytes, _WORKSTATION_DECODE_BYTES)
        self._images = images.allowing(most if decode_limit_bytes is None else min(most, decode_limit_bytes))
        self.preprocessing = preprocessing
        self.classes, self.labels = images.classes, images.labels
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self._images)

    def tensor(self, index: int) -> np.ndarray:
        """Return float32 (channels, H, W).

        Raises:
            InputError: neither it nor another picture of its class can be read.
        """
        from edgeplast_devices.images import UnreadableImageError, preprocess, resized_size

        reason = None
        for other in ((index + step) % len(self) for step in range(len(self))):
            if self.labels[other] != self.labels[index]:
                continue
            try:
                picture = self._images.open(other, at_least=resized_size(self.preprocessing))
            except UnreadableImageError as error:
                reason = reason or error
                self._say(error, other)
            else:
                return preprocess(picture, self.preprocessing)
        assert reason is not None
        label = int(self.labels[index])
        what = f"class {self.classes[label]!r}" if label >= 0 else "these pictures"
        raise InputError(f"Of {what} not one can be read; the first: {reason}") from reason

    def _say(self, error: UnreadableImageError, index: int) -> None:
        """Warn of a picture that cannot be read, once; of many by their number."""
        if index in self._unreadable:
            return
        self._unreadable.add(index)
        count = len(self._unreadable)
        if count <= _NAMED_UNREADABLE:
            text = f"left out: {error.name}: {error.reason}; another picture of its class stands in for it"
        elif count % (10 * _NAMED_UNREADABLE) == 0:
            text = f"left out: {count} pictures by now that cannot be read"
        else:
            return
        warnings.warn(text, FallbackWarning, stacklevel=3)


def drawn(images: ImageSet, preprocessing: Preprocessing, count: int, seed: int) -> list[np.ndarray]:
    """Return some pictures as tensors, each float32 (channels, height, width), in random order."""
    prepared = PreparedImages(images, preprocessing)
    return [prepared.tensor(index) for index in draw_pictures(prepared, count, seed)]
