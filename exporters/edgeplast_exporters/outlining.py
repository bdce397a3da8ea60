"""Outline, forward graph and wiring of a model: what it is scored by, and what scores carry to the planner."""

from __future__ import annotations

import msgspec
import torch

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.recording import recorded
from edgeplast.models import input_shape_of, name_of, source_of
from edgeplast.outline import Outline
from edgeplast.wiring import Traced
from edgeplast_exporters.capture import Captured, capture, wired


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
    return _outline(model, captured), captured.graph


def traced(model: torch.nn.Module, input_shape: tuple[int, int, int] | None = None) -> Traced:
    """Return what :func:`edgeplast.scoring.score` needs of a model.

    Args and raises: see :func:`outlined`.
    """
    captured, wiring = wired(model, input_shape or input_shape_of(model), name=name_of(model))
    return Traced(_outline(model, captured), recorded(captured.graph), wiring)


def _outline(model: torch.nn.Module, captured: Captured) -> Outline:
    source = source_of(model)  # a pruned model remembers what was taken out
    return msgspec.structs.replace(captured.outline, kept_fraction=source.kept_fraction if source else {})
