"""The temperature of a classifier: one number that logits are divided by, so that probabilities can be believed.

Guo et al., *On Calibration of Modern Neural Networks*, arXiv 1706.04599: it is fitted on pictures that were not trained
on, changes no answer, and mends most of what training does to probabilities.
"""

from __future__ import annotations

import math

import numpy as np

from edgeplast_devices.images.sampling import evenly_spread
from edgeplast_devices.logistic import log_softmax

MOST_LOGITS_BYTES = 1 << 20
"""Of logits that are kept to fit one number on: 37,000 pictures of 7 classes, 262 of 1,000."""

_LEAST_PICTURES = 64
_LOWEST, _HIGHEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_HALVINGS = 60
_PIECE = 1 << 14


def order_to_fit_on(images: int, classes: int) -> np.ndarray:
    """Return which of so many images are used, rising, evenly spread: as many as ``MOST_LOGITS_BYTES`` hold."""
    most = max(MOST_LOGITS_BYTES // (4 * classes), _LEAST_PICTURES)
    return evenly_spread(images, most)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature at which logits say most of the labels.

    It minimises Σ −log softmax(logits/T)[label] + (log T)²/2. The second part, of the weight of one picture, keeps T in
    reason where few pictures are all named right (the first part alone would then ask for T = 0); with many it is lost.

    Args:
        logits: float32 (n, classes).
        labels: int64 (n,).

    Returns:
        T, in 0.05 … 20; None where a logit is not finite or there are none.
    """
    if not len(logits) or not np.isfinite(logits).all():
        return None

    def cost(log_t: float) -> float:
        total = log_t * log_t / 2
        step = max(_PIECE // logits.shape[1], 1)
        for i in range(0, len(logits), step):
            log_p = log_softmax(logits[i : i + step].astype(np.float64) / math.exp(log_t))
            total -= float(log_p[np.arange(len(log_p)), labels[i : i + step]].sum())
        return total

    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(_HALVINGS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    return round(math.exp((low + high) / 2), 4)
