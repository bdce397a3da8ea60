"""The Plan: which components train, how the frozen ones are stored, and the step that its prediction is for."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from edgeplast.budget import Budget
from edgeplast.documents import Count, Document
from edgeplast.errors import InputError
from edgeplast.optimizers import DEFAULT_OPTIMIZER, optimizer_facts
from edgeplast.outline import Outline
from edgeplast.recomputation import IN_WORDS, Recompute
from edgeplast.showing import Plot, plotted, table
from edgeplast.units import format_bytes


class PlannedComponent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is planned for one component.

    Attributes:
        trainable: whether the device changes its parameters.
        parameters: how many it has.
        weight_bits: bits of each stored matrix element: 32, 8 or 4 (trainable components: 32).
        kept_fraction: parameters kept by pruning over parameters before it.
        score: what the planner went by; None where the method gives this component none.
        standard_error: of the score; 0 where there is none.
    """

    trainable: bool
    parameters: Count
    weight_bits: int = 32
    kept_fraction: float = 1.0
    score: float | None = None
    standard_error: float = 0.0

    def __post_init__(self) -> None:
        if self.weight_bits not in (32, 8, 4) or (self.trainable and self.weight_bits != 32):
            raise InputError(
                f"weight_bits {self.weight_bits} is not possible for a "
                f"{'trainable (only 32)' if self.trainable else 'frozen (32, 8 or 4)'} component."
            )


class Plan(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to train under a budget.

    Attributes:
        outline: of the model planned for, its head the new one.
        components: every component of the model, in data-flow order.
        strategy: how the trainable ones were chosen, e.g. ``"plasticity"`` or ``"names"``.
        budget: what was asked for.
        optimizer: whose state the budget was computed with.
        batch_size: images an optimizer step is computed from.
        micro_batch_size: images that pass through the graph at once; gradients of a batch add up. With ``recompute``
            the fastest step that fits the budget around an assumed process; the device measures its own, and starts
            with the fastest step that fits around that.
        recompute: how much of the blocks is computed again in the backward pass instead of kept.
        predicted_peak_bytes: of that step, by the graph that the exporter writes.
        classes: class names of the new head, in label order; empty where the scored images had none.
        notes: what a reader should know of the choice.
    """

    KIND: ClassVar[str] = "plan"
    FORMAT: ClassVar[int] = 2
    OLD: ClassVar[str] = (
        "Make it again: edgeplast score MODEL … -o scores.json, edgeplast plan scores.json -o plan.json"
    )
    format_version: int = 2

    outline: Outline
    components: dict[str, PlannedComponent]
    strategy: str
    budget: Budget
    optimizer: str = DEFAULT_OPTIMIZER
    batch_size: Count = 16
    micro_batch_size: Count = 16
    recompute: Recompute = "none"
    predicted_peak_bytes: Count = 0
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        optimizer_facts(self.optimizer)
        expected = list(self.outline.names)
        if list(self.components) != expected:
            odd = sorted(set(self.components) ^ set(expected))
            raise InputError(
                f"The plan does not list the components of {self.outline.model} in order"
                f"{': ' + ', '.join(odd) if odd else ''}. Make it again with: edgeplast plan scores.json"
            )
        if not 1 <= self.micro_batch_size <= self.batch_size:
            raise InputError(
                f"micro_batch_size {self.micro_batch_size} must lie between 1 and batch_size {self.batch_size}."
            )
        if not all(self.components[name].trainable for name in self.outline.head):
            raise InputError("The plan freezes the head; a new head must train, or nothing can be learned.")

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the components that train, in data-flow order."""
        return tuple(name for name, c in self.components.items() if c.trainable)

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that train."""
        return sum(c.parameters for c in self.components.values() if c.trainable)

    def plot(self) -> Plot:
        """Return a picture of what trains, a column a block, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plotted("plan", self)

    def _repr_html_(self) -> str:
        """Show the choice in a notebook."""
        total = sum(c.parameters for c in self.components.values())
        rows = [
            ("trains", f"{self.trainable_parameters:,} of {total:,} parameters: {', '.join(self.trainable)}"),
            ("strategy", self.strategy),
            ("predicted peak", f"{format_bytes(self.predicted_peak_bytes)} (budget: {self.budget})"),
            ("a step", f"{self.batch_size} images, {self.micro_batch_size} at once, {IN_WORDS[self.recompute]}"),
        ]
        return table((), rows, " ".join(self.notes), self.outline.model)


def plan_by_names(outline: Outline, train: str, *, weight_bits: int = 8, **more: Any) -> Plan:
    """Return a plan that trains what a pattern names, and the head; nothing is scored or fitted into a budget.

    Args:
        outline: of the model.
        train: as in :meth:`edgeplast.outline.Outline.select`; ``""`` names nothing but the head.
        weight_bits: of what is frozen.
        **more: further fields of the plan: ``classes``, ``budget``, ``batch_size`` …

    Raises:
        UsageError: the pattern names nothing in the model.
    """
    chosen = {*outline.select(train), *outline.head}
    components = {
        c.name: PlannedComponent(
            trainable=c.name in chosen, parameters=c.size, weight_bits=32 if c.name in chosen else weight_bits
        )
        for c in outline.components
    }
    given: dict[str, Any] = {"strategy": "names", "budget": Budget()} | more
    return Plan(outline=outline, components=components, **given)
