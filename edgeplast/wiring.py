"""A model as one list of operators, and where each of its components starts and ends in it: what scores listen to.

A batch of images and a model's parameters go in; what flows between components comes out, value by value. The operators
are those of torch itself, as ``torch.export`` traced them, so nothing here knows how a model is built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate, map_arg

from edgeplast.errors import InputError
from edgeplast.outline import Outline
from edgeplast.recorded_graph import RecordedGraph


@dataclass(frozen=True)
class Place:
    """A value of a model that can be read while it runs.

    Attributes:
        node: name of the operator that makes it.
        axis: of its dimensions, the one that holds the pictures; windows or heads may be counted into it.
        channels: of its dimensions, the one that holds the channels.
    """

    node: str
    axis: int = 0
    channels: int = -1

    def by_picture(self, value: torch.Tensor, pictures: int) -> torch.Tensor:
        """Return the value as (pictures, …): what each picture has of it."""
        moved = value.movedim(self.axis, 0)
        return moved.reshape(pictures, moved.shape[0] // pictures, *moved.shape[1:])

    def by_channel(self, value: torch.Tensor, pictures: int) -> torch.Tensor:
        """Return the value as (pictures, positions, channels)."""
        last = value.movedim(self.channels, -1)
        axis = self.axis - (self.channels % value.ndim < self.axis)
        moved = last.movedim(axis, 0)
        return moved.reshape(pictures, -1, moved.shape[-1])

    def squared_norm(self, value: torch.Tensor) -> torch.Tensor:
        """Squared Frobenius norm of each picture's part: (B, …) as :meth:`by_picture` gives it, to float64 (B,)."""
        return torch.linalg.vector_norm(value.float().flatten(1), dim=1).double().square()


@dataclass(frozen=True)
class Product:
    """An operator that multiplies by a parameter, or normalises and then multiplies by it.

    Attributes:
        weight: the parameter's name.
        bias: that of what is added after it, if there is one.
        place: what it multiplies; of a norm, what it makes.
        norm: whether it normalises.
    """

    weight: str
    bias: str | None
    place: Place
    norm: bool


@dataclass(frozen=True)
class Span:
    """One component as a function of what flows into it.

    Attributes:
        name: of the component.
        source: the values that enter it.
        sink: the values of it that others read.
        inside: names of its operators, in the order in which they run.
        products: its linear layers, convolutions and norms.
        branch_source: what enters it when norms count to what follows them, and activations to what reads them.
        branch_sink: what leaves it then; empty for a norm that is part of another component there.
    """

    name: str
    source: tuple[Place, ...]
    sink: tuple[Place, ...]
    inside: tuple[str, ...]
    products: tuple[Product, ...] = ()
    branch_source: tuple[Place, ...] = ()
    branch_sink: tuple[Place, ...] = ()


@dataclass(frozen=True, eq=False)
class Wiring:
    """The operators of one model.

    Attributes:
        module: the traced program; parameters, buffers and images are its inputs.
        feeds: name of each of these inputs to the parameter or buffer it is, or to a constant; images have none.
        spans: component name to where it lies.
    """

    module: GraphModule
    feeds: Mapping[str, str | torch.Tensor]
    spans: Mapping[str, Span]

    def run(
        self,
        model: torch.nn.Module,
        images: torch.Tensor,
        *,
        read: Mapping[str, Callable[[torch.Tensor], Any]] | None = None,
        at_end: Mapping[str, Callable[[Call], Any]] | None = None,
        parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run a model as it was traced, in evaluation mode, and return its logits (B, classes).

        A value is freed after its last reader, so a pass needs the memory of inference.

        Args:
            model: whose parameters and buffers are used: the traced one, or a copy with another head.
            images: (B, C, H, W), on the model's device.
            read: node name to what is called with its value when it is made.
            at_end: component to what is called when it has run, with a way to run it again on other inputs.
            parameters: take the place of the model's own.
        """
        return _Pass(self, model, images, dict(read or {}), dict(at_end or {}), parameters or {}).run()

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The operators by name."""
        return {node.name: node for node in self.graph.nodes}

    @property
    def graph(self) -> Graph:
        """The traced program."""
        return self.module.graph


@dataclass(frozen=True)
class Traced:
    """What a model is scored by.

    Attributes:
        outline: its parts.
        graph: its forward graph.
        wiring: its operators in torch.
    """

    outline: Outline
    graph: RecordedGraph
    wiring: Wiring


@dataclass(frozen=True)
class Call:
    """A component that has just run.

    Attributes:
        span: where it lies.
        inputs: the values that entered it, as in ``span.source``.
        again: runs it on other inputs, and returns what leaves it, as in ``span.sink``.
    """

    span: Span
    inputs: tuple[torch.Tensor, ...]
    again: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]


