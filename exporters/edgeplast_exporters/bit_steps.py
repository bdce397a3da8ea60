"""Fewer bits, step by step: always the step that costs the least error for each byte it saves. Pure arithmetic.

Each part starts with its most bits. On the way down its choices are those on the lower convex hull of error against
bytes; the steps of all parts are taken in the order of error per byte saved. That is the greedy solution of the
multiple-choice knapsack (Sinha & Zoltners 1979, "The Multiple-Choice Knapsack Problem"): where the way is stopped, the
summed error is above the least possible by no more than the error that the last step added. The order does not depend
on where it is stopped, so no part gets more bits when less is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping

Bits = dict[str, int]
"""Part to bits."""


def way_down(errors: Mapping[str, Mapping[int, float]], sizes: Mapping[str, Mapping[int, int]]) -> list[Bits]:
    """Return every state on the way from the most bits of each part to the fewest bytes.

    Args:
        errors: part to its error at each number of bits, 0 or more. One that is larger at more bits is taken for noise:
            fewer bits never count as more exact.
        sizes: part to its bytes at each number of bits, for the same parts and bits.

    Returns:
        states, each with fewer bytes than the one before; the first has the most bits everywhere.
    """
    steps = []
    for place, part in enumerate(errors):
        for order, (slope, bits) in enumerate(_steps(errors[part], sizes[part])):
            steps.append((slope, place, order, part, bits))
    states = [{part: max(choices) for part, choices in errors.items()}]
    for _, _, _, part, bits in sorted(steps):
        states.append(states[-1] | {part: bits})
    return states


def total(state: Mapping[str, int], numbers: Mapping[str, Mapping[int, float]]) -> float:
    """Return the sum of a number (error or bytes) over the parts of a state."""
    return sum(numbers[part][bits] for part, bits in state.items())


def _steps(errors: Mapping[int, float], sizes: Mapping[int, int]) -> list[tuple[float, int]]:
    """Return error per byte saved and the bits reached, of each step along the hull; the first number never falls."""
    choices = sorted(errors, reverse=True)
    exact = {bits: max(errors[b] for b in choices[: i + 1]) for i, bits in enumerate(choices)}
    here = choices[0]
    found: list[tuple[float, int]] = []
    while True:
        smaller = [bits for bits in choices if bits < here and sizes[bits] < sizes[here]]
        if not smaller:
            return found
        slope, bits = min(((exact[b] - exact[here]) / (sizes[here] - sizes[b]), b) for b in smaller)
        found.append((max(slope, found[-1][0]) if found else slope, bits))  # rounding must not turn the order around
        here = bits
