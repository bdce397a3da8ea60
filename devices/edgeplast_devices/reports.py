"""From a finished Run to the Adaptation: everything that a reader may ask, in one record."""

from __future__ import annotations

import statistics

import msgspec

from edgeplast.adaptation import Adaptation, BeforeAfter, Judged, LinearProbe, MemoryReport, SecondsReport
from edgeplast.evaluation import Evaluation
from edgeplast_devices.retention import others_of
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import runtime_name


def report_of(run: Run) -> Adaptation:
    """Return the report of a run."""
    state, rung = run.state, run.trainer.rung
    before, after = state.before, state.after
    without = after.without_temperature if after else None
    lost = run.unreadable.values()
    return Adaptation(
        model=run.bundle.manifest.model,
        runtime=runtime_name(),
        provider=run.placement,
        device_memory=run.device_memory.report(run.allowed_bytes, state.peak_bytes),
        tier=rung.tier.name,
        trained=rung.tier.components if state.steps else run.bundle.manifest.plan.outline.head,
        recompute=rung.graph.recompute,
        memory=MemoryReport(
            budget_bytes=run.allowed_bytes,
            predicted_peak_bytes=run.predicted,
            measured_peak_bytes=state.peak_bytes,
            enforced_by=run.guard.enforced_by,
        ),
        batch_size=run.batch,
        micro_batch_size=rung.micro_batch,
        epochs=state.epoch,
        steps=state.steps,
        seconds=SecondsReport(
            total=state.seconds,
            load=state.load_seconds,
            train=state.train_seconds,
            step_median=statistics.median(state.step_seconds) if state.step_seconds else 0.0,
        ),
        measured_on=run.measured_on,
        accuracy=BeforeAfter(before=before.accuracy if before else None, after=after.accuracy if after else None),
        expected_calibration_error=BeforeAfter(
            before=before.expected_calibration_error if before else None,
            after=after.expected_calibration_error if after else None,
        ),
        linear_probe=_probe(run),
        evaluation=_evaluation(run),
        cache=run.kept.report,
        temperature=state.temperature,
        unknown=state.unknown,
        calibration_error_without_temperature=without.expected_calibration_error if without else None,
        images={name: len(split) for name, split in run.splits.items()},
        unreadable=sum(u.count for u in lost),
        unreadable_examples=tuple(example for u in lost for example in u.examples),
        options=msgspec.to_builtins(run.options) | {"rung": state.began},
        new_classes=state.placed,
        also=others_of(state.also_before, state.also_after),
        history=tuple(state.history),
        best_epoch=state.best.epoch,
        losses=state.losses.whole(),
        gradient_norms=state.gradient_norms.whole(),
        steps_per_loss=state.losses.every,
        failed_steps=state.failed_in_all,
        image_seconds=dict(run.standing.preference.speeds.seconds),
        rung_changes=tuple(state.rung_changes),
        scored=tuple(state.scored),
        resumed_at=tuple(state.resumed_at),
        stopped_because=state.stopped_because,
        judged=(
            Judged(before=state.judged_before, after=state.judged, moved=state.moved)
            if state.judged_before and state.judged
            else None
        ),
    )


def _probe(run: Run) -> LinearProbe | None:
    """Return what the linear probe reached: where no step followed a fitted head, what the run itself reached."""
    state = run.state
    if state.after is not None and run.options.head == "fitted" and not state.steps and run.options.probe:
        return LinearProbe(accuracy=state.after.accuracy)
    return state.probe


def _evaluation(run: Run) -> Evaluation | None:
    """Return what was measured after the last step, with what a run's state leaves out."""
    after = run.state.after
    if after is None:
        return None
    unreadable = run.unreadable[run.measured_on].count
    return msgspec.structs.replace(
        after, most_wrong=run.most_wrong, unreadable=unreadable, runtime=runtime_name(), provider=run.placement
    )
