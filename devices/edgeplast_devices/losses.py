"""Cross-entropy, on the outside: the weighted targets that a training graph takes, and class weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeplast.errors import InputError, one_of


@dataclass(frozen=True)
class CrossEntropy:
    """What a batch with labels asks of a model: torch's ``cross_entropy``, as targets for the training graph.

    The loss of a batch is ``−Σ_i Σ_c w_c·t_ic·log p_ic / Σ_i w_yi`` with ``t = (1 − s)·onehot + s/classes``. The
    weights and the division go into t, so that micro-batches simply add up. Objectives without labels, which need the
    logits of the whole batch first, are in ``objectives.py``.

    Attributes:
        weights: w, float32 (classes,).
        smoothing: s, in 0..1.
    """

    weights: np.ndarray
    smoothing: float = 0.0

    @classmethod
    def over(cls, labels: np.ndarray, classes: int, *, class_weighting: str, smoothing: float) -> CrossEntropy:
        """Return the loss of a run.

        Args:
            labels: of the training images.
            classes: number of classes.
            class_weighting: see :func:`class_weights`.
            smoothing: s.
        """
        return cls(class_weights(class_weighting, labels, classes), smoothing)

    def mass(self, labels: np.ndarray) -> float:
        """Return Σ w over some pictures: what their share of a batch's mean loss is divided by."""
        return float(self.weights[labels].sum())

    def targets(self, labels: np.ndarray, mass: float) -> np.ndarray:
        """Return what the training graph needs to compute its share of the batch's mean loss.

        Args:
            labels: int64 (b,), of a micro-batch.
            mass: of the whole accumulated batch.

        Returns:
            float32 (b, classes).

        Raises:
            InputError: a label is not in 0..classes−1 (the runtime would read beyond the logits).
        """
        classes = len(self.weights)
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise InputError(f"Labels run from {labels.min()} to {labels.max()}; this bundle knows 0 to {classes - 1}.")
        targets = np.full((len(labels), classes), self.smoothing / classes, np.float32)
        targets[np.arange(len(labels)), labels] += np.float32(1 - self.smoothing)
        targets *= self.weights / np.float32(mass)
        return targets


def class_weights(text: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return one weight per class, float32 (classes,).

    Args:
        text: ``none``: all 1. ``balanced``: n / (classes · n_c) over the classes that have images, so that each
            of them counts the same; 1 for those without.
        labels: of the training images.
        classes: number of classes.

    Raises:
        UsageError: another word.
    """
    if text == "none":
        return np.ones(classes, np.float32)
    if text == "balanced":
        counts = np.bincount(labels, minlength=classes)
        here = counts > 0
        weights = np.ones(classes, np.float32)
        weights[here] = len(labels) / (counts[here] * here.sum())
        return weights
    raise one_of("class weights", text, ("none", "balanced"))
