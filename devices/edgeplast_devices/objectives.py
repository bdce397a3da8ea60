"""What a batch without labels asks of a model: logits in, the loss and targets for the training graph out.

A training graph is seeded at the logits with ``p·Σt − t``, where p is their softmax and t the targets. So every loss
that is a function of the logits has targets of its own: those for which ``p·Σt − t`` is its gradient. No new graph is
needed, only the logits of the whole batch before its targets.

Sources: entropy minimisation, TENT (arXiv 2006.10726), with the filter and weights of EATA (2204.02610); information
maximisation, SHOT (2002.08546); pseudo-labels (Lee, 2013).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeplast_devices.logistic import log_softmax

ENTROPY_SHARE = 0.4
"""Pictures whose entropy is above this share of the largest, log(classes), say nothing reliable (EATA)."""

CONFIDENCE = 0.8
"""Probability from which on a prediction counts as a label."""


def entropy(logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean entropy of the pictures that the model is fairly sure of, the surer the more weight.

    The weights, ``exp(E₀ − H)`` below E₀ and 0 above, are taken as constants, as EATA does.
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    each = -(p * log_p).sum(1)
    limit = ENTROPY_SHARE * np.log(logits.shape[1])
    weight = np.where(each < limit, np.exp(limit - each), 0.0) / len(logits)
    return float((weight * each).sum()), weight[:, None] * p * (log_p + each[:, None])


def information(logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean entropy of the pictures, less the entropy of the mean prediction: sure of each, and of many kinds."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    each = -(p * log_p).sum(1)
    mean = p.mean(0)
    log_mean = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    diversity = -float((mean * log_mean).sum())
    sure = p * (log_p + each[:, None])
    many = -p * (log_mean - (p * log_mean).sum(1, keepdims=True))
    return float(each.mean()) - diversity, (sure + many) / len(logits)


def pseudo_labels(logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy with the model's own predictions where it is sure of them; the others do not count."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    sure = p.max(1) >= CONFIDENCE
    targets = np.where(sure[:, None], np.eye(p.shape[1])[p.argmax(1)], 0.0) / len(logits)
    return -float((targets * log_p).sum()), targets


Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Logits (n, classes) to the loss and targets float64 (n, classes), both means over the batch."""

OBJECTIVES: dict[str, Objective] = {
    "information": information,
    "shot": information,
    "entropy": entropy,
    "pseudo": pseudo_labels,
}
"""Method to the objective that it trains; with ``shot``, as its paper has it, the head stays as it is."""
