"""What is scored, and how a method listens to it: one way for plain vision transformers, one for every other model.

A batch of pictures goes in, what was read at each unit's input and output comes out. A plain vision transformer runs
block by block, because its units can be heads and branches; any other model runs as it was traced
(:mod:`edgeplast.wiring`). On what both can do they give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from edgeplast.outline import Outline
from edgeplast.scoring.anatomy import Anatomy, Tap, Unit, dissect, dissect_branches, parts_of
from edgeplast.scoring.running import embed, listening, naming, never_ran, run_block, taps_of
from edgeplast.wiring import Call, Place, Traced, Wiring

Read = Callable[[Any, torch.Tensor], Any]
"""Given a tap and what it holds of each picture, (B, …), returns what is kept of it."""

Parts = dict[str, list[tuple[str, Any]]]
"""Unit name to the parameters that belong to it, as (parameter name, index) pairs."""


class Body(Protocol):
    """A model cut into units.

    Attributes:
        units: what gets a score, in the order in which data flows.
    """

    units: tuple[Unit, ...]

    def listen(self, model: nn.Module, batch: torch.Tensor, read: Read) -> dict[Any, Any]:
        """Run a batch (B, C, H, W) and return what was read at each tap of the units."""

    def push(self, model: nn.Module, batch: torch.Tensor, push: Push) -> None:
        """Run a batch, and let ``push`` run each unit again on inputs of its own."""

    def forward(
        self, model: nn.Module, batch: torch.Tensor, weights: Mapping[str, torch.Tensor], read: Read | None = None
    ) -> tuple[torch.Tensor, dict[Any, Any]]:
        """Run a batch with other parameters; return logits (B, classes) and what was read at each unit's output."""

    def by_channel(self, tap: Any, value: torch.Tensor, pictures: int) -> torch.Tensor:
        """Return what ``forward`` read as (B, positions, channels)."""

    def blocks(self) -> list[int | None]:
        """Return the number of each unit's block."""

    def parts(self) -> Parts:
        """Return the parameters of each unit."""


Push = Callable[[Sequence[Unit], Sequence[Any], Sequence[torch.Tensor], tuple[int, ...], Callable[..., Any]], None]
"""Given the units of one component, the taps of its inputs, these inputs (B, …), numbers that are its own (for seeds),
and a function that runs it on others under a reader: ``run(inputs, read)`` returns a dict of tap to what was read."""


class Blocks:
    """A plain vision transformer, block by block.

    Args:
        model: of the family that :func:`edgeplast.models.check_family` knows.
        granularity: ``component``, ``head`` or ``branch``.
        branch: units with norms folded into what follows.
    """

    def __init__(self, model: nn.Module, granularity: str, *, branch: bool = False) -> None:
        self.model, self.granularity = model, granularity
        self.anatomies: list[Anatomy] = (dissect_branches if branch else dissect)(model, granularity)
        self.units = tuple(unit for block in self.anatomies for unit in block.units)

    def listen(self, model: nn.Module, batch: torch.Tensor, read: Read) -> dict[Any, Any]:
        """Embed the batch and run one block at a time: memory of one block's activations."""
        heard: dict[Any, Any] = {}
        tokens = embed(model, batch)
        for block in self.anatomies:
            tokens, here = run_block(block, tokens, taps_of(block.units), read)
            heard |= here
        return heard

    def push(self, model: nn.Module, batch: torch.Tensor, push: Push) -> None:
        """See :class:`Body`; a component of several units (heads) runs once."""
        tokens = embed(model, batch)
        for block in self.anatomies:
            tokens, inputs = run_block(block, tokens, block.inputs.values(), lambda _tap, value: value)
            for number, (kind, stage) in enumerate(block.stages.items()):
                units = [unit for unit in block.units if unit.kind == kind]
                tap = block.inputs[kind]
                if tap not in inputs:
                    raise never_ran(units[0])

                def run(given: Sequence[torch.Tensor], read: Read, stage: Any = stage, units: Any = units) -> dict:
                    with listening(taps_of(units), read) as heard, naming(units[0].name):
                        stage(given[0])
                    return heard

                push(units, [tap], [inputs[tap]], (block.index, number), run)

    def forward(
        self, model: nn.Module, batch: torch.Tensor, weights: Mapping[str, torch.Tensor], read: Read | None = None
    ) -> tuple[torch.Tensor, dict[Any, Any]]:
        """See :class:`Body`."""
        sinks = dict.fromkeys(tap for unit in self.units for tap in unit.sink) if read else {}
        with listening(sinks, read or _nothing) as heard, naming("the model"):
            logits: torch.Tensor = torch.func.functional_call(model, dict(weights), (batch,))
        return logits, heard

    def by_channel(self, tap: Any, value: torch.Tensor, pictures: int) -> torch.Tensor:
        """See :class:`Body`."""
        return value[..., tap.channels].reshape(pictures, -1, value[..., tap.channels].shape[-1])

    def blocks(self) -> list[int | None]:
        """See :class:`Body`."""
        return [block.index for block in self.anatomies for _ in block.units]

    def parts(self) -> Parts:
        """See :class:`Body`."""
        return parts_of(self.model, self.granularity)


