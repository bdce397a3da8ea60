"""Opening a data set: a folder, a tar archive or an npz, whole or by split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgeplast.errors import InputError, one_of
from edgeplast.progress import Progress, silent
from edgeplast_devices.images.decoding import DECODE_LIMIT_BYTES, preload
from edgeplast_devices.images.files import Files, from_file, from_folder
from edgeplast_devices.images.imageset import NO_LABEL, ImageSet, Source
from edgeplast_devices.images.kinds import PARQUET, is_arrays, is_picture, is_zip
from edgeplast_devices.images.layout import SPLITS, Place, read_layout, split_called, wrapping_folders
from edgeplast_devices.images.splitting import stratified_split

KINDS = "a folder, a .tar (also .tar.gz, .tar.xz, .tar.bz2), a .zip, a .parquet or an .npz in the MedMNIST layout"
"""What a data set can be, for messages."""


@dataclass(frozen=True)
class Splits:
    """A data set in its parts; all have the same class list.

    Attributes:
        train: what is learned from.
        val: what decides when to stop, or None.
        test: what is measured on at the end, or None.
        also: other sets by name, with classes of their own order: what must not be lost.
    """

    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None
    also: Mapping[str, ImageSet] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out when the data set was opened, a line each."""
        return self.train.notes


@dataclass(frozen=True)
class _DataSet:
    """A data set that was looked at: its splits, and how each becomes an image set (None: all of it)."""

    path: Path
    splits: tuple[str, ...]
    take: Callable[[str | None], ImageSet]

    def part(self, split: str | None) -> ImageSet:
        if split is None and self.splits:
            split = "train"
        if split is not None and split not in self.splits:
            has = f"has {', '.join(self.splits)}" if self.splits else "has no splits, its class folders lie at the top"
            raise InputError(f"{self.path} has no {split!r} pictures: it {has}. Choose one of those, or add {split}/.")
        images = self.take(split)
        if not len(images):
            raise InputError(f"{self.path} ({split or 'all'}) holds no pictures. Add some, or choose another split.")
        return images


def open_images(
    path: Path,
    split: str | None = None,
    *,
    prefer: Sequence[str] = (),
    decode_limit_bytes: int = DECODE_LIMIT_BYTES,
    exclude: Sequence[str] = (),
    progress: Progress = silent,
) -> ImageSet:
    """Open the pictures of a data set; nothing is decoded yet.

    Folders and archives are in order of class and path, rows of arrays in their own order.

    Args:
        path: a folder or an archive of ``CLASS/name.jpg`` or ``train/CLASS/name.jpg``, or an ``.npz``.
        split: ``train``, ``val`` or ``test``, or another common name of one; None is train if there are splits,
            else everything.
        prefer: without ``split``, the first of these that there is, before train.
        decode_limit_bytes: the most memory that decoding one picture may take.
        exclude: patterns of folders, names or paths to leave out; see :meth:`~.files.Files.without`.
        progress: called while an archive is unpacked.

    Raises:
        UsageError: ``split`` is no split.
        InputError: the path or the split is missing, or what is there cannot be read as a data set.
    """
    if split is not None:
        if (meant := split_called(split)) is None:
            raise one_of("split", split, SPLITS)
        split = meant
    data = _look_at(Path(path), progress, exclude)
    if split is None:
        split = next((name for name in prefer if name in data.splits), None)
    images = data.part(split)
    images.decode_limit_bytes = decode_limit_bytes
    return images


