"""From a captured model to the graph that scores its components on a device: the same passes, the same weights.

The tapped graph goes the way of the others: frozen norms folded into convolutions, low-rank factors beside matrices.
Where a norm was folded, what a convolution computed before it is what it computes now, channel by channel divided by
the norm's factor: the shift is the same for both pictures of a pair.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.fold_batch_norms import norm_factor
from edgeplast.graphs.passes.pair_distances import Heard, pair_distances
from edgeplast.graphs.recording import recorded
from edgeplast.outline import Outline
from edgeplast.score_taps import ScoreTaps, UnitTaps
from edgeplast_exporters.capture import Captured
from edgeplast_exporters.capture.tapping import Ends, Tap, Taps
from edgeplast_exporters.folding import folded_norms
from edgeplast_exporters.refining import with_factors
from edgeplast_exporters.training import promote


@dataclass(frozen=True)
class ScoringGraph:
    """What ``score.onnx`` is made of.

    Attributes:
        graph: from pairs to distances, trainable parameters promoted to inputs.
        taps: what its columns mean.
    """

    graph: Graph
    taps: ScoreTaps


def scoring_graph(captured: Captured, trainable: Collection[str], planned: Outline) -> ScoringGraph | None:
    """Return the graph that scores a model; None where nothing in it gets a score.

    Args:
        captured: as it was captured, with its taps; no norm folded.
        trainable: names of the parameters that a device will change, low-rank factors among them.
        planned: the plan's outline, which knows what was pruned.
    """
    if captured.taps is None:
        return None
    own = [name for name in trainable if name in captured.parameters]
    taps = _past_folded_norms(captured, captured.taps, own)
    tapped = with_factors(folded_norms(replace(captured, graph=taps.graph), own)).graph
    order = list(dict.fromkeys(tap for units in taps.methods.values() for ends in units.values() for tap in _all(ends)))
    column = {tap: i for i, tap in enumerate(order)}
    weights = captured.weights
    heard = [Heard(t.value, t.times, _factor_of(captured.graph, t.factor, weights)) for t in order]
    promoted = promote(tapped, [name for name in trainable if name in tapped.weights])
    methods = {
        method: {n: UnitTaps(*(tuple(column[t] for t in end) for end in ends)) for n, ends in units.items()}
        for method, units in taps.methods.items()
    }
    outline = msgspec.structs.replace(taps.outline, kept_fraction=planned.kept_fraction)
    record = ScoreTaps(taps=len(order), methods=methods, outline=outline, graph=recorded(captured.graph))
    return ScoringGraph(pair_distances(promoted, heard), record)


def _all(ends: Ends) -> tuple[Tap, ...]:
    return (*ends[0], *ends[1])


def _past_folded_norms(captured: Captured, taps: Taps, trainable: Collection[str]) -> Taps:
    """Return taps none of which lies between a convolution and a norm that becomes part of it."""
    there = folded_norms(captured, trainable).graph.values
    norms = {n.inputs[0]: n for n in captured.graph.nodes if n.op == "BatchNormalization" and n.inputs[0] not in there}
    arrays = {**captured.graph.constants, **captured.weights}
    dead = {name for name, norm in norms.items() if not norm_factor(arrays, norm)[0].all()}

    def moved(end: tuple[Tap, ...]) -> tuple[Tap, ...]:
        return tuple(
            replace(t, value=n.outputs[0], factor=n.outputs[0]) if (n := norms.get(t.value)) else t for t in end
        )

    methods = {
        method: {name: (moved(ends[0]), moved(ends[1])) for name, ends in units.items()}
        for method, units in taps.methods.items()
        # A norm that multiplies a channel by 0 hides what went into it.
        if not any(t.value in dead for ends in units.values() for t in _all(ends))
    }
    heard = {t.value for units in methods.values() for ends in units.values() for t in _all(ends)}
    graph = taps.graph.copy()
    outputs = [name for name in graph.outputs if name not in norms]
    graph.outputs = [*outputs, *(n.outputs[0] for n in norms.values() if n.outputs[0] in heard - set(outputs))]
    return replace(taps, graph=graph, methods=methods)


def _factor_of(graph: Graph, norm: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return what a norm multiplies each channel by; None for no norm."""
    node = next((n for n in graph.nodes if norm and n.outputs[0] == norm), None)
    return None if node is None else norm_factor({**graph.constants, **arrays}, node)[0]
