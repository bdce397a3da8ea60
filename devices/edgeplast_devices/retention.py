"""Old knowledge, measured: other sets of pictures, before the first step and with the weights that are kept.

A model that learns this week's pictures forgets last week's, and no figure on this week's shows it. What a run is to
keep is given as sets beside its own (``--also``); how much it may lose, in points (``--keep-within``).
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeplast.adaptation import BeforeAfter, OtherSet
from edgeplast.errors import InputError, UsageError
from edgeplast.evaluation import Evaluation
from edgeplast_devices.images import ImageSet, require_labels

PREFIX = "also "
"""Before the name of another set where the splits of a run are named."""

_ROUNDING = 1e-9


def aligned_others(others: Mapping[str, ImageSet], classes: tuple[str, ...]) -> dict[str, ImageSet]:
    """Return other sets as splits of a run, with labels that index the bundle's classes.

    Raises:
        InputError: one is empty, or shows what the bundle does not know, or some of its pictures have no label.
    """
    found = {}
    for name, images in others.items():
        try:
            require_labels(images, "measuring what was kept")
            found[PREFIX + name] = images.aligned_to(classes)
        except InputError as error:
            raise InputError(f"--also {name}: {error}") from error
        if not len(images):
            raise InputError(f"--also {name}: there are no pictures. Add some, or leave it out.")
    return found


def check_keeps(keep_within: float | None, others: Mapping[str, ImageSet]) -> None:
    """Raise unless what is to be kept can be measured.

    Raises:
        UsageError: there is a limit and no set.
    """
    if keep_within is not None and not others:
        raise UsageError(
            f"--keep-within {keep_within:g} needs pictures of what is to be kept. Give a folder of them: --also OLD/."
        )


def lost_points(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, float]:
    """Return the points of accuracy that each set lost; below 0 where it gained."""
    return {name: 100 * (before[name].accuracy - found.accuracy) for name, found in after.items() if name in before}


def has_forgotten(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], keep_within: float | None) -> bool:
    """Say whether any set lost more than it may, in points."""
    if keep_within is None:
        return False
    return any(lost > keep_within + _ROUNDING for lost in lost_points(before, after).values())


def others_of(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> dict[str, OtherSet]:
    """Return what the report says of each set."""
    return {
        name: OtherSet(
            images=after[name].images,
            accuracy=BeforeAfter(before=first.accuracy, after=after[name].accuracy),
            per_class={
                label: BeforeAfter(before=known.accuracy, after=after[name].per_class[label].accuracy)
                for label, known in first.per_class.items()
                if known.images and label in after[name].per_class
            },
        )
        for name, first in before.items()
        if name in after
    }
