"""From a finished Run to the Adaptation: everything that a reader may ask, in one record."""

from __future__ import annotations

import statistics

import msgspec

from edgeplast.adaptation import Adaptation, BeforeAfter, MemoryReport, SecondsReport
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import runtime_name


def report_of(run: Run) -> Adaptation:
    """Return the report of a run that has measured itself before and after."""
    assert run.before and run.after
    trainer, rung = run.trainer, run.trainer.rung
    lost = run.unreadable.values()
    enforced_by = "nothing" if run.allowed_bytes is None else "kernel" if run.guard.walled else "watcher"
    return Adaptation(
        model=run.bundle.manifest.model,
        runtime=runtime_name(),
        provider=run.placement,
        device_memory=run.device_memory.report(run.allowed_bytes, run.measured_peak_bytes),
        tier=rung.tier.name,
        trained=rung.tier.components,
        recompute=rung.graph.recompute,
        memory=MemoryReport(
            budget_bytes=run.allowed_bytes,
            predicted_peak_bytes=run.predicted,
            measured_peak_bytes=run.measured_peak_bytes,
            enforced_by=enforced_by,
        ),
        batch_size=run.batch,
        micro_batch_size=rung.micro_batch,
        epochs=run.epoch,
        steps=trainer.steps,
        seconds=SecondsReport(
            total=run.timing.total,
            load=run.timing.load,
            train=run.timing.train,
            step_median=statistics.median(run.timing.steps) if run.timing.steps else 0.0,
        ),
        measured_on=run.measured_on,
        accuracy=BeforeAfter(before=run.before.accuracy, after=run.after.accuracy),
        expected_calibration_error=BeforeAfter(
            before=run.before.expected_calibration_error, after=run.after.expected_calibration_error
        ),
        images={name: len(split) for name, split in run.splits.items()},
        unreadable=sum(u.count for u in lost),
        unreadable_examples=tuple(example for u in lost for example in u.examples),
        options=msgspec.to_builtins(run.options),
        history=tuple(run.history),
        best_epoch=run.best.epoch,
        losses=run.losses.whole(),
        gradient_norms=run.norms.whole(),
        steps_per_loss=run.losses.every,
        failed_steps=run.failed_in_all,
        rung_changes=tuple(trainer.rung_changes),
        resumed_at=tuple(run.resumed_at),
        stopped_because=run.stopped_because,
    )
