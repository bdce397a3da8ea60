"""Tiny vision transformers, pictures in memory, and the slow obvious definitions of the scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeplast.errors import InputError
from edgeplast.models import import_timm
from edgeplast.scores import ScoreTable
from edgeplast.scoring import score as score_model
from edgeplast.wiring import Traced
from edgeplast_exporters.outlining import traced

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WEIGHTS = DATA / "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"


def score(model: nn.Module, images: object, **how: object) -> ScoreTable:
    """Score with the model's own outline in the table; what has no graph is scored all the same."""
    return score_model(model, images, found(model), **how)  # type: ignore[arg-type]


def found(model: nn.Module) -> Traced:
    try:
        return traced(model)
    except InputError:
        return traced(tiny())


class Pictures:
    """Random pictures with labels."""

    def __init__(self, count: int, size: int = 32, classes: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.classes = tuple(f"class {c}" for c in range(classes))
        self.labels = np.arange(count, dtype=np.int64) % max(classes, 1)
        self.pixels = rng.normal(size=(count, 3, size, size)).astype(np.float32)
        self.pixels += self.labels[:, None, None, None] / 2
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def tensor(self, index: int) -> np.ndarray:
        self.asked.append(index)
        return self.pixels[index]


def tiny(seed: int = 0, **options: object) -> nn.Module:
    """A timm VisionTransformer of two blocks, 32² pixels, width 32, 4 heads; every weight random."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    settings: dict = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "num_classes": 3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(**(settings | options))
        for name, parameter in model.named_parameters():
            if parameter.ndim <= 1:
                nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
            else:
                nn.init.normal_(parameter, std=0.7 / math.sqrt(parameter.shape[-1]))
    return model.eval()


def embedding(model: nn.Module, picture: np.ndarray) -> torch.Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(torch.from_numpy(picture)[None])))


def passage(block: nn.Module, tokens: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Run one ordinary block by hand; component type to (input, output), and the block's under 'block'."""
    seen = {}
    normed = block.norm1(tokens)
    seen["norm1"] = (tokens, normed)
    mixed = block.attn(normed)
    seen["attn"] = (normed, mixed)
    middle = tokens + mixed
    normed = block.norm2(middle)
    seen["norm2"] = (middle, normed)
    hidden = block.mlp.fc1(normed)
    seen["fc1"] = (normed, hidden)
    active = block.mlp.act(hidden)
    out = block.mlp.fc2(active)
    seen["fc2"] = (active, out)
    seen["fc2 and activation"] = (hidden, out)
    seen["block"] = (tokens, middle + out)
    return seen


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frobenius norm of the difference, one number at a time in float64."""
    difference = (a.double() - b.double()).flatten().tolist()
    return math.sqrt(math.fsum(d * d for d in difference))


@torch.no_grad()
def ratios_true(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """``plasticity`` of one pair by its definition, and the units of ``plasticity-branch``."""
    result, a, b = {}, embedding(model, x), embedding(model, y)
    for i, block in enumerate(model.blocks):
        one, two = passage(block, a), passage(block, b)
        for kind in ("norm1", "attn", "norm2", "fc1", "fc2"):
            moved = distance(one[kind][1], two[kind][1])
            result[f"blocks.{i}.{kind}"] = moved / distance(one[kind][0], two[kind][0])
        for unit, (start, end) in {
            "attn": ("norm1", "attn"),
            "fc1": ("norm2", "fc1"),
            "fc2": ("fc2 and activation", "fc2"),
            "mlp": ("norm2", "fc2"),
        }.items():
            moved = distance(one[end][1], two[end][1])
            result[f"branch {i} {unit}"] = moved / distance(one[start][0], two[start][0])
        a, b = one["block"][1], two["block"][1]
    return result


@torch.no_grad()
def ratios_embedding(model: nn.Module, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """``plasticity-embedding`` of one pair by the authors' recipe."""
    a, b = embedding(model, x), embedding(model, y)
    result = {}
    for i, block in enumerate(model.blocks):
        wide = [torch.cat([t, torch.zeros(1, t.shape[1], block.mlp.fc2.in_features - t.shape[2])], 2) for t in (a, b)]
        for kind, module, (s, t) in (
            ("norm1", block.norm1, (a, b)),
            ("attn", block.attn, (a, b)),
            ("norm2", block.norm2, (a, b)),
            ("fc1", block.mlp.fc1, (a, b)),
            ("fc2", block.mlp.fc2, wide),
        ):
            result[f"blocks.{i}.{kind}"] = distance(module(s), module(t)) / distance(a, b)
    return result
