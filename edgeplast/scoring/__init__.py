"""Score: which parts of a pretrained vision model answer a change of input with a large change of output."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from edgeplast.errors import InputError, UsageError
from edgeplast.progress import Progress, silent
from edgeplast.score_methods import check_scoring
from edgeplast.scores import DEFAULT_METHOD, ComponentScore, ScoreTable
from edgeplast.scoring.anatomy import is_plain, parts_of
from edgeplast.scoring.bodies import Wired
from edgeplast.scoring.examples import Examples
from edgeplast.scoring.job import Estimate, Job
from edgeplast.scoring.methods import METHODS, Method
from edgeplast.scoring.moments import torchrun_group
from edgeplast.scoring.running import prepared
from edgeplast.torch_devices import choose_device
from edgeplast.wiring import Traced

__all__ = ["METHODS", "Examples", "Method", "score"]


def score(
    model: torch.nn.Module,
    images: Examples,
    traced: Traced,
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
    """Score the components of a model on pictures.

    The model comes out as it went in: modes, gradients and weights are as they were, also after an error.
    Under torchrun the pairs are split over the processes and every process returns the same table.

    Args:
        model: takes one batch of pictures and returns logits.
        images: preprocessed pictures of the data to adapt to.
        traced: its outline and forward graph, which go into the table, and its operators
            (``edgeplast_exporters.outlining.traced``).
        method: what ``components`` of the table holds; one of :data:`METHODS`.
        others: further methods to measure on the same pictures.
        reference: pictures of the source domain; pairs then take one of each.
        pairs: the most pairs, pictures or directions a method uses; it stops earlier when the ranking has
            settled (:mod:`edgeplast.scoring.moments`).
        seed: of pairs, directions and drawn labels.
        device: ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        granularity: ``component``, or for a plain vision transformer ``head`` (attn split into
            ``blocks.3.attn.head.0`` …) or ``branch`` (method plasticity-branch alone: attn∘norm1 and mlp∘norm2).
        progress: told how far each method is.

    Raises:
        UsageError: an unknown method, granularity or device, one that needs a plain vision transformer and got
            another model, or fewer than two pairs.
        InputError: the pictures do not fit the model, or a component failed; the message names it.
    """
    names = list(dict.fromkeys((method, *others)))
    check_scoring(names, pairs, granularity)
    plain = is_plain(model)
    if not plain:
        _check_general(names, granularity, traced.outline.model)
        if not Wired(traced).units:
            raise InputError(
                f"{traced.outline.model} has no component between its embedding and its head, so there is nothing to "
                "score. Plan it by name: edgeplast.plans.plan_by_names(outline, 'all')."
            )
    seconds: dict[str, float] = {}
    tables: dict[str, dict[str, ComponentScore]] = {}
    with torchrun_group(), prepared(model, choose_device(device)) as ready:
        job = Job(ready, images, traced, plain, reference, pairs, seed, granularity, progress)
        sizes = _sizes(ready, granularity) if plain else {c.name: c.size for c in traced.outline.components}
        for name in names:
            start = time.perf_counter()
            tables[name] = _entries(METHODS[name].function(job), sizes)
            seconds[name] = time.perf_counter() - start
    return ScoreTable(
        method=method,
        components=tables.pop(method),
        others=tables,
        outline=traced.outline,
        graph=traced.graph,
        classes=tuple(images.classes),
        seconds=seconds,
        notes=tuple(job.notes),
    )


def _check_general(names: Sequence[str], granularity: str, model: str) -> None:
    """Raise where a method or granularity was asked for that only a plain vision transformer has."""
    needing = [name for name in names if METHODS[name].plain]
    if needing:
        rest = ", ".join(name for name, method in METHODS.items() if not method.plain)
        raise UsageError(
            f"Score method{'s' if len(needing) > 1 else ''} {', '.join(map(repr, needing))} need"
            f"{'' if len(needing) > 1 else 's'} a plain vision transformer with numbered blocks of norm1, attn, norm2, "
            f"fc1 and fc2, which {model} is not. For any model: {rest}."
        )
    if granularity != "component":
        raise UsageError(
            f"Granularity {granularity!r} needs a plain vision transformer with numbered blocks of norm1, attn, norm2, "
            f"fc1 and fc2, which {model} is not. Leave --granularity out: component works for any model."
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
