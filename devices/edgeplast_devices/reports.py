"""From a finished Run to the Adaptation: everything that a reader may ask, in one record."""

from __future__ import annotations

import statistics

import msgspec

from edgeplast.adaptation import Adaptation, BeforeAfter, Judged, MemoryReport, SecondsReport
from edgeplast_devices.retention import others_of
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import runtime_name


def report_of(run: Run) -> Adaptation:
    """Return the report of a run."""
    state, rung = run.state, run.trainer.rung
    before, after = state.before, state.after
    without = after.without_temperature if after else None
    lost = run.unreadable.values()
    enforced_by = "nothing" if run.allowed_bytes is None else "kernel" if run.guard.walled else "watcher"
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
            enforced_by=enforced_by,
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
        cache=run.kept.report,
        temperature=state.temperature,
        unknown=state.unknown,
        calibration_error_without_temperature=without.expected_calibration_error if without else None,
        images={name: len(split) for name, split in run.splits.items()},
        unreadable=sum(u.count for u in lost),
        unreadable_examples=tuple(example for u in lost for example in u.examples),
        options=msgspec.to_builtins(run.options),
        new_classes=state.placed,
        also=others_of(state.also_before, state.also_after),
        history=tuple(state.history),
        best_epoch=state.best.epoch,
        losses=state.losses.whole(),
        gradient_norms=state.gradient_norms.whole(),
        steps_per_loss=state.losses.every,
        failed_steps=state.failed_in_all,
        rung_changes=tuple(state.rung_changes),
        resumed_at=tuple(state.resumed_at),
        stopped_because=state.stopped_because,
        judged=(
            Judged(before=state.judged_before, after=state.judged) if state.judged_before and state.judged else None
        ),
    )
