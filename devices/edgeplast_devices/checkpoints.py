"""Checkpoints: the whole state of a run in one file, in two generations, found whole or not believed.

A checkpoint is a safetensors file: what trains, the optimizer's moments, and the run's state as JSON in the header.
Its name ends in the first 16 hexadecimal digits of its SHA-256, so one rename commits content and checksum together:
``checkpoint-00000120-3f1c….safetensors``. It is written to a temporary file, flushed to the disk and renamed, and the
folder flushed; only then is the one before the previous one removed. There is no index that could disagree.

Randomness needs no state of its own: data order, augmentation and validation split are functions of the seed, the
epoch and the picture (``images/splitting.py``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.documents import Document
from edgeplast.errors import DamagedError, InputError
from edgeplast.files import sha256
from edgeplast.optimizers import optimizer_facts
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.run_state import Best, RunState
from edgeplast_devices.tensors import fill_arrays, read_metadata, write_arrays

_NAME = re.compile(r"(checkpoint|best)-(\d{8,})-([0-9a-f]{16})\.safetensors")
_KEPT = 2
TELEMETRY_BYTES = 1 << 20
"""Of a run, at most: of long ones steps are left out."""

_STATE = "run"
MOST_STATE_BYTES = 64 << 20
"""Of what a run writes of itself; most of it would be the names of pictures that could not be read."""


class _Saved(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a run as a checkpoint's header holds it."""

    KIND: ClassVar[str] = "checkpoint"
    FORMAT: ClassVar[int] = 2
    OLD: ClassVar[str] = (
        "Finish the run with the edgeplast that began it, or start it anew with --force instead of --resume."
    )
    MOST_BYTES: ClassVar[int] = MOST_STATE_BYTES
    format_version: int = 2

    state: RunState


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: its file.
        state: where the run stood.
        damaged: newer checkpoints that were passed over, with the reason, e.g. after a power cut on a bad disk.
    """

    path: Path
    state: RunState
    damaged: tuple[str, ...] = ()

    def read_into(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what was saved into standing arrays: parameters by name, optimizer state by ``<slot>/<parameter>``.

        Those that the checkpoint lacks stay as they are.

        Raises:
            DamagedError: it is not whole, or not of these arrays.
        """
        checksum = _checksum(self.path)
        fill_arrays(self.path, arrays, partly=True, most_header_bytes=MOST_STATE_BYTES, checksum=checksum)


@dataclass(frozen=True)
class Saved:
    """The last checkpoint: after how many steps and epochs, with which file of best weights, and when."""

    steps: int = 0
    epoch: int = 0
    best_file: str | None = None
    anything: bool = False
    at_seconds: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, state: RunState) -> Saved:
        """Return what a checkpoint of this state would be."""
        return cls(state.steps, state.epoch, state.best.file, state.has_learned)

    def holds(self, state: RunState) -> bool:
        """Say whether the state is in it already."""
        return (self.steps, self.epoch, self.anything) == (state.steps, state.epoch, state.has_learned)


def write_checkpoint(
    folder: Path, state: RunState, arrays: Mapping[str, np.ndarray], *, best_before: str | None = None
) -> Path:
    """Write a checkpoint, whole or not at all, and remove all but it and the one before it.

    Args:
        folder: of the unfinished run.
        state: where it stands.
        arrays: parameters under their own names, optimizer state under ``<slot>/<parameter>``.
        best_before: the file of best weights that the checkpoint before this one refers to.

    Raises:
        DiskFullError: the checkpoints that were there are as they were.
    """
    path = write_hashed(
        folder, "checkpoint", state.steps, arrays, {_STATE: msgspec.json.encode(_Saved(state=state)).decode()}
    )
    kept = [file.name for file in checkpoint_files(folder)[:_KEPT]]
    clear(folder, but={path.name, state.best.file, best_before, *kept})
    return path


def clear(folder: Path, but: Collection[str | None] = ()) -> None:
    """Remove checkpoints, best weights and what killed processes left half-written, except for some names."""
    for file in folder.iterdir():
        left_over = file.name.startswith(".") and file.suffix == ".partial"  # by a process that was killed
        if left_over or (_NAME.fullmatch(file.name) and file.name not in but):
            file.unlink(missing_ok=True)


def write_best(
    folder: Path, steps: int, parameters: Mapping[str, np.ndarray], *, before: str | None, saved: str | None
) -> str:
    """Write the best weights so far, whole or not at all, and remove those whose place they take.

    Args:
        folder: of the run.
        steps: after which they are so.
        parameters: by name.
        before: the file of the best weights before these; None for none.
        saved: the file that the last checkpoint refers to, which stays.

    Returns:
        the name of the file.

    Raises:
        DiskFullError: those before them are as they were.
    """
    name = write_hashed(folder, "best", steps, parameters).name
    if before is not None and before not in (name, saved):
        (folder / Path(before).name).unlink(missing_ok=True)
    return name


