"""What rounding the weights of one component does to what its block hands on, measured on images.

The forward graph runs in float32, and beside it, for each component and number of bits, a second copy of the nodes
from that component to the end of its block, reading the same float32 input and rounded weights. So every error is that
of one component alone, and all are measured where they can be compared: on the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeplast.graphs.graph import Graph, Node
from edgeplast.progress import Progress, silent
from edgeplast_exporters.calibration import run_float
from edgeplast_exporters.four_bits import float_matrix, quantize_blocks
from edgeplast_exporters.quantization import quantize_rows

_MEASURED_IMAGES = 32
"""Errors of this many images are added up; more change their order little."""


def rounding_errors(
    forward: Graph,
    parameters: Mapping[str, np.ndarray],
    images: Sequence[np.ndarray],
    rows: Mapping[str, np.ndarray],
    *,
    bits: Sequence[int] = (8, 4),
    progress: Progress = silent,
) -> dict[str, dict[int, float]]:
    """Measure the output error of each component with rounded weights.

    Args:
        forward: of the captured model; not changed.
        parameters: of the model, float32.
        images: preprocessed pictures, float32 (3, H, W) each.
        rows: each frozen matrix that may be stored in fewer bits, to samples of what it reads, for 4-bit scales.
        bits: numbers of bits to measure: 8, 4.
        progress: told of each image.

    Returns:
        component to bits to the mean squared change of what its block (or, outside of blocks, it) hands on, relative
        to the variance of that over tokens and images, channel by channel. A component of zeros has the error 0.
    """
    probed = forward.copy()
    extra: dict[str, np.ndarray] = {}
    pairs: dict[tuple[str, int], tuple[str, str]] = {}
    owner = {name: node.component for node in forward.nodes for name in node.inputs if name in rows}
    for component in dict.fromkeys(owner[name] for name in rows):
        own = [name for name in rows if owner[name] == component]
        for count in bits:
            rounded = {name: rounded_matrix(parameters[name], count, rows[name]) for name in own}
            pairs[component, count] = _copied(probed, forward, component, own, f"{count} bits")
            extra |= {f"{name}/{count} bits": array for name, array in rounded.items()}
    names = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
    changes = dict.fromkeys(pairs, 0.0)
    spread = {exact: _Spread() for exact, _ in pairs.values()}
    measured = images[:_MEASURED_IMAGES]
    for done, found in enumerate(run_float(probed, {**parameters, **extra}, measured, names)):
        progress("measuring what fewer bits change", done, len(measured))
        values = dict(zip(names, found, strict=True))
        for exact, each in spread.items():
            each.add(values[exact])
        for key, (exact, changed) in pairs.items():
            changes[key] += float(np.square(values[changed] - values[exact]).sum(dtype=np.float64))
    progress("measuring what fewer bits change", len(measured), len(measured))
    result: dict[str, dict[int, float]] = {}
    for (component, count), (exact, _) in pairs.items():
        result.setdefault(component, {})[count] = changes[component, count] / spread[exact].total
    return result


def rounded_matrix(weight: np.ndarray, bits: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the float32 matrix (out, in) that a bundle's 32, 8 or 4 bits stand for; ``rows`` as in 4-bit storage."""
    if bits == 32:
        return weight
    if bits == 4:
        return float_matrix(*quantize_blocks(weight, rows))
    integers, scale = quantize_rows(weight)
    return integers.astype(np.float32) * scale[:, None]


def _copied(probed: Graph, forward: Graph, component: str, weights: Sequence[str], tag: str) -> tuple[str, str]:
    """Append the nodes from a component to the end of its block, reading other weights; return both results' names."""
    block = next((node.block for node in forward.nodes if node.component == component), None)

    def near(node: Node) -> bool:
        return node.component == component if block is None else node.block == block

    names = {name: f"{name}/{tag}" for name in weights}
    for name, new in names.items():
        probed.weight(new, forward.values[name].shape)
    last = ""
    for node in filter(near, forward.nodes):
        if any(name in names for name in node.inputs):
            last = node.outputs[0]
            outputs = {name: f"{name}/{component}/{tag}" for name in node.outputs if name}
            for name, new in outputs.items():
                probed.values[new] = replace(forward.values[name], name=new)
            probed.nodes.append(replace(node.rewired(names), outputs=tuple(outputs.get(o, "") for o in node.outputs)))
            names |= outputs
    return last, names[last]


class _Spread:
    """The summed squared distance of rows from their mean, added up image by image."""

    def __init__(self) -> None:
        self._rows, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, rows: np.ndarray) -> None:
        wide = rows.astype(np.float64)
        self._rows += len(rows)
        self._sum, self._squares = self._sum + wide.sum(axis=0), self._squares + np.square(wide).sum(axis=0)

    @property
    def total(self) -> float:
        found = float((self._squares - np.square(self._sum) / max(self._rows, 1)).sum())
        return max(found, float(np.finfo(np.float32).tiny))
