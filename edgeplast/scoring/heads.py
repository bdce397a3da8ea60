"""A head for the pictures' classes, so that scores which need a loss have one whose gradient reaches the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgeplast.models import heads_of, with_classes
from edgeplast.scoring.examples import draw_pictures, labels_of

if TYPE_CHECKING:
    from edgeplast.scoring.job import Job


def with_useful_head(job: Job) -> nn.Module:
    """Return a model whose outputs are the pictures' classes and whose head lets gradients through.

    If the model's own head has one output for each class and is not zero, the model itself. Otherwise a copy
    with a logistic probe on the pooled features of at most ``job.pairs`` of the pictures: a fresh head starts at
    zero, and through a zero head no gradient reaches the body; a random one would make every score a lottery.
    The probe minimises the mean cross-entropy plus ‖W‖²/(2n) on features scaled to unit mean square (the
    usual C = 1), by L-BFGS from zero, so it is deterministic and does not drive the loss to nothing.

    Args:
        job: its model is not changed.
    """
    model, images = job.model, job.images
    heads = heads_of(model)
    if own_head_is_useful(model) and len(heads[0].weight) == len(images.classes):
        return model
    copied: Any = with_classes(model, len(images.classes))
    indices = draw_pictures(images, job.pairs, job.seed)
    features = torch.cat([_pooled(copied, job, indices[i : i + 8]) for i in range(0, len(indices), 8)])
    labels = labels_of(images, indices).to(features.device)
    weight, bias = logistic_probe(features, labels, len(images.classes))
    with torch.no_grad():
        for head in heads_of(copied):
            head.weight.copy_(weight.reshape(head.weight.shape))
            if head.bias is not None:
                head.bias.copy_(bias)
    return copied


def own_head_is_useful(model: nn.Module) -> bool:
    """Whether a model has a head that is not zero."""
    heads = heads_of(model)
    return bool(heads) and bool((heads[0].weight != 0).any())


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
def _pooled(model: nn.Module, job: Job, indices: list[int]) -> torch.Tensor:
    """Return what the head multiplies, (n, D); of two heads, such as class and distillation token's, the mean."""
    seen: list[torch.Tensor] = []
    hooks = [
        head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].flatten(1)))
        for head in heads_of(model)
    ]
    try:
        model(job.batch([(job.images, i) for i in indices]))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen).mean(dim=0)
