"""The learning rate of each step: linear warm-up, then cosine decay or constant; and of the head beside the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeplast.errors import one_of

if TYPE_CHECKING:
    from edgeplast.bundle import Manifest
    from edgeplast_devices.options import TrainingOptions

SCHEDULES = ("cosine", "constant")


def learning_rate(step: int, total_steps: int, *, peak: float, warmup_steps: int, schedule: str) -> float:
    """Return the learning rate of one step.

    Args:
        step: counted from 0.
        total_steps: of the whole run.
        peak: reached at the end of the warm-up.
        warmup_steps: steps that rise linearly; the first already has ``peak / warmup_steps``.
        schedule: ``cosine`` falls to 0 after the last step (Loshchilov & Hutter, arXiv 1608.03983, without
            restarts), ``constant`` stays at the peak.

    Raises:
        UsageError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise one_of("schedule", schedule, SCHEDULES)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def rate_factors(
    manifest: Manifest, *, parameters: Iterable[str], options: TrainingOptions, body: float = 1.0
) -> dict[str, float]:
    """Return what the learning rate is multiplied with, by parameter: the head has one of its own.

    Args:
        manifest: of the bundle.
        parameters: names of what trains.
        options: with both rates filled in.
        body: what it is multiplied with of all but the head.
    """
    rate, head_rate = options.learning_rate, options.head_learning_rate
    if options.method == "shot":
        head_rate = 0.0
    if not rate or head_rate is None or (head_rate == rate and body == 1.0):
        return {}
    owner, heads = manifest.parameters, manifest.plan.outline.head
    factors = {name: head_rate / rate if owner[name].component in heads else body for name in parameters}
    return {name: factor for name, factor in factors.items() if factor != 1.0}
