"""How a run ends: the best weights back in force, their temperature, and where the features of the classes lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.errors import DivergedError
from edgeplast_devices.checkpoints import read_best_into
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.fitted_heads import head_if_linear
from edgeplast_devices.images import ImageSet
from edgeplast_devices.images.joined import together
from edgeplast_devices.images.sampling import of_each_label
from edgeplast_devices.imprinting import landmarks
from edgeplast_devices.measuring import evaluated, nameless
from edgeplast_devices.replaying import ReplayMemory, candidates, held_back_of, herded, per_class
from edgeplast_devices.unknowns import calibrated

if TYPE_CHECKING:
    from edgeplast_devices.running import Run


def restore_best(run: Run, folder: Path) -> None:
    """Put the weights to keep in force.

    Raises:
        DivergedError: there are none, for the loss stopped being finite in the first epoch.
    """
    state, rate = run.state, run.options.learning_rate or 0.0
    if state.best.loss is None and state.stopped_because == "diverged":
        raise DivergedError(
            f"Training diverged at step {state.steps}, before the first epoch ended: the loss is no longer "
            f"a finite number at a learning rate of {rate:g}. Nothing was written. "
            f"Try a tenth of it: --learning-rate {rate / 10:g}"
        )
    if state.best.file is None:
        return
    if state.stopped_because != "finished" or state.best.epoch < state.history[-1].epoch:
        read_best_into(folder, state.best.file, run.parameters)
        state.placed = {} if state.best.loss is None else state.placed  # the weights are those that came


def calibrate(run: Run) -> None:
    """Say of the weights that are kept how far they moved, how sure they are, and when they do not know."""
    state, manifest, options = run.state, run.bundle.manifest, run.options
    _measure_move(run)
    if options.labels == "none" or state.stopped_because == "placed":
        state.temperature, state.unknown = manifest.temperature, manifest.unknown
    elif "val" in run.splits:
        val, share = run.splits["val"], options.false_alarms
        fitted = calibrated(manifest, run.evaluation, val, share, **run.over("val"))
        state.temperature, state.unknown = fitted.temperature, fitted.unknown
        if state.unknown is not None and state.unknown.doubt:
            run.tell(state.unknown.doubt)


def measure_after(run: Run) -> None:
    """Measure the weights that are kept; the pictures that they name wrong are told to the report alone."""
    split, temperature = run.measured_on, run.state.temperature
    found = evaluated(run, split, f"evaluating {split}, after", temperature=temperature)
    run.state.after = nameless(found)
    run.most_wrong = () if run.options.private else found.most_wrong


def _measure_move(run: Run) -> None:
    """Take note of how far the weights that are kept lie from those that came, where that is bounded."""
    if run.trainer.tether is not None:
        run.state.moved = run.trainer.tether.moved(run.parameters)


def landmarks_of(run: Run) -> dict[str, np.ndarray]:
    """Return where the features of the classes lie with the weights that are kept, where that can be told."""
    manifest = run.bundle.manifest
    known = run.options.labels == "given" and run.evaluation.feature_width and head_if_linear(manifest)
    return landmarks(manifest, run.evaluation.features, run.splits["train"], **run.over("train")) if known else {}


def worth_keeping(run: Run) -> ReplayMemory | None:
    """Return which images are kept for later runs; None for none.

    Of those that were learned from the ones that stand for their class, by their features where the head hands them
    back, else evenly spread; and of those that were held back a few, evenly spread.
    """
    count, train = (0 if run.part else per_class(run.options.replay)), run.splits["train"]
    if not count or not train.classes:
        return None
    val = run.splits.get("val", train.subset([]))
    there = np.bincount(val.labels[val.labels >= 0], minlength=len(train.classes))
    held = {label: held_back_of(count, int(n)) for label, n in enumerate(there)}
    learned = train.subset(_herded(run, train, {label: count - n for label, n in held.items()}))
    measured = val.subset(of_each_label(val.labels, held))
    flags = np.repeat([False, True], [len(learned), len(measured)])
    return ReplayMemory(together(learned, measured, "val") if len(measured) else learned, flags)


def _herded(run: Run, train: ImageSet, count: Mapping[int, int]) -> np.ndarray:
    """Return which training images stand for their class, so many by label, int64, rising."""
    order = candidates(train.labels, max(count.values()))
    rows: dict[int, tuple[list[int], list[np.ndarray]]] = {}
    if run.evaluation.feature_width:
        how, over = run.bundle.manifest.preprocessing, run.over("train")
        for features, labels, indices in outputs(
            run.evaluation.features, train, how, order=order, activity="choosing pictures to keep", **over
        ):
            for row, label, index in zip(features, labels.tolist(), indices.tolist(), strict=True):
                known = rows.setdefault(label, ([], []))
                known[0].append(index)
                known[1].append(row)
        chosen = [
            np.asarray(known)[herded(np.stack(features), count[label])] for label, (known, features) in rows.items()
        ]
        return np.sort(np.concatenate(chosen)).astype(np.int64)
    return np.sort(of_each_label(train.labels, count))