def open_splits(
    path: Path,
    *,
    seed: int,
    val_fraction: float = 0.15,
    decode_limit_bytes: int = DECODE_LIMIT_BYTES,
    exclude: Sequence[str] = (),
    progress: Progress = silent,
) -> Splits:
    """Open a data set in its parts; without a ``val`` one is cut from train, the same one for the same seed.

    Args:
        path: see :func:`open_images`.
        seed: decides which pictures go to ``val``.
        val_fraction: how many of each class go there, 0 to below 1; each class keeps at least one in train.
        decode_limit_bytes: the most memory that decoding one picture may take.
        exclude: patterns of folders, names or paths to leave out; see :meth:`~.files.Files.without`.
        progress: called while an archive is unpacked.

    Returns:
        the parts; ``val`` is None if no class has pictures to spare, ``test`` if there is none.

    Raises:
        UsageError: ``val_fraction`` or ``seed`` is out of range.
        InputError: see :func:`open_images`; or val or test show a class that train does not.
    """
    data = _look_at(Path(path), progress, exclude)
    train = data.part("train" if data.splits else None)
    train.decode_limit_bytes = decode_limit_bytes
    held: dict[str, ImageSet | None] = {}
    for split in ("val", "test"):
        held[split] = data.part(split) if split in data.splits else None
        if (images := held[split]) is not None:
            images.decode_limit_bytes = decode_limit_bytes
            _require_learned(train, images, split, data.path)
    if held["val"] is None and val_fraction != 0:
        train, val = stratified_split(train, val_fraction, seed)
        held["val"] = val if len(val) else None
    return Splits(train, held["val"], held["test"])


def open_unlabelled(
    paths: Path | Sequence[Path], *, decode_limit_bytes: int = DECODE_LIMIT_BYTES, progress: Progress = silent
) -> ImageSet:
    """Open pictures to predict on: files, and every picture in folders and tar archives, however nested.

    Args:
        paths: one, whose pictures are named as in it, or several, whose pictures are named with their paths.
        decode_limit_bytes: the most memory that decoding one picture may take.
        progress: called while an archive is unpacked.

    Returns:
        the pictures in the order of the paths, within one by name; all labels -1, no classes.

    Raises:
        InputError: no path is given, or one is missing or holds no picture.
    """
    several = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not several:
        raise InputError("No pictures were given. Give a picture, or a folder or tar archive with some.")
    opened = [(path, *_unlabelled(path, progress)) for path in several]
    if len(opened) == 1:
        _, source, order = opened[0]
        return _without_labels(source, order, decode_limit_bytes)
    from edgeplast_devices.images.joined import Joined

    parts = [(_place(path), files) for path, files, _ in opened]
    starts = np.cumsum([0, *(len(files) for _, files, _ in opened)])
    orders = [start + order for start, (_, _, order) in zip(starts[:-1], opened, strict=True)]
    return _without_labels(Joined(parts), np.concatenate(orders), decode_limit_bytes)


def open_splits_without_labels(
    path: Path,
    *,
    seed: int,
    val_fraction: float = 0.15,
    decode_limit_bytes: int = DECODE_LIMIT_BYTES,
    exclude: Sequence[str] = (),
    progress: Progress = silent,
) -> Splits:
    """Open pictures to learn from without labels: any folder, or a data set whose training labels are not looked at.

    Args:
        path: a folder or archive with pictures, however nested, or what :func:`open_images` takes.
        seed: decides which pictures are held back.
        val_fraction: how many of them.
        decode_limit_bytes: the most memory that decoding one picture may take.
        exclude: patterns of folders, names or paths to leave out; see :meth:`~.files.Files.without`.
        progress: called while an archive is unpacked.

    Returns:
        ``train`` and ``val`` without labels; ``test`` as it is, with labels, where a folder of that name holds class
        folders: what comes of it can be measured then. It is never learned from.

    Raises:
        InputError: the path is missing or holds no picture, or it is no data set.
    """
    beside: ImageSet | None = None
    if _existing(path).is_file() and is_arrays(path):
        data: _DataSet | None = _arrays(path, progress)
    else:
        files, _ = _unlabelled(path, progress, exclude)
        data = _if_laid_out(path, files, files.folders) or _if_said(path, files)
        if data is None or (data.splits and "train" not in data.splits):
            data, beside = _beside_test(path, files)
    if beside is None:
        assert data is not None
        beside = data.part("train" if data.splits else None).without_labels()
    splits = data.splits if data else ()
    val = data.part("val").without_labels() if data and {"train", "val"} <= {*splits} else None
    test = data.part("test") if data and "test" in splits else None
    if val is None:
        beside, val = stratified_split(beside, val_fraction, seed)
    for images in filter(None, (beside, val, test)):
        images.decode_limit_bytes = decode_limit_bytes
    return Splits(beside, val if len(val) else None, test)


