"""What the folders of a data set mean: split, class, or neither.

    class/name.jpg                 no splits
    train/class/name.jpg           with splits: any of train, val, test, by any of their common names
    anything/train/class/name.jpg  more folders around all of it, one in the other, as archives often have

Folders below a class belong to it. Pictures beside the class folders (a preview, a logo) are left out,
and so is a folder beside the splits that holds the same classes (a small sample), or the splits once more (a copy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeplast.errors import InputError
from edgeplast_devices.images.formats import FORMATS
from edgeplast_devices.images.listing import LeftOut

SPLITS = ("train", "val", "test")
"""The parts of a data set, as everything here calls them."""

_SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {
    f"{word}{ending}": split
    for split, words in _SPLIT_NAMES.items()
    for word in words
    for ending in ("", "_set", "-set", " set", "set", "_data", "-data", "_images", "-images")
}

HOW = (
    "Put the pictures in one folder a class, CLASS/name.jpg, or in splits, train/CLASS/name.jpg and the same for "
    "val and test."
)
"""The sentence that tells people what is expected."""

_NO_CLASSES = frozenset(
    ("images", "imgs", "pictures", "photos", "jpg", "png", "all", "data", "files", "test", "val")
) | {"unknown", "unlabeled", "unlabelled"}
"""What a folder of pictures is called that is none of a class, where a test set was handed out without answers."""

Place = tuple[str | None, int]
"""Split (None without splits) and class index of a folder."""


def split_called(name: str) -> str | None:
    """Return which of train, val and test a word means, in any case: ``Training``, ``valid``, ``dev``; else None."""
    return _SPLIT_OF.get(name.lower())


@dataclass(frozen=True)
class Layout:
    """Where each folder belongs.

    Attributes:
        classes: all class names of the data set, sorted, the same for every split.
        splits: those of ``train``, ``val``, ``test`` that exist; empty if there are none.
        places: for each folder its place, or None to leave it out.
        notes: what is left out, and what lacks pictures therefore; a line each.
    """

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    places: tuple[Place | None, ...]
    notes: tuple[str, ...]


def read_layout(folders: Sequence[tuple[str, ...]], where: Path, left_out: LeftOut | None = None) -> Layout:
    """Find split and class of each folder that holds pictures.

    Args:
        folders: each as its parts below the root.
        where: the data set, for messages.
        left_out: the files that are no pictures.

    Raises:
        InputError: no pictures; pictures without class folders; folders beside the splits; two folders for one
            split; top folders that hold the same class folders; a class of which no picture can be read; a class
            name that is not valid text.
    """
    left_out = left_out or LeftOut()
    if not folders:
        raise InputError(f"{where} holds no pictures that can be read ({FORMATS}).{_beside(left_out)} {HOW}")
    lead = wrapping_folders([*folders, *(folder for folder, reason in left_out.found if _was_meant(reason))])
    inner = [folder[lead:] for folder in folders]
    tops = {folder[0]: split_called(folder[0]) for folder in inner if folder}
    splits = tuple(split for split in SPLITS if split in tops.values())
    found: list[tuple[str | None, str] | None] = []
    spare = _spare(inner, tops) if splits else []
    for folder in inner:
        if folder and folder[0] in spare:
            found.append(None)
        elif splits and folder and (split := tops[folder[0]]):
            found.append((split, folder[1]) if len(folder) > 1 else None)
        elif splits and folder:
            raise InputError(
                f"{where} has {' and '.join(splits)}, and beside {'it' if len(splits) == 1 else 'them'} pictures "
                f"in {folder[0]!r}, which is no split. Splits are {', '.join(SPLITS)}: rename or move it."
            )
        else:
            found.append((None, folder[0]) if folder else None)
    splits, found = _labelled(splits, found)
    _check_splits(tops, splits, found, where)
    if not splits:
        _refuse_unnamed_splits(inner, where)
    classes = sorted({place[1] for place in found if place})
    for name in classes:
        if not _is_text(name):
            shown = name.encode("utf-8", "replace").decode()
            raise InputError(f"The class folder {shown!r} in {where} is not named in UTF-8. Rename it.")
    label = {name: i for i, name in enumerate(classes)}
    places = tuple((place[0], label[place[1]]) if place else None for place in found)
    notes = _notes(left_out, lead, splits, {place for place in found if place}, where)
    spared = tuple(f"{name!r} is none of {', '.join(SPLITS)}, and is left out" for name in spare)
    return Layout(tuple(classes), splits, places, spared + notes)


def _spare(inner: Sequence[tuple[str, ...]], tops: dict[str, str | None]) -> list[str]:
    """Return the folders beside the splits that hold nothing but several classes of these, or the splits again."""
    holds: dict[str, set[str]] = {}
    for folder in inner:
        if folder:
            holds.setdefault(folder[0], set()).add(folder[1] if len(folder) > 1 else "")
    classes = set().union(*(names for top, names in holds.items() if tops[top])) - {""}
    return sorted(
        top
        for top, names in holds.items()
        if not tops[top] and len(names) > 1 and (names <= classes or all(map(split_called, names)))
    )


def _labelled(
    splits: tuple[str, ...], found: list[tuple[str | None, str] | None]
) -> tuple[tuple[str, ...], list[tuple[str | None, str] | None]]:
    """Leave out pictures to validate or test on that nobody labelled, where there are some to learn from."""
    classes = {split: {place[1] for place in found if place and place[0] == split} for split in splits}
    if not classes.get("train"):
        return splits, found
    silent = {
        split
        for split, names in classes.items()
        if split != "train" and all(name.lower() in _NO_CLASSES and name not in classes["train"] for name in names)
    }
    kept = [None if place and place[0] in silent else place for place in found]
    return tuple(split for split in splits if split not in silent), kept


def _check_splits(
    tops: dict[str, str | None], splits: tuple[str, ...], found: list[tuple[str | None, str] | None], where: Path
) -> None:
    """Raise unless each split is one folder, and has class folders."""
    for split in splits:
        called = sorted(name for name, meaning in tops.items() if meaning == split)
        if len(called) > 1:
            raise InputError(
                f"{where} has {' and '.join(map(repr, called))}, which both mean {split}. Join them, or rename one."
            )
    empty = [name for name in splits if not any(place and place[0] == name for place in found)]
    if empty or not any(found):
        place = f"{where} ({empty[0]})" if empty else str(where)
        raise InputError(f"The pictures in {place} are in no class folder, so nothing says what they show. {HOW}")


def _refuse_unnamed_splits(inner: Sequence[tuple[str, ...]], where: Path) -> None:
    """Raise if top folders without pictures of their own hold the same folders: they are no classes.

    ``a/cat a/dog b/cat b/dog`` are two cameras, or two halves of a set. Learned as classes they would tell a from b.
    """
    holds: dict[str, set[str]] = {}
    for folder in inner:
        if folder:
            holds.setdefault(folder[0], set()).update(folder[1:2])
    for folder in inner:
        if len(folder) == 1:  # pictures lie in it
            holds.pop(folder[0], None)
    owners: dict[str, str] = {}
    for top in sorted(holds):
        shared: dict[str, list[str]] = {}
        for name in sorted(holds[top]):
            shared.setdefault(owners.setdefault(name, top), []).append(name)
        for other, names in shared.items():
            if other != top and len(names) > 1:
                raise InputError(
                    f"{where}: the folders {other!r} and {top!r} both hold {', '.join(map(repr, names[:6]))}, so which "
                    "of the two are the classes? If the inner ones are, rename the outer ones to train, val and test, "
                    "or join them; if the outer ones are, put their pictures into them without folders of their own."
                )


def _notes(
    left_out: LeftOut, lead: int, splits: tuple[str, ...], filled: set[tuple[str | None, str]], where: Path
) -> tuple[str, ...]:
    """Say what is left out in each class, and refuse what leaves a class without pictures."""
    by_place: dict[tuple[str | None, str], list[tuple[str, int, str]]] = {}
    for (folder, reason), (count, first) in left_out.found.items():
        inner = folder[lead:]
        split = split_called(inner[0]) if splits and inner else None
        depth = 1 if split else 0
        # A link that leads out may be a class folder itself.
        parts = (*inner, first) if reason == LeftOut.LINK else inner
        if len(parts) > depth and (not splits or split):
            by_place.setdefault((split, parts[depth]), []).append((reason, count, "/".join((*inner, first))))
        elif _was_meant(reason):  # a README beside the classes is nobody's loss
            by_place.setdefault((None, ""), []).append((reason, count, "/".join((*inner, first))))
    lines = []
    for place in sorted(by_place, key=lambda place: (place[1], place[0] or "")):
        split, name = place
        said = ", ".join(counted(count, reason, example) for reason, count, example in sorted(by_place[place]))
        title = f"{name!r}{f' ({split})' if split else ''}" if name else "beside the classes"
        if name and place not in filled and any(_was_meant(reason) for reason, _, _ in by_place[place]):
            raise InputError(
                f"{where}: of {title} there is no picture that can be read: {said}. Readable are {FORMATS}. "
                f"Convert the pictures, copy what the links lead to, or take {name!r} out."
            )
        lines.append(f"left out of {title}: {said}" if name else f"left out {title}: {said}")
    most = 20
    more = [f"left out of {len(lines) - most} more classes: files that are no pictures"] if len(lines) > most else []
    return (*lines[:most], *more)


def _was_meant(reason: str) -> bool:
    """Tell whether a file that is left out for this reason was meant to be learned from."""
    return reason != LeftOut.NO_PICTURE


def counted(count: int, reason: str, example: str) -> str:
    """Return how many files are left out, why, and one of them: ``12 HEIC pictures (a/1.HEIC)``."""
    many = count > 1
    if reason == LeftOut.NO_PICTURE:
        what = "files that are no pictures" if many else "file that is no picture"
    elif reason == LeftOut.LINK:
        what = "links that lead out of the folder" if many else "link that leads out of the folder"
    elif reason in ("HEIC", "JPEG XL", "Photoshop", "SVG"):
        what = f"{reason} pictures" if many else f"{reason} picture"
    else:
        what = f"files ({reason})" if many else f"file ({reason})"
    return f"{count} {what} ({'such as ' if many else ''}{example})"


def _beside(left_out: LeftOut) -> str:
    """Return a sentence that says what lies where no picture is."""
    totals: dict[str, tuple[int, str]] = {}
    for (folder, reason), (count, first) in sorted(left_out.found.items()):
        before, example = totals.get(reason, (0, "/".join((*folder, first))))
        totals[reason] = (before + count, example)
    if not totals:
        return ""
    return f" There are {', '.join(counted(count, reason, first) for reason, (count, first) in totals.items())}."


def wrapping_folders(folders: Sequence[tuple[str, ...]]) -> int:
    """Return how many folders that are no splits, one in the other, wrap everything."""
    lead = 0
    while _is_wrapped([folder[lead:] for folder in folders if folder[lead:]]):
        lead += 1
    return lead


def _is_wrapped(folders: Sequence[tuple[str, ...]]) -> bool:
    tops = {folder[0] for folder in folders}
    if len(tops) != 1 or split_called(tops.pop()):
        return False
    has_splits = any(len(folder) > 1 and split_called(folder[1]) for folder in folders)
    return has_splits or all(len(folder) > 1 for folder in folders)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
