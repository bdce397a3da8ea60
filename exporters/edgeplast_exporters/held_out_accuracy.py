"""What rounded weights cost in accuracy, on pictures that nothing was fitted or calibrated on.

A bundle's head is new and knows nothing yet. What fewer bits do to a later head is therefore measured on a stand-in: a
logistic probe on the float32 features of the calibration pictures, judged on held-out ones, with features of the
float32 model and of the rounded one. A model that keeps its head is judged with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.contract import LOGITS
from edgeplast.errors import BudgetError, InputError
from edgeplast.graphs.graph import Graph
from edgeplast.progress import Progress, silent
from edgeplast_exporters.bit_steps import Bits
from edgeplast_exporters.calibration import run_float

LEAST_HELD_OUT = 20
"""Pictures below which an accuracy is anecdote: one of them is 5 points."""

Probe = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Features (n, D) float32 and labels (n,) int64 to weight (C, D) and bias (C,)."""


@dataclass(frozen=True)
class AccuracyTarget:
    """How much accuracy may be lost, and what it is measured with.

    Attributes:
        most_points: of accuracy, 0 or more.
        labels: (n,) int64, classes of the pictures calibrated on.
        held_out: preprocessed pictures, float32 (3, H, W) each, none of them calibrated on.
        held_out_labels: their classes.
        probe: fits a head on features; None: the model's own head is used.
    """

    most_points: float
    labels: np.ndarray
    held_out: Sequence[np.ndarray]
    held_out_labels: np.ndarray
    probe: Probe | None


class HeldOutAccuracy:
    """Measures how much accuracy rounded weights lose.

    Raises:
        InputError: too few held-out pictures.
    """

    def __init__(
        self,
        forward: Graph,
        parameters: Mapping[str, np.ndarray],
        images: Sequence[np.ndarray],
        target: AccuracyTarget,
        *,
        progress: Progress = silent,
    ) -> None:
        if len(target.held_out) < LEAST_HELD_OUT:
            raise InputError(
                f"{len(target.held_out)} pictures are left to measure the accuracy on, after {len(images)} to "
                f"calibrate on; at least {LEAST_HELD_OUT} are needed. Give more --data, or fewer --calibration-images."
            )
        self._forward, self._parameters, self._target, self._progress = forward, parameters, target, progress
        self._read = LOGITS if target.probe is None else _head_input(forward)
        self._head = None if target.probe is None else target.probe(self._run(parameters, images), target.labels)
        self._float = self._accuracy(parameters)

    def furthest(self, states: Sequence[Bits], rounded: Callable[[Bits], Mapping[str, np.ndarray]]) -> tuple[Bits, str]:
        """Return a state as far down as a search by halves finds that loses no more than allowed, and a note.

        Args:
            states: of fewer and fewer bits.
            rounded: returns the matrices of a state.

        Raises:
            BudgetError: the first state loses too much already.
        """
        most = self._target.most_points
        found = 0.0 if set(states[0].values()) == {32} else self._lost(rounded(states[0]))
        if found > most:
            raise BudgetError(
                f"A drop of {most:g} points cannot be kept: the most bits that the size, the memory and the disk "
                f"allow lose {found:.2f} points on {len(self._target.held_out)} held-out pictures. "
                "Allow as much, or a larger bundle."
            )
        low, high = 0, len(states)
        while high - low > 1:
            self._progress("measuring accuracy", len(states) - (high - low), len(states))
            middle = (low + high) // 2
            lost = self._lost(rounded(states[middle]))
            if lost <= most:
                low, found = middle, lost
            else:
                high = middle
        self._progress("measuring accuracy", len(states), len(states))
        by = "the model's own head" if self._head is None else "a logistic probe on its features"
        return states[low], (
            f"Accuracy of {by} {self._float:.1%} in float32, {found:+.2f} points lost with these bits ({most:g} "
            f"allowed), on {len(self._target.held_out)} held-out pictures: one of them is "
            f"{100 / len(self._target.held_out):.2f} points."
        )

    def _lost(self, rounded: Mapping[str, np.ndarray]) -> float:
        return 100 * (self._float - self._accuracy({**self._parameters, **rounded}))

    def _accuracy(self, parameters: Mapping[str, np.ndarray]) -> float:
        found = self._run(parameters, self._target.held_out)
        logits = found if self._head is None else found @ self._head[0].T + self._head[1]
        return float((logits.argmax(axis=1) == self._target.held_out_labels).mean())

    def _run(self, parameters: Mapping[str, np.ndarray], images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([found[0].ravel() for found in run_float(self._forward, parameters, images, [self._read])])


def _head_input(forward: Graph) -> str:
    """Return the name of what the head reads, of a distilled model of both tokens' rows."""
    head = next(node.component for node in forward.nodes if LOGITS in node.outputs)
    made = {name for node in forward.nodes if node.component != head for name in node.outputs}
    return next(name for node in forward.nodes if node.component == head for name in node.inputs if name in made)
