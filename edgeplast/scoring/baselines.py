"""Scores that look at no picture: the size of the weights, the position of a block, and chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgeplast.scoring.job import Estimate, Job


def weight_norm_formula(weights: Sequence[torch.Tensor]) -> float:
    """‖W‖_F / √size: the root mean square of all entries taken together; any shapes."""
    total = sum(float(w.double().square().sum()) for w in weights)
    return (total / max(sum(w.numel() for w in weights), 1)) ** 0.5


def weight_norm(job: Job) -> dict[str, Estimate]:
    """Root mean square weight of each component, biases left out; see :func:`weight_norm_formula`."""
    parameters = {name: tensor.detach() for name, tensor in job.model.named_parameters()}
    return {
        unit: Estimate(weight_norm_formula([parameters[n][index] for n, index in owned if not n.endswith("bias")]))
        for unit, owned in job.body().parts().items()
    }


def random(job: Job) -> dict[str, Estimate]:
    """A uniform number in 0..1 for each component, from the seed."""
    names = [unit.name for unit in job.body().units]
    draws = np.random.default_rng(job.seed).random(len(names))
    return {name: Estimate(float(draw)) for name, draw in zip(names, draws, strict=True)}


def last_k(job: Job) -> dict[str, Estimate]:
    """The block's position, counted from 1 at the input: choosing the best k blocks trains the last k."""
    return {name: Estimate(block + 1.0) for name, block in _blocks(job)}


def first_k(job: Job) -> dict[str, Estimate]:
    """The block's position, counted from 1 at the output: choosing the best k blocks trains the first k."""
    last = max((block for _, block in _blocks(job)), default=0)
    return {name: Estimate(float(last + 1 - block)) for name, block in _blocks(job)}


def _blocks(job: Job) -> list[tuple[str, int]]:
    body = job.body()
    return [(unit.name, block or 0) for unit, block in zip(body.units, body.blocks(), strict=True)]
