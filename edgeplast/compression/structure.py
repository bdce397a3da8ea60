"""What can be taken out of a model: attention heads and MLP hidden units, with every weight that hangs on them.

torch-pruning traces the model into a dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning",
arXiv 2301.12900). A head is a slice of the input of ``attn.proj``, a hidden unit a column of ``mlp.fc2``; the graph
knows which rows of qkv (or of fc1, both halves of a gated one) go with it. What enters and leaves a block keeps its
width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgeplast.errors import InputError, missing_offline
from edgeplast.models import check_family
from edgeplast.reshaping import set_heads


@dataclass(frozen=True)
class Part:
    """One place in a model from which units can be taken.

    Attributes:
        component: ``blocks.3.attn`` (units are heads) or ``blocks.3.fc1`` (hidden units, shared with fc2).
        block: its index.
        units: how many there are.
        channels: inputs of the last layer that one unit feeds.
    """

    component: str
    block: int
    units: int
    channels: int

    @property
    def heads(self) -> bool:
        """Whether the units are attention heads."""
        return self.component.endswith(".attn")


def import_torch_pruning() -> Any:
    """Import torch-pruning, or say how to install it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise missing_offline(error, "pruning needs it") from error
    return torch_pruning


def parts_of(model: torch.nn.Module) -> list[Part]:
    """Return the places from which units can be taken, in data-flow order.

    Raises:
        InputError: the model is outside the family, or an attention's heads cannot be told apart.
    """
    check_family(model)
    m: Any = model
    parts = []
    for i, block in enumerate(m.blocks):
        attention, where = block.attn, f"blocks.{i}"
        heads, proj = int(attention.num_heads), getattr(attention, "proj", None)
        if not isinstance(proj, torch.nn.Linear) or not isinstance(getattr(block.mlp, "fc2", None), torch.nn.Linear):
            raise InputError(
                f"{where} is built of {type(attention).__name__} and {type(block.mlp).__name__}, which cannot be "
                "pruned: that takes attention with a linear 'proj' and an MLP with a linear 'fc2'."
            )
        width = int(proj.in_features)
        if width % heads or int(attention.qkv.out_features) != 3 * width:
            raise InputError(
                f"{where}.attn: its {width} channels cannot be divided into {heads} equal heads with queries, keys "
                f"and values (qkv gives {attention.qkv.out_features}), so no head can be taken out whole. "
                "Supported is attention as timm builds it: qkv gives 3 · heads · head width."
            )
        parts.append(Part(f"{where}.attn", i, heads, width // heads))
        parts.append(Part(f"{where}.fc1", i, int(block.mlp.fc2.in_features), 1))
    return parts


class Structure:
    """The dependency graph of one model; taking units out changes that model.

    Raises:
        InputError: the model cannot be traced, or is outside the family.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Trace a model with one picture of zeros."""
        self.parts = parts_of(model)
        self._whole: dict[str, Any] = {}  # groups of all units of a part, made when first asked for
        self._tp = import_torch_pruning()
        m: Any = model
        self._model: Any = model
        height, width = (int(s) for s in m.patch_embed.img_size)
        attentions = [block.attn for block in m.blocks]
        fused = [getattr(a, "fused_attn", False) for a in attentions]
        for attention in attentions:
            attention.fused_attn = False  # the fused kernel hides from the tracer which channels belong together
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")  # of tokens and position embedding, which stay as they are
                self._graph = self._tp.DependencyGraph().build_dependency(
                    model, example_inputs=torch.zeros(1, 3, height, width)
                )
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            raise InputError(
                f"torch-pruning cannot trace {type(model).__name__}: {error}. Prune a plain VisionTransformer."
            ) from error
        finally:
            for attention, was in zip(attentions, fused, strict=True):
                attention.fused_attn = was

    def importance(self, estimate: Callable[[Any], torch.Tensor]) -> dict[str, np.ndarray]:
        """Return each part's importances (units,), float64: of a head, the sum over its channels.

        To be asked before anything is removed.

        Args:
            estimate: one of torch-pruning's, from a group to one number a channel.
        """
        found = {}
        if not self._whole:
            self._whole = {part.component: self._group(part, range(part.units)) for part in self.parts}
        for part in self.parts:
            try:
                channels = estimate(self._whole[part.component]).detach().double()
            except (IndexError, RuntimeError) as error:
                raise InputError(
                    f"torch-pruning does not understand how {part.component} hangs together with its norms: {error}. "
                    "Supported are layer norms everywhere, and RMS norms but for those of queries and keys."
                ) from error
            found[part.component] = channels.reshape(part.units, part.channels).sum(1).cpu().numpy()
        return found

    def remove(self, part: Part, units: Sequence[int]) -> None:
        """Take units out of the model.

        Raises:
            InputError: something outside the block would change with them.
        """
        if not len(units):
            return
        group = self._group(part, units)
        inside = tuple(f"blocks.{part.block}.{name}." for name in ("attn", "mlp"))
        names = {module: name for name, module in self._model.named_modules()}
        touched = [names[dep.layer] for dep, _ in group if dep.layer in names]
        outside = [name for name in touched if not f"{name}.".startswith(inside)]
        if outside:
            raise InputError(
                f"{part.component} cannot be pruned alone: {', '.join(outside)} would change with it. "
                "Supported are models whose blocks are joined by nothing but the residual stream."
            )
        block = self._model.blocks[part.block]
        first = getattr(block.mlp, "fc1", None)
        for dep, rows in group:
            # Of an fc1 that is cut into gate and value, the graph (torch-pruning 1.6) follows the first half only.
            if dep.layer is first and first.out_features == 2 * part.units and len(rows) == len(units):
                self._tp.prune_linear_out_channels(first, idxs=[unit + part.units for unit in units])
        group.prune()
        for norm in filter(None, (getattr(block.attn, "norm", None), getattr(block.mlp, "norm", None))):
            if hasattr(norm, "normalized_shape") and getattr(norm, "weight", None) is not None:
                norm.normalized_shape = tuple(norm.weight.shape)
        if part.heads:
            set_heads(block.attn, part.units - len(units))

    def _group(self, part: Part, units: Sequence[int]) -> Any:
        block = self._model.blocks[part.block]
        last = block.attn.proj if part.heads else block.mlp.fc2
        channels = [unit * part.channels + c for unit in units for c in range(part.channels)]
        group = self._graph.get_pruning_group(last, self._tp.prune_linear_in_channels, idxs=channels)
        # Norms of queries and keys are as wide as one head; they stay when whole heads go.
        each_head = {getattr(block.attn, "q_norm", None), getattr(block.attn, "k_norm", None)}
        each_head |= {parameter for norm in each_head if norm is not None for parameter in norm.parameters()}
        group.items[:] = [item for item in group.items if item.dep.target.module not in each_head]
        return group
