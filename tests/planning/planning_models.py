"""Models and score tables for planning, made from sizes alone."""

from __future__ import annotations

import random
from typing import Any

from vit_graphs import conv_net as conv_net
from vit_graphs import inner, small_vit_graph, vit

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.recording import recorded
from edgeplast.outline import Outline, kind_of
from edgeplast.planning.estimating import Workload
from edgeplast.scores import ComponentScore, ScoreTable

MIB = 1024**2
MEDIANS = {"norm1": 1.19, "attn": 0.22, "norm2": 1.81, "fc1": 1.69, "fc2": 0.81}
"""ViT-Tiny's on RSSCN7 (plasticity.md)."""

Model = tuple[Outline, Graph]

architecture, small, block_components = vit, small_vit_graph, inner


def table(model: Model, scores: dict[str, float] | None = None, *, seed: int = 0, **more: Any) -> ScoreTable:
    """A table with given scores, or with the medians of ViT-Tiny, scattered."""
    outline, graph = model
    rng = random.Random(seed)
    if scores is None:
        inside = [c.name for c in outline.components if c.role == "inner"]
        scores = {n: MEDIANS.get(kind_of(n), 1.0) * rng.uniform(0.6, 1.4) for n in inside}
    components = {n: ComponentScore(score=s, parameters=outline.component(n).size) for n, s in scores.items()}
    made: dict[str, Any] = {"method": "plasticity", "components": components, "outline": outline}
    return ScoreTable(**(made | {"graph": recorded(graph)} | more))


def workload(model: Model, weight_bits: int = 8, **how: Any) -> Workload:
    outline, graph = model
    return Workload(outline, graph, dict.fromkeys(outline.names, weight_bits), **how)
