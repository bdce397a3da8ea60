"""Which rung is the fastest here: a few micro-batches of noise through the graphs of those that fit.

It costs 2 % of a run and five seconds at most; runs of less than half a minute are not worth it. Weights stay as they
are. What was found is kept (``speeds.py``), so that it is found once for a machine and a bundle; a run that goes on
takes the rung that its checkpoint names and tries nothing, and ``--micro-batch`` fixes the choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.units import format_bytes, format_seconds
from edgeplast_devices.rungs import TOGETHER, Manner, Rung, predicted_peak
from edgeplast_devices.runtime import OutOfMemoryError

if TYPE_CHECKING:
    from edgeplast_devices.running import Run

MOST_SECONDS, MOST_SHARE = 5.0, 0.02
"""Of a run that tries may take."""

LEAST_SECONDS = 30.0
"""Of a run: what a faster rung saves of a shorter one is not worth that the choice is made anew."""

TIMES = 2
"""A rung is timed, after one time that warms up; the fastest counts: what else runs here only adds to it."""


@dataclass
class Found:
    """What came of trying.

    Attributes:
        seconds: an image, by rung.
        passed_over: rungs that there was no time or no memory for.
        allowed_seconds: that it might take.
    """

    seconds: dict[Rung, float] = field(default_factory=dict)
    passed_over: list[Rung] = field(default_factory=list)
    allowed_seconds: float = 0.0


def candidates(
    manifest: Manifest, rungs: list[Rung], optimizer: str, most_bytes: int, manner: Manner = TOGETHER
) -> list[Rung]:
    """Return the rungs that are worth a try beside the first: its tier's graphs, at half to four times its micro-batch.

    Args:
        manifest: of the bundle.
        rungs: that fit, best first by the constants.
        optimizer: whose state is held.
        most_bytes: that a candidate may need beside what the process holds before.
        manner: how the process keeps house.
    """
    first = rungs[0]
    sizes = [factor * first.micro_batch for factor in (1, 2, 4)] + [first.micro_batch // 2]
    found = [
        rung
        for rung in rungs
        if rung.tier == first.tier
        and rung.micro_batch in sizes
        and predicted_peak(manifest, rung, optimizer, 0, manner) <= most_bytes
    ]
    return sorted(found, key=lambda rung: (rung.graph != first.graph, sizes.index(rung.micro_batch)))


def tried(
    rungs: list[Rung],
    run_once: Callable[[Rung], None],
    allowed: Callable[[float], float],
    clock: Callable[[], float],
) -> Found:
    """Time rungs: other micro-batches of the first one's graph, then other graphs at the best of them.

    Args:
        rungs: the first is what the constants prefer; see :func:`candidates`.
        run_once: passes one micro-batch through a rung's graph.
        allowed: given the first one's seconds an image, returns the seconds that all of it may take.
        clock: seconds.
    """
    found, begin, first = Found(), clock(), rungs[0]

    def timed(rung: Rung) -> None:
        expected = (1 + TIMES) * rung.micro_batch * found.seconds.get(first, 0.0)
        if found.seconds and clock() - begin + expected > found.allowed_seconds:
            found.passed_over.append(rung)
            return
        took = []
        try:
            for _ in range(1 + TIMES):
                start = clock()
                run_once(rung)
                took.append(clock() - start)
            found.seconds[rung] = max(min(took[1:]), 1e-9) / rung.micro_batch
        except (OutOfMemoryError, MemoryError):
            found.passed_over.append(rung)

    timed(first)
    if not found.seconds:
        return found
    found.allowed_seconds = allowed(found.seconds[first])
    for rung in rungs[1:]:
        if rung.graph == first.graph:
            timed(rung)
    best = min(found.seconds, key=found.seconds.__getitem__).micro_batch
    for rung in rungs[1:]:
        if rung.graph != first.graph and rung.micro_batch == best:
            timed(rung)
    found.passed_over += [rung for rung in rungs if rung not in found.seconds and rung not in found.passed_over]
    return found


def try_rungs(run: Run) -> None:
    """Let a run go on with the fastest of the rungs that it may take, if that is not known yet and worth the time.

    Args:
        run: opened; its trainer is on the rung that the constants prefer, or on what was the fastest before.
    """
    trainer, preference = run.trainer, run.standing.preference
    at_start, is_down, trainer.is_new_here = not trainer.is_new_here, trainer.is_down, False
    if (wanted := run.options.rung) not in (None, trainer.rung.key) and at_start and not run.state.began:
        budget = format_bytes(run.allowed_bytes or 0)
        run.tell(
            f"--rung {wanted} does not fit in {budget}; the run begins on {trainer.rung}. "
            "Allow more with --memory, or leave --rung out."
        )
    rungs = preference.candidates(trainer.rungs, is_down=is_down)
    pictures = _pictures_to_come(run)
    if not preference.is_open(rungs, at_start=at_start) or pictures < least_pictures(rungs[0]):
        return

    def allowed(image_seconds: float) -> float:
        whole = run.extent.seconds or image_seconds * pictures
        seconds = min(MOST_SHARE * whole, MOST_SECONDS) if whole >= LEAST_SECONDS else 0.0
        return seconds if preference.speeds.is_open(rungs, seconds) else 0.0

    known = preference.speeds.seconds.get(str(rungs[0])) or run.extent.step_seconds / run.batch
    first_alone = (1 + TIMES) * rungs[0].micro_batch * known
    if (run.extent.seconds or math.inf) < LEAST_SECONDS or (known and allowed(known) <= first_alone):
        return
    try:
        noise = _Noise(run, max(rung.micro_batch for rung in rungs))
    except MemoryError:
        return
    before, begin = trainer.rungs, time.perf_counter()
    turns = iter(range((1 + TIMES) * len(rungs)))

    def through(rung: Rung) -> None:
        run.progress("timing ways to take a step", next(turns), (1 + TIMES) * len(rungs))
        noise.through([rung, *before])

    try:
        found = tried(rungs, through, allowed, time.perf_counter)
    finally:
        trainer.enter(before)
    if len(found.seconds) < 2:
        return
    preference.learn(found)
    run.standing.took(found.seconds)
    run.predicted = max(run.predicted, run.standing.shares.predicted_bytes)
    if is_down:
        trainer.move(preference.of_smaller(before), "it is faster here")
    else:
        trainer.enter(preference.of_fitting(before))
    share = preference.speeds.seconds[str(trainer.rung)] / found.seconds[rungs[0]]
    result = f"{trainer.rung} takes {share:.2f} × the time of {rungs[0]}"
    if trainer.rung == rungs[0]:
        result = f"{trainer.rung} stays: none is clearly faster"
    run.tell(
        f"Tried {len(found.seconds)} ways to take a step for {format_seconds(time.perf_counter() - begin)}: {result}."
    )


def least_pictures(first: Rung) -> float:
    """Return how many pictures a run must learn from for there to be time for a rung and one of twice its size."""
    return (1 + TIMES) * 3 * first.micro_batch / MOST_SHARE


def _pictures_to_come(run: Run) -> int:
    """Return how many pictures a run will learn from, over all of its steps."""
    if run.extent.steps is not None:
        return (run.extent.steps - run.state.steps) * run.batch
    return (run.options.epochs - run.state.epoch) * len(run.splits["train"])


class _Noise:
    """Micro-batches of noise for a run's training graphs.

    Args:
        run: whose.
        most: images in a micro-batch.
    """

    def __init__(self, run: Run, most: int) -> None:
        manifest = run.bundle.manifest
        how, classes = manifest.preprocessing, len(manifest.classes)
        shape = manifest.prefix.shape if manifest.prefix else (how.channels, *how.image_size)
        self._trainer = run.trainer
        self._images = np.random.default_rng(0).standard_normal((most, *shape), np.float32)
        self._targets = np.full((most, classes), 1 / (most * classes), np.float32)

    def through(self, rungs: list[Rung]) -> None:
        """Pass a micro-batch through the graph of the first of these."""
        if self._trainer.rung != rungs[0]:
            self._trainer.enter(rungs)
        size = rungs[0].micro_batch
        self._trainer.pass_through(self._images[:size], self._targets[:size])
