"""Graph pass: another number of logits. Does not change its input.

The head's parameters that have a row a class get another number of rows, and what is computed from them follows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from edgeplast.graphs.graph import Graph


def with_classes(graph: Graph, head: Collection[str], logits: str, classes: int) -> Graph:
    """Return the forward graph with so many logits.

    Args:
        graph: a forward graph.
        head: parameters of the head.
        logits: the value that is handed back, (1, classes) for an image.
        classes: wanted.
    """
    before = graph.values[logits].shape[1]
    if classes == before:
        return graph
    result = graph.copy()

    def resize(name: str, first: int) -> None:
        value = result.values[name]
        shape = tuple(classes if i >= first and n == before else n for i, n in enumerate(value.shape))
        result.values[name] = replace(value, shape=shape)

    resized = {name for name in head if result.values[name].shape[:1] == (before,)}
    for name in resized:
        value = result.values[name]
        result.values[name] = replace(value, shape=(classes, *value.shape[1:]))
    for i, node in enumerate(result.nodes):
        if resized.isdisjoint(node.inputs):
            continue
        if node.op == "Reshape" and node.inputs[1] in graph.constants:
            target = graph.constants[node.inputs[1]]
            new = result.constant(np.where(target == before, classes, target)).name
            result.nodes[i] = replace(node, inputs=(node.inputs[0], new, *node.inputs[2:]))
        for name in filter(None, node.outputs):
            resize(name, 1 if result.values[name].batched else 0)
            resized.add(name)
    return result
