"""Ways to adjust a head to pictures without labels in which nothing trains: recentred, or made of prototypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.errors import UsageError
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.fitted_heads import LinearHead, head_if_linear
from edgeplast_devices.images import ImageSet
from edgeplast_devices.logistic import log_softmax
from edgeplast_devices.sessions import Evaluates

SUPPORTS = 20
"""Features of a class that a prototype is made of, beside its row: those of the surest pictures (T3A's choice)."""

_LEAST = 1e-6


def recentre(
    session: Evaluates, manifest: Manifest, parameters: dict[str, np.ndarray], images: ImageSet, **over: Any
) -> None:
    """Change the bias of a bundle's head so that features are seen from their mean over images.

    Args:
        session: over its evaluation graph.
        manifest: of the bundle.
        parameters: by name; the head's are changed in place.
        images: to look at.
        **over: micro-batch, unreadable, progress and source of :func:`~.evaluating.outputs`.

    Raises:
        UsageError: see :func:`check_can_rehead`.
    """
    bias = _head(manifest, "recentre").bias
    assert bias is not None
    total, count = np.zeros(1), 0
    for found, *_ in outputs(
        session.logits, images, manifest.preprocessing, activity="looking at the pictures", **over
    ):
        total = total + found.sum(0, dtype=np.float64)
        count += len(found)
    parameters[bias][...] = recentred_bias(parameters[bias], total / count)


def prototypes(
    session: Evaluates, manifest: Manifest, parameters: dict[str, np.ndarray], images: ImageSet, **over: Any
) -> None:
    """Let each row of a bundle's head point where the surest pictures that are called so lie; arguments as above.

    T3A (Iwasawa & Matsuo, NeurIPS 2021), over all pictures at once: a row is the mean of its own direction and of those
    of its :data:`SUPPORTS` surest pictures' features, as long as rows are on average; there is no bias.
    """
    head = _head(manifest, "prototypes")
    weight = parameters[head.weight].astype(np.float64)
    bias = np.zeros(len(weight)) if head.bias is None else parameters[head.bias].astype(np.float64)
    kept: list[list[tuple[float, np.ndarray]]] = [[] for _ in weight]
    how = manifest.preprocessing
    for found, *_ in outputs(session.features, images, how, activity="looking at the pictures", **over):
        features = found.astype(np.float64)
        log_p = log_softmax(np.einsum("nd,kd->nk", features, weight) + bias)
        entropy = -(np.exp(log_p) * log_p).sum(1)
        for each, label, unsure in zip(_directions(features), log_p.argmax(1).tolist(), entropy.tolist(), strict=True):
            known = (unsure, each.astype(np.float32))  # a copy: a view would hold all of its micro-batch
            kept[label] = sorted([*kept[label], known], key=lambda one: one[0])[:SUPPORTS]
    parameters[head.weight][...] = of_prototypes(weight, [[each for _, each in several] for several in kept])
    if head.bias is not None:
        parameters[head.bias][...] = 0


def of_prototypes(weight: np.ndarray, supports: list[list[np.ndarray]]) -> np.ndarray:
    """Return the rows of a head, (classes, width), from those that it has and directions of features, (width,) each."""
    length = float(np.linalg.norm(weight, axis=1).mean())
    means = [np.mean([own, *several], 0) for own, several in zip(_directions(weight), supports, strict=True)]
    return length * _directions(np.stack(means))


def _directions(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST)
    return found


REHEADS: dict[str, Callable[..., None]] = {"recentre": recentre, "prototypes": prototypes}
"""Method to what it does."""


def check_can_rehead(manifest: Manifest, method: str, feature_width: int) -> None:
    """Raise unless a bundle's head can be adjusted so.

    Args:
        manifest: of the bundle.
        method: a key of :data:`REHEADS`.
        feature_width: of what its evaluation graph hands back; 0 for nothing.

    Raises:
        UsageError: it is more than one linear layer, or has no bias to recentre; or there are no features.
    """
    _head(manifest, method)
    if method == "prototypes" and not feature_width:
        raise UsageError(
            "--method prototypes looks at features, and this bundle was exported before bundles handed them back. "
            "Export it again, or give another --method, such as information."
        )


def _head(manifest: Manifest, method: str) -> LinearHead:
    head = head_if_linear(manifest)
    if head is None or (method == "recentre" and head.bias is None):
        changed = "the bias of a head" if method == "recentre" else "the rows of a head"
        raise UsageError(
            f"--method {method} changes {changed} that is one linear layer of features, and that of "
            f"{manifest.model} is none or has none. Give another --method, such as information."
        )
    return head


def recentred_bias(bias: np.ndarray, mean_logits: np.ndarray) -> np.ndarray:
    """Return the head's bias for features whose mean is subtracted before the head (NEO, arXiv 2510.05635).

    With logits ``W·f + b`` and features of mean μ, ``W·(f − μ) + b`` is ``W·f + (b − W·μ)``; and the mean of the logits
    is ``W·μ + b``.

    Args:
        bias: of the head, float32 (classes,).
        mean_logits: over the pictures, (classes,).
    """
    return (2 * bias.astype(np.float64) - mean_logits).astype(bias.dtype)
