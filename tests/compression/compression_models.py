"""Pictures of noise, and scores by hand, for pruning small models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from edgeplast.graphs.recording import recorded
from edgeplast.scores import ComponentScore, ScoreTable
from edgeplast_exporters.outlining import outlined


class Noise:
    """Pictures that are noise; each index always gives the same one."""

    def __init__(self, count: int = 12, side: int = 32) -> None:
        self._count, self._side = count, side

    def __len__(self) -> int:
        return self._count

    def tensor(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        return rng.standard_normal((3, self._side, self._side), dtype=np.float32)


def table(model: nn.Module, scores: Mapping[str, float]) -> ScoreTable:
    """Scores of 1 for every component but those named; what is None has no score."""
    outline, graph = outlined(model)
    given = {c.name: scores.get(c.name, 1.0) for c in outline.components if c.role == "inner"} | dict(scores)
    return ScoreTable(
        method="by hand",
        components={n: ComponentScore(score=s, parameters=1) for n, s in given.items() if s is not None},
        outline=outline,
        graph=recorded(graph),
    )
