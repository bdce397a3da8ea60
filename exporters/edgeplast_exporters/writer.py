"""From a model and a Plan to a Bundle on disk: whole or absent, and proven equal to the model first."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import torch
from safetensors.numpy import save_file

from edgeplast.bundle import (
    DEPLOYMENT_GRAPH,
    EVALUATION_GRAPH,
    FROZEN,
    MANIFEST,
    TRAINABLE,
    Bundle,
    Manifest,
    Tier,
    TrainingGraph,
    describe_file,
)
from edgeplast.contract import TAPS
from edgeplast.errors import InputError, UsageError
from edgeplast.footprint import Footprint
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.footprints import footprint_of
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.halves import Halves
from edgeplast.graphs.passes.head_features import with_features
from edgeplast.graphs.passes.merge_low_rank import merge_low_rank
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import check_finite
from edgeplast.outline import Outline
from edgeplast.outputs import building_folder, refuse_existing
from edgeplast.plans import Plan
from edgeplast.prefixes import PREFIX_GRAPH, Prefix
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast.recomputation import RECOMPUTE, Recompute
from edgeplast.score_taps import SCORE_GRAPH
from edgeplast.units import format_bytes
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx
from edgeplast_exporters.preparing import prepared
from edgeplast_exporters.refining import regrouped
from edgeplast_exporters.scoring_graph import scoring_graph
from edgeplast_exporters.storing import FrozenCompute, FrozenStorage
from edgeplast_exporters.tiers import NOTHING_SCORED, beside, stored_for, tier_components
from edgeplast_exporters.training import training_graph

MOST_MODEL_BYTES = (1 << 31) - (1 << 24)
"""Largest deployed model: protobuf cannot hold 2 GiB, and `deploy` writes graph and weights into one file."""

_SUFFIX: dict[Recompute, str] = {"none": "", "selective": "-selective", "full": "-recompute"}


def export(
    model: torch.nn.Module,
    plan: Plan,
    *,
    into: Path,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    frozen_compute: FrozenCompute = "fp32",
    images: Sequence[np.ndarray] = (),
    alternatives: Mapping[str, Sequence[str]] = MappingProxyType({}),
    force: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Write the bundle that a plan asks for.

    Args:
        model: a vision transformer in evaluation mode whose head has one output per class; not changed.
        plan: made for this architecture.
        into: the folder to write.
        classes: class names in the order of the head's outputs.
        preprocessing: of the model.
        frozen_compute: ``"int8"``: matrices that are stored in 8 bits and lie before everything that trains are
            multiplied in integers, which is faster and less exact.
        images: preprocessed pictures, float32 (3, H, W) each, in random order, to calibrate on: needed for integers;
            4-bit scales are better with them.
        alternatives: sets of components by name, of which a device may train another one than the plan's: each gets
            graphs of its own, and what any of them trains is stored as what trains.
        force: replace what is there.
        progress: told of each graph.

    Raises:
        UsageError: ``into`` exists and ``force`` is not given, or integers are asked for without images or with
            nothing that could compute in them.
        InputError: plan and model do not fit each other, or a part of the model cannot be exported.
    """
    refuse_existing(into, force=force)
    check_finite(model)
    progress("reading the model's graph", 0, 0)
    shape = len(preprocessing.mean), *preprocessing.image_size
    captured = regrouped(capture(model, shape, name=plan.outline.model, taps=True), plan.outline)
    _check_classes(captured.outline, classes)
    check_fit(plan, captured.outline)
    progress("checking the graph against torch", 0, 0)
    check_parity(model, captured)
    return write_bundle(
        captured, plan, into=into, classes=classes, preprocessing=preprocessing, frozen_compute=frozen_compute,
        images=images, alternatives=alternatives, force=force, progress=progress,
    )  # fmt: skip


