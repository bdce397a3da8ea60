"""Where to listen inside a plain vision transformer's block: the modules of each component, its input and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgeplast.components import COMPONENT_TYPES, component_of
from edgeplast.errors import InputError, UsageError, one_of
from edgeplast.models import check_family
from edgeplast.score_methods import GRANULARITIES


@dataclass(frozen=True, eq=False)
class Tap:
    """A place in a block where tokens can be read: what goes into a module, or what comes out of it.

    Attributes:
        module: the module that is listened to.
        side: ``"input"`` or ``"output"``.
        channels: the part of the channels that counts.
        gram: (c, c) matrix WᵀW, if the norm of W·tokens is wanted instead of the norm of the tokens; one
            attention head writes W z into the residual stream, and ‖Wz‖² = zᵀ(WᵀW)z is much cheaper.
    """

    module: nn.Module
    side: str
    channels: slice = field(default_factory=lambda: slice(None))
    gram: torch.Tensor | None = None

    def squared_norm(self, tokens: torch.Tensor) -> torch.Tensor:
        """Squared Frobenius norm of each sequence: (B, N, C) to float64 (B,)."""
        tokens = tokens[..., self.channels].float()
        if self.gram is None:
            return torch.linalg.vector_norm(tokens.flatten(1), dim=1).double().square()
        return ((tokens @ self.gram) * tokens).flatten(1).sum(dim=1, dtype=torch.float64).clamp_min(0)


@dataclass(frozen=True)
class Unit:
    """What gets one score: a function of tokens, known by where it starts and where it ends.

    Attributes:
        name: component name, or ``blocks.3.attn.head.0``.
        kind: the component type it belongs to (the stage that computes it).
        source: taps that together are its input; in a model that is no plain vision transformer, places
            (:class:`edgeplast.wiring.Place`).
        sink: taps that together are its output.
    """

    name: str
    kind: str
    source: tuple[Any, ...]
    sink: tuple[Any, ...]


@dataclass(frozen=True)
class Anatomy:
    """One block: its units, and each component type as a function of tokens.

    Attributes:
        index: position of the block.
        module: the block.
        stages: component type to function of tokens (B, N, C) that runs just that component.
        inputs: component type to the tap on its input.
        units: what gets scores, in data-flow order.
    """

    index: int
    module: nn.Module
    stages: dict[str, Callable[[torch.Tensor], Any]]
    inputs: dict[str, Tap]
    units: tuple[Unit, ...]


def dissect(model: nn.Module, granularity: str = "component") -> list[Anatomy]:
    """Return the anatomy of every block.

    ``component`` gives norm1, attn, norm2, fc1 and fc2; ``head`` splits attn into its heads. Layer scale and
    a norm inside the MLP belong to the component whose parameters they are (attn, fc2). A gated MLP's first
    layer is one component with both halves, and its second layer's input is the gated product.

    Raises:
        InputError: a block is built in a way that cannot be taken apart; the message names it.
        UsageError: unknown granularity.
    """
    if granularity not in GRANULARITIES:
        raise one_of("granularity", granularity, GRANULARITIES)
    if granularity == "branch":
        raise UsageError("Granularity 'branch' exists for the method plasticity-branch alone; use component or head.")
    return [_dissect(i, block, granularity) for i, block in enumerate(blocks_of(model))]


def dissect_branches(model: nn.Module, granularity: str = "component") -> list[Anatomy]:
    """Return blocks cut into the units of ``plasticity-branch``; norms are folded into what follows them.

    ``component``: attn∘norm1 (named ``attn``), fc1∘norm2 (``fc1``) and fc2∘activation (``fc2``). ``head``: as
    before, attn∘norm1 split into heads. ``branch``: attn∘norm1 (``attn``) and mlp∘norm2 (``mlp``), whole,
    against the residual stream that they add to. In a ResPostBlock, whose norms come last, norm1∘attn, fc1
    and norm2∘fc2∘activation.

    Raises:
        InputError: see :func:`dissect`.
        UsageError: unknown granularity.
    """
    if granularity not in GRANULARITIES:
        raise one_of("granularity", granularity, GRANULARITIES)
    cut = [
        _dissect(i, block, "head" if granularity == "head" else "component") for i, block in enumerate(blocks_of(model))
    ]
    return [Anatomy(a.index, a.module, a.stages, a.inputs, _branch_units(a, granularity)) for a in cut]


def is_plain(model: nn.Module) -> bool:
    """Whether a model is a plain vision transformer, whose blocks can be taken apart into components and heads."""
    try:
        check_family(model)
        dissect(model)
    except InputError:
        return False
    return True


def blocks_of(model: nn.Module) -> list[Any]:
    """Return the blocks of a model."""
    m: Any = model
    return list(m.blocks)


def _dissect(index: int, block: Any, granularity: str) -> Anatomy:
    where = f"blocks.{index}"
    first, last = _mlp_layers(where, block.mlp)
    between = _acting(getattr(block.mlp, "norm", None))
    after_attn, after_mlp = _acting(getattr(block, "ls1", None)), _acting(getattr(block, "ls2", None))
    if not isinstance(getattr(block.attn, "proj", None), nn.Linear):
        raise InputError(
            f"{where}.attn is a {type(block.attn).__name__} without an output projection 'proj'; scoring knows "
            "attention as timm builds it (qkv, then proj)."
        )
    chains = {
        "norm1": [block.norm1],
        "attn": [block.attn, *after_attn],
        "norm2": [block.norm2],
        "fc2": [*between, last, *after_mlp],
    }
    stages: dict[str, Callable[[torch.Tensor], Any]] = {
        kind: _chain(chains[kind]) if kind in chains else lambda tokens: [layer(tokens) for layer in first]
        for kind in COMPONENT_TYPES
    }
    inputs = {kind: Tap(chain[0], "input") for kind, chain in chains.items()}
    inputs["fc1"] = Tap(first[0], "input")
    sinks: dict[str, tuple[Tap, ...]] = {kind: (Tap(chain[-1], "output"),) for kind, chain in chains.items()}
    sinks["fc1"] = tuple(Tap(layer, "output") for layer in first)
    units: list[Unit] = []
    for kind in COMPONENT_TYPES:
        if kind == "attn" and granularity == "head":
            units += _heads(where, block, inputs["attn"], after_attn)
        else:
            units.append(Unit(f"{where}.{kind}", kind, (inputs[kind],), sinks[kind]))
    return Anatomy(index, block, stages, inputs, tuple(units))


def _mlp_layers(where: str, mlp: Any) -> tuple[list[nn.Module], nn.Module]:
    """Return the layers that together are fc1 (two in a SwiGLU), and fc2."""
    first = [m for m in (getattr(mlp, name, None) for name in ("fc1", "fc1_g", "fc1_x")) if m is not None]
    last = getattr(mlp, "fc2", None)
    if not first or not all(isinstance(m, nn.Linear) for m in [*first, last]):
        raise InputError(
            f"{where}.mlp is a {type(mlp).__name__}, whose layers scoring does not know: it takes MLPs with linear "
            "fc1 (or fc1_g and fc1_x) and fc2, as timm's Mlp, GluMlp and SwiGLU."
        )
    assert isinstance(last, nn.Module)
    return first, last


def _heads(where: str, block: Any, source: Tap, after: list[nn.Module]) -> list[Unit]:
    """Each head as what it writes into the output: columns of proj times its slice of proj's input."""
    slices = head_slices(where, block.attn)
    weight = block.attn.proj.weight.detach().float()
    if after:
        gamma = getattr(after[0], "gamma", None)
        if gamma is None:
            raise InputError(f"{where}.ls1 is a {type(after[0]).__name__} without gamma; heads cannot be split.")
        weight = gamma.detach().float()[:, None] * weight
    return [
        Unit(
            f"{where}.attn.head.{h}",
            "attn",
            (source,),
            (Tap(block.attn.proj, "input", channels, weight[:, channels].T @ weight[:, channels]),),
        )
        for h, channels in enumerate(slices)
    ]


