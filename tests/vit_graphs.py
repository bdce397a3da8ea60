"""Outlines and forward graphs for tests that need no torch: vision transformers of any size, a small CNN."""

from __future__ import annotations

from typing import Any

from edgeplast.graphs.graph import Graph, Value
from edgeplast.outline import Component, Outline, Role, Segment, kind_of

KINDS = ("norm1", "attn", "norm2", "fc1", "fc2")


def inner(depth: int) -> list[str]:
    """Components inside the blocks of a vision transformer."""
    return [f"blocks.{i}.{kind}" for i in range(depth) for kind in KINDS]


class _Vit:
    def __init__(self, width: int, heads: int, mlp: float) -> None:
        self.g, self.width, self.heads, self.hidden = Graph(), width, heads, round(mlp * width)
        self.owned: dict[str, dict[str, tuple[int, ...]]] = {}
        self.segments: list[Segment] = []

    def weight(self, component: str, name: str, *shape: int) -> Value:
        parameter = f"{component}.{name}"
        self.owned.setdefault(component, {})[parameter] = shape
        return self.g.weight(parameter, shape)

    def linear(self, component: str, name: str, x: Value, out: int) -> Value:
        matrix = self.weight(component, f"{name}.weight", out, x.shape[-1])
        return self.g.gemm(x, matrix, self.weight(component, f"{name}.bias", out), trans_b=True)

    def norm(self, component: str, block: int | None, x: Value) -> Value:
        with self.g.serving(component, block):
            gamma, beta = (self.weight(component, n, self.width) for n in ("weight", "bias"))
            return self.g.layer_norm(x, gamma, beta, 1e-6)[0]

    def block(self, i: int, x: Value, tokens: int, keep: int) -> Value:
        g, name, start = self.g, f"blocks.{i}", x
        h = self.norm(f"{name}.norm1", i, x)
        with g.serving(f"{name}.attn", i):
            wide = g.reshape(
                self.linear(f"{name}.attn", "qkv", h, 3 * self.width),
                (1, tokens, 3 * self.heads, self.width // self.heads),
            )
            q, k, v = g.split(g.transpose(wide, (0, 2, 1, 3)), 1, 3)
            if keep < tokens:
                q = g.slice(q, 2, 0, keep)
                x = g.reshape(g.slice(g.reshape(x, (1, tokens, self.width)), 1, 0, keep), (keep, self.width))
            weights = g.unary("Softmax", g.matmul(q, k, trans_b=True, alpha=0.1), axis=-1)
            mixed = g.reshape(g.transpose(g.matmul(weights, v), (0, 2, 1, 3)), (keep, self.width))
            middle = g.add(x, self.linear(f"{name}.attn", "proj", mixed, self.width))
        h = self.norm(f"{name}.norm2", i, middle)
        with g.serving(f"{name}.fc1", i):
            h = self.linear(f"{name}.fc1", "fc1", h, self.hidden)
        with g.serving(f"{name}.fc2", i):
            out = g.add(middle, self.linear(f"{name}.fc2", "fc2", g.unary("Gelu", h), self.width))
        self.segment(start, middle, i, f"{name}.norm1", f"{name}.attn")
        self.segment(middle, out, i, f"{name}.norm2", f"{name}.fc1", f"{name}.fc2")
        return out

    def segment(self, start: Value, end: Value, block: int | None, *components: str) -> None:
        self.segments.append(Segment(start=start.name, end=end.name, components=components, block=block))


def vit(
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    image: int = 224,
    patch: int = 16,
    classes: int = 7,
    prefix: int = 1,
    mlp: float = 4,
    narrow: dict[int, float] | None = None,
) -> tuple[Outline, Graph]:
    """A vision transformer; without a prefix token it pools by average, and ``narrow`` blocks have another MLP."""
    v = _Vit(width, heads, mlp)
    g, side = v.g, image // patch
    images = g.input("images", (1, 3, image, image), batched=True)
    with g.serving("patch_embed"):
        cut = g.transpose(g.reshape(images, (1, 3, side, patch, side, patch)), (0, 2, 4, 1, 3, 5))
        x = v.linear("patch_embed", "proj", g.reshape(cut, (side * side, 3 * patch * patch)), width)
        x = g.reshape(x, (1, side * side, width))
        if prefix:
            tokens = [
                g.expand_to_batch(v.weight("patch_embed", f"token{i}", 1, 1, width), images) for i in range(prefix)
            ]
            x = g.concat([*tokens, x], axis=1)
        count = x.shape[1]
        x = g.reshape(g.add(x, v.weight("patch_embed", "position", 1, count, width)), (count, width))
    v.segment(images, x, None, "patch_embed")
    for i in range(depth):
        v.hidden = round((narrow or {}).get(i, mlp) * width)
        x = v.block(i, x, count, prefix if prefix and i == depth - 1 else count)
    normed = v.norm("norm", None, x)
    with g.serving("norm"):
        if not prefix:
            normed = g.reduce("ReduceMean", g.reshape(normed, (1, count, width)), 1, keep=False)
        elif prefix > 1:
            normed = g.reduce("ReduceMean", g.reshape(normed, (1, prefix, width)), 1, keep=False)
    v.segment(x, normed, None, "norm")
    with g.serving("head"):
        logits = g.output(v.linear("head", "fc", normed, classes), "logits")
    v.segment(normed, logits, None, "head")
    return outline_of("vit_for_tests", g, v.owned, v.segments), g


def outline_of(
    model: str, graph: Graph, owned: dict[str, dict[str, tuple[int, ...]]], segments: list[Segment]
) -> Outline:
    roles: dict[str, Role] = {"patch_embed": "embedding", "stem": "embedding", "norm": "norm", "head": "head"}
    block = {name: s.block for s in segments for name in s.components}
    return Outline(
        model=model,
        input_shape=graph.values["images"].shape[1:],  # type: ignore[arg-type]
        classes=graph.values["logits"].shape[1],
        components=tuple(
            Component(
                name=name, kind=kind_of(name), role=roles.get(name, "inner"), block=block[name], parameters=parameters
            )
            for name, parameters in owned.items()
        ),
        segments=tuple(segments),
    )


def small_vit_graph(depth: int = 2, **sizes: Any) -> tuple[Outline, Graph]:
    return vit(**({"width": 32, "heads": 4, "image": 32, "patch": 8, "classes": 3} | sizes), depth=depth)  # type: ignore[arg-type]


def conv_net(width: int = 8, depth: int = 3, image: int = 16, classes: int = 4) -> tuple[Outline, Graph]:
    """Convolutions with residual sums, a stem of stride 2 and average pooling: a pretrained CNN in small."""
    g = Graph()
    owned: dict[str, dict[str, tuple[int, ...]]] = {}
    segments: list[Segment] = []

    def conv(name: str, x: Value, out: int, kernel: int, stride: int = 1) -> Value:
        shapes = {f"{name}.weight": (out, x.shape[1], kernel, kernel), f"{name}.bias": (out,)}
        owned[name] = shapes
        weights = [g.weight(p, shape) for p, shape in shapes.items()]
        pad = kernel // 2
        return g.node("Conv", [x, *weights], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)[0]

    images = g.input("images", (1, 3, image, image), batched=True)
    with g.serving("stem"):
        x = g.unary("Relu", conv("stem", images, width, 3, 2))
    segments.append(Segment(start="images", end=x.name, components=("stem",), block=None))
    for i in range(depth):
        start = x
        with g.serving(f"layers.{i}.conv1", i):
            h = g.unary("Relu", conv(f"layers.{i}.conv1", x, width, 3))
        with g.serving(f"layers.{i}.conv2", i):
            x = g.unary("Relu", g.add(x, conv(f"layers.{i}.conv2", h, width, 1)))
        names = (f"layers.{i}.conv1", f"layers.{i}.conv2")
        segments.append(Segment(start=start.name, end=x.name, components=names, block=i))
    with g.serving("head"):
        pooled = g.reduce("ReduceMean", g.reduce("ReduceMean", x, 3), 2)
        shapes = {"head.weight": (classes, width), "head.bias": (classes,)}
        owned["head"] = shapes
        matrix, bias = (g.weight(p, shape) for p, shape in shapes.items())
        logits = g.output(g.gemm(g.reshape(pooled, (1, width)), matrix, bias, trans_b=True), "logits")
    segments.append(Segment(start=x.name, end=logits.name, components=("head",), block=None))
    return outline_of("conv_net", g, owned, segments), g
