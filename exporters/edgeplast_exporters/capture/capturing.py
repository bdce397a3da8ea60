"""From a module to everything the exporter needs of it: forward graph, weights, outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.export import ExportedProgram

from edgeplast.contract import LOGITS
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.cancel_layouts import cancel_layouts
from edgeplast.graphs.passes.join_slices import join_slices
from edgeplast.graphs.passes.narrow_rows import narrow_rows
from edgeplast.outline import Component, Outline, kind_of
from edgeplast.wiring import Wiring
from edgeplast_exporters.capture.naming import Naming, name_components
from edgeplast_exporters.capture.segmenting import outline_segments, with_blocks
from edgeplast_exporters.capture.spanning import wiring_of
from edgeplast_exporters.capture.tapping import Taps, taps_of
from edgeplast_exporters.capture.tracing import prepared, trace
from edgeplast_exporters.capture.translating import Translation


@dataclass(frozen=True)
class Captured:
    """A model without torch.

    Attributes:
        graph: from ``images`` (B, C, H, W) to ``logits`` (B, classes), every parameter a frozen weight.
        parameters: parameter name to float32 array, in the shape that the graph reads.
        constants: large arrays that are no parameters (statistics of norms, tables, masks), by name of their weight.
        outline: its parts.
        taps: what scores are measured at; None where nothing was asked for or there is nothing.
    """

    graph: Graph
    parameters: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]
    outline: Outline
    taps: Taps | None = None

    @property
    def owner(self) -> dict[str, str]:
        """Parameter name to the component that it belongs to."""
        return {name: component.name for component in self.outline.components for name in component.parameters}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """What the graph's weights hold: parameters and constants."""
        return self.parameters | self.constants


def capture(
    model: torch.nn.Module, input_shape: Sequence[int], *, name: str | None = None, taps: bool = False
) -> Captured:
    """Capture a model that takes one batch of images and returns logits.

    Args:
        model: not changed; its evaluation mode in float32 is captured: dropout off, statistics of norms fixed.
        input_shape: channels, height and width of an image.
        name: of the model, for the outline.
        taps: find out what scores are measured at, too.

    Raises:
        InputError: it cannot be traced, or a part has no graph; the message names the module's path.
    """
    captured, program, naming, translation = _captured(model, input_shape, name)
    if not taps:
        return captured
    raw = translation.emit.graph
    found = taps_of(raw, wiring_of(model, program, naming), translation.made, captured.outline)
    return replace(captured, taps=found and replace(found, graph=_tidied(found.graph, naming)))


def wired(model: torch.nn.Module, input_shape: Sequence[int], *, name: str | None = None) -> tuple[Captured, Wiring]:
    """Capture a model for scoring: also its operators in torch, with its components found in them.

    Args and raises: see :func:`capture`.
    """
    captured, program, naming, _ = _captured(model, input_shape, name)
    return captured, wiring_of(model, program, naming)


def _captured(
    model: torch.nn.Module, input_shape: Sequence[int], name: str | None
) -> tuple[Captured, ExportedProgram, Naming, Translation]:
    channels, height, width = (int(n) for n in input_shape)
    with prepared(model) as probe:
        program = trace(probe, (channels, height, width))
        naming = name_components(probe, program)
        translation = Translation(probe, program, naming.of_node)
        graph = translation.run()
        tensors = {name: p.detach().numpy() for name, p in probe.named_parameters()}
    _check_all_read(model, graph, naming)
    graph = _tidied(graph, naming)
    parameters = {
        n: np.ascontiguousarray(tensor.reshape(graph.values[n].shape))
        for n, tensor in tensors.items()
        if n in graph.values
    }
    constants = {n: array for n, array in translation.emit.arrays.items() if n in graph.values}
    outline = Outline(
        model=name or type(model).__name__,
        input_shape=(channels, height, width),
        classes=graph.values[LOGITS].shape[1],
        components=_components(graph, naming, parameters),
        segments=outline_segments(graph, naming),
    )
    return Captured(graph, parameters, constants, outline), program, naming, translation


def _tidied(graph: Graph, naming: Naming) -> Graph:
    """Return the graph of a walk after the passes that every use of it wants."""
    graph = with_blocks(join_slices(cancel_layouts(narrow_rows(cancel_layouts(graph)))), naming)
    _drop_unread(graph)
    return graph


def _components(graph: Graph, naming: Naming, parameters: dict[str, np.ndarray]) -> tuple[Component, ...]:
    block = {node.component: node.block for node in graph.nodes}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for parameter, component in naming.of_parameter.items():
        if parameter in parameters:
            shapes.setdefault(component, {})[parameter] = parameters[parameter].shape
    return tuple(
        Component(
            name=name,
            kind=kind_of(name),
            role=naming.role[name],  # type: ignore[arg-type]
            block=block.get(name),
            parameters=owned,
        )
        for name, owned in shapes.items()
    )


def _drop_unread(graph: Graph) -> None:
    """Forget the weights and constants that no node of a graph reads any more."""
    read = {name for node in graph.nodes for name in node.inputs}
    unread = {*graph.weights, *graph.constants} - read
    graph.weights = [name for name in graph.weights if name in read]
    graph.constants = {name: array for name, array in graph.constants.items() if name in read}
    graph.values = {name: value for name, value in graph.values.items() if name not in unread}


def _check_all_read(model: torch.nn.Module, graph: Graph, naming: Naming) -> None:
    read = {name for node in graph.nodes for name in node.inputs}
    unread = [n for n, p in model.named_parameters() if n not in read]
    del naming
    if unread:
        raise InputError(
            f"Parameters of {type(model).__name__} that the logits do not depend on: {', '.join(unread[:5])}"
            f"{' …' if len(unread) > 5 else ''}. Remove them; nothing could be learned in them."
        )
