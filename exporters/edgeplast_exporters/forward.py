"""From a vision transformer to its forward graph, module by module.

The graph is written from the module tree rather than traced: every operator is chosen, every parameter keeps
timm's name, and what the prediction does not need is never computed (with token pooling, the last block's
attention, projection and MLP run for the class token only). ``parity.py`` then proves the result equal to
the module's own output, so a module that only looks like a vision transformer is found out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgeplast.components import EMBED, HEAD, NORM
from edgeplast.contract import IMAGES, LOGITS
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph, Value
from edgeplast.models import FAMILY, check_family, pooled_tokens

_ACTIVATIONS = {"GELU": "Gelu", "GELUTanh": "GeluTanh", "GeluTanh": "GeluTanh", "QuickGELU": "QuickGelu",
                "QuickGELUActivation": "QuickGelu", "SiLU": "Silu", "Swish": "Silu", "Sigmoid": "Sigmoid",
                "ReLU": "Relu"}  # fmt: skip

_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "norm", "gate", "proj"}


def forward_graph(model: torch.nn.Module) -> Graph:
    """Build the graph from ``images`` (B, 3, H, W) float32 to ``logits`` (B, classes) float32.

    All parameters are frozen weights of the graph, under timm's names; matrices keep torch's layout
    (out, in), and the patch embedding's kernel is stored as the matrix (D, 3·P·P).

    Raises:
        InputError: a part of the model has no graph; the message names the component.
    """
    check_family(model)
    m: Any = model
    g = Graph()
    emit = _Emitter(g)
    height, width = (int(s) for s in m.patch_embed.img_size)
    images = g.input(IMAGES, (1, 3, height, width), batched=True)
    with g.serving(EMBED):
        x, tokens = _embed(emit, m, images)
    pooled = pooled_tokens(m)
    for i, block in enumerate(m.blocks):
        last = i == len(m.blocks) - 1
        x, tokens = _block(emit, block, f"blocks.{i}", i, x, tokens, pooled if last else None)
    logits = _head(emit, m, x, tokens, pooled)
    g.output(logits, LOGITS)
    return g


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter as the graph stores it: kernels of more than two dimensions flattened to (out, rest)."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim == 4 else tensor


def stored_parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return every parameter under timm's name, float32, in the shape the graph reads."""
    return {
        name: np.ascontiguousarray(matrix(tensor.detach()).float().cpu().numpy())
        for name, tensor in model.named_parameters()
    }


class _Emitter:
    """Adds the operators of one torch module to a graph."""

    def __init__(self, graph: Graph) -> None:
        self.g = graph

    def parameter(self, name: str, tensor: torch.Tensor) -> Value:
        return self.g.weight(name, tuple(matrix(tensor).shape))

    def linear(self, module: Any, name: str, x: Value) -> Value:
        if not isinstance(module, torch.nn.Linear):
            raise _refused(name, module, "torch.nn.Linear")
        weight = self.parameter(f"{name}.weight", module.weight)
        bias = None if module.bias is None else self.parameter(f"{name}.bias", module.bias)
        return self.g.gemm(x, weight, bias, trans_b=True)

    def norm(self, module: Any, name: str, x: Value) -> Value:
        if isinstance(module, torch.nn.Identity):
            return x
        if isinstance(module, torch.nn.LayerNorm) and module.weight is not None:
            gamma = self.parameter(f"{name}.weight", module.weight)
            beta = None if module.bias is None else self.parameter(f"{name}.bias", module.bias)
            return self.g.layer_norm(x, gamma, beta, module.eps)[0]
        if type(module).__name__ in ("RmsNorm", "RMSNorm", "RmsNormFp32") and module.weight is not None:
            gamma = self.parameter(f"{name}.weight", module.weight)
            epsilon = torch.finfo(torch.float32).eps if module.eps is None else float(module.eps)
            mean_square = self.g.reduce("ReduceMean", self.g.mul(x, x), -1)
            root = self.g.unary("Sqrt", self.g.add(mean_square, self.g.constant(epsilon)))
            return self.g.mul(self.g.div(x, root), gamma)
        raise _refused(name, module, "LayerNorm or RmsNorm with a weight")

    def activation(self, module: Any, name: str, x: Value) -> Value:
        kind = _ACTIVATIONS.get(type(module).__name__)
        if kind == "Gelu" and getattr(module, "approximate", "none") == "tanh":
            kind = "GeluTanh"
        if kind is None:
            raise _refused(name, module, ", ".join(_ACTIVATIONS))
        return activation(self.g, kind, x)

    def layer_scale(self, module: Any, name: str, x: Value) -> Value:
        if module is None or isinstance(module, torch.nn.Identity):
            return x
        if not hasattr(module, "gamma"):
            raise _refused(name, module, "LayerScale")
        return self.g.mul(x, self.parameter(f"{name}.gamma", module.gamma))


