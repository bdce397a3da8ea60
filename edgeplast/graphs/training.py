"""From a forward graph to a training graph: trainable inputs, loss, gradients.

The loss is cross-entropy against *weighted* targets, ``−Σ t·log softmax(logits)`` with t of shape (B, classes):
the device puts label smoothing, class weights and the division by the whole accumulated batch into t, so one
graph serves them all, micro-batches add up exactly, and an out-of-range label cannot reach the runtime.
"""

from __future__ import annotations

from collections.abc import Collection

from edgeplast.contract import LOGITS, LOSS, TARGETS, gradient_input
from edgeplast.errors import InputError
from edgeplast.graphs.differentiate import differentiate
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.expand_activations import expand_activations
from edgeplast.graphs.passes.fold_scales import fold_scales


def promote(forward: Graph, parameters: Collection[str]) -> Graph:
    """Return the graph with some weights turned into inputs, so that a device can change them.

    Raises:
        InputError: a name is no weight of the graph.
    """
    unknown = sorted(set(parameters) - set(forward.weights))
    if unknown:
        raise InputError(f"{', '.join(unknown)} cannot be trained: the prediction does not use them.")
    graph = forward.copy()
    graph.weights = [name for name in graph.weights if name not in set(parameters)]
    graph.inputs += [name for name in forward.weights if name in set(parameters)]
    return graph


def training_graph(forward: Graph, trainable: Collection[str]) -> Graph:
    """Return a graph that adds the gradients of one micro-batch onto their accumulators.

    Args:
        forward: from ``forward_graph``, every trainable parameter (and any other that a device may have
            changed) promoted to an input.
        trainable: names of the parameters to train.

    Returns:
        a graph with inputs ``images``, ``targets``, the promoted parameters and a
        ``<parameter>.gradient`` each; outputs ``loss`` (scalar), ``logits`` and a
        ``<parameter>.gradient.sum`` each.
    """
    g = forward.copy()
    logits = g.values[LOGITS]
    targets = g.input(TARGETS, logits.shape, batched=True)
    with g.serving("loss", phase="forward"):
        log_probabilities = g.unary("LogSoftmax", logits, axis=-1)
        weighted = g.reduce("ReduceSum", g.mul(targets, log_probabilities), 1, keep=False)
        total = g.reduce("ReduceSum", weighted, 0, keep=False)
        g.output(g.node("Neg", [total], [()], batched=False)[0], LOSS)
    for name in trainable:
        g.input(gradient_input(name), g.values[name].shape)
    with g.serving("loss", phase="backward"):
        mass = g.reduce("ReduceSum", targets, 1)
        seed = g.sub(g.mul(g.unary("Exp", log_probabilities), mass), targets)
    for value in differentiate(g, {LOGITS: seed}, trainable).values():
        g.output(value)
    return expand_activations(fold_scales(g))
