"""How a run begins: the head zeroed, fitted, grown or left as it came, and the weights as they came put aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.bundle import TRAINABLE
from edgeplast_devices.checkpoints import write_hashed
from edgeplast_devices.distilling import taught
from edgeplast_devices.fitted_heads import fit_on_images, no_features
from edgeplast_devices.growing import present
from edgeplast_devices.imprinting import place
from edgeplast_devices.measuring import judgement_of_many, verdict_on
from edgeplast_devices.reheading import REHEADS
from edgeplast_devices.run_state import Best
from edgeplast_devices.rungs import tier_in
from edgeplast_devices.tethers import Tether
from edgeplast_devices.weights import head_parameters, landmarks_in

if TYPE_CHECKING:
    from edgeplast_devices.running import Run
    from edgeplast_devices.telemetry import TelemetryWriter


def begin(run: Run, folder: Path, telemetry: TelemetryWriter) -> None:
    """Bring the head where the run starts from; a fitted one is kept as what an epoch has learned is.

    Args:
        run: whose graphs are open.
        folder: in which it works.
        telemetry: told of a fitted head.
    """
    state, manifest, train = run.state, run.bundle.manifest, run.splits["train"]
    if run.options.keep_within is not None:
        put_aside(run, folder)
    if run.options.head == "zero":
        with run.standing.turn:
            for name in head_parameters(manifest):
                run.parameters[name].fill(0)
    elif run.options.labels == "none":
        _begin_without_labels(run, folder, telemetry)
    elif run.options.head == "fitted":
        loss = fit_on_images(
            manifest, run.evaluation, run.parameters, train, run.options,
            in_memory=run.rows_in_memory, between=run.between, folder=folder, **run.over("train"),
        )  # fmt: skip
        state.epoch_loss = (loss, 1)
    learn_from_before(run)
    state.head_started = True
    if state.has_learned:
        if run.options.head == "fitted" or state.placed:
            run.note_epoch(0, folder, telemetry)
        run.save(folder)


def learn_from_before(run: Run) -> None:
    """Put new classes in their place, and ask what the weights then say of the pictures, where that counts.

    A run that goes on does it again, with the weights as they came, before it takes up those of its checkpoint.
    """
    _place_new(run)
    run.trainer.teacher = taught(run)
    if (length := run.options.move_at_most) is not None:
        run.trainer.tether = Tether(run.bundle, length, _to_train(run))


def _to_train(run: Run) -> list[str]:
    """Return the parameters that a run is to train: of the tier that it began on, and of sets that scores choose."""
    manifest, tiers = run.bundle.manifest, {tier_in(run.state.began), *run.state.sets}
    components = {name for tier in manifest.tiers if tier.name in tiers for name in tier.components}
    return [name for name in run.parameters if manifest.parameters[name].component in components]


def _place_new(run: Run) -> None:
    """Put the rows of classes in their place that are seen for the first time."""
    state, manifest, train = run.state, run.bundle.manifest, run.splits["train"]
    new = [] if run.options.labels == "none" else present(train, manifest.waiting)
    if not new:
        return
    if run.options.head in ("zero", "fitted"):  # every row begins anew
        count = {name: int((train.labels == manifest.classes.index(name)).sum()) for name in new}
        state.placed = count
        return
    if not run.evaluation.feature_width:
        raise no_features(manifest)
    rows = {name: run.parameters[name].copy() for name in head_parameters(manifest)}
    state.placed = place(
        manifest,
        run.evaluation.features,
        rows,
        train,
        new,
        landmarks_in(run.bundle.path / TRAINABLE, run.evaluation.feature_width),
        **run.over("train"),
    )
    with run.standing.turn:
        for name, array in rows.items():
            run.parameters[name][...] = array
    if len(train.present_classes()) < 2:  # from one class alone a model learns to say nothing else
        state.stopped_because = "placed"


def put_aside(run: Run, folder: Path, loss: float | None = None) -> None:
    """Keep the weights as they are, to go back to; without a loss any epoch that may be kept takes their place."""
    run.state.best = Best(epoch=0, loss=loss, file=write_hashed(folder, "best", 0, run.parameters).name)


def _begin_without_labels(run: Run, folder: Path, telemetry: TelemetryWriter) -> None:
    """Judge and keep the weights as they came, so that nothing worse takes their place; rehead if asked for."""
    state, train = run.state, run.splits["train"]
    verdict = verdict_on(run, "judging the model as it came", 0)
    state.judged_before = state.judged = verdict.judgement
    put_aside(run, folder, verdict.loss)
    known = len(run.bundle.manifest.classes) - len(run.bundle.manifest.waiting)
    many = judgement_of_many(run)
    if many.leaves_nothing_to_mend(known):
        state.stopped_because = "nothing to mend"
        return
    if many.leaves_nothing_to_go_by:
        state.stopped_because = "nothing to go by"
        return
    if (method := run.options.method) in REHEADS:
        REHEADS[method](run.evaluation, run.bundle.manifest, run.parameters, train, **run.over("train"))
        run.note_epoch(1, folder, telemetry)
        state.epoch = run.options.epochs
