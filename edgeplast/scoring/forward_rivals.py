"""Rivals that need forward passes and no labels: weights times inputs, and what a block does to the class token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeplast.errors import InputError
from edgeplast.scoring.anatomy import Anatomy, Tap, Unit, dissect, head_slices
from edgeplast.scoring.bodies import Wired
from edgeplast.scoring.examples import draw_pictures
from edgeplast.scoring.job import Estimate, Job, in_chunks
from edgeplast.scoring.moments import accumulate
from edgeplast.scoring.running import embed, heard_by, not_finite, run_block
from edgeplast.wiring import Product


def fps_formula(weight: torch.Tensor, mean_input: torch.Tensor) -> torch.Tensor:
    """Σ over entries of |w|·E|input|, for each picture.

    Source: feedforward-based parameter selection (FPS): E[|w|·|input|]; a component's score is the mean over
    all entries of its weight matrices.

    Args:
        weight: (C', C) of a linear layer, or (C,) of a norm.
        mean_input: (B, C), absolute inputs averaged over tokens.

    Returns:
        (B,) float64.
    """
    per_input = weight.abs().double() if weight.ndim == 1 else weight.abs().double().sum(dim=0)
    return mean_input.double() @ per_input


def cls_delta_formula(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """‖CLS_l - CLS_{l-1}‖² of each picture.

    Source: "ALaST", arXiv 2408.08670: how far a block moves the class token.

    Args:
        before: (B, D) class tokens that enter a block.
        after: (B, D) class tokens that leave it.

    Returns:
        (B,) float64.
    """
    return (after - before).double().square().sum(dim=1)


def fps(job: Job) -> dict[str, Estimate]:
    """Mean |weight|·|input| of each component; see :func:`fps_formula`.

    Counted are the weights of norms (their input is the normalised token), qkv, proj, fc1 and fc2; biases,
    q/k norms and layer scale are not; in other models, of norms, linear layers and convolutions. Cost: one forward pass
    a picture.
    """
    if not job.plain:
        found, of_products = _of_products(job)
        return _over_pictures(job, "fps", found, of_products)
    blocks = dissect(job.model, job.granularity)
    layers = {u.name: _layers(block, u) for block in blocks for u in block.units}
    names = list(layers)

    @torch.inference_mode()
    def measure(indices: list[int]) -> np.ndarray:
        tokens = embed(job.model, job.batch([(job.images, i) for i in indices]))
        columns = []
        for block in blocks:
            taps = [tap for unit in block.units for _, tap in layers[unit.name]]
            tokens, heard = run_block(block, tokens, taps, _mean_absolute)
            for unit in block.units:
                inputs = heard_by(unit, [tap for _, tap in layers[unit.name]], heard)
                weights = [weight for weight, _ in layers[unit.name]]
                total = sum(fps_formula(w, x) for w, x in zip(weights, inputs, strict=True))
                value = (total / max(sum(w.numel() for w in weights), 1)).cpu().numpy()  # type: ignore[union-attr]
                if not np.isfinite(value).all():
                    raise not_finite(unit, at="input")
                columns.append(value)
        return np.stack(columns, axis=1)

    return _over_pictures(job, "fps", names, measure)


def _of_products(job: Job) -> tuple[list[str], Callable[[list[int]], np.ndarray]]:
    """Return the components of a traced model, and what measures their linear layers, convolutions and norms."""
    body = Wired(job.traced)
    weights = {name: p.detach() for name, p in job.model.named_parameters()}
    products = {unit.name: body.wiring.spans[unit.name].products for unit in body.units}

    @torch.inference_mode()
    def measure(indices: list[int]) -> np.ndarray:
        batch = job.batch([(job.images, i) for i in indices])
        sums: dict[Product, torch.Tensor] = {}

        def reader(here: list[Product]) -> Callable[[torch.Tensor], None]:
            return lambda value: sums.update({p: _product_sum(p, value, weights, len(batch)) for p in here})

        by_node: dict[str, list[Product]] = {}
        for product in (p for listed in products.values() for p in listed):
            by_node.setdefault(product.place.node, []).append(product)
        body.wiring.run(job.model, batch, read={node: reader(here) for node, here in by_node.items()})
        columns = []
        for unit in body.units:
            total = sum(
                (sums[p] for p in products[unit.name]), torch.zeros(len(batch), dtype=torch.float64).to(batch.device)
            )
            value = (total / max(sum(weights[p.weight].numel() for p in products[unit.name]), 1)).cpu().numpy()
            if not np.isfinite(value).all():
                raise not_finite(unit, at="input")
            columns.append(value)
        return np.stack(columns, axis=1)

    return [unit.name for unit in body.units], measure


def _product_sum(
    product: Product, value: torch.Tensor, weights: dict[str, torch.Tensor], pictures: int
) -> torch.Tensor:
    """Σ over a layer's weights of |w|·E|input|, of each picture, float64 (B,).

    What a norm makes, less its shift, is its weight times the normalised input.
    """
    rows = product.place.by_channel(value, pictures).float()
    weight = weights[product.weight]
    if product.norm:
        shift = 0.0 if product.bias is None else weights[product.bias].float()
        return (rows - shift).abs().mean(dim=1).double().sum(dim=1)
    groups = rows.shape[-1] // weight.shape[1]
    per_input = weight.float().abs().flatten(2).sum(dim=2) if weight.ndim > 2 else weight.float().abs()
    per_input = per_input.reshape(groups, -1, weight.shape[1]).sum(dim=1).flatten()
    return fps_formula(per_input, rows.abs().mean(dim=1))


def cls_delta(job: Job) -> dict[str, Estimate]:
    """How far each block moves the class token; see :func:`cls_delta_formula`.

    Every component of a block gets the block's score. Cost: one forward pass a picture.

    Raises:
        InputError: the model has no class token.
    """
    if getattr(job.model, "cls_token", None) is None:
        raise InputError(
            "Score method 'cls-delta' needs a class token, and this model has none (it pools by average). "
            "Use another method, e.g. plasticity."
        )
    blocks = dissect(job.model, job.granularity)
    names = [unit.name for block in blocks for unit in block.units]

    @torch.inference_mode()
    def measure(indices: list[int]) -> np.ndarray:
        tokens = embed(job.model, job.batch([(job.images, i) for i in indices]))
        columns = []
        for block in blocks:
            after, _ = run_block(block, tokens, [], _mean_absolute)
            moved = cls_delta_formula(tokens[:, 0], after[:, 0]).cpu().numpy()
            if not np.isfinite(moved).all():
                raise not_finite(block.units[-1], at="block's output")
            columns += [moved] * len(block.units)
            tokens = after
        return np.stack(columns, axis=1)

    return _over_pictures(job, "cls-delta", names, measure)


def _over_pictures(job: Job, method: str, names: list[str], measure: Any) -> dict[str, Estimate]:
    indices = draw_pictures(job.images, job.pairs, job.seed)
    chunks = in_chunks(indices, 2 * job.chunk)
    moments = accumulate(chunks, measure, len(names), method, job.progress)
    return job.estimates(method, names, moments, f"{len(indices)} pictures")


def _layers(block: Anatomy, unit: Unit) -> list[tuple[torch.Tensor, Tap]]:
    """Return the weight matrices of a unit, each with the tap on its input."""
    module: Any = block.module
    if unit.kind in ("norm1", "norm2"):
        norm = getattr(module, unit.kind)
        weight = getattr(norm, "weight", None)
        return [] if weight is None else [(weight.detach(), Tap(norm, "input"))]
    if unit.kind == "attn":
        return _attention_layers(f"blocks.{block.index}", module.attn, unit)
    mlp = module.mlp
    if unit.kind == "fc2":
        return [(mlp.fc2.weight.detach(), Tap(mlp.fc2, "input"))]
    return [
        (layer.weight.detach(), Tap(layer, "input"))
        for layer in (getattr(mlp, name, None) for name in ("fc1", "fc1_g", "fc1_x"))
        if layer is not None
    ]


def _attention_layers(where: str, attention: Any, unit: Unit) -> list[tuple[torch.Tensor, Tap]]:
    qkv, proj = attention.qkv.weight.detach(), attention.proj.weight.detach()
    if ".head." not in unit.name:
        return [(qkv, Tap(attention.qkv, "input")), (proj, Tap(attention.proj, "input"))]
    channels = head_slices(where, attention)[int(unit.name.rsplit(".", 1)[1])]
    rows = torch.cat([part[channels] for part in qkv.chunk(3)])
    return [(rows, Tap(attention.qkv, "input")), (proj[:, channels], Tap(attention.proj, "input", channels))]


def _mean_absolute(tap: Tap, tokens: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of the absolute input, (B, C); for a norm, of the normalised token."""
    module: Any = tap.module
    tokens = tokens.float()
    if isinstance(module, nn.LayerNorm):
        tokens = nn.functional.layer_norm(tokens, module.normalized_shape, eps=module.eps)
    elif not isinstance(module, nn.Linear):
        tokens = tokens / (tokens.square().mean(dim=-1, keepdim=True) + (module.eps or 0)).sqrt()
    return tokens[..., tap.channels].abs().mean(dim=1)
