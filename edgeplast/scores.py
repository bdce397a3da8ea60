"""The ScoreTable: one or more scores for each component of a model, as a file."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import msgspec

from edgeplast.adaptation import MemoryReport
from edgeplast.documents import Count, Document
from edgeplast.errors import InputError, one_of
from edgeplast.outline import Outline
from edgeplast.recorded_graph import RecordedGraph
from edgeplast.showing import Plot, plotted, table

DEFAULT_METHOD = "plasticity-branch"
"""The method that the measurements speak for: the table and the reasons are in ``scoring/README.md``."""


class ComponentScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The score of one component by one method.

    Attributes:
        score: larger means more worth training.
        parameters: number of parameters of the component.
        standard_error: of the score, over ``samples``; 0 where the method has no sampling noise.
        samples: pairs, batches or directions the score is a mean of.
    """

    score: float
    parameters: Count
    standard_error: float = 0.0
    samples: Count = 0


class ScoreTable(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scores of the components of one model, by one main method and any number of others.

    Attributes:
        method: the method that ``components`` holds and that planning uses.
        components: component name to score, in data-flow order.
        others: further methods measured in the same run: method to component name to score.
        outline: of the scored model.
        graph: its forward graph, which the planner walks.
        classes: class names of the images, in label order; empty where they had none.
        seconds: wall time that scoring took, by method.
        memory: what measuring held on a device; None where nothing was measured there.
        notes: what a reader should know (early stopping, components without a score and why).
    """

    KIND: ClassVar[str] = "score table"
    FORMAT: ClassVar[int] = 2
    OLD: ClassVar[str] = "Score the model again: edgeplast score MODEL --data images/ -o scores.json"
    format_version: int = 2

    method: str
    components: dict[str, ComponentScore]
    outline: Outline
    graph: RecordedGraph
    others: dict[str, dict[str, ComponentScore]] = {}
    classes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    memory: MemoryReport | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            for name, entry in self.by(method).items():
                if not math.isfinite(entry.score):
                    raise InputError(f"The {method} score of {name} is {entry.score}: scores must be finite numbers.")

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods in this table, the main one first."""
        return (self.method, *self.others)

    def by(self, method: str) -> dict[str, ComponentScore]:
        """Return component name to score by one method.

        Raises:
            UsageError: the table does not hold that method.
        """
        if method == self.method:
            return self.components
        if method not in self.others:
            raise one_of("score method in this table", method, self.methods)
        return self.others[method]

    def place(self, unit: str) -> tuple[int | None, str]:
        """Return the block of what was scored, None outside blocks, and its kind: ``attn``, ``head 0``, ``mlp``."""
        parts = self.outline.components
        owner = max((c for c in parts if f"{unit}.".startswith(f"{c.name}.")), key=lambda c: len(c.name), default=None)
        if owner is not None:
            return owner.block, unit[len(owner.name) + 1 :].replace(".", " ") or owner.kind
        where, _, kind = unit.rpartition(".")
        return next((c.block for c in parts if c.name.startswith(f"{where}.")), None), kind

    def ranking(self, method: str | None = None) -> list[str]:
        """Return component names, highest score first."""
        table = self.by(method or self.method)
        return sorted(table, key=lambda name: -table[name].score)

    def ties(self, method: str | None = None) -> list[tuple[str, str]]:
        """Return the neighbours in the ranking that the samples cannot tell apart.

        A pair counts as tied when its scores differ by at most 1.96 standard errors of their difference,
        √(e₁² + e₂²), the errors taken as independent.
        """
        table, order = self.by(method or self.method), self.ranking(method)
        return [
            (upper, lower)
            for upper, lower in pairwise(order)
            if table[upper].score - table[lower].score
            <= 1.96 * math.hypot(table[upper].standard_error, table[lower].standard_error)
        ]

    def plot(self, method: str | None = None) -> Plot:
        """Return a heatmap, blocks × components, as a matplotlib figure.

        Args:
            method: which of the table's; by default its main one.

        Raises:
            UsageError: the table does not hold that method.
            MissingExtraError: matplotlib is not installed.
        """
        return plotted("scores", self, method)

    def _repr_html_(self) -> str:
        """Show the ranking in a notebook."""
        best = self.ranking()
        rows = [
            (
                name,
                f"{(entry := self.components[name]).score:.3g} ± {1.96 * entry.standard_error:.2g}",
                f"{entry.parameters:,}",
            )
            for name in best[:20]
        ]
        more = f"and {len(best) - 20} more" if len(best) > 20 else ""
        return table(("component", f"{self.method} score ± 95 %", "parameters"), rows, more, self.outline.model)
