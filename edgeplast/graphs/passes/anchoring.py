"""Part of passes: a view of a value that does not exist before another value does.

Its shape is read off the other one, so no scheduler can move what reads it forward, and to a common-subexpression pass
it is another expression than the same without. What would break it: a runtime that folds ``Reshape(x, Shape(y))`` to x
because both shapes agree (onnxruntime 1.19 to 1.32 does not).
"""

from __future__ import annotations

from edgeplast.graphs.graph import Graph, Value


def anchored(graph: Graph, value: Value, like: Value, name: str) -> Value:
    """Return a view of a value in the shape that it has, made once another one is there.

    Args:
        graph: nodes are added to.
        value: what is viewed.
        like: what must be there first; batched.
        name: of the view.
    """
    if value.shape == like.shape and value.batched:
        shape = graph.node("Shape", [like])[0]
    else:  # 0 · (its first dimension) stands for "as it is"
        first = graph.node("Shape", [like], start=0, end=1)[0]
        shape = graph.node("Mul", [first, graph.constant([0])])[0]
        if rest := value.shape[1:]:
            shape = graph.node("Concat", [shape, graph.constant(rest)], axis=0)[0]
    return graph.node("Reshape", [value, shape], [value.shape], batched=value.batched, names=[name])[0]
