"""The first row of a new class: where its pictures lie among the features, seen from where the others lie.

Weight imprinting (Qi et al., *Low-Shot Learning with Imprinted Weights*, arXiv 1712.07136) puts a class's mean feature
into the head as its row; one picture is enough. There features have length 1 and the head no bias. Here they have
neither, so the mean is seen from the centre, that of the means of all classes; the row's length is that of the other
rows; and the bias lets its logit reach the highest other one half-way between the class's own mean and where the other
classes lie: their pictures, if some are at hand, else the nearest of their means, as an earlier run left them. What a
picture adds to the mean that it is compared with is left out.

On features of ViT-Tiny, RSSCN7 with each class left out in turn, 5 draws each (new classes right, old ones, which were
82.1 % before): by one picture 54 and 72 %, by 5 71 and 72, by 20 74 and 73; with pictures of the others at hand 49 and
75, 66 and 74, 70 and 75; a head fitted on all 70 pictures of the new class and of each other has 80 and 80.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.contract import LIKENESS, MEANS
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.growing import head_of
from edgeplast_devices.images import ImageSet
from edgeplast_devices.images.sampling import evenly_spread, of_each_label

MOST_OF_A_NEW_CLASS, MOST_OF_AN_OLD_CLASS = 64, 8
"""Pictures looked at: more would not move a mean by much."""

_LANDMARK_CLASSES, _LANDMARK_PICTURES = 16, 4
"""Classes, and pictures of each, by which a run that ends tells where the features of its classes lie."""

_BEYOND = 0.9
"""Share of other classes' pictures that are to stay what they were called, before the way is halved."""

_LIKENESS, _LIKENESS_FROM_ZERO = 0.2, 0.8
"""Of two pictures of a class, seen from the centre, and from zero where that is not known (RSSCN7, ViT-Tiny)."""

_LEAST = 1e-6


def landmarks(
    manifest: Manifest, features: Callable[[np.ndarray], np.ndarray], images: ImageSet, **over: Any
) -> dict[str, np.ndarray]:
    """Return where the features of the known classes lie, for a class that may come alone one day.

    Args:
        manifest: of the bundle.
        features: as of :func:`place`.
        images: labelled.
        **over: likewise.

    Returns:
        ``MEANS`` (classes, width), and ``LIKENESS`` (1,), how much of its squared length a picture's feature has in
        common with another one of its class, seen from their centre; float32. Nothing where fewer than two classes are
        shown.
    """
    shown = np.unique(images.labels)
    shown = shown[evenly_spread(len(shown), _LANDMARK_CLASSES)]
    if len(shown) < 2:
        return {}
    order = of_each_label(images.labels, dict.fromkeys(shown.tolist(), _LANDMARK_PICTURES))
    of_class = [*_features(manifest, features, images, order, "looking at what is known", **over).values()]
    if len(of_class) < 2:
        return {}
    means = np.stack([found.mean(0) for found in of_class])
    likeness = _likeness(of_class, means.mean(0))
    return {MEANS: means.astype(np.float32), LIKENESS: np.asarray([likeness], np.float32)}


def place(
    manifest: Manifest,
    features: Callable[[np.ndarray], np.ndarray],
    parameters: dict[str, np.ndarray],
    images: ImageSet,
    new: Sequence[str],
    known_from: Mapping[str, np.ndarray],
    **over: Any,
) -> dict[str, int]:
    """Put the rows of new classes in their place.

    Args:
        manifest: of the bundle.
        features: of images float32 (b, C, H, W), what the head multiplies, float32 (b, width).
        parameters: by name; the rows of the new classes are changed in place.
        images: with labels that index the bundle's classes; of the new classes and, where there are any, of others.
        new: names of classes of which there are pictures.
        known_from: what :func:`landmarks` returned in an earlier run, or nothing.
        **over: micro-batch, unreadable and progress of :func:`~.evaluating.outputs`.

    Returns:
        how many pictures each was placed by; classes of which none could be read are left out, and as they were.
    """
    head = head_of(manifest)
    numbers = {manifest.classes.index(name) for name in new}
    most = {
        int(k): MOST_OF_A_NEW_CLASS if int(k) in numbers else MOST_OF_AN_OLD_CLASS for k in np.unique(images.labels)
    }
    of_class = _features(manifest, features, images, of_each_label(images.labels, most), "placing new classes", **over)
    weight = parameters[head.weight]
    bias = parameters[head.bias] if head.bias is not None else None
    unseen = {manifest.classes.index(name) for name in manifest.waiting}
    placed = {}
    for name in new:
        label = manifest.classes.index(name)
        if label not in of_class:
            continue
        known = [k for k in range(len(weight)) if k not in unseen]
        others = [found for other, found in of_class.items() if other != label]
        row, offset = _row(weight[known], None if bias is None else bias[known], of_class[label], others, known_from)
        weight[label] = row
        if bias is not None:
            bias[label] = offset
        unseen.discard(label)
        placed[name] = len(of_class[label])
    return placed


