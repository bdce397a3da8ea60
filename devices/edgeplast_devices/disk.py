"""What a run may take on the disk: its own files and versions first, the rest for latents, then for pictures.

With ``--disk`` that is all that the output ever takes, while it is made and when it is done; without it what is free.
Latents are gone before pictures are kept, so both may have the same room.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.errors import DiskFullError
from edgeplast.units import format_bytes, parse_bytes
from edgeplast.versions import folders_of
from edgeplast_devices.checkpoints import run_bytes
from edgeplast_devices.options import TrainingOptions

_MIB = 1 << 20

_RECORDS_BYTES = 64 << 10
"""Of a version beside its weights: manifest, report and record."""


@dataclass(frozen=True)
class DiskShares:
    """How the room of an output is shared out.

    Attributes:
        own_bytes: the bundle's copy, checkpoints and telemetry, at most.
        versions_bytes: versions, once it is done.
        left_bytes: for latents, or for pictures that are kept; below 0 where there is too little for the others.
        is_limited: whether a user said how much there is.
    """

    own_bytes: int
    versions_bytes: int
    left_bytes: int
    is_limited: bool


def disk_shares(bundle: Bundle, options: TrainingOptions, folder: Path) -> DiskShares:
    """Share out the disk of a run.

    Args:
        bundle: to adapt.
        options: ``disk``, ``versions`` and ``optimizer`` count.
        folder: in which it works; it or a folder above it is there.

    Raises:
        DiskFullError: ``--disk`` is too little for what every run writes; the message says how much would do.
    """
    own = bundle.bytes + run_bytes(bundle, options.optimizer or bundle.manifest.plan.optimizer)
    versions = versions_bytes(bundle, options.versions)
    if options.disk == "none":
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        return DiskShares(own, versions, shutil.disk_usage(there).free - own - versions, is_limited=False)
    left = parse_bytes(options.disk) - own - versions
    if left < 0:
        raise too_little(options, {"its copy of the bundle and checkpoints": own, "versions": versions})
    return DiskShares(own, versions, left, is_limited=True)


def left_for_examples(bundle: Bundle, options: TrainingOptions) -> int | None:
    """Return what a Learner's examples may take: ``--disk`` less its copy, its output and versions; None for no limit.

    Raises:
        DiskFullError: it is too little for these.
    """
    if options.disk == "none":
        return None
    own = bundle.bytes + 2 * bundle.manifest.files[TRAINABLE].bytes + _RECORDS_BYTES  # one is exchanged for another
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
