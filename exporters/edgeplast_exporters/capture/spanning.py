"""Where each component of a traced model starts and ends: which values enter it, and which leave it.

A component is made of the operators that work with its parameters, of everything inside its attention, and of what lies
between two of these on a way that meets no other component. What flows into one of them from outside is its input; what
others read is its output. Layer scales and other bare parameters belong to it as long as nothing else joins on the way
to them: a sum with the residual stream is the end of a branch.

``plasticity-branch`` counts norms to what follows them: where all that reads a norm (through activations and views) is
components, these start before the norm. A norm with fixed statistics right behind a component, and a norm whose output
goes into a sum, end that component instead. Activations and gates count to what reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from edgeplast.wiring import Place, Product, Span, Wiring
from edgeplast_exporters.capture.naming import ACTIVATIONS, TOUCHING, VIEWS, Naming
from edgeplast_exporters.capture.program_nodes import operator_name

_PART_OF = {"select", "slice", "index"}
"""Views that leave something out: what lies before them is another value."""

_PASSES = (VIEWS - _PART_OF) | ACTIVATIONS | {"mul", "div", "pad", "constant_pad_nd"}

_MERGES = "merge_tokens"

_NORMS = {"layer_norm", "batch_norm", "group_norm", "rms_norm"}
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}

_CHANNELS_SECOND = ("conv", "batch_norm", "group_norm", "instance_norm")


def wiring_of(model: torch.nn.Module, program: ExportedProgram, naming: Naming) -> Wiring:
    """Return the operators of a traced model with its components found in them.

    Args:
        model: what was traced.
        program: its trace.
        naming: what belongs where.
    """
    feeds: dict[str, str | torch.Tensor] = {}
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.CONSTANT_TENSOR:
            feeds[node.name] = program.constants[str(spec.target)]
        elif spec.kind is not InputKind.USER_INPUT:
            target = str(spec.target)
            feeds[node.name] = program.constants.get(target, target)
    spans = _Finder(model, program, naming).run()
    return Wiring(program.graph_module, feeds, spans)


@dataclass
class _Found:
    inside: list[Node]
    source: list[Node]
    sink: list[Node]


class _Finder:
    def __init__(self, model: torch.nn.Module, program: ExportedProgram, naming: Naming) -> None:
        self.naming, self.live = naming, naming.live
        self.nodes = [n for n in program.graph.nodes if n in naming.live]
        self.order = {n: i for i, n in enumerate(self.nodes)}
        self.modules = dict(model.named_modules())
        self.owners: dict[Node, set[str]] = {n: self._owners(n) for n in self.nodes}
        self.found: dict[str, _Found] = {}
        self.ends: dict[Node, str] = {}  # value to the component whose output it is
        self.member: dict[Node, set[str]] = {}

    def run(self) -> dict[str, Span]:
        for name in dict.fromkeys(self.naming.of_parameter.values()):
            inside = self._inside(name)
            if inside:
                self.found[name] = self._bounded(inside)
        for name, found in self.found.items():
            self.ends |= dict.fromkeys(found.sink, name)
            for node in found.inside:
                self.member.setdefault(node, set()).add(name)
        spans = {
            name: Span(
                name=name,
                source=self._places(found.source),
                sink=self._places(found.sink),
                inside=tuple(n.name for n in found.inside),
                products=self._products(name, found),
            )
            for name, found in self.found.items()
        }
        return self._with_branches(spans)

    def _owners(self, node: Node) -> set[str]:
        if node in self.naming.within:
            return {self.naming.within[node]}
        parameters = (p for a in node.all_input_nodes for p in self.naming.made_of.get(a, ()))
        return {self.naming.of_parameter[p] for p in parameters if p in self.naming.of_parameter}

    def _inside(self, name: str) -> list[Node]:
        own = [n for n in self.nodes if name in self.owners[n]]
        touching = [n for n in own if operator_name(n) in TOUCHING | VIEWS and n not in self.naming.within]
        core = [n for n in own if n not in set(touching)] or own
        inside = self._between(core, name)
        for node in touching:
            before = self._chain_to(node, inside)
            if before is not None:
                inside |= {node, *before}
        return sorted(inside, key=self.order.__getitem__)

    def _between(self, core: list[Node], name: str) -> set[Node]:
        """Return some operators and those on ways between two of them that meet no other component."""
        foreign = {n for n in self.nodes if self.owners[n] - {name}}
        after, before = set(core), set(core)
        for node in self.nodes:
            if node not in foreign and any(a in after for a in node.all_input_nodes):
                after.add(node)
        for node in reversed(self.nodes):
            if node not in foreign and any(u in before for u in node.users):
                before.add(node)
        return after & before

    def _chain_to(self, node: Node, inside: set[Node]) -> set[Node] | None:
        """Return what lies between a component and an operator that reads it alone; None where more joins."""
        chain: set[Node] = set()
        waiting = [node]
        while waiting:
            for a in waiting.pop().all_input_nodes:
                if a not in self.live or a in inside or a in chain:
                    continue
                if self.owners.get(a, {""}) or operator_name(a) not in _PASSES:
                    return None
                chain.add(a)
                waiting.append(a)
        return chain

    def _bounded(self, inside: list[Node]) -> _Found:
        here = set(inside)
        source = [a for n in inside for a in n.all_input_nodes if a in self.live and a not in here]
        sink = [n for n in inside if any(u not in here and self._goes_on(n, u) for u in n.users)]
        return _Found(inside, list(dict.fromkeys(source)), sink)

    def _goes_on(self, node: Node, user: Node) -> bool:
        """Whether a value goes on through an operator; keys and sizes of merged tokens only decide what it does."""
        if operator_name(user) == _MERGES:
            return user.args[0] is node
        return user in self.live or user.op == "output"

    def _places(self, nodes: Iterable[Node]) -> tuple[Place, ...]:
        return tuple(place for node in nodes for place in self._place(node))

    def _place(self, node: Node) -> list[Place]:
        value = node.meta.get("val")
        if isinstance(value, list | tuple):  # split in parts: each of them has an operator that takes it out
            return [place for user in node.users for place in self._place(user)]
        if not isinstance(value, torch.Tensor):
            return []
        symbolic = [i for i, n in enumerate(value.shape) if not isinstance(n, int)]
        return [Place(node.name, symbolic[0] if symbolic else 0, self._channel_axis(node, value.ndim))]

    def _channel_axis(self, node: Node, dimensions: int) -> int:
        """Return which dimension holds channels, from the operator that made them."""
        for _ in range(8):
            name = operator_name(node) if node.op == "call_function" else "conv"
            if any(name.startswith(kind) for kind in _CHANNELS_SECOND):
                return min(1, dimensions - 1)
            if name in ("linear", "layer_norm", "rms_norm", "addmm", "matmul"):
                return dimensions - 1
            scale = next((a.meta["val"] for a in node.all_input_nodes if a in self.naming.made_of), None)
            if isinstance(scale, torch.Tensor) and scale.ndim and scale.numel() > 1:
                wide = [i for i, n in enumerate(scale.shape) if int(n) > 1]
                return dimensions - scale.ndim + wide[-1]
            before = [a for a in node.all_input_nodes if a in self.live and isinstance(a.meta.get("val"), torch.Tensor)]
            if not before or (name in VIEWS and name not in ("contiguous", "clone", "dropout", "to", "alias")):
                break
            node = before[0]
        return 1 if dimensions == 4 else dimensions - 1

    def _products(self, name: str, found: _Found) -> tuple[Product, ...]:
        """Return the linear layers, convolutions and norms of a component."""
        listed = []
        for node in found.inside:
            kind = operator_name(node)
            norm = kind in _NORMS
            if not norm and kind not in _LAYERS:
                continue
            tensors = [a for a in node.args[1:] if isinstance(a, Node) and a.op == "placeholder"]
            made = [self.naming.made_of.get(a, ()) for a in tensors]
            own = [m[0] for m in made if m and self.naming.of_parameter.get(m[0]) == name]
            if own and isinstance(node.args[0], Node):
                place = self._place(node if norm else node.args[0])[0]
                second = kind in ("batch_norm", "group_norm") or kind.startswith("conv")
                place = replace(place, channels=1 if second else -1)
                listed.append(Product(own[0], own[1] if len(own) > 1 else None, place, norm))
        return tuple(listed)

    def _with_branches(self, spans: dict[str, Span]) -> dict[str, Span]:
        inner = [n for n in self.found if self.naming.role[n] == "inner"]
        norms = {n for n in inner if self._is_norm(n)}
        ends_with = {n: before if (before := self._precedes(n)) in inner else None for n in norms}
        first = {n for n in norms if self._read_by_components(n) and not (ends_with[n] and self._is_fixed(n))}
        last = {n: ends_with[n] for n in norms - first if ends_with[n] and ends_with[n] not in norms}
        closed = {component: norm for norm, component in last.items() if component is not None}
        result = dict(spans)
        for name in inner:
            if name in first or name in last:
                continue
            source: list[Node] = []
            for node in self.found[name].source:
                source += self._before(node, first)
            sink = self.found[closed.get(name, name)].sink
            places = self._places(dict.fromkeys(source))
            result[name] = replace(spans[name], branch_source=places, branch_sink=self._places(sink))
        return result

    def _before(self, node: Node, first: set[str]) -> list[Node]:
        """Walk back over activations, gates and views, and over norms that count to what follows."""
        owner = self.ends.get(node)
        if owner in first:
            return [b for a in self.found[owner].source for b in self._before(a, set())]
        if owner is not None or not self._passes(node):
            return [node]
        return [b for a in node.all_input_nodes if a in self.live for b in self._before(a, first)]

    def _passes(self, node: Node) -> bool:
        if node.op != "call_function" or node in self.member or self.owners[node]:
            return False
        if operator_name(node) == "getitem":
            return operator_name(node.all_input_nodes[0]) != _MERGES
        return operator_name(node).rstrip("_") in _PASSES

    def _read_by_components(self, norm: str) -> bool:
        """Whether all that reads a norm's output, through activations and views, is components."""
        waiting, seen = list(self.found[norm].sink), set()
        while waiting:
            for user in waiting.pop().users:
                if user in seen or (user not in self.live and user.op != "output"):
                    continue
                seen.add(user)
                if self.member.get(user, set()) - {norm}:
                    continue
                if not self._passes(user):
                    return False
                waiting.append(user)
        return True

    def _precedes(self, norm: str) -> str | None:
        """Return the component whose output a norm reads, and nothing else does."""
        source = self.found[norm].source
        if len(source) != 1:
            return None
        node = source[0]
        while node not in self.ends and operator_name(node) in VIEWS and node.op == "call_function":
            before = [a for a in node.all_input_nodes if a in self.live]
            if len(before) != 1 or node in self.member:
                return None
            node = before[0]
        owner = self.ends.get(node)
        return owner if owner is not None and self.found[owner].sink == [node] and len(node.users) == 1 else None

    def _is_norm(self, name: str) -> bool:
        return all("norm" in type(m).__name__.lower() for m in self._owning(name))

    def _is_fixed(self, name: str) -> bool:
        return all("batch" in type(m).__name__.lower() for m in self._owning(name))

    def _owning(self, name: str) -> list[torch.nn.Module]:
        paths = {p.rpartition(".")[0] for p, c in self.naming.of_parameter.items() if c == name}
        return [self.modules[path] for path in paths]
