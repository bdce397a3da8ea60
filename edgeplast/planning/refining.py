"""Finer parts than components, as ``train`` names them: low-rank factors, biases, norms.

A score table and a text go in; a table whose outline and graph have those parts as components of their own, and the
names of what trains, come out. Everything after it (costs, tiers, budget, report) sees components like any others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgeplast.contract import low_rank_names
from edgeplast.errors import UsageError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.dequantize import quantizable
from edgeplast.graphs.passes.low_rank import with_low_rank
from edgeplast.graphs.recording import recorded, restored
from edgeplast.outline import Component, Outline, Segment
from edgeplast.planning.estimating import resized
from edgeplast.scores import ScoreTable

FINER = ("lora:RANK", "lora-fa:RANK", "bias", "norms")
"""Words of ``train`` that name finer parts; each takes ``@`` and a pattern of components, e.g. ``lora:8@attn:6-11``."""

_PART = re.compile(r"(?P<word>lora-fa|lora|bias|norms)(?::(?P<rank>[^@]*))?(?:@(?P<where>.*))?")

_NORMS = ("LayerNormalization", "BatchNormalization", "GroupNormalization", "InstanceNormalization")


@dataclass
class _Model:
    """What is being refined.

    Attributes:
        components: so far, in the order in which data flows.
        graph: of the forward pass, so far.
        beside: component to those that were made of it, or beside it.
    """

    outline: Outline
    graph: Graph
    components: list[Component]
    beside: dict[str, list[str]]

    def put_after(self, name: str, new: Component) -> None:
        made = self.beside.setdefault(name, [])
        at = max(i for i, c in enumerate(self.components) if c.name in (name, *made))
        self.components.insert(at + 1, new)
        made.append(new.name)

    def refined(self) -> Outline:
        segments = tuple(
            Segment(
                start=s.start,
                end=s.end,
                components=tuple(n for name in s.components for n in (name, *self.beside.get(name, ()))),
                block=s.block,
            )
            for s in self.outline.segments
        )
        return msgspec.structs.replace(self.outline, components=tuple(self.components), segments=segments)


def refined(scores: ScoreTable, train: str | Sequence[str] | None) -> tuple[ScoreTable, str | Sequence[str] | None]:
    """Return the table in which what ``train`` names are components, and their names.

    Args:
        scores: of the model; returned as they are where ``train`` names components alone.
        train: as of :meth:`edgeplast.outline.Outline.select`, and the words of :data:`FINER`: ``lora:8`` is factors of
            rank 8 beside every matrix between embedding and head, ``lora-fa:8`` the same with A frozen, ``bias`` what
            products and norms add, ``norms`` factors and biases of norms.

    Raises:
        UsageError: a word names nothing in this model, or its rank is none.
    """
    text = train if isinstance(train, str) else ",".join(train or ())
    parts = [part for part in (p.strip() for p in text.split(",")) if part]
    found = [_PART.fullmatch(part) for part in parts]
    outline = scores.outline
    theirs = {*outline.names, *(c.kind for c in outline.components)}
    if all(match is None or part in theirs for part, match in zip(parts, found, strict=True)):
        return scores, train
    model = _Model(outline, resized(outline, restored(scores.graph), None)[1], list(outline.components), {})
    names: list[str] = []
    for part, match in zip(parts, found, strict=True):
        if match is None or part in theirs:
            names += outline.select(part)
        else:
            names += _made(model, part, match["word"], match["rank"], match["where"])
    more = {name for named in names for name in model.beside.get(named, ()) if not name.endswith((".lora", ".lora_A"))}
    result = model.refined()  # a component that was named keeps its biases, whoever else named them
    return (
        msgspec.structs.replace(scores, outline=result, graph=recorded(model.graph)),
        result.in_order([*names, *more]),
    )


def _made(model: _Model, part: str, word: str, rank: str | None, where: str | None) -> list[str]:
    outline = model.outline
    chosen = [outline.component(name) for name in (outline.select(where) if where else outline.names)]
    if where is None and word.startswith("lora"):
        chosen = [c for c in chosen if c.role == "inner"]
    chosen = [c for c in chosen if c.role != "head"]  # trains whole, whatever else does
    if word.startswith("lora"):
        names = _low_rank(model, part, chosen, _rank(part, rank), frozen_a=word == "lora-fa")
    elif rank is not None:
        raise UsageError(f"{part!r}: {word} takes no number. Write {word}, or {word}@attn:8-11 for some of the model.")
    elif word == "bias":
        names = _biases(model, chosen)
    else:
        read = {name for node in model.graph.nodes if node.op in _NORMS for name in node.inputs[1:]}
        names = [c.name for c in chosen if c.parameters and read.issuperset(c.parameters)]
    if not names:
        raise UsageError(f"{part!r} names nothing in {outline.model}: there is no {_LACKS[word]}.")
    return names


_LACKS = {
    "lora": "matrix product to put low-rank factors beside",
    "lora-fa": "matrix product to put low-rank factors beside",
    "bias": "bias that products or norms add",
    "norms": "component that is a norm alone",
}


def _rank(part: str, text: str | None) -> int:
    if text is None or not text.isdecimal() or int(text) < 1:
        word = part.partition(":")[0].partition("@")[0]
        raise UsageError(
            f"{part!r} needs a rank of 1 or more, e.g. {word}:8, and for some of the model {word}:8@attn:8-11."
        )
    return int(text)


def _low_rank(model: _Model, part: str, chosen: Sequence[Component], rank: int, *, frozen_a: bool) -> list[str]:
    names, ranks = [], {}
    free = set(quantizable(model.graph))
    for component in chosen:
        weights = [name for name in component.parameters if name in free]
        if not weights:
            continue
        if any(name.endswith(".lora") for name in model.beside.get(component.name, ())):
            raise UsageError(f"{part!r} puts a second pair of factors beside {component.name}. Name it once.")
        factors: tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]] = {}, {}
        for weight in weights:
            out, columns = component.parameters[weight]
            if rank > min(out, columns):
                raise UsageError(
                    f"{part!r}: rank {rank} is more than {weight} has ({out} × {columns}). Give at most "
                    f"{min(out, columns)}, or train it whole."
                )
            a, b = low_rank_names(weight)
            factors[0][a], factors[1][b] = (rank, columns), (out, rank)
            ranks[weight] = rank
        trained = factors[1] if frozen_a else factors[0] | factors[1]
        new = f"{component.name}.lora"
        if frozen_a:
            model.put_after(component.name, _part(component, f"{component.name}.lora_A", "lora_A", factors[0]))
        model.put_after(component.name, _part(component, new, "lora", trained))
        names.append(new)
    model.graph = with_low_rank(model.graph, ranks)
    return names


def _biases(model: _Model, chosen: Sequence[Component]) -> list[str]:
    added = {node.inputs[2] for node in model.graph.nodes if node.op in ("Gemm", "Conv", *_NORMS) and node.inputs[2:]}
    names = []
    for component in chosen:
        biases = {name: shape for name, shape in component.parameters.items() if name in added}
        rest = {name: shape for name, shape in component.parameters.items() if name not in biases}
        if not biases:
            continue
        new = f"{component.name}.bias"
        if not rest or new in (c.name for c in model.components):
            names.append(new if rest else component.name)
            continue
        at = next(i for i, c in enumerate(model.components) if c.name == component.name)
        model.components[at] = msgspec.structs.replace(component, parameters=rest)
        model.put_after(component.name, _part(component, new, "bias", biases))
        names.append(new)
    return names


def _part(component: Component, name: str, kind: str, parameters: dict[str, tuple[int, ...]]) -> Component:
    return Component(name=name, kind=kind, role=component.role, block=component.block, parameters=parameters)
