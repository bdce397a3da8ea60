"""Names of weights: a state dict in the layout of its origin in, the same tensors under timm's names out.

A layout is recognized by its *anchor*, the name that its patch embedding has; what stands before the anchor is the
prefix that a wrapper left (``module.``, ``_orig_mod.``, ``backbone.``, ``vit.``, ``vision_model.`` …). timm's own
readers know the original layouts of DINOv2, OpenAI's CLIP, open_clip and others, and do the rest in
:mod:`edgeplast.pretrained.fitting`; of the layouts of Hugging Face's transformers they know none, so the tables
below translate those: ViT (and MAE), DeiT, DINOv2 and DINOv3 (with and without registers), CLIP, SigLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeplast.errors import InputError
from edgeplast.pretrained.files import bounded

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]

CLIP = "CLIP"
"""The original layout, with the text's tower beside it; open_clip's too."""

_BLOCK = (r"^(?:model\.)?(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1.")
_NAMES_OF_VIT = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    _BLOCK,
    (r"(^blocks\.\d+\.)attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r"\1attn.\2."),
    (r"(^blocks\.\d+\.)attention\.(q|k|v)_proj\.", r"\1attn.\2."),
    (r"(^blocks\.\d+\.)attention\.(?:output\.dense|o_proj)\.", r"\1attn.proj."),
    (r"(^blocks\.\d+\.)layernorm_before\.", r"\1norm1."),
    (r"(^blocks\.\d+\.)layernorm_after\.", r"\1norm2."),
    (r"(^blocks\.\d+\.)intermediate\.dense\.", r"\1mlp.fc1."),
    (r"(^blocks\.\d+\.)output\.dense\.", r"\1mlp.fc2."),
    (r"(^blocks\.\d+\.)mlp\.weights_in\.", r"\1mlp.fc1."),
    (r"(^blocks\.\d+\.)mlp\.(?:weights_out|down_proj)\.", r"\1mlp.fc2."),
    (r"(^blocks\.\d+\.)layer_scale([12])\.lambda1$", r"\1ls\2.gamma"),
    (r"^layernorm\.", "norm."),
)
_NAMES_OF_CLIP = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),  # so spelled in the files
    _BLOCK,
    (r"(^blocks\.\d+\.)self_attn\.(q|k|v)_proj\.", r"\1attn.\2."),
    (r"(^blocks\.\d+\.)self_attn\.out_proj\.", r"\1attn.proj."),
    (r"(^blocks\.\d+\.)layer_norm([12])\.", r"\1norm\2."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.(?:out_proj\.)", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.in."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_ANCHORS = (
    ("Hugging Face ViT, DeiT or DINOv2", "embeddings.patch_embeddings.projection.weight", _NAMES_OF_VIT),
    ("Hugging Face DINOv3", "embeddings.patch_embeddings.weight", _NAMES_OF_VIT),
    ("Hugging Face CLIP or SigLIP", "embeddings.patch_embedding.weight", _NAMES_OF_CLIP),
    (CLIP, "visual.conv1.weight", ()),
)
_IN_NO_MODEL = ("mask_token", "embeddings.mask_token", "embeddings.position_ids", "pooler.")
"""Of a transformers model, what its pretraining or another task used."""

_HEADS = {
    "token": {"classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist"},
    "avg": {"classifier": "head"},
}
"""Pooling of timm's model to the classifiers that read the same token in transformers."""


@dataclass(frozen=True)
class Translated:
    """A state dict under timm's names.

    Attributes:
        tensors: name to tensor.
        layout: where its names come from, in words.
        prefix: what stood before every name.
        left_out: names in the file of what is no part of the model.
    """

    tensors: Tensors
    layout: str
    prefix: str = ""
    left_out: tuple[str, ...] = field(default=())


def in_timms_names(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module) -> Translated:
    """Recognize the layout of a state dict and translate its names.

    Args:
        tensors: name to tensor, as in the file.
        model: of timm, to be filled: the first of its weights anchors timm's own layout.

    Raises:
        InputError: the layout is not known, or the file holds several models.
    """
    expected = model.state_dict()
    weights = [name for name in expected if name.endswith(".weight")]
    own = next((name for name in weights if name.endswith("proj.weight")), next(iter(weights), ""))
    for layout, anchor, names in (("timm", own, ()), *_ANCHORS):
        prefixes = [name.removesuffix(anchor) for name in tensors if name == anchor or name.endswith("." + anchor)]
        if not prefixes:
            continue
        if len(prefixes) > 1 and layout == "timm":  # names that only end alike: conv1.weight, layer1.0.conv1.weight
            whole = [p for p in prefixes if sum(p + name in tensors for name in expected) > len(expected) / 2]
            prefixes = whole or prefixes
        if len(prefixes) > 1:
            raise InputError(
                f"The file holds {len(prefixes)} models of the {layout} layout, under {bounded(sorted(prefixes))}. "
                "Save the one that is wanted as a file of its own."
            )
        prefix = prefixes[0]
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
        if not names:
            return Translated(inside, layout, prefix, tuple(outside))
        return _translate(inside, outside, prefix, layout, names, model)
    raise InputError(
        f"Its names are of no known layout: {bounded(list(tensors))}. Known are timm's, the original ones of DINOv2 "
        "and CLIP, and Hugging Face's ViT, DeiT, DINOv2, DINOv3, CLIP and SigLIP."
    )


