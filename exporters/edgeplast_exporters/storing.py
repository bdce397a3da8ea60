"""How frozen parameters are stored, and the graphs that read them so: bits, integer products, what lies in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeplast.bundle import StoredParameter
from edgeplast.contract import packed_name, quantized_name, scale_name
from edgeplast.errors import UsageError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.expand_activations import expand_activations
from edgeplast.plans import Plan
from edgeplast.progress import Progress, silent
from edgeplast_exporters.calibration import LEAST_IMAGES, sample_inputs
from edgeplast_exporters.capture import Captured
from edgeplast_exporters.four_bits import pack, quantize_blocks
from edgeplast_exporters.frozen_integers import HELD_OUT_SHARE, FrozenIntegers, fit_integers
from edgeplast_exporters.integer_products import compute_in_integers, integer_candidates, with_float_matrices
from edgeplast_exporters.quantization import quantizable, quantize_frozen, quantize_rows

FrozenCompute = Literal["fp32", "int8"]
"""How frozen products before everything that trains are computed. The default is fp32: with all of ViT-Tiny's blocks in
integers a seventh of RSSCN7's test pictures change their ImageNet class (exporters/README.md, Fewer bits), which a
user should choose, for products three times as fast, and not be given."""


@dataclass(frozen=True)
class FrozenStorage:
    """What becomes of the frozen parameters of one model.

    Attributes:
        parameters: every parameter, float32; integer products may have changed the frozen ones before them.
        bits: weight name to bits, of every frozen matrix.
        integers: the products that are integer arithmetic, if any.
        rows: weight name to samples of what it reads, for 4-bit scales; may be empty.
        owner: parameter name to its component.
        constants: what graphs read besides parameters, by name.
    """

    parameters: dict[str, np.ndarray]
    bits: dict[str, int]
    integers: FrozenIntegers | None
    rows: dict[str, np.ndarray]
    owner: Mapping[str, str]
    constants: Mapping[str, np.ndarray]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the plan should know."""
        if self.integers is None:
            return ()
        last = self.owner[list(self.integers.products)[-1]]
        return (
            f"{len(self.integers.products)} matrices up to {last} multiply in integers; what {last} computes differs "
            f"from float32 by {self.integers.error:.1%} on images that were not calibrated on.",
        )

    def reading(self, graph: Graph) -> Graph:
        """Return a forward or training graph as it will run, reading frozen matrices as they are stored."""
        graph = expand_activations(graph)
        if self.integers is not None:
            graph = compute_in_integers(graph, self.integers.products)
        eight, four = ([n for n, bits in self.bits.items() if bits == wanted] for wanted in (8, 4))
        return quantize_frozen(graph, eight, four_bits=four)

    def deployable(self, forward: Graph) -> Graph:
        """Return the forward graph that computes the same from float32 parameters, with all constants in it."""
        forward = forward.copy()
        forward.weights = [name for name in forward.weights if name not in self.constants]
        forward.constants |= self.constants
        if self.integers is None:
            return forward
        scales = {n: self.integers.stored[scale_name(n)] for n in self.integers.products}
        return with_float_matrices(forward, self.integers.products, scales)

    def described(self, trainable: Sequence[str]) -> dict[str, StoredParameter]:
        """Return how each parameter is stored, for the manifest."""
        products = self.integers.products if self.integers else {}
        return {
            name: StoredParameter(
                component=self.owner[name],
                shape=array.shape,
                trainable=name in set(trainable),
                weight_bits=self.bits.get(name, 32),
                compute_bits=8 if name in products else 32,
            )
            for name, array in self.parameters.items()
        }

    def arrays(self, trainable: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the content of the file of frozen weights."""
        result: dict[str, np.ndarray] = dict(self.constants)
        products = self.integers.products if self.integers else {}
        for name, array in self.parameters.items():
            if name in products or name in set(trainable):
                continue
            if self.bits.get(name) == 8:
                result[quantized_name(name)], result[scale_name(name)] = quantize_rows(array)
            elif self.bits.get(name) == 4:
                quantized, result[scale_name(name)] = quantize_blocks(array, self.rows.get(name))
                result[packed_name(name)] = pack(quantized)
            else:
                result[name] = array
        return result | (self.integers.stored if self.integers else {})


def store_frozen(
    captured: Captured,
    promoted: Graph,
    plan: Plan,
    *,
    frozen_compute: FrozenCompute = "fp32",
    images: Sequence[np.ndarray] = (),
    progress: Progress = silent,
) -> FrozenStorage:
    """Decide how each frozen matrix is stored and computed with.

    Args:
        captured: the model; not changed.
        promoted: its graph with everything that may train as an input.
        plan: gives the bits of each component.
        frozen_compute: ``"int8"`` for integer arithmetic before everything that trains.
        images: to calibrate on.
        progress: told of each image.

    Raises:
        UsageError: integers without images, or with nothing to compute in them.
        InputError: integers change too much; too few images.
    """
    forward, owner = captured.graph, captured.owner
    bits = {name: plan.components[owner[name]].weight_bits for name in quantizable(promoted) if name in owner}
    changed, integers = dict(captured.parameters), None
    if frozen_compute == "int8":
        weights = [name for name in integer_candidates(promoted) if bits.get(name) == 8]
        _check_integers_possible(weights, images)
        integers = fit_integers(forward, captured.weights, images, weights, progress=progress)
        changed = {name: integers.parameters[name] for name in changed}
    small = [name for name, b in bits.items() if b == 4]
    rows: dict[str, np.ndarray] = {}
    if small and len(images) >= LEAST_IMAGES:
        samples = sample_inputs(forward, changed | captured.constants, images, small, progress=progress)
        rows = {name: sample.rows for name, sample in samples.items()}
    return FrozenStorage(changed, bits, integers, rows, owner, captured.constants)


def _check_integers_possible(weights: Sequence[str], images: Sequence[np.ndarray]) -> None:
    if not weights:
        raise UsageError(
            "--frozen-compute int8 has nothing to compute: no matrix that is stored in 8 bits lies before what trains. "
            "Train less deep (--train attn:8-11,head), store in 8 bits (--weight-bits 8), or leave it at fp32."
        )
    least = -(-LEAST_IMAGES * HELD_OUT_SHARE // (HELD_OUT_SHARE - 1))
    if len(images) < least:
        raise UsageError(
            f"--frozen-compute int8 needs at least {least} images to calibrate on and got {len(images)}. "
            "Give --data with images of the kind that the device will see."
        )
