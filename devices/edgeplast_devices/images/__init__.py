"""Pictures on the device: found, split, decoded, preprocessed and batched in little memory.

``open_splits`` or ``open_images`` finds them (a folder, a tar archive, an npz), ``batches`` makes tensors of them.
Pictures are read one at a time where they lie, so memory does not grow with their number.
"""

from edgeplast_devices.images.batching import Batch, Unreadable, batches
from edgeplast_devices.images.decoding import DECODE_LIMIT_BYTES, EXACT_DECODE_BYTES, UnreadableImageError
from edgeplast_devices.images.imageset import ImageSet, require_classes
from edgeplast_devices.images.opening import Splits, open_images, open_splits, open_unlabelled
from edgeplast_devices.images.reaching import UnreachableImagesError
from edgeplast_devices.images.splitting import epoch_order, picture_generator, stratified_split
from edgeplast_devices.images.transforms import Augmentation, preprocess

__all__ = [
    "DECODE_LIMIT_BYTES",
    "EXACT_DECODE_BYTES",
    "Augmentation",
    "Batch",
    "ImageSet",
    "Splits",
    "UnreachableImagesError",
    "Unreadable",
    "UnreadableImageError",
    "batches",
    "epoch_order",
    "open_images",
    "open_splits",
    "open_unlabelled",
    "picture_generator",
    "preprocess",
    "require_classes",
    "stratified_split",
]
