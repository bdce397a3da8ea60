"""The Outline: what travels of a model through scores, plan and bundle, its parts and where it can be cut.

A *component* is a part that trains or is frozen as one: a module that owns parameters, under its path (``head``,
``layers.2.blocks.1.attn``, ``stages.0.conv_dw``; the step ``mlp`` is left out). A *segment* lies between two values
through which every path from images to logits goes; a *block* is a run of segments that the model numbers as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

import msgspec

from edgeplast.errors import InputError, UsageError

Role = Literal["embedding", "inner", "norm", "head"]
"""Where in the flow of data a component stands: what makes the first features, everything between, the norms after the
last block, and what makes logits."""


class Component(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a model.

    Attributes:
        name: path of its module.
        kind: last step of the path, from the last one on that is no number: ``attn``, ``fc1``, ``conv_dw``, ``stem.0``.
        role: see :data:`Role`.
        block: number of its block, in the order in which data flows; None outside blocks.
        parameters: parameter name to shape, as graphs read it: matrices (out, in).
    """

    name: str
    kind: str
    role: Role
    block: int | None
    parameters: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """How many numbers its parameters hold."""
        total = 0
        for shape in self.parameters.values():
            count = 1
            for n in shape:
                count *= n
            total += count
        return total


class Segment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies between two neighbouring values through which every path from images to logits goes.

    Attributes:
        start: the value it reads, by its name in the forward graph.
        end: the value it hands on.
        components: what has parameters in it, in the order in which data flows.
        block: number of the block it is part of; None outside blocks.
    """

    start: str
    end: str
    components: tuple[str, ...]
    block: int | None


class Outline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parts of one model.

    Attributes:
        model: its name, timm's where it has one.
        input_shape: channels, height and width of an image.
        classes: number of logits.
        components: in the order in which data flows.
        segments: in that order; every component lies in at least one.
        kept_fraction: component to its parameters over those before pruning; empty where nothing was pruned.
    """

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    components: tuple[Component, ...]
    segments: tuple[Segment, ...] = ()
    kept_fraction: dict[str, float] = {}

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise InputError(f"The outline of {self.model!r} lists a component twice: {_twice(names)}.")
        parameters = [p for c in self.components for p in c.parameters]
        if len(set(parameters)) != len(parameters):
            raise InputError(f"The outline of {self.model!r} lists a parameter twice: {_twice(parameters)}.")
        unknown = sorted({n for s in self.segments for n in s.components} - set(names))
        if unknown:
            raise InputError(
                f"A segment of {self.model!r} has components that the model has not: {', '.join(unknown)}."
            )
        if not any(c.role == "head" for c in self.components):
            raise InputError(f"{self.model!r} has no head: no component with parameters makes its logits.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all components, in the order in which data flows."""
        return tuple(c.name for c in self.components)

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the components that make the logits."""
        return tuple(c.name for c in self.components if c.role == "head")

    @property
    def blocks(self) -> int:
        """How many blocks the model has."""
        return 1 + max((c.block for c in self.components if c.block is not None), default=-1)

    def component(self, name: str) -> Component:
        """Return a component.

        Raises:
            UsageError: there is none of that name.
        """
        for component in self.components:
            if component.name == name:
                return component
        raise UsageError(f"Unknown component {name!r}. {self._hint(name)}")

    def owner(self, parameter: str) -> str:
        """Return the name of the component that a parameter belongs to.

        Raises:
            InputError: the model has no such parameter.
        """
        for component in self.components:
            if parameter in component.parameters:
                return component.name
        raise InputError(f"{self.model} has no parameter {parameter!r}.")

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return the given components in the order in which data flows, each once.

        Raises:
            UsageError: one of them is no component of this model.
        """
        given = set(names)
        for unknown in sorted(given - set(self.names)):
            raise UsageError(f"Unknown component {unknown!r}. {self._hint(unknown)}")
        return [name for name in self.names if name in given]

    def select(self, pattern: str) -> list[str]:
        """Expand a short form into component names, in the order in which data flows.

        ``attn`` is every component of that kind, ``attn:8-11`` those in blocks 8 to 11, ``attn:3`` that in block 3,
        ``blocks:8-11`` whole blocks, ``head``, ``norm`` and ``embedding`` the components of that role, ``all``
        everything; the path of a module is everything below it; commas join several.

        Raises:
            UsageError: a part of the pattern names nothing in this model.
        """
        chosen: list[str] = []
        for part in filter(None, (p.strip() for p in pattern.split(","))):
            kind, colon, span = part.partition(":")
            if colon:
                blocks = self._span(part, span)
                found = [c for c in self.components if c.block in blocks and kind in (c.kind, "blocks")]
            elif part in ("all", "blocks"):
                found = [c for c in self.components if part == "all" or c.block is not None]
            else:
                found = [c for c in self.components if c.name == part]
                found = found or [c for c in self.components if c.kind == part or c.role == part]
                found = found or [c for c in self.components if c.name.startswith(f"{part}.")]
            if not found:
                raise UsageError(f"{part!r} names nothing in {self.model}. {self._hint(kind)}")
            chosen += [c.name for c in found]
        return self.in_order(chosen)

    def _span(self, part: str, span: str) -> range:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", span)
        first = int(match.group(1)) if match else self.blocks
        last = int(match.group(2) or first) if match else self.blocks
        if not first <= last < self.blocks:
            there = f"it has blocks 0 to {self.blocks - 1}, e.g. {part.partition(':')[0]}:0-{self.blocks - 1}."
            raise UsageError(f"{part!r} names no blocks of this model: {there if self.blocks else 'it has none.'}")
        return range(first, last + 1)

    def _hint(self, wanted: str) -> str:
        kinds = list(dict.fromkeys(c.kind for c in self.components))
        near = get_close_matches(wanted, [*self.names, *kinds], n=3, cutoff=0.6)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        some = ", ".join(kinds[:12]) + (" …" if len(kinds) > 12 else "")
        return f"Its kinds of components are {some}; {self.blocks} blocks.{meant}"


def kind_of(path: str) -> str:
    """Return the kind of a component: its path from the last step on that is no number."""
    steps = path.split(".")
    at = next((i for i in reversed(range(len(steps))) if not steps[i].isdigit()), 0)
    return ".".join(steps[at:])


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return ", ".join(sorted({n for n in names if n in seen or seen.add(n)}))  # type: ignore[func-returns-value]
