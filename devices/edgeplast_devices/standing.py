"""Where a run stands, to and from a checkpoint's state: the figures of a Run that are not arrays."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeplast_devices.checkpoints import Checkpoint, RunState
from edgeplast_devices.curves import Curve

if TYPE_CHECKING:
    from edgeplast_devices.running import Run


_LAST_STEPS = 4096
"""Whose seconds are kept, for their median."""


@dataclass
class Best:
    """The weights to keep: those of the epoch with the lowest validation loss (of the last one without any)."""

    epoch: int = 0
    loss: float = float("inf")
    file: str | None = None


@dataclass
class Timing:
    """Seconds: of this process since its start, of all processes of the run before it, and of the last steps."""

    start: float = field(default_factory=time.perf_counter)
    before: float = 0.0
    load: float = 0.0
    train: float = 0.0
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST_STEPS))

    @property
    def total(self) -> float:
        """Seconds of the run so far."""
        return self.before + time.perf_counter() - self.start


@dataclass(frozen=True)
class Saved:
    """The last checkpoint: after how many steps and epochs, with which file of best weights, and when."""

    steps: int = 0
    epoch: int = 0
    best_file: str | None = None
    at_seconds: float = field(default_factory=time.perf_counter)


def state_of(run: Run) -> RunState:
    """Return where a run stands."""
    trainer, best = run.trainer, run.best
    return RunState(
        bundle=run.bundle.fingerprint,
        images=run.images,
        options=run.options,
        allowed_bytes=run.allowed_bytes,
        tier=trainer.rung.tier.name,
        recompute=trainer.rung.graph.recompute,
        micro_batch=trainer.rung.micro_batch,
        epoch=run.epoch,
        position=run.position,
        steps=trainer.steps,
        updates=trainer.optimizer.updates,
        failed_steps=run.failed,
        losses=run.losses.values,
        gradient_norms=run.norms.values,
        step_seconds=[round(seconds, 4) for seconds in run.timing.steps],
        history=run.history,
        best_epoch=best.epoch,
        best_loss=best.loss if best.epoch else None,
        best_file=best.file,
        before=run.before,
        rung_changes=trainer.rung_changes,
        unreadable={name: u.names for name, u in run.unreadable.items()},
        unreadable_examples={name: u.examples for name, u in run.unreadable.items()},
        seconds=run.timing.total,
        train_seconds=run.timing.train,
        peak_bytes=run.measured_peak_bytes,
        resumed_at=run.resumed_at,
        stopped_because=run.stopped_because,
        replaces=run.replaces,
        steps_per_loss=run.losses.every,
        pending_losses=run.losses.pending,
        pending_norms=run.norms.pending,
        epoch_loss=run.epoch_loss,
        failed_in_all=run.failed_in_all,
    )


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a freshly opened run to where a checkpoint stood."""
    state = checkpoint.state
    run.trainer.restore(checkpoint.arrays(), state.updates, state.steps)
    run.trainer.rung_changes = state.rung_changes
    run.epoch, run.position, run.failed = state.epoch, state.position, state.failed_steps
    run.losses = Curve(state.losses, state.steps_per_loss, state.pending_losses)
    run.norms = Curve(state.gradient_norms, state.steps_per_loss, state.pending_norms)
    run.history, run.epoch_loss, run.failed_in_all = state.history, state.epoch_loss, state.failed_in_all
    loss = float("inf") if state.best_loss is None else state.best_loss
    run.best = Best(state.best_epoch, loss, state.best_file)
    run.before, run.stopped_because = state.before, state.stopped_because
    for name, unreadable in run.unreadable.items():
        unreadable.restore(state.unreadable.get(name, []), state.unreadable_examples.get(name, []))
    run.timing.before, run.timing.train = state.seconds, state.train_seconds
    run.timing.steps.extend(state.step_seconds)
    run.peak_before = state.peak_bytes
    run.resumed_at = [*state.resumed_at, state.steps]
    run.saved = Saved(state.steps, state.epoch, state.best_file)