def write_hashed(
    folder: Path, kind: str, number: int, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write arrays into a file whose name carries its checksum, whole or not at all."""
    named: list[Path] = []

    def name_of(written: Path) -> Path:
        named.append(folder / f"{kind}-{number:08d}-{sha256(written)[:16]}.safetensors")
        return named[0]

    write_arrays(folder / f"{kind}.safetensors", arrays, metadata, rename=name_of)
    return named[0]


def run_bytes(bundle: Bundle, optimizer: str) -> int:
    """Return the most that a run keeps on disk beside the bundle's files and its latents.

    Two checkpoints and the one that is being written, the best weights of each, and telemetry. While best weights are
    written there are once more of them, and no third checkpoint.
    """
    weights = bundle.manifest.files[TRAINABLE].bytes
    return 3 * (1 + len(optimizer_facts(optimizer).slots)) * weights + 3 * weights + TELEMETRY_BYTES


def is_checkpoint(name: str) -> bool:
    """Whether a file of this name holds a checkpoint, or the weights of the best epoch."""
    return _NAME.fullmatch(name) is not None


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, whole or not, the newest first."""
    files = [file for file in folder.glob("checkpoint-*.safetensors") if _NAME.fullmatch(file.name)]
    return sorted(files, key=lambda file: (_number(file), _written_at(file)), reverse=True)


def _written_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # gone, or its drive is
        return 0


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where there is none at all.

    Nothing is parsed before its checksum has been verified. Where the weights of the best epoch are damaged and no
    checkpoint is complete, the newest goes on without them.

    Raises:
        InputError: the newest was written by a newer edgeplast, or in a format that this one no longer reads.
        DamagedError: there are checkpoints and not one of them is whole.
    """
    files = checkpoint_files(folder)
    damaged: list[str] = []
    without_best: Checkpoint | None = None
    for file in files:
        state = _state(file)
        if isinstance(state, str):
            fault = state
        else:
            lost = _fault(folder / Path(state.best.file).name) if state.best.file else None
            if lost is None:
                return Checkpoint(file, state, tuple(damaged))
            fault = f"the weights of its best epoch, {state.best.epoch}, are lost: {lost}"
            if without_best is None:
                state.best = Best()
                without_best = Checkpoint(file, state)
        damaged.append(f"{file.name}: {fault}")
    if without_best is not None:  # what was learned since is worth more than the best epoch before
        return Checkpoint(without_best.path, without_best.state, tuple(damaged))
    if not files:
        return None
    raise DamagedError(
        f"No checkpoint in {folder} is whole ({'; '.join(damaged)}). "
        "Start the run again with --force instead of --resume."
    )


def read_best_into(folder: Path, name: str, parameters: Mapping[str, np.ndarray]) -> None:
    """Write the weights of the best epoch into standing arrays, from the file whose checksum was verified.

    Raises:
        DamagedError: they are not whole.
    """
    file = folder / Path(name).name
    fill_arrays(file, parameters, checksum=_checksum(file))


def check_same_run(state: RunState, bundle: str, images: Mapping[str, str], options: TrainingOptions) -> None:
    """Raise unless a run can go on as if it had never stopped.

    Memory, threads, the micro-batch and how often checkpoints are written may change: they do not change the result.

    Raises:
        InputError: another bundle, other images or other options; all differences are named.
    """
    faults = []
    if state.bundle != bundle:
        faults.append("the bundle is another one")
    splits = [name for name in {**state.images, **images} if state.images.get(name) != images.get(name)]
    if splits:
        faults.append(f"the images of {' and '.join(splits)} have changed")
    for name in TrainingOptions.__struct_fields__:
        was, given = getattr(state.options, name), getattr(options, name)
        if was != given and name not in TrainingOptions.WITHOUT_EFFECT_ON_THE_RESULT:
            faults.append(f"--{name.replace('_', '-')} is {given} and was {was}")
    if faults:
        raise InputError(
            f"This is not the run that was interrupted at step {state.steps}: {'; '.join(faults)}. "
            "Give what was given then, or start again with --force instead of --resume."
        )


def _state(file: Path) -> RunState | str:
    """Read the state in a checkpoint from the file whose checksum was verified; what is wrong with it where it is not.

    Raises:
        InputError: it was written by a newer or an older edgeplast, or is no state.
    """
    if (fault := _missing(file)) is not None:
        return fault
    try:
        text = read_metadata(file, most_header_bytes=MOST_STATE_BYTES, checksum=_checksum(file)).get(_STATE, "")
    except DamagedError as error:
        return str(error).rstrip(".")
    return _Saved.from_json(text.encode(), where=str(file)).state


def _fault(file: Path) -> str | None:
    if (fault := _missing(file)) is not None:
        return fault
    return None if sha256(file)[:16] == _checksum(file) else f"the content of {file.name} does not match its checksum"


def _missing(file: Path) -> str | None:
    there = _NAME.fullmatch(file.name) is not None and file.is_file() and not file.is_symlink()
    return None if there else f"{file.name} is missing"


def _checksum(file: Path) -> str:
    """Return the first digits of the SHA-256 that a file was given as a part of its name."""
    match = _NAME.fullmatch(file.name)
    return match[3] if match else ""


def _number(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    return int(match[2]) if match else -1
