"""The verb ``adapt``: a Bundle, images and a Budget in; an adapted bundle and its Adaptation report out.

A run works in ``<output>.partial``: copies of the bundle's files, checkpoints, telemetry. When it is done, the folder
takes the output's name. A run that was interrupted, killed or ran out of memory leaves the folder, and ``resume``
goes on in it; a run that failed before there was anything to keep leaves nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.adaptation import Adaptation, EpochReport
from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, REPORT, TRAINABLE, Bundle, StoredFile, describe_file
from edgeplast.errors import BudgetError, DiskFullError, EdgeplastError, InputError, InterruptedRunError, UsageError
from edgeplast.files import disk_errors, finish_folder, refuse_existing
from edgeplast.progress import Progress, silent
from edgeplast_devices.checkpoints import Checkpoint, checkpoint_files, clear, last_checkpoint
from edgeplast_devices.images import Splits
from edgeplast_devices.interrupts import asked_to_stop
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.reports import report_of
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import OutOfMemoryError
from edgeplast_devices.telemetry import TelemetryWriter, cut_telemetry
from edgeplast_devices.tensors import write_arrays


def adapt(
    bundle: Bundle,
    images: Splits,
    *,
    into: Path,
    budget: Budget | None = None,
    options: TrainingOptions | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
    epoch_done: Callable[[EpochReport], None] | None = None,
    notice: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Adaptation:
    """Fine-tune the plastic components of a bundle on the device's own images.

    In the main thread SIGINT and SIGTERM are caught while it runs: the state is saved, then InterruptedRunError raised.

    Args:
        bundle: fresh or adapted before.
        images: training images, and validation and test images where there are any.
        into: folder for the adapted bundle; written whole or not at all.
        budget: what the process may use.
        options: of the training.
        resume: go on with the unfinished run of ``into``, if there is one, as if it had never stopped.
        force: replace what is there, an unfinished run included.
        progress: told of each step.
        epoch_done: told of each epoch.
        notice: told what a user should know of a resumption.

    Returns:
        the report, also written as ``report.json`` into the folder.

    Raises:
        UsageError: ``into`` or an unfinished run of it exists, or an option is out of range.
        InputError: images that cannot be used: one class only, unknown labels, none readable; not the run that was
            interrupted; or training diverged before there was anything to keep.
        BudgetError: the memory budget cannot be met; the message names one that can.
        DamagedError: there is something to resume and none of it is whole.
        InterruptedRunError: someone asked to stop; the state was saved.
    """
    if into.absolute().resolve() == bundle.path.absolute().resolve():
        raise UsageError(f"{into} is the bundle that is adapted; it stays as it is. Give another output folder.")
    refuse_existing(into, force=force)
    folder = unfinished(into)
    checkpoint = _found(folder, into, resume=resume, force=force, notice=notice)
    with asked_to_stop() as interrupts:
        run = Run(
            bundle,
            images,
            budget or Budget(),
            options or TrainingOptions(),
            progress,
            epoch_done,
            interrupts,
            checkpoint,
        )
        if checkpoint is not None:
            notice(f"Resumed at step {checkpoint.state.steps}.")
        try:
            _prepare(bundle, folder)
            cut_telemetry(folder, checkpoint.state.steps if checkpoint else None)
            telemetry = TelemetryWriter(folder)
            try:
                with run.standing():
                    run.open()
                    _train(run, folder, telemetry)
                    report = report_of(run)
                    _write_adapted(bundle, run.parameters, folder)
            finally:
                telemetry.close()
            report.write(folder / REPORT)
            finish_folder(folder, into)
            clear(into)  # not before: killed in between, the run would have nothing to go on from
        finally:
            if folder.exists() and not checkpoint_files(folder):
                shutil.rmtree(folder, ignore_errors=True)
    return report


def unfinished(into: Path) -> Path:
    """Return the folder in which a run works until it is done."""
    return into.with_name(f"{into.name}.partial")


def interrupted_options(into: Path) -> TrainingOptions | None:
    """Return the options of the unfinished run of an output folder; None where there is none.

    Raises:
        DamagedError: none of its checkpoints is whole.
    """
    found = last_checkpoint(unfinished(into)) if unfinished(into).is_dir() else None
    return found.state.options if found else None


def _found(folder: Path, into: Path, *, resume: bool, force: bool, notice: Callable[[str], None]) -> Checkpoint | None:
    """Look for an unfinished run, and make way for a new one where that is wanted."""
    if resume and force:
        raise UsageError("--resume goes on with an unfinished run and --force replaces it. Give one of the two.")
    found = checkpoint_files(folder) if folder.is_dir() else []
    if found and not resume:
        if not force:
            raise UsageError(
                f"{folder} holds an unfinished run. Continue it with --resume, or start anew with --force."
            )
        clear(folder)
    if not resume:
        return None
    checkpoint = last_checkpoint(folder) if found else None
    if checkpoint is None:
        notice(f"There is no unfinished run of {into} to resume; this one starts from the beginning.")
        return None
    for damaged in checkpoint.damaged:
        notice(f"Damaged: {damaged}.")
    return checkpoint


def _prepare(bundle: Bundle, folder: Path) -> None:
    """Copy the bundle's files, first of all, so that a full disk is found before hours of training."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, stored in bundle.manifest.files.items():
            if not _is_whole(folder / name, stored):
                shutil.copyfile(bundle.path / name, folder / name)