class Wired:
    """Any other model: its inner components, as its outline lists them.

    The embedding, the norms behind the last block and the head have no score, as in the paper; the last two always
    train.

    Args:
        traced: the model's outline and operators.
        branch: norms count to what follows them, and activations to what reads them; norms have no score of their own.
    """

    def __init__(self, traced: Traced, *, branch: bool = False) -> None:
        self.outline: Outline = traced.outline
        self.wiring: Wiring = traced.wiring
        units = []
        for component in traced.outline.components:
            span = traced.wiring.spans.get(component.name)
            if component.role != "inner" or span is None:
                continue
            source, sink = (span.branch_source, span.branch_sink) if branch else (span.source, span.sink)
            if source and sink:
                units.append(Unit(component.name, component.kind, source, sink))
        self.units = tuple(units)

    def listen(self, model: nn.Module, batch: torch.Tensor, read: Read) -> dict[Any, Any]:
        """Run the whole model, each value freed after its last reader: memory of inference."""
        heard: dict[Any, Any] = {}
        self.wiring.run(model, batch, read=_hearing(taps_of(self.units), len(batch), read, heard))
        return heard

    def push(self, model: nn.Module, batch: torch.Tensor, push: Push) -> None:
        """See :class:`Body`."""
        count = len(batch)

        def pushed(unit: Unit, number: int) -> Callable[[Call], None]:
            def told(call: Call) -> None:
                def run(given: Sequence[torch.Tensor], read: Read) -> dict[Any, Any]:
                    back = (_as_was(p, g, v) for p, g, v in zip(call.span.source, given, call.inputs, strict=True))
                    found = call.again(tuple(back))
                    return {p: read(p, p.by_picture(v, count)) for p, v in zip(call.span.sink, found, strict=True)}

                inputs = [p.by_picture(v, count) for p, v in zip(call.span.source, call.inputs, strict=True)]
                push([unit], call.span.source, inputs, (number,), run)

            return told

        self.wiring.run(model, batch, at_end={u.name: pushed(u, i) for i, u in enumerate(self.units)})

    def forward(
        self, model: nn.Module, batch: torch.Tensor, weights: Mapping[str, torch.Tensor], read: Read | None = None
    ) -> tuple[torch.Tensor, dict[Any, Any]]:
        """See :class:`Body`; what is read is the value as the model holds it."""
        heard: dict[Any, Any] = {}
        readers = {}
        for place in {p.node: p for unit in self.units for p in unit.sink}.values() if read else ():
            readers[place.node] = lambda value, p=place: heard.__setitem__(p, read(p, value))  # type: ignore[misc]
        logits = self.wiring.run(model, batch, read=readers, parameters=weights)
        return logits, heard

    def by_channel(self, tap: Place, value: torch.Tensor, pictures: int) -> torch.Tensor:
        """See :class:`Body`."""
        return tap.by_channel(value, pictures)

    def blocks(self) -> list[int | None]:
        """See :class:`Body`."""
        return [self.outline.component(unit.name).block for unit in self.units]

    def parts(self) -> Parts:
        """See :class:`Body`."""
        return {u.name: [(p, ...) for p in self.outline.component(u.name).parameters] for u in self.units}


def _hearing(places: Iterable[Any], count: int, read: Read, heard: dict[Any, Any]) -> dict[str, Callable]:
    def reader(here: list[Place]) -> Callable[[torch.Tensor], None]:
        def told(value: torch.Tensor) -> None:
            for place in here:
                heard[place] = read(place, place.by_picture(value, count))

        return told

    by_node: dict[str, list[Place]] = {}
    for place in places:
        by_node.setdefault(place.node, []).append(place)
    return {node: reader(here) for node, here in by_node.items()}


def _as_was(place: Place, given: torch.Tensor, was: torch.Tensor) -> torch.Tensor:
    """Undo ``by_picture``."""
    moved = was.movedim(place.axis, 0)
    return given.reshape(moved.shape).movedim(0, place.axis)


def _nothing(_tap: Tap, _value: torch.Tensor) -> None:
    return None
