"""A captured model with the finer parts of a plan: biases as components of their own, low-rank factors beside matrices.

Nothing of the captured model is changed. The plan's outline says what there is; numbers come from here.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import msgspec
import numpy as np

from edgeplast.contract import low_rank_names
from edgeplast.graphs.passes.dequantize import quantizable
from edgeplast.graphs.passes.low_rank import with_low_rank
from edgeplast.outline import Outline
from edgeplast_exporters.capture import Captured


def regrouped(captured: Captured, planned: Outline) -> Captured:
    """Return the model with its parameters grouped as a plan groups them.

    What is not this model's, and what the plan says nothing of, stays visible: the check of the two finds it.
    """
    if planned.names == captured.outline.names:
        return captured
    own = captured.parameters
    factors = {factor for weight in quantizable(captured.graph) for factor in low_rank_names(weight)}
    components = tuple(
        msgspec.structs.replace(
            c,
            parameters={
                n: own[n].shape if n in own else s for n, s in c.parameters.items() if n in own or n in factors
            },
        )
        for c in planned.components
    )
    if sum(len([n for n in c.parameters if n in own]) for c in components) != len(own):
        return captured
    outline = msgspec.structs.replace(captured.outline, components=components, segments=planned.segments)
    return replace(captured, outline=outline)


def with_factors(captured: Captured) -> Captured:
    """Return the model with the low-rank factors that its outline lists, B at zero: its logits stay as they are.

    A is drawn as LoRA's authors do (and PEFT): uniform within ±1/√in, always the same for the same name.
    """
    named = {n: s for c in captured.outline.components for n, s in c.parameters.items() if n not in captured.parameters}
    ranks, arrays = {}, {}
    for weight in quantizable(captured.graph):
        a, b = low_rank_names(weight)
        if a in named and b in named:
            ranks[weight] = named[a][0]
            bound = named[a][1] ** -0.5
            random = np.random.default_rng(zlib.crc32(a.encode()))
            arrays[a] = random.uniform(-bound, bound, named[a]).astype(np.float32)
            arrays[b] = np.zeros(named[b], np.float32)
    if not ranks:
        return captured
    return replace(captured, graph=with_low_rank(captured.graph, ranks), parameters=captured.parameters | arrays)
