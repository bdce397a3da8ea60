"""Pictures on the device: found, split, decoded, preprocessed and batched in little memory.

``open_splits`` or ``open_images`` finds them (a folder, a tar archive, an npz), ``batches`` makes tensors of them.
Pictures are read one at a time where they lie, so memory does not grow with their number.
"""

from edgeplast_devices.images.batching import Batch, Unreadable, batches, require_readable
from edgeplast_devices.images.decoding import (
    DECODE_LIMIT_BYTES,
    EXACT_DECODE_BYTES,
    UnreadableImageError,
    needed_bytes,
    preload,
)
from edgeplast_devices.images.describing import understood
from edgeplast_devices.images.imageset import ImageSet, Picture, require_classes, require_labels
from edgeplast_devices.images.opening import (
    Splits,
    open_images,
    open_splits,
    open_splits_without_labels,
    open_unlabelled,
)
from edgeplast_devices.images.reaching import UnreachableImagesError
from edgeplast_devices.images.splitting import batch_order, epoch_order, picture_generator, stratified_split
from edgeplast_devices.images.transforms import Augmentation, preprocess, resized_size

__all__ = [
    "DECODE_LIMIT_BYTES",
    "EXACT_DECODE_BYTES",
    "Augmentation",
    "Batch",
    "ImageSet",
    "Picture",
    "Splits",
    "UnreachableImagesError",
    "Unreadable",
    "UnreadableImageError",
    "batch_order",
    "batches",
    "epoch_order",
    "needed_bytes",
    "open_images",
    "open_splits",
    "open_splits_without_labels",
    "open_unlabelled",
    "picture_generator",
    "preload",
    "preprocess",
    "require_classes",
    "require_labels",
    "require_readable",
    "resized_size",
    "stratified_split",
    "understood",
]
