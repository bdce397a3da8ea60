"""Compress: a vision transformer in, a smaller one out; heads and hidden units that matter least are taken out.

structure (what can go) → worth (importance × plasticity) → allocation (which go) → constants, distilling (repair)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from edgeplast.compression.costs import costs_of
from edgeplast.compression.distilling import Distillation
from edgeplast.compression.latency import Latency, keep_for_latency
from edgeplast.compression.pictures import Pictures
from edgeplast.compression.pruning import Pruner
from edgeplast.compression.structure import parts_of
from edgeplast.copying import copied
from edgeplast.errors import InputError, UsageError
from edgeplast.models import check_finite, describe, pictures_of, remember, source_of
from edgeplast.outputs import building_folder
from edgeplast.progress import Progress, silent
from edgeplast.pruned import RECORD, WEIGHTS, ModelCost, PrunedBlock, PrunedRecord
from edgeplast.pruning_target import IMPORTANCES, Target, check_rounds
from edgeplast.scores import ScoreTable
from edgeplast.stored_files import describe_file
from edgeplast.torch_devices import choose_device
from edgeplast.units import format_seconds

__all__ = ["IMPORTANCES", "Pruned", "Target", "prune", "write_pruned"]


@dataclass(frozen=True)
class Pruned:
    """A pruned model and what was done to it.

    Attributes:
        model: in evaluation mode, on the processor.
        record: as it is written beside the weights, which have no file yet.
    """

    model: torch.nn.Module
    record: PrunedRecord


def prune(
    model: torch.nn.Module,
    images: Pictures,
    target: Target,
    *,
    scores: ScoreTable | None = None,
    ratios: Mapping[str, float] | None = None,
    importance: str = "taylor",
    steps: int = 1,
    distill_steps: int = 0,
    seed: int = 0,
    device: str = "auto",
    latency: Latency | None = None,
    progress: Progress = silent,
) -> Pruned:
    """Take attention heads and MLP hidden units out of a copy of a model.

    Args:
        model: of timm's vision transformer family; not changed.
        images: unlabelled pictures, for importances, constants and distillation.
        target: how small.
        scores: plasticity of the components, or of each head; None: every component weighs the same.
        ratios: component to the share of its units to take out, instead of what the worth says.
        importance: a key of :data:`IMPORTANCES`.
        steps: rounds; after each, importances are measured anew (and a part of the distillation is done).
        distill_steps: optimizer steps of distillation from ``model``, over all rounds; 0: none.
        seed: of pictures and projections.
        device: for distillation: ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        latency: measures models (:mod:`edgeplast.compression.latency`); needed for a target in seconds, and if
            given, measures before and after.
        progress: told of each round and step.

    Raises:
        UsageError: an option means nothing.
        BudgetError: the target cannot be reached; the message names what can.
        InputError: the model cannot be pruned.
    """
    check_rounds(steps, distill_steps)
    if not len(images):
        raise InputError("There are no pictures to prune with. Give --data with at least one picture.")
    check_finite(model)
    progress("pruning", 0, 0)
    source = copied(model).cpu().eval()
    pruner = Pruner(source, images, scores, dict(ratios or {}), importance, seed, progress)
    if target.latency_seconds is not None:
        if latency is None:
            raise UsageError("A target in seconds needs something to measure with. Give --keep, --macs or --size.")
        counted = Target(keep=keep_for_latency(pruner, source, target.latency_seconds, latency, progress))
    else:
        counted = target
    work = pruner.start(source)
    distillation = Distillation(
        source, images, distill_steps, seed=seed, device=choose_device(device), progress=progress
    )
    saving = pruner.budget(counted)
    for step in range(1, steps + 1):
        progress("pruning" if steps == 1 else f"pruning, round {step} of {steps}", 0, 0)
        pruner.step(work, saving, share=step / steps)
        if distill_steps:
            distillation.run(work.model, until=distill_steps * step // steps)
    seconds = tuple(latency([source, work.model])) if latency else (None, None)
    wanted, measured = target.latency_seconds, seconds[1]
    if wanted is not None and measured is not None and measured > wanted:
        pruner.note(
            f"Measured at the end, an image takes {format_seconds(measured)}, more than the {format_seconds(wanted)} "
            "that the search had found: times vary on this machine. Ask for less if that is too much."
        )
    return _described(source, work.model.eval(), pruner, target, seconds, steps, distillation.losses)


def write_pruned(pruned: Pruned, into: Path, *, force: bool = False) -> PrunedRecord:
    """Write a pruned model's folder, whole or not at all, and return its record.

    Raises:
        UsageError: ``into`` exists and ``force`` is not given.
        InputError: the model was not made from a name, so nothing could make it again; or the disk is full.
    """
    from safetensors.torch import save_file

    if not pruned.record.model:
        raise InputError(
            f"A {type(pruned.model).__name__} that was not made by edgeplast.models.load_model cannot be written as a "
            "pruned model: nothing says how to make it again. Use the pruned module itself, or load the model by name."
        )
    with building_folder(into, force=force) as folder:
        weights = {name: tensor.detach().contiguous() for name, tensor in pruned.model.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        record = msgspec.structs.replace(pruned.record, weights=describe_file(folder / WEIGHTS))
        try:
            record.write(folder / RECORD)
        except TypeError as error:
            raise InputError(f"The model's options cannot be written as JSON: {error}.") from error
    return record


def _described(
    before: torch.nn.Module,
    after: torch.nn.Module,
    pruner: Pruner,
    target: Target,
    seconds: tuple[float | None, ...],
    steps: int,
    losses: list[float],
) -> Pruned:
    old, new, source = describe(before), describe(after), source_of(before)
    earlier = source.kept_fraction if source else {}
    kept = {
        name: earlier.get(name, 1.0) * new.parameters[name] / count
        for name, count in old.parameters.items()
        if new.parameters[name] != count or name in earlier
    }
    if source:
        remember(after, source.name, source.options, kept)
    costs = [costs_of(model, parts_of(model)) for model in (before, after)]
    tenth = max(1, len(losses) // 10)
    record = PrunedRecord(
        model=source.name if source else "",
        options={k: v for k, v in source.options.items() if k != "num_classes"} if source else {},
        classes=new.classes,
        blocks=tuple(
            PrunedBlock(heads=h, hidden=m, heads_before=hb, hidden_before=mb)
            for h, m, hb, mb in zip(new.heads, new.mlp_width, old.heads, old.mlp_width, strict=True)
        ),
        kept_fraction=kept,
        before=ModelCost(parameters=costs[0].parameters, macs=costs[0].macs, latency_seconds=seconds[0]),
        after=ModelCost(parameters=costs[1].parameters, macs=costs[1].macs, latency_seconds=seconds[1]),
        target=str(target),
        method=pruner.method,
        steps=steps,
        distill_steps=len(losses),
        distill_loss=(sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth) if losses else (),
        pictures=pictures_of(before),
        notes=tuple(pruner.notes),
    )
    return Pruned(after, record)