def write_bundle(
    captured: Captured,
    plan: Plan,
    *,
    into: Path,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    frozen_compute: FrozenCompute = "fp32",
    images: Sequence[np.ndarray] = (),
    alternatives: Mapping[str, Sequence[str]] = MappingProxyType({}),
    force: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Write the bundle of a model that is captured and proven; see :func:`export`."""
    captured = regrouped(captured, plan.outline)
    sets = beside(alternatives, plan, captured)
    plan = stored_for(plan, sets)
    learning = {*plan.trainable, *(name for components in sets.values() for name in components)}
    _check_size(captured.graph)
    made = prepared(captured, plan, learning, frozen_compute=frozen_compute, images=images, progress=progress)
    scoring = scoring_graph(captured, made.trainable, plan.outline)
    if sets and scoring is None:
        raise UsageError(NOTHING_SCORED.format(model=plan.outline.model))
    model, trainable, frozen = captured.outline.model, made.trainable, made.frozen
    parameters = frozen.parameters
    plan = msgspec.structs.replace(plan, notes=(*plan.notes, *frozen.notes))
    stored = frozen.described(trainable)
    with building_folder(into, force=force) as folder:
        save_file(frozen.arrays(trainable), folder / FROZEN)
        save_file({name: parameters[name] for name in trainable}, folder / TRAINABLE)
        writing = _GraphWriter(folder, frozen, _count(parameters, trainable))
        evaluation = writing.write(
            with_features(made.varying, captured.outline.head, made.owner), EVALUATION_GRAPH, predicts=True
        )
        prefix = _write_prefix(writing, made.cut) if made.cut else None
        scored = None
        if scoring is not None:
            told = {TAPS: scoring.taps.packed()}
            scored = writing.write(scoring.graph, SCORE_GRAPH, predicts=True, metadata=told)
        (folder / DEPLOYMENT_GRAPH).write_bytes(
            to_onnx(frozen.deployable(made.forward), model, dict.fromkeys(made.forward.weights), plain=True)
        )
        tiers = _write_tiers(writing, made.varying, tier_components(plan), sets, made.owner, progress)
        manifest = Manifest(
            model=model,
            classes=tuple(classes),
            preprocessing=preprocessing,
            plan=plan,
            parameters=stored,
            tiers=tuple(tiers),
            evaluation=evaluation,
            prefix=prefix,
            scoring=scored,
            files={p.name: describe_file(p) for p in sorted(folder.iterdir())},
            versions=_versions(),
        )
        manifest.write(folder / MANIFEST)
    return Bundle.open(into)


@dataclass(frozen=True)
class _GraphWriter:
    """Makes graphs read weights as they are stored, measures and writes them into one folder."""

    folder: Path
    frozen: FrozenStorage
    held_parameters: int

    def write(
        self,
        graph: Graph,
        file: str,
        trained_parameters: int = 0,
        *,
        predicts: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Footprint:
        quantized = self.frozen.reading(graph)
        if predicts:
            quantized = merge_low_rank(quantized)
        data = to_onnx(quantized, Path(file).stem, safetensors_layout(self.folder / FROZEN), metadata=metadata)
        (self.folder / file).write_bytes(data)
        return footprint_of(
            quantized,
            graph_bytes=len(data),
            trained_parameters=trained_parameters,
            held_parameters=self.held_parameters,
        )


def _write_prefix(writing: _GraphWriter, cut: Halves) -> Prefix:
    footprint = writing.write(cut.prefix, PREFIX_GRAPH)
    return Prefix(footprint=footprint, shape=cut.latents.shape, flops=flops_per_image(cut.prefix))


def _write_tiers(
    writing: _GraphWriter,
    varying: Graph,
    of_plan: Sequence[tuple[str, tuple[str, ...]]],
    sets: Mapping[str, tuple[str, ...]],
    owner: dict[str, str],
    progress: Progress,
) -> list[Tier]:
    tiers = []
    chosen = [*of_plan, *sets.items()]
    for done, (tier, components) in enumerate(chosen):
        progress("writing training graphs", done, len(chosen))
        names = [name for name, component in owner.items() if component in components]
        kept = training_graph(varying, names)
        variants: dict[Recompute, Graph] = {"none": kept}
        for how in RECOMPUTE[1:]:
            again = recompute(kept, how)
            if _saves_memory(again, list(variants.values())[-1]):
                variants[how] = again
        graphs = [
            TrainingGraph(
                file=(file := f"train-{tier}{_SUFFIX[how]}.onnx"),
                footprint=writing.write(graph, file, _count(writing.frozen.parameters, names)),
                recompute=how,
                step_flops=flops_per_image(graph),
            )
            for how, graph in variants.items()
        ]
        tiers.append(Tier(name=tier, components=components, graphs=tuple(graphs), alternative=tier in sets))
    progress("writing training graphs", len(chosen), len(chosen))
    return tiers


def _saves_memory(again: Graph, kept: Graph) -> bool:
    """Whether recomputation lowers the peak of one image: not where the crossed part is a block or two deep."""
    return max(line.at(1) for line in transient_lines(again)) < max(line.at(1) for line in transient_lines(kept))


def _check_classes(outline: Outline, classes: Sequence[str]) -> None:
    if outline.classes != len(classes):
        raise InputError(
            f"The model's head has {outline.classes} outputs but {len(classes)} classes were named. "
            "Give it a new head (edgeplast.models.with_classes), or name as many classes."
        )


def check_fit(plan: Plan, outline: Outline) -> None:
    """Raise unless a plan was made for a model.

    Raises:
        InputError: it was made for another; the message says how they differ.
    """
    made_for = f"The plan was made for another model ({plan.outline.model})"
    if plan.outline.blocks != outline.blocks:
        raise InputError(
            f"{made_for}: its depth is {plan.outline.blocks} blocks, and {outline.blocks} here. "
            "Score and plan this model."
        )
    here = {component.name: component.size for component in outline.components}
    for name, component in plan.components.items():
        size = here.pop(name, 0)
        if name not in plan.outline.head and component.parameters != size:
            raise InputError(
                f"{made_for}: {name} has {component.parameters} parameters there and {size} here. "
                "Score and plan this model."
            )
    if here:
        raise InputError(f"{made_for}: it says nothing of {', '.join([*here][:5])}. Score and plan this model.")


def _check_size(forward: Graph) -> None:
    sizes = {name: forward.values[name].bytes for name in forward.weights}
    if sum(sizes.values()) <= MOST_MODEL_BYTES:
        return
    largest = max(sizes, key=sizes.__getitem__)
    reader = next(node for node in forward.nodes if largest in node.inputs)
    raise InputError(
        f"The model has {format_bytes(sum(sizes.values()))} of weights, and an ONNX file without external data holds "
        f"less than 2 GiB. The largest component is {reader.component}, whose {reader.op} reads "
        f"{format_bytes(sizes[largest])} ({largest}). Export a smaller model."
    )


def _count(parameters: dict[str, np.ndarray], names: list[str]) -> int:
    return sum(parameters[name].size for name in names)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("edgeplast", "torch", "timm", "onnx", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
