"""Replay: a few pictures of what was learned, kept in the adapted folder and mixed into later runs.

A model forgets what it is no longer shown. Some pictures of each class, those whose mean comes closest to the class's
(herding: Welling, ICML 2009; Rebuffi et al., *iCaRL*, arXiv 1611.07725), keep most of it. Nothing is kept unless it was
asked for: pictures are private, and ``forget`` deletes them.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.adaptation import ReplayReport
from edgeplast.bundle import MANIFEST, Bundle
from edgeplast.errors import InputError
from edgeplast.files import disk_errors, possible, write_bytes
from edgeplast.outputs import only_writer
from edgeplast_devices.examples import Examples, folder_name
from edgeplast_devices.images import Augmentation, ImageSet, Splits, UnreadableImageError, resized_size
from edgeplast_devices.images.joined import together
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.images.sampling import of_each_label
from edgeplast_devices.linking import link
from edgeplast_devices.options import TrainingOptions

REPLAY = "replay"
"""The folder of kept pictures, in that of the bundle: a folder for each class."""

_QUALITY = 92
"""Of JPEG: a picture of 224² takes some 20 kB."""

_CANDIDATES = 3
"""For each picture that is kept so many are looked at, evenly spread."""


def per_class(replay: str | None) -> int:
    """Return how many pictures of each class an option such as ``20/class`` keeps; 0 for ``none``."""
    return int(replay.partition("/")[0]) if replay and replay != "none" else 0


def kept_by(bundle: Bundle) -> ImageSet | None:
    """Return the pictures that a bundle keeps of what it learned; None for none."""
    folder = bundle.path / REPLAY
    if folder.is_symlink() or not folder.is_dir():
        return None
    found = Examples(folder, bundle.manifest.classes, (1, 1)).images()
    return found if len(found) else None


def with_replay(options: TrainingOptions, bundle: Bundle, images: Splits) -> tuple[TrainingOptions, Splits, int]:
    """Return options that say how many are kept, and the pictures of a run with those that the bundle keeps.

    Args:
        options: as they were given; without a word on replay a bundle that keeps pictures goes on so.
        bundle: to adapt.
        images: of the run.

    Returns:
        also how many pictures were mixed in.
    """
    before = kept_by(bundle) if options.labels == "given" else None
    if options.replay is None:
        most = 0 if before is None else int(np.bincount(before.labels).max())
        options = msgspec.structs.replace(options, replay=f"{most}/class" if most else "none")
    if before is None or options.replay == "none":
        return options, images, 0
    mixed = together(images.train, before, REPLAY)
    return options, Splits(mixed, images.val, images.test, images.also), len(before)


def candidates(labels: np.ndarray, count: int) -> np.ndarray:
    """Return which pictures are looked at, rising: of each class as many as are kept three times over."""
    return of_each_label(labels, dict.fromkeys(np.unique(labels).tolist(), _CANDIDATES * count))


def herded(features: np.ndarray, count: int) -> list[int]:
    """Return which rows together lie nearest to the mean of all, one after the other.

    Args:
        features: of one class, float (n, width).
        count: how many are wanted, at most.
    """
    mean, total, chosen = features.mean(0), np.zeros(features.shape[1]), []
    left = np.ones(len(features), bool)
    for number in range(1, min(count, len(features)) + 1):
        distance = np.square((total + features) / number - mean).sum(1)
        best = int(np.argmin(np.where(left, distance, np.inf)))
        left[best] = False
        total = total + features[best]
        chosen.append(best)
    return chosen


def keep_pictures(
    bundle: Bundle,
    images: ImageSet,
    chosen: np.ndarray,
    folder: Path,
    mixed: int,
    *,
    most_bytes: int | None = None,
) -> ReplayReport:
    """Write the chosen pictures into a finished folder, no larger than the model can use.

    Where there is no room for all, each class has as many as the others.

    Args:
        bundle: whose classes the labels are.
        images: that were learned from.
        chosen: indices; those that cannot be read, or have two, four or more channels, are left out.
        folder: of the adapted bundle.
        mixed: how many kept pictures were learned from, for the report.
        most_bytes: that they may take; None for no limit.

    Raises:
        DiskFullError: there is no room.
    """
    how, augmentation = bundle.manifest.preprocessing, Augmentation.named("default")
    sizes = (resized_size(how), augmentation.needed_size(how))
    least = max(height for height, _ in sizes), max(width for _, width in sizes)
    place, total = folder / REPLAY, 0
    counts: dict[str, int] = {}
    shutil.rmtree(place, ignore_errors=True)
    for number, index in enumerate(_in_turns(images.labels[chosen], chosen)):
        try:
            picture = images.open(index, at_least=least)
        except UnreadableImageError:
            continue
        if isinstance(picture, Planes):
            continue
        times = min(picture.height // least[0], picture.width // least[1])
        if times > 1:
            picture = picture.reduce(times)
        name = bundle.manifest.classes[int(images.labels[index])]
        path = place / folder_name(name) / f"{number:06d}.jpg"
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG", quality=_QUALITY)
        if most_bytes is not None and total + data.tell() > most_bytes:
            break
        with disk_errors(path):
            write_bytes(path, data.getvalue())
        counts[name] = counts.get(name, 0) + 1
        total += data.tell()
    return ReplayReport(mixed_in=mixed, kept=counts, bytes=total)


def _in_turns(labels: np.ndarray, chosen: np.ndarray) -> list[int]:
    """Return chosen pictures so that classes take turns."""
    turn = np.zeros(len(chosen), np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(int((labels == label).sum()))
    found: list[int] = chosen[np.lexsort((chosen, turn))].tolist()
    return found


def carry(source: Path, target: Path) -> None:
    """Link the kept pictures of a bundle's folder into another one that takes its place."""
    place = source / REPLAY
    if place.is_dir() and not place.is_symlink():
        for file in place.glob("*/*.jpg"):
            (target / REPLAY / file.parent.name).mkdir(parents=True, exist_ok=True)
            link(file, target / REPLAY / file.parent.name / file.name)


def forget_replay(bundle: str | Path) -> int:
    """Delete the pictures that an adapted bundle keeps of what it learned.

    Args:
        bundle: its folder.

    Returns:
        how many there were.

    Raises:
        InputError: there is no bundle.
        UsageError: another process writes it.
    """
    folder = Path(os.path.realpath(possible(bundle)))
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{bundle} is no bundle: it has no {MANIFEST}. Give the folder of an adapted one.")
    place = folder / REPLAY
    with only_writer(folder), disk_errors(place):
        if place.is_symlink():
            raise InputError(f"{place} is a link; nothing was deleted. Remove it yourself.")
        count = sum(1 for _ in place.glob("*/*.jpg"))
        if place.is_dir():
            shutil.rmtree(place)
    return count