def head_slices(where: str, attention: Any) -> list[slice]:
    """Return, for each head, its channels in the input of the output projection.

    Raises:
        InputError: the attention does not concatenate equal heads.
    """
    heads, width = int(attention.num_heads), int(attention.proj.in_features)
    if width % heads or attention.qkv.out_features != 3 * width:
        raise InputError(
            f"{where}.attn is a {type(attention).__name__} whose heads cannot be told apart (qkv gives "
            f"{attention.qkv.out_features} channels for {heads} heads of {width // heads}). "
            "Score it with granularity component."
        )
    size = width // heads
    return [slice(h * size, (h + 1) * size) for h in range(heads)]


def _branch_units(block: Anatomy, granularity: str) -> tuple[Unit, ...]:
    where, mlp_in = f"blocks.{block.index}", block.inputs["fc1"]
    units = {unit.name: unit for unit in block.units}
    attention = [unit for unit in block.units if unit.kind == "attn"]
    fc1, fc2 = units[f"{where}.fc1"], units[f"{where}.fc2"]
    mlp_out = fc2.sink
    if norms_come_last(block.module):
        if granularity == "head":
            raise UsageError(
                f"{where} normalises after attention (ResPostBlock), which mixes the heads: plasticity-branch "
                "cannot split them. Use granularity component."
            )
        attention = [Unit(f"{where}.attn", "attn", attention[0].source, units[f"{where}.norm1"].sink)]
        mlp_out = units[f"{where}.norm2"].sink
    else:
        norm1 = units[f"{where}.norm1"].source
        attention = [Unit(u.name, u.kind, norm1, u.sink) for u in attention]
        mlp_in = units[f"{where}.norm2"].source[0]
    if granularity == "branch":
        return (*attention, Unit(f"{where}.mlp", "mlp", (mlp_in,), mlp_out))
    return (
        *attention,
        Unit(f"{where}.fc1", "fc1", (mlp_in,), fc1.sink),
        Unit(f"{where}.fc2", "fc2", fc1.sink, mlp_out),
    )


