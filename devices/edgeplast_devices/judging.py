"""How a model does on pictures without labels: logits of held-out pictures in, a Judgement out; and a simple remedy.

Without labels no accuracy can be had, and what the model believes of itself is no measure of it. Two things are:
whether the objective falls on pictures that were not learned from, and whether predictions still show as many classes
as before. A model that collapses answers the same to everything, and is very sure of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.errors import UsageError
from edgeplast.evaluation import Judgement
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.fitted_heads import head_if_linear
from edgeplast_devices.images import ImageSet
from edgeplast_devices.logistic import log_softmax


@dataclass(frozen=True)
class Verdict:
    """How good weights are on what was held back: a loss, the lower the better, and what else is known.

    Attributes:
        loss: None where nothing was held back.
        accuracy: None without labels.
        judgement: None with labels.
        has_collapsed: these weights must not be kept, whatever the loss.
    """

    loss: float | None = None
    accuracy: float | None = None
    judgement: Judgement | None = None
    has_collapsed: bool = False


def judged(
    logits: Callable[[np.ndarray], np.ndarray],
    images: ImageSet,
    how: Preprocessing,
    before: Judgement | None,
    activity: str,
    **over: Any,
) -> Verdict:
    """Judge weights on images without labels.

    Args:
        logits: of images float32 (b, C, H, W), with the weights in force.
        images: held back.
        how: a picture becomes the model's input.
        before: the judgement of the weights as they came; None for themselves.
        activity: what ``progress`` is told.
        **over: micro-batch, unreadable and progress of :func:`~.evaluating.outputs`.
    """
    found = judge(found for found, *_ in outputs(logits, images, how, activity=activity, **over))
    return Verdict(found.objective, None, found, before is not None and found.has_collapsed_since(before))


def bias_to_recentre(manifest: Manifest) -> str:
    """Return the name of the bias of a bundle's head.

    Raises:
        UsageError: the head is more than one linear layer, or has no bias.
    """
    head = head_if_linear(manifest)
    if head is None or head.bias is None:
        raise UsageError(
            f"--method recentre changes the bias of a head that is one linear layer of features, and that of "
            f"{manifest.model} is none or has none. Give another --method, such as information."
        )
    return head.bias


def recentre(
    logits: Callable[[np.ndarray], np.ndarray],
    manifest: Manifest,
    parameters: dict[str, np.ndarray],
    images: ImageSet,
    **over: Any,
) -> None:
    """Change the bias of a bundle's head so that features are seen from their mean over images; arguments as above.

    Raises:
        UsageError: see :func:`bias_to_recentre`.
    """
    bias = bias_to_recentre(manifest)
    total, count = np.zeros(1), 0
    for found, *_ in outputs(logits, images, manifest.preprocessing, activity="looking at the pictures", **over):
        total = total + found.sum(0, dtype=np.float64)
        count += len(found)
    parameters[bias][...] = recentred_bias(parameters[bias], total / count)


def judge(batches_of_logits: Iterable[np.ndarray]) -> Judgement:
    """Return the judgement over all logits, float32 (b, classes) each; memory does not grow with their number.

    Where a logit is not finite, all classes of that picture count as equally likely.
    """
    uncertainty, total, images = 0.0, np.zeros(1), 0
    for logits in batches_of_logits:
        log_p = log_softmax(np.where(np.isfinite(logits).all(1, keepdims=True), logits, np.float32(0)))
        p = np.exp(log_p)
        uncertainty -= float((p * log_p).sum())
        total = total + p.sum(0)
        images += len(logits)
    mean = total / images
    diversity = -float((mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))).sum())
    return Judgement(objective=uncertainty / images - diversity, variety=float(np.exp(diversity)), images=images)


def recentred_bias(bias: np.ndarray, mean_logits: np.ndarray) -> np.ndarray:
    """Return the head's bias for features whose mean is subtracted before the head (NEO, arXiv 2510.05635).

    With logits ``W·f + b`` and features of mean μ, ``W·(f − μ) + b`` is ``W·f + (b − W·μ)``; and the mean of the logits
    is ``W·μ + b``.

    Args:
        bias: of the head, float32 (classes,).
        mean_logits: over the pictures, (classes,).
    """
    return (2 * bias.astype(np.float64) - mean_logits).astype(bias.dtype)
