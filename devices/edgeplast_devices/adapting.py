"""The verb ``adapt``: a Bundle, images and a Budget in; an adapted bundle and its Adaptation report out.

A run works in ``<output>.partial``: copies of the bundle's files, checkpoints, telemetry. When it is done, the folder
takes the output's name. A run that was interrupted, killed, ran out of memory or disk, lost its pictures' drive or
could not give the folder its name leaves it, and ``resume`` goes on in it; a run that failed before there was anything
to keep leaves nothing. One process works on an output at a time (``edgeplast.outputs.only_writer``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeplast.adaptation import Adaptation, EpochReport
from edgeplast.budget import Budget
from edgeplast.bundle import REPORT, Bundle
from edgeplast.errors import (
    BudgetError,
    DamagedError,
    DiskFullError,
    DivergedError,
    EdgeplastError,
    InputError,
    InterruptedRunError,
    UsageError,
)
from edgeplast.outputs import finish_folder, only_writer, refuse_existing, refuse_mount, refuse_unmovable
from edgeplast.progress import LOADING, Progress, silent, unheard
from edgeplast.run_files import pinned
from edgeplast.units import format_bytes
from edgeplast_devices.cache import clear_latents
from edgeplast_devices.caching import settled
from edgeplast_devices.checkpoints import Checkpoint, checkpoint_files, clear, last_checkpoint, run_bytes
from edgeplast_devices.disk import DiskShares, disk_shares, for_pictures, nameless_bytes
from edgeplast_devices.extent import Extent
from edgeplast_devices.growing import classes_to_add, grow, planned
from edgeplast_devices.guard import Guard, guard_for
from edgeplast_devices.images import Splits
from edgeplast_devices.interrupts import asked_to_stop
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.patience import Patience
from edgeplast_devices.replaying import keep_pictures, kept_on, with_replay
from edgeplast_devices.reports import report_of
from edgeplast_devices.rescoring import check_can_rescore
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import OutOfMemoryError
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions
from edgeplast_devices.telemetry import TelemetryWriter, cut_telemetry
from edgeplast_devices.versioning import take_down
from edgeplast_devices.workplace import prepare, unfinished, write_adapted

_LAST_IS_WHOLE = "Its last checkpoint is whole: go on with the same command and --resume."


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
    notice: Callable[[str], None] | None = None,
    guard: Guard | None = None,
    sessions: Sessions = ONNXRUNTIME,
    seal: Callable[[Path], None] | None = None,
    part: Extent | None = None,
    run_file: str = "",
) -> Adaptation:
    """Fine-tune the plastic components of a bundle on the device's own images.

    In the main thread SIGINT, SIGTERM and SIGHUP are caught while it runs: the state is saved, then InterruptedRunError
    raised. Where the pictures' drive is gone it waits for a minute, then saves the state and stops.

    Args:
        bundle: fresh or adapted before.
        images: training images, and validation and test images where there are any.
        into: folder for the adapted bundle; written whole or not at all.
        budget: what the process may use; by default what the bundle was exported for, and ``Budget()`` for no limit.
        options: of the training.
        resume: go on with the unfinished run of ``into``, if there is one, as if it had never stopped.
        force: replace what is there, an unfinished run included unless it is resumed.
        progress: told of each step.
        epoch_done: told of each epoch.
        notice: told what a user should know of a resumption, of a wait, of a budget that nobody gave, and, before the
            first step, what is to come and about how long it takes; None for nobody.
        guard: of the budget, where it stands already.
        sessions: over the bundle's graphs.
        seal: signs the finished folder, before it takes its name.
        part: where the run ends, as a part of a learning that goes on elsewhere: pictures of one class are enough, and
            nothing is measured before and after.
        run_file: for the report: what repeats the run.

    Returns:
        the report, also written as ``report.json`` into the folder.

    Raises:
        UsageError: ``into`` or an unfinished run of it exists, another process writes it, it is a mount point, or an
            option is out of range.
        InputError: images that cannot be used: one class only, unknown labels, none readable; not the run that was
            interrupted; or training diverged before there was anything to keep.
        BudgetError: the memory budget cannot be met; the message names one that can.
        DamagedError: there is something to resume and none of it is whole.
        InterruptedRunError: someone asked to stop; the state was saved.
    """
    into = Path(os.path.realpath(into))  # where a link leads
    if into == bundle.path.absolute().resolve():
        raise UsageError(f"{into} is the bundle that is adapted; it stays as it is. Give another output folder.")
    refuse_mount(into)
    heard = notice or unheard
    check_can_rescore(bundle, options or TrainingOptions())
    guard = guard or guard_for(bundle, budget, heard)
    with only_writer(into), asked_to_stop() as interrupts, guard.standing():
        tidied = _tidied(into, bundle, heard) if resume else None
        if tidied is not None:
            return tidied
        _refuse_taken(into, resume=resume, force=force)
        refuse_unmovable(into)
        folder = unfinished(into)
        checkpoint = _found(folder, into, resume=resume, force=force, notice=heard)
        before = checkpoint.state.options if checkpoint else None
        given = images
        options, images, mixed = with_replay(options or TrainingOptions(), bundle, images)
        new = classes_to_add(bundle.manifest, given, options.add_classes, options.new_classes)
        is_tight = guard.allowed_bytes is not None
        nameless = nameless_bytes(bundle.manifest, options, len(images.train), len(new)) if is_tight else 0
        shares = disk_shares(bundle, options, folder, nameless)
        options = settled(options, bundle, images, shares, before)
        progress(LOADING, 0, 2)
        run = Run(
            planned(bundle, new),
            _patient(images, Patience(interrupts, heard)),
            guard,
            options,
            progress,
            epoch_done,
            interrupts,
            checkpoint,
            sessions,
            extent=part,
            part=part is not None,
            folder=folder,
            notice=notice if part is None else None,
        )
        run.state.replaces |= force
        interrupts.end_call = lambda reason: run.guard.stop_run(reason) if run.guard.stop_run else None
        interrupts.kept = lambda: _LAST_IS_WHOLE if checkpoint or run.saved.anything else "Nothing was saved yet."
        if checkpoint is not None:
            heard(f"Resumed at step {checkpoint.state.steps}.")
        elif folder.is_dir():
            clear(folder)
        try:
            run.bundle = grow(prepare(bundle, folder, progress), new)
            _require_room(bundle, folder, run.optimizer)
            cut_telemetry(folder, checkpoint.state.steps if checkpoint else None)
            report = _adapted(run, bundle, folder, into, seal, run_file, mixed, shares)
        except BaseException as error:
            # Asked of memory, not of the folder: a drive that is away for a moment must not look like an empty one.
            if isinstance(error, DivergedError) or (checkpoint is None and not run.saved.anything):
                shutil.rmtree(folder, ignore_errors=True)
            elif isinstance(error, KeyboardInterrupt):  # the second signal
                raise _with_hint(InterruptedRunError("Interrupted at once."), folder, run) from error
            raise
        clear(into)  # not before: killed in between, the run would have nothing to go on from
    return report


def refuse_taken(into: Path, *, resume: bool, force: bool) -> None:
    """Raise unless an output is free, this run may replace what is there, or it is this run's, finished but not tidied.

    A run that was begun with ``force`` may still when it is resumed.

    Raises:
        UsageError: something is there.
        DamagedError: there is something to resume and none of it is whole.
    """
    if not resume:
        refuse_existing(into, force=force)
    else:
        with only_writer(into):  # else another run might remove what is read here
            if not _is_untidy(into):
                _refuse_taken(into, resume=resume, force=force)


def _refuse_taken(into: Path, *, resume: bool, force: bool) -> None:
    if resume and not force and unfinished(into).is_dir():
        checkpoint = last_checkpoint(unfinished(into))
        force = checkpoint is not None and checkpoint.state.replaces
    refuse_existing(into, force=force)


def interrupted_options(into: Path) -> TrainingOptions | None:
    """Return the options of the unfinished run of an output folder; None where there is none.

    Raises:
        DamagedError: none of its checkpoints is whole.
    """
    with only_writer(into):  # else another run might remove what is read here
        found = last_checkpoint(unfinished(into)) if unfinished(into).is_dir() else None
    return found.state.options if found else None


def _is_untidy(into: Path) -> bool:
    """Tell whether a run was killed after its folder had taken its name and before its checkpoints were removed."""
    return (into / REPORT).is_file() and bool(checkpoint_files(into))


def _tidied(into: Path, bundle: Bundle, notice: Callable[[str], None]) -> Adaptation | None:
    """Finish a run of this bundle that had nothing left to do but to remove its checkpoints."""
    if not _is_untidy(into) or Bundle.open(into).manifest.adapted_from != bundle.as_parent:
        return None
    report = Adaptation.read(into / REPORT)
    clear(into)
    notice(f"The run of {into} had finished; its checkpoints are removed.")
    return report


def _patient(images: Splits, patience: Patience) -> Splits:
    """Return the same images, which wait where their place is gone."""
    val, test = (None if split is None else split.waiting(patience) for split in (images.val, images.test))
    also = {name: split.waiting(patience) for name, split in images.also.items()}
    return Splits(images.train.waiting(patience), val, test, also)


def _adapted(
    run: Run,
    bundle: Bundle,
    folder: Path,
    into: Path,
    seal: Callable[[Path], None] | None,
    run_file: str,
    mixed: tuple[int, int],
    shares: DiskShares,
) -> Adaptation:
    """Train, write the adapted bundle and give it its name."""
    telemetry = TelemetryWriter(folder)
    try:
        run.progress(LOADING, 1, 2)
        run.open()
        _train(run, folder, telemetry)
    finally:
        telemetry.close()
        run.kept.close()
    try:
        clear_latents(folder)  # nothing reads them any more; what is finished has none, whenever it is killed
        report = msgspec.structs.replace(report_of(run), run_file=pinned(run_file, run.state.began))
        run.bundle.check_unchanged()
        write_adapted(
            run.bundle,
            run.parameters,
            folder,
            parent=bundle.as_parent,
            temperature=run.state.temperature,
            unknown=run.state.unknown,
            placed=run.state.placed,
            landmarks=run.landmarks,
        )
        most = for_pictures(shares, folder)
        if any(mixed) or run.to_keep is not None:
            replay = keep_pictures(run.bundle, run.to_keep, folder, mixed, most_bytes=most)
            report = msgspec.structs.replace(report, replay=replay)
        elif run.options.labels == "none" and run.options.replay != "none":
            report = msgspec.structs.replace(report, replay=kept_on(bundle, folder, most_bytes=most))
        report.write(folder / REPORT)
        if seal is not None:
            seal(folder)
        kept = 0 if run.part else run.options.versions
        take_down(folder, before=bundle.path, start=bundle, by="adapt", keep=kept, report=report)
        finish_folder(folder, into, force=run.state.replaces)
    except DivergedError:
        raise
    except EdgeplastError as error:  # a full disk, a folder that appeared: what was learned is kept
        raise _saved(run, folder, error) from error
    return report


def _found(folder: Path, into: Path, *, resume: bool, force: bool, notice: Callable[[str], None]) -> Checkpoint | None:
    """Look for an unfinished run, which stands in the way unless it is to be resumed or replaced."""
    found = checkpoint_files(folder) if folder.is_dir() else []
    if found and not (resume or force):
        raise UsageError(f"{folder} holds an unfinished run. Continue it with --resume, or start anew with --force.")
    if not resume:
        return None
    checkpoint = last_checkpoint(folder) if found else None
    if checkpoint is None:
        notice(f"There is no unfinished run of {into} to resume; this one starts from the beginning.")
        return None
    for damaged in checkpoint.damaged:
        notice(f"Damaged: {damaged}.")
    return checkpoint


def _require_room(bundle: Bundle, folder: Path, optimizer: str) -> None:
    """Raise unless the disk has room for what the run will write: a full one is better met now than after hours."""
    needed = run_bytes(bundle, optimizer)
    there = sum(file.stat().st_size for file in checkpoint_files(folder))
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise DiskFullError(
            f"The disk of {folder} has {format_bytes(free)} free and the checkpoints of this run take up to "
            f"{format_bytes(needed - there)}. Free some space, or choose another place."
        )


def _train(run: Run, folder: Path, telemetry: TelemetryWriter) -> None:
    """Train, and whatever stops it, save the state first where there is any."""
    try:
        run.train(folder, telemetry)
    except DivergedError:
        raise
    except MemoryError as error:
        raise _saved(run, folder, OutOfMemoryError(str(error))) from error
    except EdgeplastError as error:
        raise _saved(run, folder, error) from error
    except Exception:  # of a callback of the caller's, say: no message of ours, and no reason to lose anything
        if run.state.has_learned:
            with contextlib.suppress(EdgeplastError, OSError, MemoryError):
                run.save(folder)
        raise


def _saved(run: Run, folder: Path, error: EdgeplastError) -> EdgeplastError:
    """Save where the run stands, and return the error with what to do next."""
    if not run.state.has_learned:
        return _said(error, f"{error} Nothing was done yet, and nothing was left behind.")
    try:
        run.save(folder)
    except (EdgeplastError, OSError, MemoryError) as another:
        if isinstance(another, DiskFullError):
            error = another
    return _with_hint(error, folder, run)


def _with_hint(error: EdgeplastError, folder: Path, run: Run) -> EdgeplastError:
    """Return the error with how to go on from the last checkpoint."""
    try:
        last = last_checkpoint(folder)
    except (EdgeplastError, OSError):
        last = None
    steps = last.state.steps if last else run.saved.steps
    if last is None and not run.saved.anything:
        return error
    there = "" if last else " (which cannot be read now; bring its drive back)"
    return _said(
        error,
        f"{error} The run is saved at step {steps} in {folder}{there}; go on with the same command and --resume.",
    )


def _said(error: EdgeplastError, text: str) -> EdgeplastError:
    """Return an error of the same meaning with another text."""
    kinds = (BudgetError, InterruptedRunError, UsageError, DamagedError, DiskFullError, InputError, EdgeplastError)
    return next(kind for kind in kinds if isinstance(error, kind))(text)
