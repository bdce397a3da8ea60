"""Which updates of a round are taken: each is looked at alone, then their norms beside one another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

LEAST_FOR_A_MEDIAN = 3
MOST_EXAMPLES = 10_000_000


def examples_of(metrics: Mapping[str, object], key: str) -> int:
    """Return how many pictures an update was learned from.

    Raises:
        ValueError: a device says nothing, or what cannot be.
    """
    given = metrics.get(key)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given <= MOST_EXAMPLES:
        raise ValueError(f"it says it learned from {str(given)[:40]} pictures")
    return int(given)


def too_large(norms: Mapping[str, float], factor: float, before: float = 0.0) -> dict[str, str]:
    """Say which updates are far larger than what this fleet sends, and why they are left out.

    Where most devices have learned what they can, the one that still learns sends many times their median, and is right
    to: it is measured by the largest median so far.

    Args:
        norms: of the updates of this round by device.
        factor: how many medians are allowed; 0 allows any.
        before: the largest median of earlier rounds.

    Returns:
        reasons by device; none where fewer than three updates came, of which nobody can say which is odd.
    """
    if not factor or len(norms) < LEAST_FOR_A_MEDIAN:
        return {}
    median = max(statistics.median(norms.values()), before)
    if not math.isfinite(median) or median <= 0:
        return {}
    return {
        device: f"its norm is {norm:.3g}, more than {factor:g} × the largest median so far ({median:.3g})"
        for device, norm in norms.items()
        if norm > factor * median
    }


def largest_median(rounds: Iterable[Iterable[float]]) -> float:
    """Return the largest median of norms over rounds; 0 before the first with enough of them."""
    each = [list(norms) for norms in rounds]
    return max((statistics.median(norms) for norms in each if len(norms) >= LEAST_FOR_A_MEDIAN), default=0.0)
