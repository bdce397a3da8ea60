"""A type check of graphs: every node against the table of operators (after ``typecheck_jaxpr`` of jax's autodidax)."""

from __future__ import annotations

from dataclasses import replace

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.operators import forms_of
from edgeplast.graphs.operators.record import Extent, ShapeError
from edgeplast.graphs.operators.shapes import content


def check(graph: Graph) -> Graph:
    """Check that what each node reads is there and that what it makes is as its shape rule says.

    Returns:
        the graph.

    Raises:
        InputError: an operator is not in the table.
        ShapeError: the first node that is wrong, with what it should be.
    """
    there = {*graph.inputs, *graph.weights, *graph.constants}
    contents: dict[str, tuple[Extent, ...] | None] = {}

    def known(name: str) -> tuple[Extent, ...] | None:
        return graph.known(name) if name in graph.constants else contents.get(name)

    for node in graph.nodes:
        where = f"{node.component or 'graph'} ({node.phase}), {node.outputs[0]}"
        if early := [name for name in node.inputs if name and name not in there]:
            raise ShapeError(f"{where}: {early[0]} is read before it is computed")
        call = replace(graph.call(node), known=known)
        forms = forms_of(call, where)
        if len(forms) != len(node.outputs):
            raise ShapeError(f"{where}: {node.op} has {len(forms)} outputs, not {len(node.outputs)}")
        for name, form in zip(node.outputs, forms, strict=True):
            if not name:
                continue
            value = graph.values.get(name)
            if value is None or (value.shape, value.batched, value.dtype) != form:
                raise ShapeError(f"{where}: {node.op} gives {form}, declared is {value}")
            if name in there:
                raise ShapeError(f"{where}: {name} is computed twice")
            there.add(name)
        contents[node.outputs[0]] = content(call)
    if missing := [name for name in graph.outputs if name not in there]:
        raise ShapeError(f"the output {missing[0]} is never computed")
    return graph
