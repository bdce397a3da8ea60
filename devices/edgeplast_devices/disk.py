"""What a run may take on the disk: its own files and versions first, the rest for latents, then for pictures.

With ``--disk`` that is all that the output ever takes, while it is made and when it is done; without it what is free.
Latents are gone before pictures are kept, so both may have the same room. What is free is shared with others: of it a
run takes no more than half for what nobody gave a size of.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeplast.bundle import TRAINABLE, Bundle, Manifest
from edgeplast.errors import DiskFullError
from edgeplast.units import format_bytes, parse_bytes
from edgeplast.versions import folders_of
from edgeplast_devices.cache import is_latents
from edgeplast_devices.checkpoints import TELEMETRY_BYTES, run_bytes
from edgeplast_devices.distilling import row_bytes
from edgeplast_devices.fitted_heads import head_if_linear
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.replaying import per_class

_MIB = 1 << 20

_SHARE_OF_FREE = 0.5
"""Of what is free beside all else that a run writes, that it takes for what nobody gave a size of."""

_RECORDS_BYTES = 64 << 10
"""Of a version beside its weights: manifest, report and record."""


@dataclass(frozen=True)
class DiskShares:
    """How the room of an output is shared out.

    Attributes:
        own_bytes: the bundle's copy, checkpoints, telemetry and files without a name, at most.
        versions_bytes: versions, once it is done.
        left_bytes: for latents, or for pictures that are kept; below 0 where there is too little for the others.
        free_bytes: on the disk, beside its own files and versions; below 0 likewise.
        is_limited: whether a user said how much there is.
    """

    own_bytes: int
    versions_bytes: int
    left_bytes: int
    free_bytes: int
    is_limited: bool

    @property
    def unasked_bytes(self) -> int:
        """What may be taken where nobody gave a size."""
        return max(min(self.left_bytes, int(self.free_bytes * _SHARE_OF_FREE)), 0)


def disk_shares(bundle: Bundle, options: TrainingOptions, folder: Path, nameless: int = 0) -> DiskShares:
    """Share out the disk of a run.

    Args:
        bundle: to adapt.
        options: ``disk``, ``versions`` and ``optimizer`` count.
        folder: in which it works; it or a folder above it is there.
        nameless: see :func:`nameless_bytes`.

    Raises:
        DiskFullError: ``--disk`` is too little for what every run writes; the message says how much would do.
    """
    own = bundle.bytes + run_bytes(bundle, options.optimizer or bundle.manifest.plan.optimizer) + nameless
    versions = versions_bytes(bundle, options.versions)
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(there).free - own - versions
    if options.disk == "none":
        return DiskShares(own, versions, free, free, is_limited=False)
    left = parse_bytes(options.disk) - own - versions
    if left < 0:
        raise too_little(options, {"its copy of the bundle and checkpoints": own, "versions": versions})
    return DiskShares(own, versions, left, free, is_limited=True)


def nameless_bytes(
    manifest: Manifest, options: TrainingOptions, pictures: int, new_classes: int = 0, *, again: bool = False
) -> int:
    """Return what a run may keep in files without a name, at most, where memory has no room for it.

    Args:
        manifest: of the bundle.
        options: as they were given.
        pictures: that it learns from.
        new_classes: that the run adds.
        again: whether it is a Learner's, which learns from the same pictures again and again.

    Returns:
        features of all pictures for a head that is fitted, or what the model said of them before the run. Those for a
        probe have the room of what comes later: see :func:`for_a_probe`.
    """
    if options.head == "fitted":
        head = head_if_linear(manifest)
        return 4 * pictures * head.width if head else 0
    asks = options.distill or per_class(options.replay) or manifest.waiting or new_classes
    asks = again or (asks and options.head != "zero")
    return row_bytes(pictures, len(manifest.classes) + new_classes) if asks else 0


def for_a_probe(bundle: Bundle, options: TrainingOptions, folder: Path, pictures: int, latents: int) -> int | None:
    """Return what features for a linear probe may take, before the first step; None for no limit.

    Checkpoints, best weights and versions are written later, so their room is free until then: a probe takes nothing
    from what is kept of pictures.

    Args:
        bundle: the run's copy.
        options: of the run.
        folder: in which it works.
        pictures: that it learns from.
        latents: bytes that are kept of pictures, at most.
    """
    if options.disk == "none":
        return None
    files = (file for file in folder.rglob("*") if file.is_file() and not is_latents(file.name))
    there = sum(file.stat().st_size for file in files)
    return parse_bytes(options.disk) - there - latents - nameless_bytes(bundle.manifest, options, pictures)


def beside_examples(manifest: Manifest, options: TrainingOptions, *, is_tight: bool) -> Callable[[int, int], int]:
    """Return what tells how much a Learner's files without a name take of so many pictures of so many classes.

    Args:
        manifest: of the bundle that it begins with.
        options: of the training.
        is_tight: whether its memory is limited; else it needs no such files.
    """

    def beside(pictures: int, classes: int) -> int:
        return nameless_bytes(manifest, options, pictures, classes - len(manifest.classes), again=True)

    return beside if is_tight else lambda pictures, classes: 0  # noqa: ARG005


def for_pictures(shares: DiskShares, folder: Path) -> int | None:
    """Return what pictures that are kept may take, once all but versions is written; None for no limit."""
    if not shares.is_limited:
        return None
    free = shutil.disk_usage(folder).free - shares.versions_bytes
    return max(min(shares.left_bytes, int(free * _SHARE_OF_FREE)), 0)


def left_for_examples(bundle: Bundle, options: TrainingOptions) -> int | None:
    """Return what a Learner's examples may take: ``--disk`` less its copy, its output and versions; None for no limit.

    Raises:
        DiskFullError: it is too little for these.
    """
    if options.disk == "none":
        return None
    weights = bundle.manifest.files[TRAINABLE].bytes
    exchanged, best = 2 * weights, 2 * weights  # there are both while one takes the other's place
    own = bundle.bytes + exchanged + best + TELEMETRY_BYTES + _RECORDS_BYTES
    versions = versions_bytes(bundle, options.versions, made=options.versions)  # it goes on and on
    left = parse_bytes(options.disk) - own - versions
    if left < 0:
        raise too_little(options, {"its copy of the bundle and weights": own, "versions": versions})
    return left


def versions_bytes(bundle: Bundle, keep: int, made: int = 1) -> int:
    """Return what versions of a bundle take once more of them are made.

    Args:
        bundle: as it is.
        keep: how many are kept beside the first; the newest one's weights are those of the output itself.
        made: how many are made.
    """
    if not keep:
        return 0
    weights = bundle.manifest.files[TRAINABLE].bytes
    older = min(sum(1 for number in folders_of(bundle.path) if number) + made - 1, keep - 1)
    return weights * (1 + older) + _RECORDS_BYTES * (2 + older)


def too_little(options: TrainingOptions, parts: dict[str, int]) -> DiskFullError:
    """Return what to say where ``--disk`` does not suffice for these parts."""
    named = ", ".join(f"{format_bytes(size)} for {name}" for name, size in parts.items() if size)
    fewer = " or keep fewer versions (--versions 0)," if parts.get("versions") else ""
    return DiskFullError(
        f"--disk {options.disk} is too little: {named}. Allow --disk {-(-sum(parts.values()) // _MIB)}MiB,{fewer} "
        "or export with a plan that trains less."
    )