def activation(g: Graph, kind: str, x: Value) -> Value:
    """Add an activation; those without an operator of their own are written in plain ones."""
    if kind == "Silu":
        return g.mul(x, g.unary("Sigmoid", x))
    if kind == "QuickGelu":
        return g.mul(x, g.unary("Sigmoid", g.scale(x, 1.702)))
    if kind == "GeluTanh":
        cubic = g.add(x, g.scale(g.mul(x, g.mul(x, x)), 0.044715))
        inner = g.unary("Tanh", g.scale(cubic, 0.7978845608028654))
        return g.mul(g.scale(x, 0.5), g.add(inner, g.constant(1.0)))
    return g.unary(kind, x)


def _embed(emit: _Emitter, m: Any, images: Value) -> tuple[Value, int]:
    """Patches, special tokens, position embedding; returns the tokens as rows and their number."""
    g, embed = emit.g, m.patch_embed
    kernel = embed.proj
    ph, pw = (int(s) for s in embed.patch_size)
    _, channels, height, width = images.shape
    rows, columns = height // ph, width // pw
    if (
        not isinstance(kernel, torch.nn.Conv2d)
        or tuple(kernel.stride) != (ph, pw)
        or rows * ph != height
        or columns * pw != width
    ):
        raise _refused("patch_embed.proj", kernel, f"Conv2d over whole patches that divide {height}×{width}")
    if kernel.in_channels != channels:
        raise InputError(f"patch_embed reads {kernel.in_channels} channels; pictures here have 3 channels (RGB).")
    patches = g.reshape(images, (1, channels, rows, ph, columns, pw))
    patches = g.transpose(patches, (0, 2, 4, 1, 3, 5))
    patches = g.reshape(patches, (rows * columns, channels * ph * pw))
    weight = emit.parameter("patch_embed.proj.weight", kernel.weight)
    bias = None if kernel.bias is None else emit.parameter("patch_embed.proj.bias", kernel.bias)
    x = g.gemm(patches, weight, bias, trans_b=True)
    x = emit.norm(embed.norm, "patch_embed.norm", x)
    dim = x.shape[1]
    x = g.reshape(x, (1, rows * columns, dim))
    position = getattr(m, "pos_embed", None)
    position = None if position is None else emit.parameter("pos_embed", position)
    if position is not None and m.no_embed_class:
        x = g.add(x, position)
    prefix = [
        g.expand_to_batch(emit.parameter(name, getattr(m, name)), images)
        for name in ("cls_token", "dist_token", "reg_token")
        if getattr(m, name, None) is not None
    ]
    if prefix:
        x = g.concat([*prefix, x], axis=1)
    if position is not None and not m.no_embed_class:
        x = g.add(x, position)
    tokens = x.shape[1]
    x = g.reshape(x, (tokens, dim))
    return emit.norm(m.norm_pre, "norm_pre", x), tokens


def _block(
    emit: _Emitter, block: Any, name: str, index: int, x: Value, tokens: int, keep: int | None
) -> tuple[Value, int]:
    """One pre-norm block; with ``keep`` its output holds only that many leading tokens of each image."""
    g = emit.g
    if type(block).__name__ in ("ResPostBlock", "ParallelScalingBlock", "ParallelThingsBlock"):
        raise InputError(f"{name} is a {type(block).__name__}, which has no graph here. Inside are {FAMILY}.")
    with g.serving(f"{name}.norm1", index):
        h = emit.norm(block.norm1, f"{name}.norm1", x)
    with g.serving(f"{name}.attn", index):
        h = _attention(emit, block.attn, f"{name}.attn", h, tokens, keep)
        h = emit.layer_scale(getattr(block, "ls1", None), f"{name}.ls1", h)
        if keep is not None and keep < tokens:
            x, tokens = _leading(g, x, tokens, keep), keep
        x = g.add(x, h)
    with g.serving(f"{name}.norm2", index):
        h = emit.norm(block.norm2, f"{name}.norm2", x)
    h = _mlp(emit, block.mlp, name, index, h)
    with g.serving(f"{name}.fc2", index):
        h = emit.layer_scale(getattr(block, "ls2", None), f"{name}.ls2", h)
        return g.add(x, h), tokens