class _Pass:
    """One pass over all operators."""

    def __init__(
        self,
        wiring: Wiring,
        model: torch.nn.Module,
        images: torch.Tensor,
        read: dict[str, Callable[[torch.Tensor], Any]],
        at_end: dict[str, Callable[[Call], Any]],
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        self.wiring, self.images, self.read = wiring, images, read
        self.tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self.tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.tensors |= parameters
        self.ends: dict[str, list[tuple[Span, Callable[[Call], Any]]]] = {}
        for name, told in at_end.items():
            span = wiring.spans[name]
            self.ends.setdefault(span.inside[-1], []).append((span, told))
        self.env: dict[Node, Any] = {}

    def run(self) -> torch.Tensor:
        free = self._last_uses()
        for node in self.wiring.graph.nodes:
            if node.op == "output":
                logits: torch.Tensor = self.env[node.args[0][0]]
                return logits
            self.env[node] = self._feed(node) if node.op == "placeholder" else self._execute(node, self.env)
            if node.name in self.read:
                self.read[node.name](self.env[node])
            for span, told in self.ends.get(node.name, ()):
                told(Call(span, tuple(self._value(p) for p in span.source), partial(self._again, span)))
            for used in free.get(node, ()):
                del self.env[used]
        raise AssertionError("A traced program ends in an output.")

    def _last_uses(self) -> dict[Node, list[Node]]:
        """Return for each operator the values that nobody needs after it."""
        nodes = list(self.wiring.graph.nodes)
        last: dict[Node, Node] = {}
        for node in nodes:
            last[node] = node
            for used in node.all_input_nodes:
                last[used] = node
        order = {node: i for i, node in enumerate(nodes)}
        for end, listeners in self.ends.items():  # what a component needs to run again stays until it has run
            for span, _ in listeners:
                for name in span.inside:
                    for used in self.wiring.nodes[name].all_input_nodes:
                        last[used] = max(last[used], self.wiring.nodes[end], key=order.__getitem__)
        free: dict[Node, list[Node]] = {}
        for node, user in last.items():
            free.setdefault(user, []).append(node)
        return free

    def _feed(self, node: Node) -> Any:
        found = self.wiring.feeds.get(node.name)
        value = self.images if found is None else self.tensors[found] if isinstance(found, str) else found
        value = value.to(self.images.device)
        return value.float() if value.is_floating_point() else value

    def _execute(self, node: Node, env: Mapping[Node, Any]) -> Any:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: env[n])
        if self.images.device.type != "cpu":  # what the trace made on the processor
            args, kwargs = map_aggregate((args, kwargs), self._moved)
        with _naming(node):
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _moved(self, argument: Any) -> Any:
        return self.images.device if isinstance(argument, torch.device) else argument

    def _attribute(self, target: str) -> Any:
        value: Any = self.wiring.module
        for step in target.split("."):
            value = getattr(value, step)
        return value.to(self.images.device) if isinstance(value, torch.Tensor) else value

    def _value(self, place: Place) -> torch.Tensor:
        value: torch.Tensor = self.env[self.wiring.nodes[place.node]]
        return value

    def _again(self, span: Span, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        env = dict(self.env)
        env |= {self.wiring.nodes[p.node]: value for p, value in zip(span.source, given, strict=True)}
        for name in span.inside:
            node = self.wiring.nodes[name]
            env[node] = self._execute(node, env)
        return tuple(env[self.wiring.nodes[place.node]] for place in span.sink)


@contextlib.contextmanager
def _naming(node: Node) -> Iterator[None]:
    """Name module and operator of a failed computation; lack of memory, and what torch lacks, stay themselves."""
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = (stack[-1][0] if stack else "").removeprefix("L['self']").removeprefix(".") or "the model"
        raise InputError(f"{path}: the forward pass failed in {node.target}: {error}") from error
