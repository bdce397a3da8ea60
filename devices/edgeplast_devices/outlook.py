"""What a run is about to do and how long that takes: an opened Run in, an Outlook out, from one micro-batch tried."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeplast.units import counted, format_bytes, format_seconds
from edgeplast_devices.measuring import VIEWS
from edgeplast_devices.optimizers import gradient_norm
from edgeplast_devices.retention import PREFIX

if TYPE_CHECKING:
    import numpy as np

    from edgeplast_devices.running import Run

_FORWARD_SHARE = 1 / 3
"""Of a micro-batch's training that its evaluation takes: one pass of three."""

_UPDATE_PASSES = 4
"""Times as long as the norm of the gradients: an update reads and writes what goes with each of them, too."""


@dataclass(frozen=True)
class Outlook:
    """What a run is about to do.

    Attributes:
        tier: that trains.
        micro_batch: images that pass through the graph at once.
        predicted_bytes: peak of the process.
        allowed_bytes: that it may take; None for no limit.
        steps: to come.
        seconds: until the weights are there and measured, about.
    """

    tier: str
    micro_batch: int
    predicted_bytes: int
    allowed_bytes: int | None
    steps: int
    seconds: float

    def __str__(self) -> str:
        allowed = "no limit" if self.allowed_bytes is None else f"of {format_bytes(self.allowed_bytes)}"
        return (
            f"Tier {self.tier}, micro-batch {self.micro_batch}, {format_bytes(self.predicted_bytes)} predicted "
            f"({allowed}), {counted(self.steps, 'step')}, about {format_seconds(self.seconds)}."
        )


def outlook(run: Run) -> Outlook:
    """Try one micro-batch of the next step, twice (memory is new to the first), and say what is to come.

    The weights stay as they are. Pictures of the first try are in the cache for the second, if there is one; what they
    take anew is then timed by itself.
    """
    state, trainer = run.state, run.trainer
    batches = run.batches(state.epoch)
    some = batches[min(state.position, len(batches) - 1)][: trainer.rung.micro_batch]  # stopped at an epoch's end
    for _ in range(2):
        begin = time.perf_counter()
        trainer.rehearse(some, state.epoch)
        again = time.perf_counter() - begin
    some = some[: trainer.rung.micro_batch]  # where memory was short, it is less now
    views = run.kept.report.views if run.kept.report else 0
    anew = again + (_latent_seconds(run, some) if views else 0.0)
    begin = time.perf_counter()
    gradient_norm(trainer.gradients)
    update = _UPDATE_PASSES * (time.perf_counter() - begin)

    epochs, pictures = run.options.epochs - state.epoch, len(run.splits["train"])
    new = max(min(views, run.options.epochs) - state.epoch, 0) if views else epochs  # whose views are seen first
    steps, done = epochs * len(batches) - state.position, state.position / len(batches)
    learning = new * anew + (epochs - new) * again - done * (anew if new else again)
    measured = sum(len(run.splits[name]) * times for name, times in _measured(run, epochs).items())
    seconds = (pictures * learning + measured * _FORWARD_SHARE * again) / max(len(some), 1) + steps * update
    return Outlook(
        tier=trainer.rung.tier.name,
        micro_batch=trainer.rung.micro_batch,
        predicted_bytes=run.predicted,
        allowed_bytes=run.allowed_bytes,
        steps=steps,
        seconds=seconds,
    )


def _measured(run: Run, epochs: int) -> Counter[str]:
    """Return how often each split will be gone through to measure on it, and to learn what a head knows of it."""
    times: Counter[str] = Counter()
    held = "val" if "val" in run.splits else "train"
    if run.options.labels == "none":
        times[held] += epochs * (1 + VIEWS)
    elif held == "val":
        times[held] += epochs + 1  # for the temperature
    if run.measured_on:
        times[run.measured_on] += 1
    if run.options.labels == "given" and run.evaluation.feature_width:  # for its landmarks
        times["train"] += 1
    for name in run.splits:
        if name.startswith(PREFIX):
            times[name] += 1 + (epochs if run.options.keep_within is not None else 0)
    return times


def _latent_seconds(run: Run, some: np.ndarray) -> float:
    """Return how long it takes to read pictures and to make latents of them."""
    begin = time.perf_counter()
    how, unreadable = run.bundle.manifest.preprocessing, run.unreadable["train"]
    for _ in run.kept.anew()(run.splits["train"], how, len(some), order=some, unreadable=unreadable):
        pass
    return time.perf_counter() - begin
