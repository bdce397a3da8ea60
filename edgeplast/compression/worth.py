"""What each head and hidden unit is worth: torch-pruning's importance joined with the plasticity of its component.

An importance says which of its siblings a unit could be spared before; sums over different components have different
scales. So within a component the importances are divided by their mean, and the component as a whole weighs as much
as its multiply–accumulates times its plasticity over the median of its kind (attention, MLP). Smooth components,
whose output moves little when their input does, thus give more; a unit of a component with median plasticity is
worth what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgeplast.compression.pictures import Pictures, batch_of, sample
from edgeplast.compression.structure import Part, Structure, import_torch_pruning
from edgeplast.errors import InputError
from edgeplast.medians import medians
from edgeplast.progress import Progress, silent
from edgeplast.pruning_target import check_importance
from edgeplast.scores import ScoreTable

_PROBES, _BATCH = 16, 4


def importances(
    structure: Structure,
    model: torch.nn.Module,
    images: Pictures,
    *,
    kind: str,
    seed: int,
    progress: Progress = silent,
) -> dict[str, np.ndarray]:
    """Return component to the importance of each unit, (units,) float64, 0 or more.

    ``taylor`` is torch-pruning's group Taylor importance |Σ w·∂/∂w| of random projections of the features that the
    head reads: over the projections its squares average to the squared length by which the features move, to first
    order, so no labels and no loss are needed.

    Args:
        structure: of the model.
        model: in evaluation mode; gradients are written and cleared.
        images: pictures.
        kind: a key of :data:`edgeplast.pruning_target.IMPORTANCES`.
        seed: of pictures and projections.
        progress: told of each projection.

    Raises:
        UsageError: no such importance.
        InputError: a weight or gradient is not finite.
    """
    check_importance(kind)
    tp = import_torch_pruning()
    if kind == "magnitude":
        found = structure.importance(tp.importance.GroupMagnitudeImportance(normalizer=None))
    else:
        found = _taylor(structure, model, images, seed, tp, progress)
    broken = [name for name, values in found.items() if not np.isfinite(values).all()]
    if broken:
        raise InputError(
            f"{', '.join(broken[:5])}: the importance is not a finite number. Are the weights complete and in range?"
        )
    return found


def _taylor(
    structure: Structure, model: Any, images: Pictures, seed: int, tp: Any, progress: Progress
) -> dict[str, np.ndarray]:
    estimate = tp.importance.GroupTaylorImportance(normalizer=None, multivariable=True)
    generator = torch.Generator().manual_seed(seed)
    chosen = sample(images, _PROBES * _BATCH, seed)
    total = {part.component: np.zeros(part.units) for part in structure.parts}
    parameters = list(model.parameters())
    asked = [p.requires_grad for p in parameters]
    try:
        for probe in range(_PROBES):
            progress("measuring what is worth keeping", probe, _PROBES)
            indices = [chosen[(probe * _BATCH + k) % len(chosen)] for k in range(min(_BATCH, len(chosen)))]
            batch = batch_of(model, images, indices)
            with torch.enable_grad():
                for parameter in parameters:
                    parameter.requires_grad_(True)
                model.zero_grad(set_to_none=False)
                features = model.forward_head(model.forward_features(batch), pre_logits=True)
                (features * torch.randn(features.shape, generator=generator)).sum().backward()
            for name, values in structure.importance(estimate).items():
                total[name] += values / _PROBES
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, was in zip(parameters, asked, strict=True):
            parameter.requires_grad_(was)
    return total


def plasticities(
    scores: ScoreTable | None, parts: Sequence[Part], note: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Return component to the plasticity of each of its units relative to the median of its kind, (units,) float64.

    Heads have scores of their own where the table was made with granularity ``head``; the MLP's is the geometric
    mean of fc1's and fc2's. A component without a score counts as median, and is noted.

    Args:
        scores: a table, or None: everything counts the same.
        parts: of the model that was scored.
        note: told what a reader should know.

    Raises:
        InputError: the table is of another model.
    """
    if scores is None:
        return {part.component: np.ones(part.units) for part in parts}
    depth = 1 + max(part.block for part in parts)
    if scores.outline.blocks != depth:
        raise InputError(
            f"The scores are of a model with {scores.outline.blocks} blocks ({scores.outline.model}), and "
            f"this one has {depth}. Score this model."
        )
    table = {name: max(entry.score, 0.0) for name, entry in scores.components.items()}
    found, missing = {}, []
    for part in parts:
        values = _scores(part, table)
        if values is None:
            missing.append(part.component)
        else:
            found[part.component] = values
    if missing:
        note(f"{scores.method} has no score for {', '.join(missing)}; they count as the median of their kind.")
    kinds = {part.component: "attn" if part.heads else "mlp" for part in parts}
    typical = medians({name: float(values.mean()) for name, values in found.items()}, kinds.__getitem__)
    return {
        part.component: found[part.component] / typical[kinds[part.component]]
        if part.component in found and typical[kinds[part.component]] > 0
        else np.ones(part.units)
        for part in parts
    }


def _scores(part: Part, table: Mapping[str, float]) -> np.ndarray | None:
    if not part.heads:
        first, second = table.get(part.component), table.get(f"blocks.{part.block}.fc2")
        return None if first is None or second is None else np.full(part.units, np.sqrt(first * second))
    each = [table.get(f"{part.component}.head.{head}") for head in range(part.units)]
    if any(score is None for score in each):
        whole = table.get(part.component)
        return None if whole is None else np.full(part.units, whole)
    return np.array(each, dtype=np.float64)


def worths(
    importance: Mapping[str, np.ndarray],
    plasticity: Mapping[str, np.ndarray],
    unit_costs: Mapping[str, float],
    note: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """Join the two: component to the worth of each unit, (units,) float64.

    A component whose importances are all zero is dead: its units are worth nothing and go first, and that is noted.
    """
    result = {}
    for name, values in importance.items():
        mean = float(values.mean())
        if mean <= 0:
            note(f"{name} is dead: all of its units have the importance 0, so they go first.")
            result[name] = np.zeros(len(values))
        else:
            result[name] = values / mean * plasticity[name] * unit_costs[name]
    return result