def _features(
    manifest: Manifest,
    features: Callable[[np.ndarray], np.ndarray],
    images: ImageSet,
    order: np.ndarray,
    activity: str,
    **over: Any,
) -> dict[int, np.ndarray]:
    """Return features of images by label, float64 (n, width) each."""
    rows: dict[int, list[np.ndarray]] = {}
    how = manifest.preprocessing
    for found, labels, _ in outputs(features, images, how, order=order, activity=activity, **over):
        for row, label in zip(found.astype(np.float64), labels.tolist(), strict=True):
            rows.setdefault(label, []).append(row)
    return {label: np.stack(several) for label, several in rows.items()}


def _row(
    weight: np.ndarray,
    bias: np.ndarray | None,
    own: np.ndarray,
    others: list[np.ndarray],
    known_from: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, float]:
    """Return the row and the bias of a class.

    Args:
        weight: of the classes that are known, float32 (classes, width).
        bias: of them, float32 (classes,), or None.
        own: features of the class, float64 (n, width).
        others: of other classes, each likewise.
        known_from: landmarks, or nothing.
    """
    w = weight.astype(np.float64)
    b = np.zeros(len(w)) if bias is None else bias.astype(np.float64)
    mean, centre, likeness = w.mean(0), np.zeros(own.shape[1]), _LIKENESS_FROM_ZERO
    length = float(np.median(np.linalg.norm(w - mean, axis=1)))
    means = known_from[MEANS].astype(np.float64) if MEANS in known_from else None
    if others:
        centre = np.mean([found.mean(0) for found in others], axis=0)
        likeness = _likeness(others, centre)
    elif means is not None:
        centre, likeness = means.mean(0), float(known_from[LIKENESS][0])

    def row(features: np.ndarray) -> np.ndarray:
        towards = features.mean(0) - centre
        return mean + length * towards / max(float(np.linalg.norm(towards)), _LEAST)

    def ahead(features: np.ndarray, new: np.ndarray) -> np.ndarray:
        """By how much the new logit, without its bias, is above the highest other one; (n,)."""
        return _product(features, new[None])[:, 0] - (_product(features, w) + b).max(1)

    if len(own) == 1:
        inside = float(ahead(centre + likeness * (own - centre), row(own)).mean())
    else:
        inside = float(np.mean([ahead(own[i : i + 1], row(np.delete(own, i, 0)))[0] for i in range(len(own))]))
    placed = row(own)
    if others:
        outside = float(np.quantile(np.concatenate([ahead(found, placed) for found in others]), _BEYOND))
    else:
        outside = inside if means is None else float(ahead(means, placed).max())
    return placed, -(inside + min(inside, outside)) / 2


def _likeness(of_class: Sequence[np.ndarray], centre: np.ndarray) -> float:
    """Return what two pictures of a class have in common, as a share of their squared length, seen from a centre."""
    found = []
    for features in of_class:
        seen, count = features - centre, len(features)
        squares = float((seen * seen).sum())
        if count > 1 and squares > _LEAST:
            total = seen.sum(0)
            found.append((float((total * total).sum()) - squares) / (count - 1) / squares)
    return float(np.clip(np.mean(found), 0.0, 1.0)) if found else _LIKENESS


def _product(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return (n, rows); not by BLAS: see logistic.py."""
    return np.concatenate([*_products(features, weight)])


def _products(features: np.ndarray, weight: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(features), 16):
        yield np.einsum("nd,kd->nk", features[start : start + 16], weight)
