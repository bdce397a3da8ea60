"""Multinomial logistic regression over rows that are read in pieces: Newton's method, steps by conjugate gradients.

No product here calls BLAS. OpenBLAS maps 32 MiB for each thread that multiplies two matrices and ends the process where
it cannot, as behind the wall of a budget; ``einsum`` uses numpy's own loops (3 GFLOP/s and more on one core).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Pieces = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Goes through all rows: features float64 (m, d) and targets float64 (m, classes) of some at a time."""

STATE_ARRAYS = 7
"""How many arrays (classes, d + 1) of float64 a fit holds at once."""

_MOST_STEPS, _MOST_INNER_STEPS, _MOST_HALVINGS = 100, 250, 30
_SUFFICIENT = 1e-4


@dataclass(frozen=True)
class Fit:
    """Where the loss is smallest.

    Attributes:
        weight: float64 (classes, d).
        bias: float64 (classes,).
        loss: −Σ t·log softmax(x·Wᵀ + b), without the penalty.
        gradient_norm: Euclidean, of loss and penalty there.
    """

    weight: np.ndarray
    bias: np.ndarray
    loss: float
    gradient_norm: float


def fit_logistic(
    pieces: Pieces, classes: int, width: int, *, decay: float, bias: bool = True, tolerance: float = 1e-6
) -> Fit:
    """Minimise −Σ t·log softmax(x·Wᵀ + b) + decay/2·‖W‖² from zero; the one minimum there is.

    Args:
        pieces: goes through the rows, once for each product with them.
        classes: number of classes.
        width: of a row, d.
        decay: of the weights, above 0; the bias has none.
        bias: whether there is one.
        tolerance: the norm of the gradient that is small enough, relative to that at zero.
    """
    problem = _Problem(pieces, decay, bias)
    point = np.zeros((classes, width + 1))
    value, gradient = problem.value_and_gradient(point)
    first = norm = float(np.linalg.norm(gradient))
    for _ in range(_MOST_STEPS):
        if norm <= tolerance * first:
            break
        step = _newton_step(problem, point, gradient, tolerance=min(0.5, (norm / first) ** 0.5) * norm)
        slope = float(np.vdot(gradient, step))
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            new_value, new_gradient = problem.value_and_gradient(point + length * step)
            # At the end of float64's digits the value no longer tells; the gradient does.
            if new_value <= value + _SUFFICIENT * length * slope or np.linalg.norm(new_gradient) < norm / 2:
                break
            length /= 2
        else:
            break
        point += length * step
        value, gradient = new_value, new_gradient
        norm = float(np.linalg.norm(gradient))
    weight = point[:, :-1]
    penalty = decay / 2 * float(np.square(weight).sum())
    return Fit(weight, point[:, -1], value - penalty, norm)


def _newton_step(problem: _Problem, point: np.ndarray, gradient: np.ndarray, tolerance: float) -> np.ndarray:
    """Solve curvature · step = −gradient up to a residual of this norm, by conjugate gradients."""
    step, residual = np.zeros_like(gradient), -gradient
    direction, square = residual.copy(), float(np.vdot(residual, residual))
    for _ in range(_MOST_INNER_STEPS):
        if square**0.5 <= tolerance:
            break
        curved = problem.curvature(point, direction)
        length = square / float(np.vdot(direction, curved))
        step += length * direction
        residual -= length * curved
        before, square = square, float(np.vdot(residual, residual))
        direction *= square / before
        direction += residual
    return step


class _Problem:
    """The penalised loss, its gradient and its curvature at a point (classes, d + 1), the bias in the last column."""

    def __init__(self, pieces: Pieces, decay: float, bias: bool) -> None:
        self._pieces, self._decay, self._bias = pieces, decay, bias

    def value_and_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self._decay / 2 * float(np.square(point[:, :-1]).sum()), self._penalty(point)
        for rows, targets in self._pieces():
            log_p = log_softmax(_scores(rows, point))
            value -= float(np.einsum("nc,nc->", targets, log_p))
            self._add(gradient, np.exp(log_p) * targets.sum(axis=1, keepdims=True) - targets, rows)
        return value, gradient

    def curvature(self, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
        result = self._penalty(direction)
        for rows, targets in self._pieces():
            p = np.exp(log_softmax(_scores(rows, point)))
            change = _scores(rows, direction)
            change -= np.einsum("nc,nc->n", p, change)[:, None]
            self._add(result, p * change * targets.sum(axis=1, keepdims=True), rows)
        return result

    def _penalty(self, point: np.ndarray) -> np.ndarray:
        result = self._decay * point
        result[:, -1] = 0
        return result

    def _add(self, total: np.ndarray, errors: np.ndarray, rows: np.ndarray) -> None:
        total[:, :-1] += np.einsum("nc,nd->cd", errors, rows)
        if self._bias:
            total[:, -1] += errors.sum(axis=0)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities, float64 (n, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _scores(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.einsum("nd,cd->nc", rows, point[:, :-1]) + point[:, -1]