def _attention(emit: _Emitter, attn: Any, name: str, x: Value, tokens: int, keep: int | None) -> Value:
    """Multi-head self-attention on rows (tokens, D); queries of the leading ``keep`` tokens only."""
    g = emit.g
    others = {n.split(".")[0] for n, _ in attn.named_parameters()} - _ATTENTION_PARTS
    if not hasattr(attn, "qkv") or not hasattr(attn, "proj") or others:
        raise _refused(name, attn, f"Attention with {', '.join(sorted(_ATTENTION_PARTS))}")
    heads, dim = int(attn.num_heads), int(attn.qkv.out_features) // 3
    size = dim // heads
    projected = g.reshape(emit.linear(attn.qkv, f"{name}.qkv", x), (1, tokens, 3 * heads, size))
    q, k, v = g.split(g.transpose(projected, (0, 2, 1, 3)), 1, 3)
    q = emit.norm(attn.q_norm, f"{name}.q_norm", q)
    k = emit.norm(attn.k_norm, f"{name}.k_norm", k)
    queries = tokens
    if keep is not None and keep < tokens:
        q, queries = g.slice(q, 2, 0, keep), keep
    weights = g.unary("Softmax", g.matmul(q, k, trans_b=True, alpha=float(attn.scale)), axis=-1)
    mixed = g.reshape(g.transpose(g.matmul(weights, v), (0, 2, 1, 3)), (queries, dim))
    mixed = emit.norm(getattr(attn, "norm", torch.nn.Identity()), f"{name}.norm", mixed)
    if getattr(attn, "gate", None) is not None:
        source = x if queries == tokens else _leading(g, x, tokens, queries)
        mixed = g.mul(mixed, g.unary("Sigmoid", emit.linear(attn.gate, f"{name}.gate", source)))
    return emit.linear(attn.proj, f"{name}.proj", mixed)


def _mlp(emit: _Emitter, mlp: Any, name: str, index: int, x: Value) -> Value:
    """timm's Mlp, GluMlp (packed) and SwiGLU, on rows."""
    g = emit.g
    inner_norm = getattr(mlp, "norm", None) or torch.nn.Identity()
    kind = type(mlp).__name__
    with g.serving(f"{name}.fc1", index):
        if kind == "Mlp":
            h = emit.linear(mlp.fc1, f"{name}.mlp.fc1", x)
        elif kind == "GluMlp":
            first, second = g.split(emit.linear(mlp.fc1, f"{name}.mlp.fc1", x), 1, 2)
            gate, value = (second, first) if mlp.gate_last else (first, second)
        elif kind == "SwiGLU":
            gate = emit.linear(mlp.fc1_g, f"{name}.mlp.fc1_g", x)
            value = emit.linear(mlp.fc1_x, f"{name}.mlp.fc1_x", x)
        else:
            raise _refused(f"{name}.mlp", mlp, "Mlp, GluMlp or SwiGLU")
    with g.serving(f"{name}.fc2", index):
        if kind == "Mlp":
            h = emit.activation(mlp.act, f"{name}.mlp.act", h)
        else:
            h = g.mul(emit.activation(mlp.act, f"{name}.mlp.act", gate), value)
        h = emit.norm(inner_norm, f"{name}.mlp.norm", h)
        return emit.linear(mlp.fc2, f"{name}.mlp.fc2", h)


def _head(emit: _Emitter, m: Any, x: Value, tokens: int, pooled: int | None) -> Value:
    """Final norm, pooling and classifier; the distilled family averages its two heads."""
    g = emit.g
    with g.serving(NORM):
        x = emit.norm(m.norm, "norm", x)
        dim = x.shape[1]
        if pooled is None:
            prefix = 0 if getattr(m, "pool_include_prefix", False) else int(m.num_prefix_tokens)
            x = g.reshape(x, (1, tokens, dim))
            x = g.reduce("ReduceMean", g.slice(x, 1, prefix, tokens) if prefix else x, 1, keep=False)
        x = emit.norm(getattr(m, "fc_norm", torch.nn.Identity()), "fc_norm", x)
    with g.serving(HEAD):
        if pooled != 2:
            return emit.linear(m.head, "head", x)
        both = g.reshape(x, (1, 2, dim))
        first, second = (g.reshape(part, (1, dim)) for part in g.split(both, 1, 2))
        logits = g.add(emit.linear(m.head, "head", first), emit.linear(m.head_dist, "head_dist", second))
        return g.scale(logits, 0.5)


def _leading(g: Graph, x: Value, tokens: int, keep: int) -> Value:
    dim = x.shape[1]
    return g.reshape(g.slice(g.reshape(x, (1, tokens, dim)), 1, 0, keep), (keep, dim))


def _refused(name: str, module: Any, allowed: str) -> InputError:
    return InputError(f"{name} is a {type(module).__name__}, which has no graph here. Supported there: {allowed}.")