def norms_come_last(block: nn.Module) -> bool:
    """Whether a block normalises the output of its branches (timm's ResPostBlock) instead of their input."""
    return type(block).__name__ == "ResPostBlock"


def parts_of(model: nn.Module, granularity: str) -> dict[str, list[tuple[str, Any]]]:
    """Return unit name to the parameters that belong to it, as (parameter name, index) pairs.

    A head owns its rows of qkv (weight and bias) and its columns of proj; proj's bias, q/k norms and layer
    scale are shared by all heads and belong to none.
    """
    parts: dict[str, list[tuple[str, Any]]] = {}
    owners: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        owners.setdefault(component_of(name), []).append(name)
    for block in dissect(model, granularity):
        for unit in block.units:
            if ".head." in unit.name:
                parts[unit.name] = _head_parts(block, int(unit.name.rsplit(".", 1)[1]))
            else:
                parts[unit.name] = [(name, ...) for name in owners.get(unit.name, [])]
    return parts


def _head_parts(block: Anatomy, head: int) -> list[tuple[str, Any]]:
    where, attention = f"blocks.{block.index}", getattr(block.module, "attn")  # noqa: B009
    channels = head_slices(where, attention)[head]
    width = attention.proj.in_features
    rows = [slice(channels.start + k * width, channels.stop + k * width) for k in range(3)]
    parts: list[tuple[str, Any]] = [(f"{where}.attn.qkv.weight", row) for row in rows]
    if attention.qkv.bias is not None:
        parts += [(f"{where}.attn.qkv.bias", row) for row in rows]
    return [*parts, (f"{where}.attn.proj.weight", (slice(None), channels))]


def _acting(module: nn.Module | None) -> list[nn.Module]:
    return [] if module is None or isinstance(module, nn.Identity) else [module]


def _chain(modules: list[nn.Module]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(tokens: torch.Tensor) -> torch.Tensor:
        for module in modules:
            tokens = module(tokens)
        return tokens

    return run