def _translate(
    inside: Tensors,
    outside: Tensors,
    prefix: str,
    layout: str,
    names: tuple[tuple[str, str], ...],
    model: torch.nn.Module,
) -> Translated:
    left_out = [prefix + name for name in inside if name.startswith(_IN_NO_MODEL)]
    named: Tensors = {}
    for name, tensor in inside.items():
        if name.startswith(_IN_NO_MODEL):
            continue
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    expected = model.state_dict()
    named = _registers(_shapes(_gates(_joined(named, expected), expected)), expected)
    named = {_eva(name, expected): tensor for name, tensor in named.items()}
    # A classifier that reads what timm's model does not (DINOv2's: token and average) or CLIP's (the average) is left.
    heads = {} if "CLIP" in layout and "cls_token" in named else _HEADS.get(getattr(model, "global_pool", ""), {})
    width = named["patch_embed.proj.weight"].shape[0]
    root = prefix.removesuffix(prefix.rstrip(".").rpartition(".")[2] + ".")
    for name, tensor in outside.items():
        module, _, leaf = name.removeprefix(root).rpartition(".")
        weight = outside.get(f"{root}{module}.weight")
        if module in heads and weight is not None and weight.shape[1] == width:
            named[f"{heads[module]}.{leaf}"] = tensor
        else:
            left_out.append(name)
    return Translated(named, _described(layout, inside), prefix, tuple(left_out))


def _described(layout: str, inside: Tensors) -> str:
    """Name the member of a family by what it alone has."""
    if "DeiT" in layout:
        if "embeddings.distillation_token" in inside:
            return "Hugging Face DeiT"
        scaled = any(name.endswith("layer_scale1.lambda1") for name in inside)
        return "Hugging Face DINOv2" if scaled else "Hugging Face ViT"
    if "SigLIP" in layout:
        return "Hugging Face CLIP" if "embeddings.class_embedding" in inside else "Hugging Face SigLIP"
    return layout


def _joined(named: Tensors, expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Join query, key and value into one matrix, and split those of SigLIP's pooling."""
    import torch

    parts: dict[tuple[str, str], Tensors] = {}
    joined: Tensors = {}
    for name, tensor in named.items():
        found = re.fullmatch(r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)", name)
        if found is None:
            joined[name] = tensor
        else:
            parts.setdefault((found[1], found[3]), {})[found[2]] = tensor
    for (where, leaf), three in parts.items():
        if f"{where}.q_bias" in expected and leaf == "bias":  # EVA's way: the key has none
            joined |= {f"{where}.{which}_bias": tensor for which, tensor in three.items()}
        elif leaf == "bias" and f"{where}.qkv.bias" not in expected and not any(t.any() for t in three.values()):
            continue  # DINOv3's distilled models carry zeros; timm has a variant without
        else:
            like = next(iter(three.values()))
            joined[f"{where}.qkv.{leaf}"] = torch.cat([three.get(w, torch.zeros_like(like)) for w in "qkv"])
    for leaf in ("weight", "bias"):
        if (pool := joined.pop(f"attn_pool.in.{leaf}", None)) is not None:
            third = pool.shape[0] // 3
            joined[f"attn_pool.q.{leaf}"], joined[f"attn_pool.kv.{leaf}"] = pool[:third], pool[third:]
    return joined


def _gates(named: Tensors, expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Give the two halves of a gated MLP (SwiGLU) the names, or the one matrix, that the model has for them."""
    import torch

    gated = {name.rpartition(".mlp.gate_proj.")[0] for name in named if ".mlp.gate_proj." in name}
    result: Tensors = {}
    for name, tensor in named.items():
        where, middle, leaf = name.rpartition(".mlp.up_proj.")
        if ".mlp.gate_proj." in name:
            continue
        if not middle:
            result[name] = tensor
        elif where not in gated:
            result[f"{where}.mlp.fc1.{leaf}"] = tensor
        elif f"{where}.mlp.fc1_g.{leaf}" in expected:
            result[f"{where}.mlp.fc1_g.{leaf}"] = named[f"{where}.mlp.gate_proj.{leaf}"]
            result[f"{where}.mlp.fc1_x.{leaf}"] = tensor
        else:
            result[f"{where}.mlp.fc1.{leaf}"] = torch.cat([named[f"{where}.mlp.gate_proj.{leaf}"], tensor])
    return result


def _shapes(named: Tensors) -> Tensors:
    """Give tokens and positions their batch dimension: (D,) and (N, D) become (1, 1, D) and (1, N, D)."""
    return {
        name: tensor.reshape(1, -1, tensor.shape[-1]) if name in ("cls_token", "pos_embed") else tensor
        for name, tensor in named.items()
    }


def _registers(named: Tensors, expected: Mapping[str, torch.Tensor]) -> Tensors:
    """Put registers where timm has them.

    timm adds positions to the patches alone in DINOv2 with registers, so that of the class token is added to the token
    (as in timm's own reader of the original layout).
    """
    if "register_tokens" not in named:
        return named
    result = dict(named)
    result["reg_token"] = result.pop("register_tokens")
    if "reg_token" not in expected:
        if not result["reg_token"].numel():
            del result["reg_token"]
    elif "pos_embed" in result:
        positions = result["pos_embed"]
        result["cls_token"] = result["cls_token"] + positions[:, :1]
        result["pos_embed"] = positions[:, 1:]
    return result


def _eva(name: str, expected: Mapping[str, torch.Tensor]) -> str:
    """Return the name that timm's EVA has for a layer scale, where the model is one."""
    found = re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name)
    other = f"{found[1]}gamma_{found[2]}" if found else name
    return other if other in expected else name
