"""Outline and forward graph of a model: what scores carry to the planner."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import torch

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.recording import recorded
from edgeplast.models import input_shape_of, name_of, source_of
from edgeplast.outline import Outline
from edgeplast.recorded_graph import RecordedGraph
from edgeplast_exporters.capture import capture


def outlined(
    model: torch.nn.Module, name: str | None = None, input_shape: tuple[int, int, int] | None = None
) -> tuple[Outline, Graph]:
    """Return the outline of a model and its forward graph.

    Args:
        model: not changed.
        name: of the model; by default timm's.
        input_shape: channels, height and width of an image; by default what timm knows of the model.

    Raises:
        InputError: a part of the model has no graph; the message names the module.
    """
    captured = capture(model, input_shape or input_shape_of(model), name=name or name_of(model))
    source = source_of(model)  # a pruned model remembers what was taken out
    kept = source.kept_fraction if source else {}
    return msgspec.structs.replace(captured.outline, kept_fraction=kept), captured.graph


def outline_of(
    model: torch.nn.Module, input_shape: tuple[int, int, int] | None = None
) -> Callable[[], tuple[Outline, RecordedGraph]]:
    """Return what gives a model's outline and recorded graph, as :func:`edgeplast.scoring.score` takes it."""

    def found() -> tuple[Outline, RecordedGraph]:
        outline, graph = outlined(model, input_shape=input_shape)
        return outline, recorded(graph)

    return found
