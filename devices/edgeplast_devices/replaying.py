"""Replay: a few pictures of what was learned, kept in the adapted folder and mixed into later runs.

A model forgets what it is no longer shown. Some pictures of each class, those whose mean comes closest to the class's
(herding: Welling, ICML 2009; Rebuffi et al., *iCaRL*, arXiv 1611.07725), keep most of it. A share of those that are
kept was held back and stays so: it joins the validation pictures of later runs, whose best epoch would else be chosen
by what is new alone. Nothing is kept unless it was asked for: pictures are private, and ``forget`` deletes them.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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

_HELD_BACK = "-held-back"
"""At the end of the name of a kept picture that was not learned from."""

_SHARE_HELD_BACK = 0.15
"""Of those that are kept of a class, as of a data set without a split of its own."""


@dataclass(frozen=True)
class ReplayMemory:
    """Pictures that are kept of what was learned, or are to be.

    Attributes:
        images: all of them, labelled.
        held_back: which of them were not learned from, bool (n,).
    """

    images: ImageSet
    held_back: np.ndarray

    @property
    def learned(self) -> ImageSet:
        """Those that were learned from."""
        return self.images.subset(np.flatnonzero(~self.held_back))

    @property
    def measured(self) -> ImageSet:
        """Those that were held back."""
        return self.images.subset(np.flatnonzero(self.held_back))


def per_class(replay: str | None) -> int:
    """Return how many pictures of each class an option such as ``20/class`` keeps; 0 for ``none``."""
    return int(replay.partition("/")[0]) if replay and replay != "none" else 0


def kept_by(folder: Path, classes: Sequence[str]) -> ReplayMemory | None:
    """Return the pictures that a bundle keeps of what it learned; None for none.

    Args:
        folder: of the bundle.
        classes: of it, in order.
    """
    place = folder / REPLAY
    if place.is_symlink() or not place.is_dir():
        return None
    found = Examples(place, classes, (1, 1)).images()
    held_back = [Path(found.name(i)).stem.endswith(_HELD_BACK) for i in range(len(found))]
    return ReplayMemory(found, np.asarray(held_back, bool)) if len(found) else None


def bytes_of(folder: Path) -> int:
    """Return what the pictures take that a bundle keeps."""
    return sum(file.stat().st_size for file in (folder / REPLAY).glob("*/*.jpg"))


def with_replay(
    options: TrainingOptions, bundle: Bundle, images: Splits
) -> tuple[TrainingOptions, Splits, tuple[int, int]]:
    """Return options that say how many are kept, and the pictures of a run with those that the bundle keeps.

    Args:
        options: as they were given; without a word on replay a bundle that keeps pictures goes on so. Without labels
            nothing is learned from those, and none of a class is kept beside them: what there is is kept on as it is,
            and a word on replay stays left out.
        bundle: to adapt.
        images: of the run.

    Returns:
        also how many pictures join those that are learned from, and how many those that are held back.
    """
    before = kept_by(bundle.path, bundle.manifest.classes)
    if before is not None and options.labels == "none":
        return options, images, (0, 0)
    if options.replay is None:
        most = 0 if before is None else int(np.bincount(before.images.labels).max())
        options = msgspec.structs.replace(options, replay=f"{most}/class" if most else "none")
    if before is None or options.replay == "none":
        return options, images, (0, 0)
    if images.val is None:  # no epoch is chosen then; by old classes alone it would be the one that learned least
        before = ReplayMemory(before.images, np.zeros(len(before.images), bool))
    learned, measured = before.learned, before.measured
    train = together(images.train, learned, REPLAY)
    val = together(images.val, measured, REPLAY) if images.val is not None and len(measured) else images.val
    return options, Splits(train, val, images.test, images.also), (len(learned), len(measured))


def held_back_of(count: int, there: int) -> int:
    """Return how many of so many pictures that are kept of a class are held back, of those that were held back."""
    return min(int(count * _SHARE_HELD_BACK + 0.5), there)


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
    chosen: ReplayMemory | None,
    folder: Path,
    mixed: tuple[int, int],
    *,
    most_bytes: int | None = None,
) -> ReplayReport:
    """Write the chosen pictures into a finished folder, no larger than the model can use.

    Where there is no room for all, each class has as many as the others.

    Args:
        bundle: whose classes the labels are.
        chosen: those that cannot be read, or have two, four or more channels, are left out; None for none.
        folder: of the adapted bundle.
        mixed: how many kept pictures were learned from, and how many measured on, for the report.
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
    for number, index in enumerate(_in_turns(chosen.images.labels) if chosen else []):
        assert chosen is not None
        try:
            picture = chosen.images.open(index, at_least=least)
        except UnreadableImageError:
            continue
        if isinstance(picture, Planes):
            continue
        times = min(picture.height // least[0], picture.width // least[1])
        if times > 1:
            picture = picture.reduce(times)
        name = bundle.manifest.classes[int(chosen.images.labels[index])]
        end = _HELD_BACK if chosen.held_back[index] else ""
        path = place / folder_name(name) / f"{number:06d}{end}.jpg"
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG", quality=_QUALITY)
        if most_bytes is not None and total + data.tell() > most_bytes:
            break
        with disk_errors(path):
            write_bytes(path, data.getvalue())
        counts[name] = counts.get(name, 0) + 1
        total += data.tell()
    return ReplayReport(mixed_in=mixed[0], held_back=mixed[1], kept=counts, bytes=total)


def kept_on(bundle: Bundle, folder: Path, *, most_bytes: int | None = None) -> ReplayReport | None:
    """Keep on in a finished folder what a bundle keeps, of which the run learned nothing and to which it adds nothing.

    Args:
        bundle: that was adapted.
        folder: of the adapted bundle.
        most_bytes: as above; where there is no room for all, each class has as many as the others.

    Returns:
        what is kept; None where the bundle keeps nothing.

    Raises:
        DiskFullError: there is no room.
    """
    before = kept_by(bundle.path, bundle.manifest.classes)
    if before is None:
        return None
    total = bytes_of(bundle.path)
    if most_bytes is not None and total > most_bytes:
        return keep_pictures(bundle, before, folder, (0, 0), most_bytes=most_bytes)
    shutil.rmtree(folder / REPLAY, ignore_errors=True)
    with disk_errors(folder):
        carry(bundle.path, folder)
    classes, counts = bundle.manifest.classes, np.bincount(before.images.labels).tolist()
    return ReplayReport(mixed_in=0, kept={classes[i]: count for i, count in enumerate(counts) if count}, bytes=total)


def _in_turns(labels: np.ndarray) -> list[int]:
    """Return pictures so that classes take turns."""
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(int((labels == label).sum()))
    found: list[int] = np.argsort(turn, kind="stable").tolist()
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
