"""The linear probe: what a head alone, fitted on features as they came, reaches where before and after are measured.

"10 % → 88 %" compares with a head that has learned nothing. What training the body was worth is told by the probe: the
same pictures, the same loss, no step. It costs a pass over the training pictures as they are and one over those that
are measured on. Pictures that are kept (``caching.py``) pass through the prefix in the order and in the micro-batches
of the first epoch, which then finds what it would have made itself: what is learned is the same bit for bit. Nothing of
the probe outlives it, and it never takes more memory than the steps to come are predicted to.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.adaptation import LinearProbe
from edgeplast.errors import BudgetError, DiskFullError
from edgeplast.files import disk_errors
from edgeplast.units import format_bytes
from edgeplast_devices.disk import for_a_probe
from edgeplast_devices.fitted_heads import LinearHead, Rows, fit_head, head_if_linear
from edgeplast_devices.losses import CrossEntropy
from edgeplast_devices.measuring import measured
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.runtime import release_arena

if TYPE_CHECKING:
    from edgeplast_devices.running import Run

TOLERANCE = 1e-3
"""Of the gradient, relative to that at zero: accuracy tells no more digits, and a head that stays is fitted to 1e-6."""


def probe(run: Run, folder: Path) -> LinearProbe | None:
    """Fit a head on the training pictures, measure it, and leave everything as it was.

    Args:
        run: that has begun and has taken no step.
        folder: in which it works.

    Returns:
        what it reached, or why it could not; None where there is nothing to compare: it was not asked for, no labels,
        one class, or steps that were taken already.
    """
    state, options, train = run.state, run.options, run.splits["train"]
    begun = state.steps or state.epoch or state.position or state.stopped_because != "finished"
    if begun or not (options.probe and run.measured_on and options.labels == "given" and options.epochs):
        return None
    if len(train.present_classes()) < 2:
        return None
    started = time.perf_counter()
    head = head_if_linear(run.bundle.manifest)
    if head is None:
        return LinearProbe(why_none="its head is more than one linear layer")
    if not run.evaluation.feature_width:
        return LinearProbe(why_none="the bundle was exported before bundles handed features back")
    try:
        accuracy = _accuracy(run) if options.head == "fitted" else _fitted(run, head, folder)
    except (BudgetError, MemoryError):
        return LinearProbe(why_none=f"memory had no room for it ({format_bytes(head.fit_bytes)} beside the features)")
    except DiskFullError:
        return LinearProbe(why_none="the disk had no room for its features")
    return LinearProbe(accuracy=accuracy, seconds=time.perf_counter() - started)


def _fitted(run: Run, head: LinearHead, folder: Path) -> float:
    """Return the accuracy of a head that is fitted here and stands in the place of the run's own meanwhile."""
    names = [name for name in (head.weight, head.bias) if name is not None]
    fresh = {name: np.zeros_like(run.parameters[name]) for name in names}
    loss = CrossEntropy.over(
        run.splits["train"].labels,
        head.classes,
        class_weighting=run.options.class_weights,
        smoothing=run.options.label_smoothing,
    )
    is_tight = run.allowed_bytes is not None  # what is left of a budget is promised to larger pictures
    if is_tight:
        _require_disk(run, head, folder)
    with disk_errors(folder), contextlib.ExitStack() as files:
        rows = Rows(head.width, files.enter_context(tempfile.TemporaryFile(dir=folder)) if is_tight else None)
        for features, labels in _features(run):
            rows.add(features, labels)
        release_arena()
        if is_tight and resident_bytes() + head.fit_bytes > run.predicted:
            raise BudgetError("fitting a head would take more than training does")
        fit_head(rows, head, fresh, loss=loss, between=run.between, tolerance=TOLERANCE)
    before = {name: run.parameters[name].copy() for name in names}
    try:
        for name in names:
            run.parameters[name][...] = fresh[name]
        return _accuracy(run)
    finally:
        for name in names:
            run.parameters[name][...] = before[name]


def _require_disk(run: Run, head: LinearHead, folder: Path) -> None:
    """Raise unless ``--disk`` has room for features beside what is there and what is kept of pictures."""
    pictures, kept = len(run.splits["train"]), run.kept.report
    room = for_a_probe(run.bundle, run.options, folder, pictures, kept.most_bytes if kept else 0)
    if room is not None and 4 * pictures * head.width > room:
        raise DiskFullError(f"--disk {run.options.disk} has no room for the features of {pictures} pictures.")


def _accuracy(run: Run) -> float:
    """Return the accuracy with the weights in force."""
    return measured(run, run.measured_on, f"evaluating {run.measured_on}, linear probe").accuracy


def _features(run: Run) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield features and labels of the training pictures as they are, in the order of the first epoch."""
    train, how, source = run.splits["train"], run.bundle.manifest.preprocessing, run.kept.training()
    done = 0
    for indices in run.batches(0):
        size, unreadable = run.trainer.rung.micro_batch, run.unreadable["train"]
        for batch in source(train, how, size, order=indices, seed=run.options.seed, unreadable=unreadable):
            yield run.evaluation.features(batch.images), batch.labels
            run.between()
            del batch
        done += len(indices)
        run.progress("fitting the linear probe", done, len(train))
