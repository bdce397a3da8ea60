"""The folder in which a run works until it is done: its own, with nothing of a stranger's in it and no way out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.bundle import FROZEN, MANIFEST, REPORT, TRAINABLE, Bundle, Manifest, describe_file, is_graph
from edgeplast.errors import DivergedError, UsageError
from edgeplast.files import disk_errors
from edgeplast.printable import printable
from edgeplast.progress import Progress, silent
from edgeplast.stored_files import SIGNATURES
from edgeplast.telemetry import TELEMETRY
from edgeplast.unknown import Unknown
from edgeplast.versions import VERSIONS
from edgeplast_devices.checkpoints import is_checkpoint
from edgeplast_devices.tensors import read_metadata, write_arrays
from edgeplast_devices.weights import as_header

_SHOWN = 3


def unfinished(into: Path) -> Path:
    """Return the folder in which a run works until it is done.

    Raises:
        UsageError: what lies there is no folder, a link, or holds what no run writes; it is left as it is.
    """
    folder = into.with_name(f"{into.name}.partial")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is a link or a file; a run works in a folder of its own there. Move it away.")
    if folder.is_dir() and (foreign := sorted(entry.name for entry in folder.iterdir() if not _of_a_run(entry.name))):
        shown = printable(", ".join(foreign[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else ""))
        raise UsageError(
            f"{folder} is where a run of {into.name} works, and it holds what no run writes: {shown}. Nothing was "
            "touched. Move that away, or choose another output."
        )
    return folder


def prepare(bundle: Bundle, folder: Path, progress: Progress = silent) -> Bundle:
    """Copy the bundle's files, first of all, so that a full disk is found before hours of training.

    Args:
        bundle: to copy.
        folder: made where it is missing.
        progress: told of bytes that are copied.

    Returns:
        the bundle that those copies are. The run reads them and nothing else: they were hashed as they were copied.

    Raises:
        DamagedError: a file is no longer what it was when the bundle was opened.
        DiskFullError: there is no room.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if entry.is_symlink():  # what the run writes would land where it leads
                entry.unlink()
        return bundle.copied(folder, progress)


def write_adapted(
    bundle: Bundle,
    parameters: Mapping[str, np.ndarray],
    folder: Path,
    *,
    parent: str | None,
    temperature: float | None,
    unknown: Unknown | None = None,
    placed: Collection[str] = (),
    landmarks: Mapping[str, np.ndarray] | None = None,
) -> Manifest:
    """Write what makes a copy of a bundle an adapted one: other trainable weights, and a manifest that says so.

    Args:
        bundle: what the folder holds a copy of.
        parameters: what trained, by name.
        folder: of the copy.
        parent: SHA-256 of the manifest of the bundle that was adapted.
        temperature: of these weights; None for none.
        landmarks: where the features of known classes lie; by default as the copy has them.
        unknown: when these weights do not know what a picture shows; None where nothing tells.
        placed: classes that waited for their first picture and have seen it.

    Raises:
        DivergedError: a weight is no finite number; nothing was written.
    """
    if not all(np.isfinite(array).all() for array in parameters.values()):
        raise DivergedError(
            "Training diverged: the weights are no longer finite numbers, and nothing was written. "
            "Try a tenth of the learning rate (--learning-rate)."
        )
    header = read_metadata(bundle.path / TRAINABLE) if not landmarks else as_header(landmarks)
    write_arrays(folder / TRAINABLE, parameters, header)
    manifest = msgspec.structs.replace(
        bundle.manifest,
        files={**bundle.manifest.files, TRAINABLE: describe_file(folder / TRAINABLE)},
        adapted_from=parent,
        temperature=temperature,
        unknown=unknown,
        waiting=tuple(name for name in bundle.manifest.waiting if name not in placed),
    )
    manifest.write(folder / MANIFEST)
    return manifest


def _of_a_run(name: str) -> bool:
    """Whether a run, of this bundle or another, writes a file of this name; hidden ones are half-written."""
    return (
        name in (FROZEN, TRAINABLE, MANIFEST, REPORT, TELEMETRY, SIGNATURES, VERSIONS, "replay")
        or is_graph(name)
        or is_checkpoint(name)
        or name.startswith(".")
    )
