"""A head for the pictures' classes, so that scores which need a loss have one whose gradient reaches the body."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeplast.models import with_classes
from edgeplast.scoring.examples import Examples, draw_pictures, labels_of, to_batch


def with_useful_head(model: nn.Module, images: Examples, count: int, seed: int) -> nn.Module:
    """Return a model whose outputs are the pictures' classes and whose head lets gradients through.

    If the model's own head has one output for each class and is not zero, the model itself. Otherwise a copy
    with a logistic probe on the pooled features of at most ``count`` of the pictures: a fresh head starts at
    zero, and through a zero head no gradient reaches the body; a random one would make every score a lottery.
    The probe minimises the mean cross-entropy plus ‖W‖²/(2n) on features scaled to unit mean square (the
    usual C = 1), by L-BFGS from zero, so it is deterministic and does not drive the loss to nothing.

    Args:
        model: a model of the family; not changed.
        images: labelled pictures.
        count: the most pictures to fit on.
        seed: of the choice of pictures.
    """
    if own_head_is_useful(model) and int(getattr(model, "num_classes")) == len(images.classes):  # noqa: B009
        return model
    copied: Any = with_classes(model, len(images.classes))
    indices = draw_pictures(images, count, seed)
    features = torch.cat([_pooled(copied, images, indices[i : i + 8]) for i in range(0, len(indices), 8)])
    labels = labels_of(images, indices).to(features.device)
    weight, bias = logistic_probe(features, labels, len(images.classes))
    with torch.no_grad():
        for head in (copied.head, getattr(copied, "head_dist", None)):
            if isinstance(head, nn.Linear):
                head.weight.copy_(weight)
                head.bias.copy_(bias)
    return copied


def own_head_is_useful(model: nn.Module) -> bool:
    """Whether a model has a linear head that is not zero."""
    head = getattr(model, "head", None)
    return isinstance(head, nn.Linear) and bool((head.weight != 0).any())


def logistic_probe(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit multinomial logistic regression; see :func:`with_useful_head`.

    Args:
        features: (n, D) floating point.
        labels: (n,) int64.
        classes: number of classes C.

    Returns:
        weight (C, D) and bias (C,), float32.
    """
    scale = features.double().square().mean().sqrt().clamp_min(1e-12)
    inputs = features.detach().double() / scale
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=inputs.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = nn.functional.cross_entropy(inputs @ weight.T + bias, labels)
        value = value + weight.square().sum() / (2 * len(inputs))
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return (weight.detach() / scale).float(), bias.detach().float()


@torch.no_grad()
def _pooled(model: Any, images: Examples, indices: list[int]) -> torch.Tensor:
    batch = to_batch(model, [(images, i) for i in indices])
    return model.forward_head(model.forward_features(batch), pre_logits=True)