def _beside_test(path: Path, files: Files) -> tuple[_DataSet | None, ImageSet]:
    """Return labelled test pictures, if there are any, and all others, of which nothing says what they show."""
    folders = files.folders
    lead = wrapping_folders(folders)
    inside = np.asarray([len(f) > lead + 1 and split_called(f[lead]) == "test" for f in folders])
    data = _if_laid_out(path, files, [f if kept else f[:lead] for f, kept in zip(folders, inside, strict=True)])
    if data is None or "test" not in data.splits:
        inside[:] = False
    others = np.flatnonzero(~inside[np.frombuffer(files.listing.folder_numbers, np.int32)])
    if not len(others):
        raise InputError(f"{path} holds test pictures alone. Add some to learn from, or name their folder another way.")
    return data, _without_labels(files, files.ordered(others.astype(np.int32)), DECODE_LIMIT_BYTES)


def _if_laid_out(path: Path, files: Files, folders: Sequence[tuple[str, ...]]) -> _DataSet | None:
    try:
        return _laid_out(path, files, folders)
    except InputError:  # learning without labels does not need it
        return None


def _if_said(path: Path, files: Files) -> _DataSet | None:
    """Return the data set of tables, shards or parquet files that say what is to stay unseen; else all is learned."""
    try:
        data = _said(path, files) if files.tables or files.labels_beside is not None else None
    except InputError:
        return None
    return data if data and {"train", "test"} <= {*data.splits} else None


def _unlabelled(path: Path, progress: Progress, exclude: Sequence[str] = ()) -> tuple[Files, np.ndarray]:
    _existing(path)
    if path.is_file() and is_arrays(path):
        raise InputError(f"{path} is an .npz; to predict, give a picture, a folder, a tar or a zip archive.")
    if path.is_file() and not is_zip(path) and is_picture(path):
        files = from_file(path)
        preload(files.formats)
    else:
        files = _files(path, progress, exclude)
    if not len(files):
        raise InputError(f"{path} holds no pictures. Give a picture, or a folder or tar archive with some.")
    return files, files.ordered(np.arange(len(files), dtype=np.int32))


def _place(path: Path) -> str:
    place = path.parent if path.is_file() and is_picture(path) else path
    return "" if place == Path() else str(place)


def _without_labels(source: Source, order: np.ndarray, decode_limit_bytes: int) -> ImageSet:
    return ImageSet(source, order, np.full(len(order), NO_LABEL, np.int32), (), decode_limit_bytes=decode_limit_bytes)


def _require_learned(train: ImageSet, images: ImageSet, split: str, path: Path) -> None:
    extra = sorted(set(images.present_classes()) - set(train.present_classes()))
    if extra:
        raise InputError(
            f"{path}: {split} shows {', '.join(map(repr, extra[:12]))}, of which train has no picture, so it "
            f"cannot be learned. Add some to train, or take the class out of {split}."
        )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist. Give {KINDS}.")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder. Give {KINDS}.")
    return path


def _files(path: Path, progress: Progress, exclude: Sequence[str] = ()) -> Files:
    if path.is_dir():
        files = from_folder(path)
        if not len(files):  # what holds no picture may hold archives of some
            from edgeplast_devices.images.shards import from_shards

            files = from_shards(path, progress) or files
    elif path.suffix.lower() == PARQUET:
        from edgeplast_devices.images.parquet import from_parquet

        files = from_parquet([((), path)], progress)
    elif is_zip(path):
        from edgeplast_devices.images.zips import from_zip

        files = from_zip(path, progress)
    else:
        from edgeplast_devices.images.tars import from_tar  # a start on a folder need not load tarfile

        files = from_tar(path, progress)
    preload(files.formats)
    return files.without(exclude) if exclude else files


