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
from edgeplast_devices.fitted_heads import linear_head
from edgeplast_devices.images import ImageSet
from edgeplast_devices.objectives import information


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


def recentre(
    logits: Callable[[np.ndarray], np.ndarray],
    manifest: Manifest,
    parameters: dict[str, np.ndarray],
    images: ImageSet,
    **over: Any,
) -> None:
    """Change the bias of a bundle's head so that features are seen from their mean over images; arguments as above.

    Raises:
        UsageError: the head is more than one linear layer, or has no bias.
    """
    head = linear_head(manifest)
    if head.bias is None:
        raise UsageError(f"The head of {manifest.model} has no bias that could be recentred. Give another --method.")
    total, count = np.zeros(head.classes), 0
    for found, *_ in outputs(logits, images, manifest.preprocessing, activity="looking at the pictures", **over):
        total += found.sum(0, dtype=np.float64)
        count += len(found)
    parameters[head.bias][...] = recentred_bias(parameters[head.bias], total / max(count, 1))


def judge(batches_of_logits: Iterable[np.ndarray]) -> Judgement:
    """Return the judgement over all logits, float32 (b, classes) each; not finite ones count as one class for all."""
    logits = np.concatenate(list(batches_of_logits))
    logits = np.where(np.isfinite(logits).all(1, keepdims=True), logits, np.float32(0))
    objective, _ = information(logits)
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    mean = (shifted / shifted.sum(1, keepdims=True)).mean(0)
    variety = float(np.exp(-(mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))).sum()))
    return Judgement(objective=objective, variety=variety, images=len(logits))


def recentred_bias(bias: np.ndarray, mean_logits: np.ndarray) -> np.ndarray:
    """Return the head's bias for features whose mean is subtracted before the head (NEO, arXiv 2510.05635).

    With logits ``W·f + b`` and features of mean μ, ``W·(f − μ) + b`` is ``W·f + (b − W·μ)``; and the mean of the logits
    is ``W·μ + b``.

    Args:
        bias: of the head, float32 (classes,).
        mean_logits: over the pictures, (classes,).
    """
    return (2 * bias.astype(np.float64) - mean_logits).astype(bias.dtype)
