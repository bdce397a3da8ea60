"""What a body forgot of the classes it came with: a bundle in, the answers of its pretrained head out.

ImageNet's pictures are not in ``../shared/data``, the head that was trained on them is in the weights. It is put on the
body's features, before and after the body learned something else, and asked about pictures of other sets. The share of
them whose first of 1,000 classes stays the same is what is left of what the head could ask of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

BATCH = 16


def answers(bundle: Path, pictures: Sequence[Path], weights: Path) -> np.ndarray:
    """Return the class that the pretrained head names of each picture, int64 (n,).

    Args:
        bundle: whose body is asked, as it was exported or adapted.
        pictures: folders of them, each with folders of its own.
        weights: safetensors with ``head.weight``, (classes, width), and ``head.bias``.
    """
    from safetensors.numpy import load_file

    from edgeplast_devices.images import Unreadable, batches, open_images
    from edgeplast_devices.predicting import Classifier

    pretrained, model = load_file(weights), Classifier(bundle)
    found = []
    for folder in pictures:
        images = open_images(folder)
        for batch in batches(images, model.preprocessing, BATCH, unreadable=Unreadable()):
            found.append(model.session.features(batch.images))
    return (np.concatenate(found) @ pretrained["head.weight"].T + pretrained["head.bias"]).argmax(axis=1)
