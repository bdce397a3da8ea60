"""Which component each parameter, and each operator of a traced model, belongs to.

A component is a module that owns parameters. A module that multiplies two activations (attention) is one component with
everything below it. Bare parameters that only scale, shift or join activations (layer scales, tokens, position tables)
belong to the component whose output they touch. Everything before the first numbered block is the embedding; what makes
the logits is the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgeplast_exporters.capture.program_nodes import module_path, operator_name

_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
TOUCHING = {"add", "add_", "sub", "mul", "mul_", "div", "div_", "cat", "stack", "where", "addcmul", "lerp", "rsub"}
VIEWS = {"view", "reshape", "permute", "transpose", "select", "slice", "squeeze", "unsqueeze", "expand", "flatten",
          "unflatten", "unbind", "chunk", "split", "t", "alias", "detach", "getitem", "contiguous", "clone", "dropout",
          "expand_as", "repeat", "to", "type_as", "index", "reshape_as", "view_as", "tile", "roll",
          "split_with_sizes"}  # fmt: skip

ACTIVATIONS = {"gelu", "relu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish", "elu", "leaky_relu",
                "relu6", "hardtanh", "softplus", "prelu", "clamp"}  # fmt: skip

_SILENT_STEP = "mlp"
"""A step of module paths that names leave out: ``blocks.3.mlp.fc1`` is ``blocks.3.fc1``."""

_ONE_JOB = {
    "fc_norm": "norm",
    "head_dist": "head",
    "mlp.norm": "mlp.fc2",
    "mlp.fc1_g": "mlp.fc1",
    "mlp.fc1_x": "mlp.fc1",
}
"""Modules of timm's vision transformers that are one component with another: the norm after pooling is the norm, the
head of the distillation token the head, a norm within an MLP feeds its second matrix, a gate belongs to the first."""


@dataclass
class Naming:
    """What belongs where.

    Attributes:
        of_parameter: parameter name to component.
        of_node: node of the program to component.
        role: component to its role.
        live: the nodes that depend on images.
        made_of: node that parameters alone decide, to their names.
        within: live node inside attention, to the component that this is.
    """

    of_parameter: dict[str, str] = field(default_factory=dict)
    of_node: dict[torch.fx.Node, str] = field(default_factory=dict)
    role: dict[str, str] = field(default_factory=dict)
    live: set[torch.fx.Node] = field(default_factory=set)
    made_of: dict[torch.fx.Node, tuple[str, ...]] = field(default_factory=dict)
    within: dict[torch.fx.Node, str] = field(default_factory=dict)


def name_components(model: torch.nn.Module, program: ExportedProgram) -> Naming:
    """Find the components of a traced model.

    Args:
        model: what was traced, for the one name of parameters that are shared.
        program: its trace.
    """
    return _Walk(model, program).run()


class _Walk:
    def __init__(self, model: torch.nn.Module, program: ExportedProgram) -> None:
        self.model, self.program = model, program
        names: dict[int, str] = {}
        self.tied = {n: names.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}
        self.sizes = {n: p.numel() for n, p in model.named_parameters()}
        self.bare: dict[torch.fx.Node, tuple[str, ...]] = {}  # values made of parameters alone
        self.live: set[torch.fx.Node] = set()
        self.nodes = [n for n in program.graph.nodes if n.op == "call_function"]

    def run(self) -> Naming:
        self._read_inputs()
        self._sort_nodes()
        roots = self._attention_modules()
        owner = self._owners(roots)
        final = self._final_names(owner)
        naming = Naming(of_parameter={p: final[c] for p, c in owner.items()})
        naming.role = self._roles(naming)
        naming.live, naming.made_of = self.live, self.bare
        here = next(iter(naming.of_parameter.values()), "")
        last: dict[torch.fx.Node, str] = {}
        for node in self.nodes:
            own = [naming.of_parameter[p] for p in self._structural(node)]
            within = next((final[r] for r in roots if r in final and _within(module_path(node), r)), None)
            before = [last[a] for a in node.all_input_nodes if a in last]
            if within is not None and node in self.live:
                naming.within[node] = within
            chosen = within or (own[0] if own else None) or (self._latest(before, naming) if before else here)
            naming.of_node[node] = last[node] = chosen
        self._give_activations_on(naming, roots)
        return naming

    def _give_activations_on(self, naming: Naming, roots: list[str]) -> None:
        """Let activations and gates serve the component that reads them, where there is one alone."""
        reader: dict[torch.fx.Node, str] = {}
        for node in reversed(self.nodes):
            if node not in self.live:
                continue
            if self._structural(node) or _rooted(module_path(node), roots):
                reader[node] = naming.of_node[node]
                continue
            gate = operator_name(node).startswith("mul") and all(a in self.live for a in node.all_input_nodes)
            passes = gate or operator_name(node).rstrip("_") in ACTIVATIONS or operator_name(node) in VIEWS
            users = [user for user in node.users if user in self.live]
            if passes and len(users) == 1 and users[0] in reader:
                naming.of_node[node] = reader[node] = reader[users[0]]

    @staticmethod
    def _latest(names: Iterable[str], naming: Naming) -> str:
        order = {c: i for i, c in enumerate(dict.fromkeys(naming.of_parameter.values()))}
        return max(names, key=order.__getitem__)

    def _read_inputs(self) -> None:
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.PARAMETER:
                self.bare[node] = (self.tied[str(spec.target)],)
            elif spec.kind is InputKind.USER_INPUT:
                self.live.add(node)

    def _sort_nodes(self) -> None:
        """Find what depends on images, and what on parameters alone."""
        for node in self.nodes:
            if isinstance(node.meta.get("val"), int | torch.SymInt):
                continue
            if any(a in self.live for a in node.all_input_nodes):
                self.live.add(node)
            else:
                made_of = tuple(dict.fromkeys(p for a in node.all_input_nodes for p in self.bare.get(a, ())))
                if made_of:
                    self.bare[node] = made_of

    def _attention_modules(self) -> list[str]:
        """Return the paths of modules that multiply two activations, the outermost of nested ones."""
        found = set()
        for node in self.nodes:
            operands = [a for a in node.all_input_nodes[:2] if a in self.live]
            if operator_name(node) not in _PRODUCTS or len(operands) < 2:
                continue
            path = module_path(node)
            while path and not any(_within(p, path) for p in self.sizes):
                path = path.rpartition(".")[0]
            held = sum(n for p, n in self.sizes.items() if _within(p, path))
            if path and (held <= sum(self.sizes.values()) / 2 or not self._has_norm_inside(path)):
                found.add(path)
        return sorted(p for p in found if not any(p != q and _within(p, q) for q in found))

    def _has_norm_inside(self, path: str) -> bool:
        module = self.model.get_submodule(path)
        return sum(type(m).__name__.lower().endswith("norm") for m in module.modules()) > 3

    def _is_norm(self, path: str) -> bool:
        module = dict(self.model.named_modules()).get(path)
        return module is not None and "norm" in type(module).__name__.lower()

    def _structural(self, node: torch.fx.Node) -> list[str]:
        """Return the parameters that an operator works with, other than by touching activations with them."""
        if operator_name(node) in TOUCHING | VIEWS or node not in self.live:
            return []
        return [p for a in node.all_input_nodes for p in self.bare.get(a, ())]

    def _owners(self, roots: list[str]) -> dict[str, str]:
        """Return parameter name to module path, in the order in which data flows."""
        module_of = {p: p.rpartition(".")[0] for p in self.sizes}
        for p in module_of:
            module_of[p] = next((r for r in roots if _within(p, r)), module_of[p])
        owner: dict[str, str] = {}
        reach: dict[torch.fx.Node, str] = {}  # the component that a live value comes out of
        waiting: list[str] = []
        for node in self.nodes:
            if node not in self.live:
                continue
            parameters = [p for a in node.all_input_nodes for p in self.bare.get(a, ())]
            parameters = [p for p in parameters if p not in owner]
            before = [reach[a] for a in node.all_input_nodes if a in reach]
            rank = {c: i for i, c in enumerate(dict.fromkeys(owner.values()))}
            came = max(before, key=lambda c: rank.get(c, -1)) if before else None
            inside = next((r for r in roots if _within(module_path(node), r)), None)
            if operator_name(node) in TOUCHING | VIEWS:
                for p in parameters:
                    if _rooted(module_of[p], roots):
                        owner[p] = module_of[p]
                    elif came is not None:
                        owner[p] = came
                    else:
                        waiting.append(p)
            else:
                for p in parameters:
                    owner[p] = module_of[p] or p
            mine = [owner[p] for a in node.all_input_nodes for p in self.bare.get(a, ()) if p in owner]
            reached = inside or (mine[0] if mine else came)
            if reached is not None:
                reach[node] = reached
                for p in waiting:
                    owner.setdefault(p, reached)
                waiting = []
        for p in self.sizes:  # read by nothing that reaches the logits
            if p in owner or not any(p in made for made in self.bare.values()):
                continue
            owner.setdefault(p, module_of[p] or p)
        return owner

    def _final_names(self, owner: dict[str, str]) -> dict[str, str]:
        """Return module path to component name: the embedding as one, ``mlp`` left out."""
        paths = list(dict.fromkeys(owner.values()))
        embedding = self._embedding(paths)
        name = {}
        for path in paths:
            joined = next(
                (path[: -len(k)] + v for k, v in _ONE_JOB.items() if path == k or path.endswith(f".{k}")), path
            )
            name[path] = ".".join(s for s in joined.split(".") if s != _SILENT_STEP) or joined
        for path in paths:  # where leaving the step out makes two modules one, it stays
            meant = [p for p in paths if name[p] == name[path]]
            if len({p.rpartition(".")[0] for p in meant}) > 1 and _SILENT_STEP in path.split("."):
                name[path] = path
        first = embedding[0].partition(".")[0]
        whole = all(p in embedding for p in paths if p.partition(".")[0] == first)
        self.embedding = first if whole else name[embedding[0]]
        return name | dict.fromkeys(embedding, self.embedding)

    def _embedding(self, paths: list[str]) -> list[str]:
        first = paths[0].partition(".")[0]
        held = sum(n for p, n in self.sizes.items() if p.partition(".")[0] == first)
        small = held < sum(self.sizes.values()) / 4
        chosen = []
        for path in paths[:-1]:
            if _block_path(path) is not None:
                if not (small and path.partition(".")[0] == first):
                    break
            elif path.partition(".")[0] != first and not self._is_norm(path):
                break
            chosen.append(path)
        return chosen or paths[:1]

    def _roles(self, naming: Naming) -> dict[str, str]:
        order = list(dict.fromkeys(naming.of_parameter.values()))
        role = dict.fromkeys(order, "inner")
        role[self.embedding] = "embedding"
        heads = self._last_readers(naming)
        for name in heads:
            role[name] = "head"
        for name in reversed([n for n in order if n not in heads]):
            members = [p for p, c in naming.of_parameter.items() if c == name]
            module = members[0].rpartition(".")[0]
            norms = all(self._is_norm(p.rpartition(".")[0]) for p in members)
            if role[name] != "inner" or not norms or _block_path(name) is not None:
                break
            if "batch" in type(self.model.get_submodule(module)).__name__.lower():
                break
            role[name] = "norm"
        return role

    def _last_readers(self, naming: Naming) -> list[str]:
        """Return the components from which logits come without passing another one."""
        output = next(n for n in self.program.graph.nodes if n.op == "output")
        waiting, seen, found = list(output.all_input_nodes), set(), []
        while waiting:
            node = waiting.pop()
            if node in seen or node not in self.live:
                continue
            seen.add(node)
            own = self._structural(node)
            if own:
                found.append(naming.of_parameter[own[0]])
            else:
                waiting += node.all_input_nodes
        return list(dict.fromkeys(found))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}.")


def _rooted(path: str, roots: list[str]) -> bool:
    return any(_within(path, r) for r in roots)


def _block_path(path: str) -> str | None:
    """Return the path of the innermost numbered module that a module lies in, None where there is none."""
    steps = path.split(".")
    for end in range(len(steps) - 1, 0, -1):
        if re.fullmatch(r"(.*_)?\d+", steps[end - 1]):
            return ".".join(steps[:end])
    return None


block_path = _block_path
