"""Accuracy, loss and calibration, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeplast.evaluation import (
    Calibration,
    ClassAccuracy,
    Evaluation,
    ReliabilityBin,
    WrongImage,
    wilson_interval,
)
from edgeplast_devices.logistic import log_softmax

_BINS = 15
"""Bins of the expected calibration error, as in Guo et al., arXiv 1706.04599."""

MOST_CLASSES_CONFUSED = 100
"""Classes up to which is counted what is taken for what: a table of 80 kB."""

_MOST_WRONG = 10

MOST = float(np.finfo(np.float32).max)
"""Written for a loss or norm that is not finite, since JSON has neither infinity nor NaN."""


def writable(value: float) -> float:
    """Return a number that JSON can carry: one that is not finite becomes the largest float32."""
    return value if np.isfinite(value) else MOST


class Metrics:
    """Counts that grow with each batch; memory does not.

    Args:
        classes: names.
        temperature: that logits are divided by before they become probabilities; None for none.
    """

    def __init__(self, classes: tuple[str, ...], temperature: float | None = None) -> None:
        self._classes, self._temperature = classes, temperature
        self._seen = np.zeros(len(classes), np.int64)
        self._right = np.zeros(len(classes), np.int64)
        self._called = np.zeros(len(classes), np.int64)
        few = len(classes) <= MOST_CLASSES_CONFUSED
        self._confusion = np.zeros((len(classes), len(classes)), np.int64) if few else None
        self._wrong: list[tuple[float, int, int, int]] = []  # confidence, minus the index, label, what it was called
        self._own = _Confidence()
        self._without = _Confidence() if temperature is not None else None

    def add(self, logits: np.ndarray, labels: np.ndarray, indices: np.ndarray | None = None) -> None:
        """Count a batch: logits float32 (b, classes), labels int64 (b,), and which images they are, int (b,).

        Where a logit is not finite (training diverged), the image counts as named wrong, with confidence 1, and as
        called no class: no column of the confusion has it, and no class's precision suffers.
        """
        broken = ~np.isfinite(logits).all(axis=1)
        if broken.any():
            logits = np.where(broken[:, None], np.float32(0), logits)
        called = logits.argmax(axis=1)
        right = (called == labels) & ~broken
        np.add.at(self._seen, labels, 1)
        np.add.at(self._right, labels[right], 1)
        np.add.at(self._called, called[~broken], 1)
        if self._confusion is not None:
            np.add.at(self._confusion, (labels[~broken], called[~broken]), 1)
        wide = logits.astype(np.float64)
        confidence = self._own.add(wide / (self._temperature or 1.0), labels, right, broken)
        if indices is not None:
            wrong = [
                (float(confidence[i]), -int(indices[i]), int(labels[i]), int(called[i]))
                for i in np.flatnonzero(~right & ~broken)
            ]
            self._wrong = sorted([*self._wrong, *wrong], reverse=True)[:_MOST_WRONG]
        if self._without is not None:
            self._without.add(wide, labels, right, broken)

    def result(self, name: Callable[[int], str] = str) -> Evaluation:
        """Return the figures over everything counted so far; ``name`` says what an image is called."""
        images = int(self._seen.sum())
        own = self._own.result(images)
        return Evaluation(
            images=images,
            accuracy=float(self._right.sum() / max(images, 1)),
            loss=own.loss,
            expected_calibration_error=own.expected_calibration_error,
            per_class={
                label: ClassAccuracy(
                    images=int(self._seen[i]),
                    accuracy=float(self._right[i] / self._seen[i]) if self._seen[i] else None,
                    precision=float(self._right[i] / self._called[i]) if self._called[i] else None,
                )
                for i, label in enumerate(self._classes)
            },
            accuracy_interval=wilson_interval(float(self._right.sum()), images),
            confusion=() if self._confusion is None else tuple(tuple(map(int, row)) for row in self._confusion),
            reliability=self._own.bins(),
            most_wrong=tuple(
                WrongImage(
                    image=name(-index),
                    label=self._classes[label],
                    predicted=self._classes[called],
                    confidence=confidence,
                )
                for confidence, index, label, called in self._wrong
            ),
            temperature=self._temperature,
            without_temperature=None if self._without is None else self._without.result(images),
        )


class _Confidence:
    """Loss and calibration, summed."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._bins = np.zeros((_BINS, 3))  # images, sum of confidences, right answers

    def add(self, logits: np.ndarray, labels: np.ndarray, right: np.ndarray, broken: np.ndarray) -> np.ndarray:
        log_p = log_softmax(logits)
        self._loss += MOST if broken.any() else -float(log_p[np.arange(len(labels)), labels].sum())
        confidence = np.where(broken, 1.0, np.exp(log_p.max(axis=1)))
        bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        np.add.at(self._bins, bins, np.stack([np.ones_like(confidence), confidence, right], axis=1))
        return confidence

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """Return those that hold images."""
        return tuple(
            ReliabilityBin(images=int(count), confidence=float(confidence / count), accuracy=float(right / count))
            for count, confidence, right in self._bins
            if count
        )

    def result(self, images: int) -> Calibration:
        gaps = np.abs(self._bins[:, 1] - self._bins[:, 2]).sum()
        return Calibration(
            loss=MOST if self._loss >= MOST else self._loss / max(images, 1),
            expected_calibration_error=float(gaps / max(images, 1)),
        )
