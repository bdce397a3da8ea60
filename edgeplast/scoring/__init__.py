"""Score: which parts of a pretrained vision transformer answer a change of input with a large change of output."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgeplast.models import check_family
from edgeplast.outline import Outline
from edgeplast.progress import Progress, silent
from edgeplast.recorded_graph import RecordedGraph
from edgeplast.score_methods import check_scoring
from edgeplast.scores import DEFAULT_METHOD, ComponentScore, ScoreTable
from edgeplast.scoring.anatomy import parts_of
from edgeplast.scoring.examples import Examples
from edgeplast.scoring.job import Estimate, Job
from edgeplast.scoring.methods import METHODS, Method
from edgeplast.scoring.moments import torchrun_group
from edgeplast.scoring.running import prepared
from edgeplast.torch_devices import choose_device

__all__ = ["METHODS", "Examples", "Method", "score"]


def score(
    model: torch.nn.Module,
    images: Examples,
    outlined: Callable[[], tuple[Outline, RecordedGraph]],
    *,
    method: str = DEFAULT_METHOD,
    others: Sequence[str] = (),
    reference: Examples | None = None,
    pairs: int = 64,
    seed: int = 0,
    device: str = "auto",
    granularity: str = "component",
    progress: Progress = silent,
) -> ScoreTable:
    """Score the components of every block of a model on pictures.

    The model comes out as it went in: modes, gradients and weights are as they were, also after an error.
    Under torchrun the pairs are split over the processes and every process returns the same table.

    Args:
        model: a model of the family (:func:`edgeplast.models.load_model`).
        images: preprocessed pictures of the data to adapt to.
        outlined: gives the model's outline and forward graph, which go into the table; called when all is scored.
        method: what ``components`` of the table holds; one of :data:`METHODS`.
        others: further methods to measure on the same pictures.
        reference: pictures of the source domain; pairs then take one of each.
        pairs: the most pairs, pictures or directions a method uses; it stops earlier when the ranking has
            settled (:mod:`edgeplast.scoring.moments`).
        seed: of pairs, directions and drawn labels.
        device: ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        granularity: ``component``, ``head`` (attn split into ``blocks.3.attn.head.0`` …), or ``branch``
            (method plasticity-branch alone: attn∘norm1 and mlp∘norm2).
        progress: told how far each method is.

    Raises:
        UsageError: an unknown method, granularity or device, or fewer than two pairs.
        InputError: the model is outside the family, the pictures do not fit it, or a component failed; the
            message names it.
    """
    names = list(dict.fromkeys((method, *others)))
    check_scoring(names, pairs, granularity)
    check_family(model)
    seconds: dict[str, float] = {}
    tables: dict[str, dict[str, ComponentScore]] = {}
    with torchrun_group(), prepared(model, choose_device(device)) as ready:
        sizes = _sizes(ready, granularity)
        job = Job(ready, images, reference, pairs, seed, granularity, progress)
        for name in names:
            start = time.perf_counter()
            tables[name] = _entries(METHODS[name].function(job), sizes)
            seconds[name] = time.perf_counter() - start
    outline, graph = outlined()
    return ScoreTable(
        method=method,
        components=tables.pop(method),
        others=tables,
        outline=outline,
        graph=graph,
        classes=tuple(images.classes),
        seconds=seconds,
        notes=tuple(job.notes),
    )


def _sizes(model: torch.nn.Module, granularity: str) -> dict[str, int]:
    """Unit name to number of parameters; a whole MLP branch has those of fc1 and fc2."""
    parameters: dict[str, Any] = dict(model.named_parameters())
    parts = parts_of(model, "head" if granularity == "head" else "component")
    sizes = {unit: sum(parameters[n][index].numel() for n, index in owned) for unit, owned in parts.items()}
    for unit in list(sizes):
        if unit.endswith(".fc1"):
            where = unit.removesuffix(".fc1")
            sizes[f"{where}.mlp"] = sizes[unit] + sizes[f"{where}.fc2"]
    return sizes


def _entries(estimates: dict[str, Estimate], sizes: dict[str, int]) -> dict[str, ComponentScore]:
    return {
        name: ComponentScore(
            score=float(estimate.score),
            parameters=sizes[name],
            standard_error=float(estimate.standard_error),
            samples=estimate.samples,
        )
        for name, estimate in estimates.items()
    }