def _is_whole(file: Path, stored: StoredFile) -> bool:
    return file.is_file() and file.stat().st_size == stored.bytes and describe_file(file) == stored


def _train(run: Run, folder: Path, telemetry: TelemetryWriter) -> None:
    """Train, and whatever stops it, save the state first where there is any."""
    try:
        run.train(folder, telemetry)
    except MemoryError as error:
        raise _saved(run, folder, OutOfMemoryError(str(error))) from error
    except (InterruptedRunError, BudgetError) as error:
        raise _saved(run, folder, error) from error
    except InputError as error:
        if not isinstance(error, DiskFullError):  # diverged, unusable: nothing to go on with
            clear(folder)
            raise
        raise _with_hint(error, folder) from error


def _saved(run: Run, folder: Path, error: EdgeplastError) -> EdgeplastError:
    """Save where the run stands, and return the error with what to do next."""
    if run.trainer.steps == 0:
        return _said(error, f"{error} Nothing was done yet, and nothing was left behind.")
    try:
        run.save(folder)
    except DiskFullError as full:
        return _with_hint(full, folder)
    return _with_hint(error, folder)


def _with_hint(error: EdgeplastError, folder: Path) -> EdgeplastError:
    """Return the error with how to go on from the last checkpoint."""
    last = last_checkpoint(folder)
    if last is None:
        return error
    hint = f"The run is saved at step {last.state.steps} in {folder}; go on with the same command and --resume."
    return _said(error, f"{error} {hint}")


def _said(error: EdgeplastError, text: str) -> EdgeplastError:
    """Return an error of the same meaning with another text."""
    kinds = (BudgetError, InterruptedRunError, DiskFullError, InputError)
    return next(kind for kind in kinds if isinstance(error, kind))(text)


def _write_adapted(bundle: Bundle, parameters: dict[str, np.ndarray], folder: Path) -> None:
    """Make a copy of a bundle an adapted one: other trainable weights, and a manifest that says so."""
    if not all(np.isfinite(array).all() for array in parameters.values()):
        raise InputError(
            "Training diverged: the weights are no longer finite numbers, and nothing was written. "
            "Try a tenth of the learning rate (--learning-rate)."
        )
    write_arrays(folder / TRAINABLE, parameters)
    manifest = msgspec.structs.replace(
        bundle.manifest,
        files={**bundle.manifest.files, TRAINABLE: describe_file(folder / TRAINABLE)},
        adapted_from=bundle.fingerprint,
    )
    manifest.write(folder / MANIFEST)
