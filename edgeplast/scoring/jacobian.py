"""The local score: how far a component's output moves per unit of a small random move of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgeplast.errors import InputError
from edgeplast.scoring.anatomy import Unit
from edgeplast.scoring.examples import draw_pictures
from edgeplast.scoring.job import Estimate, Job, in_chunks
from edgeplast.scoring.moments import accumulate
from edgeplast.scoring.running import heard_by, not_finite

Run = Callable[..., dict[Any, Any]]
"""Runs a component on other inputs; see :data:`edgeplast.scoring.bodies.Push`."""


def jacobian(job: Job) -> dict[str, Estimate]:
    """Mean norm of Jacobian-vector products at each component's true input, over random unit directions.

        E over pictures x and directions v of ‖J_f(x) v‖_F,  v uniform on the unit sphere of (N, D)

    so the identity scores 1, and a linear layer W (D → D') scores close to ‖W‖_F/√D. One direction for each
    picture and component, drawn from (seed, picture, component): the result does not depend on batches,
    processes or devices. Exact derivatives by forward-mode differentiation (no backward pass); attention runs
    in PyTorch's plain implementation, the only one with forward derivatives.

    Cost: about three forward passes a picture. Memory: what inference needs, and one component's activations twice.

    Raises:
        InputError: see :func:`edgeplast.scoring.plasticity.plasticity`.
    """
    body = job.body()
    names = [unit.name for unit in body.units]

    @torch.no_grad()
    def measure(indices: list[int]) -> np.ndarray:
        columns: dict[str, np.ndarray] = {}

        def push(units: Sequence[Unit], _taps: object, inputs: Sequence[torch.Tensor], own: tuple, run: Run) -> None:
            columns.update(_slopes(units, inputs, [(job.seed, i, *own) for i in indices], run))

        body.push(job.model, job.batch([(job.images, i) for i in indices]), push)
        return np.stack([columns[name] for name in names], axis=1)

    count = min(job.pairs, len(job.images))
    chunks = in_chunks(draw_pictures(job.images, count, job.seed), 2 * job.chunk)
    with sdpa_kernel(SDPBackend.MATH):
        moments = accumulate(chunks, measure, len(names), "jacobian", job.progress)
    return job.estimates("jacobian", names, moments, f"{count} pictures")


def direction(shape: tuple[int, ...], seed: tuple[int, ...]) -> torch.Tensor:
    """Return a direction uniform on the unit sphere, float32, drawn on the host from integers alone."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(state))
    return draw / torch.linalg.vector_norm(draw)


def _slopes(
    units: Sequence[Unit], inputs: Sequence[torch.Tensor], seeds: Sequence[tuple[int, ...]], run: Run
) -> dict[str, np.ndarray]:
    """Unit name to ‖J v‖ of each picture, float64 (B,), for the units of one component.

    Args:
        units: of the component.
        inputs: what enters it, each (B, …); one direction spans them all.
        seeds: of each picture's direction.
        run: runs the component on other inputs.
    """
    steps = _steps(inputs, seeds)
    with forward_ad.dual_level():
        try:
            heard = run([forward_ad.make_dual(x, v) for x, v in zip(inputs, steps, strict=True)], _tangent)
        except NotImplementedError as error:
            raise InputError(
                f"{units[0].name} has an operator without a forward derivative in torch, so it has no jacobian score: "
                f"{error}. Use another method: plasticity-branch, plasticity."
            ) from error
        slopes = {u.name: torch.stack(heard_by(u, u.sink, heard)).sum(0).sqrt() for u in units}
    for unit in units:
        if not torch.isfinite(slopes[unit.name]).all():
            raise not_finite(unit, at="Jacobian")
    return {name: slope.cpu().numpy() for name, slope in slopes.items()}


def _steps(inputs: Sequence[torch.Tensor], seeds: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Return a unit direction for each picture, cut into the shapes of the inputs."""
    sizes = [x[0].numel() for x in inputs]
    if len(inputs) == 1:
        return [torch.stack([direction(tuple(inputs[0].shape[1:]), seed) for seed in seeds]).to(inputs[0])]
    whole = torch.stack([direction((sum(sizes),), seed) for seed in seeds])
    return [part.reshape(x.shape).to(x) for part, x in zip(whole.split(sizes, dim=1), inputs, strict=True)]


def _tangent(tap: Any, tokens: torch.Tensor) -> torch.Tensor:
    tangent = forward_ad.unpack_dual(tokens).tangent
    squares: torch.Tensor = tap.squared_norm(torch.zeros_like(tokens) if tangent is None else tangent)
    return squares
