"""Which units go: the least worth for what they cost, over all components at once. Pure arithmetic.

Every unit has a worth and every component a cost a unit. Within a component the units of least worth go first, in
groups of ``step``; over all components the groups go in the order of worth per cost, until enough is saved. Groups
that were taken although the last ones alone would have done are then put back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """One component to choose from.

    Attributes:
        name: of the component.
        worth: (units,) of each unit, 0 or more.
        cost: of one unit; 0: taking it away saves nothing of what is counted.
        least: units that stay whatever happens, 1 or more.
        step: units that go together.
    """

    name: str
    worth: np.ndarray
    cost: float
    least: int = 1
    step: int = 1

    @property
    def spare(self) -> int:
        """Units that may go: whole groups only."""
        return max(0, len(self.worth) - self.least) // self.step * self.step


def most_saved(choices: Sequence[Choice]) -> float:
    """Return what could be saved at most."""
    return float(sum(choice.spare * choice.cost for choice in choices))


def allocate(choices: Sequence[Choice], saved: float) -> dict[str, np.ndarray]:
    """Choose units to take out so that ``saved`` or a little more is saved.

    Args:
        choices: the components.
        saved: what to save, in the unit of the costs; at most :func:`most_saved`.

    Returns:
        component to the indices of units that go, ascending; int64.
    """
    order = {choice.name: np.argsort(choice.worth, kind="stable") for choice in choices}
    groups = []
    for place, choice in enumerate(choices):
        if choice.cost <= 0:
            continue
        for start in range(0, choice.spare, choice.step):
            worth = float(choice.worth[order[choice.name][start : start + choice.step]].sum())
            cost = choice.step * choice.cost
            groups.append((worth / cost, start, place, cost))
    groups.sort()
    taken: list[tuple[float, int, int, float]] = []
    total = 0.0
    for group in groups:
        if total >= saved:
            break
        taken.append(group)
        total += group[3]
    counts = [0] * len(choices)
    for _, _, place, _ in taken:
        counts[place] += choices[place].step
    for _, start, place, cost in reversed(taken):  # the dearest first
        last = counts[place] == start + choices[place].step
        if last and total - cost >= saved:
            counts[place] = start
            total -= cost
    return {choice.name: np.sort(order[choice.name][:count]) for choice, count in zip(choices, counts, strict=True)}


def gone_by_ratio(units: int, ratio: float) -> int:
    """Return how many units go when a share of them does, rounded to the nearest; one always stays."""
    return min(math.floor(ratio * units + 0.5), units - 1)


def least_worthy(worth: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the units of least worth, ascending; int64."""
    return np.sort(np.argsort(worth, kind="stable")[:count])
