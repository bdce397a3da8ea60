"""Architectures and score tables for planning, made from sizes alone."""

from __future__ import annotations

import random

from edgeplast.architecture import Architecture
from edgeplast.components import all_components, block_components, type_of
from edgeplast.planning.estimating import Workload
from edgeplast.scores import ComponentScore, ScoreTable

MIB = 1024**2
MEDIANS = {"norm1": 1.19, "attn": 0.22, "norm2": 1.81, "fc1": 1.69, "fc2": 0.81}
"""ViT-Tiny's on RSSCN7 (plasticity.md)."""


def architecture(
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    image: int = 224,
    patch: int = 16,
    classes: int = 7,
    prefix: int = 1,
    mlp: int = 4,
) -> Architecture:
    tokens = (image // patch) ** 2 + prefix
    parameters = {"patch_embed": width * (3 * patch * patch + 1 + tokens + prefix)}
    for i in range(depth):
        parameters[f"blocks.{i}.norm1"] = parameters[f"blocks.{i}.norm2"] = 2 * width
        parameters[f"blocks.{i}.attn"] = 4 * width * width + 4 * width
        parameters[f"blocks.{i}.fc1"] = mlp * width * width + mlp * width
        parameters[f"blocks.{i}.fc2"] = mlp * width * width + width
    parameters |= {"norm": 2 * width, "head": (width + 1) * classes * max(1, prefix)}
    return Architecture(
        model="vit_for_tests",
        image_size=(image, image),
        tokens=tokens,
        width=width,
        depth=depth,
        heads=(heads,) * depth,
        mlp_width=(mlp * width,) * depth,
        classes=classes,
        parameters=parameters,
        pooled_tokens=prefix or None,
    )


def small(depth: int = 2, **sizes: int) -> Architecture:
    return architecture(**({"width": 32, "heads": 4, "image": 32, "patch": 8, "classes": 3} | sizes), depth=depth)


def table(arch: Architecture, scores: dict[str, float] | None = None, *, seed: int = 0) -> ScoreTable:
    """A table with given scores, or with the medians of ViT-Tiny, scattered."""
    rng = random.Random(seed)
    if scores is None:
        scores = {n: MEDIANS[type_of(n)] * rng.uniform(0.6, 1.4) for n in block_components(arch.depth)}
    return ScoreTable(
        method="plasticity",
        components={n: ComponentScore(score=s, parameters=arch.parameters[n]) for n, s in scores.items()},
        architecture=arch,
    )


def workload(arch: Architecture, weight_bits: int = 8, **how: object) -> Workload:
    return Workload(arch, dict.fromkeys(all_components(arch.depth), weight_bits), **how)
