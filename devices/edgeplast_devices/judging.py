"""How a model does on pictures without labels: logits of held-out pictures in, a Judgement out.

Without labels no accuracy can be had, and what the model believes of itself is no measure of it. Three things are:
whether the objective falls on pictures that were not learned from, whether predictions still show as many classes as
before, and whether a picture is called the same however it is cropped and mirrored, for disagreement rises as accuracy
falls (after AETTA, arXiv 2404.01350, which asks it of dropout). A model that collapses answers the same to everything,
and is very sure of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from edgeplast.evaluation import Judgement
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.images import ImageSet
from edgeplast_devices.latents import Source
from edgeplast_devices.logistic import log_softmax


@dataclass(frozen=True)
class Verdict:
    """How good weights are on what was held back: a loss, the lower the better, and what else is known.

    Attributes:
        loss: None where nothing was held back.
        accuracy: None without labels.
        judgement: None with labels.
        fault: why these weights must not be kept, whatever the loss: ``collapsed``, ``disagreed``; empty for none.
    """

    loss: float | None = None
    accuracy: float | None = None
    judgement: Judgement | None = None
    fault: str = ""


def judged(
    logits: Callable[[np.ndarray], np.ndarray],
    images: ImageSet,
    how: Preprocessing,
    before: Judgement | None,
    activity: str,
    *,
    views: Sequence[Source] = (),
    **over: Any,
) -> Verdict:
    """Judge weights on images without labels.

    Args:
        logits: of images float32 (b, C, H, W), with the weights in force.
        images: held back.
        how: a picture becomes the model's input.
        before: the judgement of the weights as they came; None for themselves.
        activity: what ``progress`` is told.
        views: each turns the images into others of the same, varied.
        **over: micro-batch, unreadable and progress of :func:`~.evaluating.outputs`.
    """
    called = np.full(len(images), -1, np.int32)  # nothing, where a picture cannot be read

    def rows() -> Iterator[np.ndarray]:
        for found, _, indices in outputs(logits, images, how, activity=activity, **over):
            called[indices] = found.argmax(1)
            yield found

    found, same, seen = judge(rows()), 0, 0
    for view in views:
        for varied, _, indices in outputs(logits, images, how, activity=activity, **(over | {"source": view})):
            same += int((called[indices] == varied.argmax(1)).sum())
            seen += len(indices)
    if seen:
        found = msgspec.structs.replace(found, agreement=same / seen)
    fault = ""
    if before is not None:
        fault = "collapsed" if found.has_collapsed_since(before) else ""
        fault = fault or ("disagreed" if found.disagrees_since(before) else "")
    return Verdict(found.objective, None, found, fault)


def judge(batches_of_logits: Iterable[np.ndarray]) -> Judgement:
    """Return the judgement over all logits, float32 (b, classes) each; memory does not grow with their number.

    Where a logit is not finite, all classes of that picture count as equally likely.
    """
    uncertainty, total, images, called = 0.0, np.zeros(1), 0, np.zeros(1)
    for logits in batches_of_logits:
        finite = np.isfinite(logits).all(1)
        called = called + np.bincount(logits[finite].argmax(1), minlength=logits.shape[1])
        log_p = log_softmax(np.where(finite[:, None], logits, np.float32(0)))
        p = np.exp(log_p)
        uncertainty -= float((p * log_p).sum())
        total = total + p.sum(0)
        images += len(logits)
    mean = total / images
    diversity = -float((mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))).sum())
    return Judgement(
        objective=uncertainty / images - diversity,
        variety=float(np.exp(diversity)),
        images=images,
        commonest=float(called.max()) / images,
    )
