"""Which parameters cannot train because an operator without a gradient lies between them and the loss."""

from __future__ import annotations

from collections.abc import Collection

from edgeplast.graphs.differentiate import NoGradientError, ancestors
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.operators import operator
from edgeplast.graphs.training import promote, training_graph


def closed(forward: Graph, parameters: Collection[str]) -> dict[str, str]:
    """Return the parameters that cannot train, each with the operator that is in the way (``stages.2: TopK``).

    Args:
        forward: graph, its parameters weights.
        parameters: names of those that might train.
    """
    if all(operator(node.op, node.component).gradient is not None for node in forward.nodes):
        return {}
    found: dict[str, str] = {}
    open_ones = [name for name in parameters if name in set(forward.weights)]
    while open_ones:
        try:
            training_graph(promote(forward, open_ones), open_ones)
        except NoGradientError as error:
            before = ancestors(forward.nodes, error.node)
            where = f"{error.node.component}: {error.node.op}"
            found |= {name: where for name in open_ones if name in before}
            open_ones = [name for name in open_ones if name not in before]
        else:
            break
    return found
