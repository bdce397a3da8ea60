"""The walk over an exported program that writes its graph, operator by operator, from the table in ``aten``.

What depends on no input is computed at once and becomes a constant; what depends on parameters alone becomes nodes, so
that it can be differentiated. Symbolic sizes are multiples of the batch, or the program is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgeplast.contract import IMAGES, LOGITS
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast_exporters.capture.assigning import after_change, family
from edgeplast_exporters.capture.aten import TABLE
from edgeplast_exporters.capture.emitter import Emitter
from edgeplast_exporters.capture.program_nodes import module_path, operator_name
from edgeplast_exporters.capture.tensors import BATCH, Axis, Size, Tensor, UnfitError

_IGNORED = {
    "_assert_async",
    "_assert_scalar",
    "sym_constrain_range_for_size",
    "sym_constrain_range",
    "_assert_tensor_metadata",
}


class RefusedError(InputError):
    """A part of a model has no graph; the message names it."""


class Translation:
    """One walk: the graph under construction and what is known of each node of the program.

    Attributes:
        emit: writes into the graph.
        node: the node of the program that is being translated.
        parameters: parameter name to its tensor, for the shapes.
        made: name of each node of the program to what it became, before anything changed it in place.
    """

    def __init__(
        self, model: torch.nn.Module, program: ExportedProgram, component: Mapping[torch.fx.Node, str]
    ) -> None:
        self.program, self._component, self._here = program, component, ""
        self.emit = Emitter(Graph())
        names: dict[int, str] = {}
        self._tied = {n: names.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
        self.parameters = dict(model.named_parameters())
        self._env: dict[torch.fx.Node, Any] = {}
        self.made: dict[str, Any] = {}
        self.node: torch.fx.Node = next(iter(program.graph.nodes))

    def run(self) -> Graph:
        """Translate every node and return the graph, from ``images`` to ``logits``."""
        self._read_signature()
        logits = self._walk(self.program.graph_module, self._env)[0]
        g = self.emit.graph
        with g.serving(self._here):
            g.output(self.emit.shaped(logits, logits.dims), LOGITS)
        g.remove_dead()
        return g

    def _read_signature(self) -> None:
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.PARAMETER:
                self._env[node] = _Parameter(self._tied[str(spec.target)])
            elif spec.kind is InputKind.BUFFER:
                self._env[node] = self._buffer(str(spec.target))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                self._env[node] = self.program.constants[str(spec.target)]
            elif spec.kind is InputKind.USER_INPUT:
                shape = node.meta["val"].shape
                value = self.emit.graph.input(IMAGES, (1, *(int(n) for n in shape[1:])), batched=True)
                self._env[node] = self.made[node.name] = self.emit.stored_tensor(value)

    def _buffer(self, name: str) -> torch.Tensor:
        state = self.program.state_dict
        return state[name] if name in state else self.program.constants[name]

    def _walk(self, module: torch.fx.GraphModule, env: dict[torch.fx.Node, Any]) -> Any:
        for node in module.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "get_attr":
                env[node] = _attribute(module, str(node.target))
            elif node.op == "output":
                return torch.fx.node.map_arg(node.args[0], lambda n: env[n])
            elif node.op == "call_function":
                self.node, self._here = node, self._component.get(node, self._here)
                with self.emit.graph.serving(self._component.get(node, self._here)):
                    env[node] = self._call(node, env)
                self.made[node.name] = env[node]
        return None

    def _call(self, node: torch.fx.Node, env: dict[torch.fx.Node, Any]) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            return self.size(value)
        name = operator_name(node)
        if name in _IGNORED or (not isinstance(value, torch.Tensor | list | tuple) and not node.users):
            return None
        args, kwargs = (self._resolved(torch.fx.node.map_arg(a, lambda n: env[n])) for a in (node.args, node.kwargs))
        if node.target is operator.getitem:
            return args[0][args[1]]
        if "wrap_with" in name:
            return self._inlined(args)
        try:
            if not _holds(Tensor, (args, kwargs)):
                if not _holds((Size, _Repeated), (args, kwargs)):
                    return node.target(*args, **kwargs)  # type: ignore[operator]
                return self._repeated(args, kwargs)
            args, kwargs = _mapped(self._unrolled, (args, kwargs))
            rule = TABLE.get(name)
            if rule is None:
                rule = TABLE.get(name.rstrip("_"))
            if rule is None:
                raise self.refused("has no translation here")
            result = rule(self, *args, **kwargs)
        except UnfitError as error:
            raise self.refused(f"cannot be written here: {error}") from error
        if name.endswith("_") and isinstance(node.args[0], torch.fx.Node):
            try:
                known = {n: self._unrolled(self._resolved(env[n])) for n in family(node) if n in env}
                env.update(after_change(self.emit, node, known, result))
            except UnfitError as error:
                raise self.refused(str(error)) from error
        return result

    def _resolved(self, x: Any) -> Any:
        if isinstance(x, _Parameter):
            return self.parameter(x.name)
        if isinstance(x, Size) and not x.batched:
            return x.count
        if isinstance(x, list | tuple):
            return type(x)(self._resolved(v) for v in x)
        if isinstance(x, dict):
            return {k: self._resolved(v) for k, v in x.items()}
        return x

    def _repeated(self, args: Any, kwargs: Any) -> Any:
        """Return what an operator makes of constants and the number of images: one image's share, seen for each."""
        run: Any = self.node.target
        one, two = (run(*a, **k) for a, k in (_mapped(partial(_times, images=n), (args, kwargs)) for n in (1, 2)))
        if not isinstance(one, torch.Tensor):
            return one
        batched = tuple(size.batched for size in self.sizes)
        if not any(batched):
            return one
        found = _Repeated(one, batched)
        if not torch.equal(found.times(2), two):
            raise self.refused("makes a constant that is not the same for each image")
        return found

    def _unrolled(self, x: Any) -> Any:
        """Return a repeated constant as a tensor of the graph."""
        if not isinstance(x, _Repeated):
            return x
        t = self.emit.lift(x.one)
        return t.with_dims((BATCH, *dim) if b else dim for dim, b in zip(t.dims, x.batched, strict=True))

    def _inlined(self, args: Sequence[Any]) -> Any:
        at = next(i for i, a in enumerate(args) if isinstance(a, torch.fx.GraphModule))
        inner: torch.fx.GraphModule = args[at]
        env = dict(zip((n for n in inner.graph.nodes if n.op == "placeholder"), args[at + 1 :], strict=True))
        return self._walk(inner, env)

    # -- what rules ask -------------------------------------------------------------------------------------

    def parameter(self, name: str) -> Tensor:
        """Return a parameter as a weight of the graph, under its own name."""
        g = self.emit.graph
        shape = tuple(int(n) for n in self.parameters[name].shape)
        value = g.values.get(name) or g.weight(name, shape)
        axes = [(Axis(n),) if n > 1 else () for n in shape]
        return Tensor(value, tuple(a for dim in axes for a in dim), tuple(axes))

    def size(self, n: int | torch.SymInt) -> Size:
        """Return a size of the program, as a multiple of the batch where it is symbolic."""
        if isinstance(n, int):
            return Size(n)
        expression = n.node.expr
        symbols = list(expression.free_symbols)
        if not symbols:
            return Size(int(expression))
        count = expression / symbols[0]
        if len(symbols) > 1 or not count.is_Integer:
            raise self.refused(f"has a size ({expression}) that is no multiple of the number of images")
        return Size(int(count), batched=True)

    @property
    def sizes(self) -> list[Size]:
        """Sizes of what the current node returns."""
        return [self.size(n) for n in self.node.meta["val"].shape]

    def refused(self, why: str) -> RefusedError:
        """Return the error that says what cannot be captured, and where."""
        where = module_path(self.node) or "the model's own forward method"
        return RefusedError(
            f"{where}: the operator {operator_name(self.node)} {why}. Write around it there (convolutions, products, "
            "norms, activations, pooling and views have a graph), or export a model without that part. Freezing does "
            "not help: the device computes the whole forward pass, whatever trains."
        )


@dataclass(frozen=True)
class _Parameter:
    name: str


@dataclass(frozen=True)
class _Repeated:
    """A constant that is the same for each image: for one, and which dimensions grow with the images."""

    one: torch.Tensor
    batched: tuple[bool, ...]

    def times(self, images: int) -> torch.Tensor:
        return self.one.repeat([images if b else 1 for b in self.batched])


def _attribute(module: Any, path: str) -> Any:
    for step in path.split("."):
        module = getattr(module, step)
    return module


def _holds(kind: Any, x: Any) -> bool:
    """Whether something of a kind is among arguments."""
    if isinstance(x, list | tuple):
        return any(_holds(kind, v) for v in x)
    return isinstance(x, kind) or (isinstance(x, dict) and any(_holds(kind, v) for v in x.values()))


def _mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """Return arguments with each one changed."""
    if isinstance(x, list | tuple):
        return type(x)(_mapped(change, v) for v in x)
    return {k: _mapped(change, v) for k, v in x.items()} if isinstance(x, dict) else change(x)


def _times(x: Any, images: int) -> Any:
    """Return a size or a repeated constant for a number of images."""
    if isinstance(x, Size):
        return x.count * images
    return x.times(images) if isinstance(x, _Repeated) else x
