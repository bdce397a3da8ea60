"""Pruning to a time: which fraction of the work must stay so that one image takes no longer than asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgeplast.compression.pruning import Pruner
from edgeplast.errors import BudgetError, UsageError
from edgeplast.progress import Progress
from edgeplast.pruning_target import Target
from edgeplast.units import format_seconds

Latency = Callable[[Sequence[torch.nn.Module]], Sequence[float]]
"""Measures models side by side: seconds of one image each, on this machine, in the order given."""

_ROUNDS, _CLOSE = 6, 0.03


def keep_for_latency(
    pruner: Pruner, source: torch.nn.Module, wanted_seconds: float, latency: Latency, progress: Progress
) -> float:
    """Return the largest tried fraction of multiply–accumulates with which an image takes no longer than wanted.

    Time grows about in a straight line with the work, so after the source and the smallest model each guess lies on
    the line between the nearest two; each is pruned, measured beside the source, and kept or passed.

    Raises:
        UsageError: the source is fast enough already.
        BudgetError: even the smallest model is too slow; the message says how fast it is.
    """
    fewest = pruner.least_kept()
    rounds: list[tuple[float, float]] = []

    def measure(keep: float) -> float:
        progress("measuring latency", len(rounds), _ROUNDS)
        work = pruner.start(source)
        pruner.step(work, pruner.budget(Target(keep=keep)), share=1.0)
        before, after = latency([source, work.model])
        rounds.append((keep, after / before))
        return after / before

    whole = latency([source])[0]
    if whole <= wanted_seconds:
        raise UsageError(
            f"The model takes {format_seconds(whole)} an image already, no more than the "
            f"{format_seconds(wanted_seconds)} asked for."
        )
    wanted = wanted_seconds / whole
    low, fast = fewest, measure(fewest)
    if fast > wanted:
        raise BudgetError(
            f"Pruning to {format_seconds(wanted_seconds)} an image is not possible on this machine: with one head and "
            f"an eighth of the hidden units in every block it takes {format_seconds(fast * whole)}, unpruned "
            f"{format_seconds(whole)}. Ask for more, or start from a smaller model."
        )
    high, slow = 1.0, 1.0
    while len(rounds) < _ROUNDS and wanted - fast > _CLOSE * wanted:
        share = (wanted - fast) / (slow - fast)
        keep = low + min(max(share, 0.05), 0.95) * (high - low)
        ratio = measure(keep)
        if ratio <= wanted:
            low, fast = keep, ratio
        else:
            high, slow = keep, ratio
    progress("measuring latency", _ROUNDS, _ROUNDS)
    return low