def _look_at(path: Path, progress: Progress, exclude: Sequence[str]) -> _DataSet:
    _existing(path)
    if path.is_file() and is_arrays(path):
        if exclude:
            raise InputError(f"{path} holds arrays, whose pictures have no names to exclude them by.")
        return _arrays(path, progress)
    if path.is_file() and not is_zip(path) and is_picture(path):
        raise InputError(f"{path} is one picture; a data set is {KINDS}.")
    files = _files(path, progress, exclude)
    if files.tables or files.labels_beside is not None:
        return _said(path, files)
    return _laid_out(path, files, files.folders)


def _said(path: Path, files: Files) -> _DataSet:
    """Return the data set of files whose labels a table says, or else their folders."""
    from edgeplast_devices.images.tables import labels_of_shard, labels_of_tables  # few data sets have any

    try:
        labels = labels_of_tables(files, path) or labels_of_shard(files, path)
    except InputError:
        data = _if_laid_out(path, files, files.folders)
        if data is None or len(data.part(None).present_classes()) < 2:
            raise
        return data  # a table of something else, beside class folders
    if labels is None:
        return _laid_out(path, files, files.folders)
    return _DataSet(path, labels.splits, partial(labels.images, files))


def _laid_out(path: Path, files: Files, folders: Sequence[tuple[str, ...]]) -> _DataSet:
    """Return the data set that files are, whose folders count as lying there.

    Raises:
        InputError: see :func:`~.layout.read_layout`.
    """
    layout = read_layout(folders, path, files.left_out.moved(files.meant))
    folder_of = np.frombuffer(files.listing.folder_numbers, dtype=np.int32)
    notes = files.notes + _loose(files, layout.places) + layout.notes

    def take(split: str | None) -> ImageSet:
        of_folder = [place[1] if place and place[0] == split else NO_LABEL for place in layout.places]
        labels = np.asarray(of_folder, dtype=np.int32)[folder_of]
        by_label = np.argsort(labels, kind="stable").astype(np.int32)
        bounds = np.searchsorted(labels[by_label], np.arange(len(layout.classes) + 1))
        members = [files.ordered(by_label[start:end]) for start, end in pairwise(bounds)]
        numbers = np.repeat(np.arange(len(members), dtype=np.int32), [len(part) for part in members])
        return ImageSet(files, np.concatenate(members), numbers, layout.classes, notes=notes)

    return _DataSet(path, layout.splits, take)


def _loose(files: Files, places: Sequence[Place | None]) -> tuple[str, ...]:
    """Say how many pictures lie in no class folder."""
    loose = np.asarray([place is None for place in places])[np.frombuffer(files.listing.folder_numbers, np.int32)]
    count = int(loose.sum())
    if not count:
        return ()
    what = f"{count} picture{'s' if count > 1 else ''} in no class folder"
    return (f"left out: {what} ({'such as ' if count > 1 else ''}{files.name(int(loose.argmax()))})",)


def _arrays(path: Path, progress: Progress) -> _DataSet:
    from edgeplast_devices.images.arrays import open_archive  # a start on a folder need not load zipfile

    archive = open_archive(path)
    labels = {split: archive.labels(split) for split in archive.splits}
    highest = max((int(values.max()) for values in labels.values() if len(values)), default=-1)

    def take(split: str | None) -> ImageSet:
        assert split is not None  # an npz has splits, and part() chose one
        images = archive.images(split, progress)
        if len(images) != len(labels[split]):
            raise InputError(
                f"{path} has {len(images)} {split}_images and {len(labels[split])} {split}_labels; it needs one "
                "label for each picture."
            )
        names = [str(label) for label in range(highest + 1)]
        return ImageSet(images, np.arange(len(images), dtype=np.int32), labels[split], names)

    return _DataSet(path, archive.splits, take)
