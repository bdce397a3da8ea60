"""A captured model whose frozen batch normalizations are part of the convolutions before them.

Does not change its input. The arithmetic is ``edgeplast.graphs.passes.fold_batch_norms``; what trains stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from edgeplast.errors import InputError
from edgeplast.graphs.passes.fold_batch_norms import fold_batch_norms
from edgeplast_exporters.capture import Captured
from edgeplast_exporters.capture.parity import TOLERANCE, run_once
from edgeplast_exporters.training import promote


def with_folded_norms(captured: Captured, trainable: Collection[str]) -> Captured:
    """Return a model of the same logits with fewer batch normalizations.

    Args:
        captured: the model; not changed.
        trainable: names of the parameters that a device will change.

    Returns:
        the model without the parameters that were folded away: of a frozen pair the kernel and the norm's bias stay,
        with other numbers in them; the outline still describes the module.

    Raises:
        InputError: a norm's statistics are such that float32 cannot hold the folded kernel.
    """
    folded = folded_norms(captured, trainable)
    if folded is not captured:
        _check(captured, folded)
    return folded


def folded_norms(captured: Captured, trainable: Collection[str]) -> Captured:
    """Return the same as :func:`with_folded_norms`, its logits not compared."""
    if not any(node.op == "BatchNormalization" for node in captured.graph.nodes):
        return captured
    graph, arrays = fold_batch_norms(promote(captured.graph, trainable), captured.weights)
    given = set(trainable)
    graph.inputs = [name for name in graph.inputs if name not in given]
    before = [name for name in captured.graph.weights if name in given or name in graph.weights]
    graph.weights = [*before, *(name for name in graph.weights if name not in set(before))]
    return replace(
        captured,
        graph=graph,
        parameters={name: arrays[name] for name in captured.parameters if name in arrays},
        constants={name: array for name, array in arrays.items() if name not in captured.parameters},
    )


def _check(captured: Captured, folded: Captured) -> None:
    shape = captured.outline.input_shape
    images = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    one, other = (run_once(c.graph, c.weights, images) for c in (captured, folded))
    if not float(np.abs(one - other).max()) <= TOLERANCE * float(np.abs(one).max()):
        raise InputError(
            f"{captured.outline.model}: its logits change when frozen batch normalizations become part of the "
            "convolutions before them. A norm divides by a variance that is nearly 0; train it for a few steps in "
            "training mode, or replace that norm."
        )
