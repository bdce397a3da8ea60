"""Estimate: the memory, time and disk of training a set of components, before any graph exists.

    peak = base + 2 · frozen weights as stored + trainable · 4 · (2 + optimizer slots) + images + 1.25 · transient

The base is a process that trains nothing yet, by the same function that the device predicts with
(``footprint.peak_bytes``).

The transient part is the sum of what crossed blocks keep up to the block that peaks; with full recomputation
each crossed block but the last keeps only its input (B·N·D floats) and is computed again when its turn comes, with
selective recomputation it keeps all but norms and attention weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from edgeplast.architecture import Architecture
from edgeplast.components import COMPONENT_TYPES, EMBED, HEAD, NORM, all_components, in_order
from edgeplast.errors import UsageError, one_of
from edgeplast.footprint import ASSUMED_RESIDENT_BYTES, SESSIONS, peak_bytes
from edgeplast.planning.activations import UNTOUCHED, BlockMemory, block_memory, gradient_end
from edgeplast.planning.flops import (
    FLOPS_PER_SECOND,
    backward_flops,
    forward_flops,
    recomputed_flops,
    step_seconds,
)
from edgeplast.planning.sizes import BlockSizes, block_sizes, image_bytes
from edgeplast.planning.weights import float_copy_bytes, state_bytes_per_parameter, stored_bytes
from edgeplast.plans import OPTIMIZER_SLOTS
from edgeplast.recomputation import Recompute

ARENA_MARGIN = 1.25
"""The arena's region over the bytes alive, for holes: 1.11 to 1.23 on ViT-Tiny to -Base."""

LOADED_GRAPH_BYTES_PER_BLOCK = 11_500
"""What a block adds to the training and the evaluation graph that a device opens, everything of it trained."""

GRAPH_BYTES_PER_BLOCK, GRAPH_BYTES_PER_CROSSED_BLOCK = 14_000, 57_000
"""What a block adds to the ONNX graphs and the manifest of a bundle, and what more where the gradient crosses it
(training graphs of four tiers, in three degrees of recomputation); measured on bundles of 4, 12 and 24 blocks."""


def base_bytes(depth: int) -> int:
    """Return what a device process takes that has opened the graphs of a model of so many blocks, and no weights."""
    return peak_bytes(
        resident_bytes=ASSUMED_RESIDENT_BYTES,
        graph_bytes=LOADED_GRAPH_BYTES_PER_BLOCK * depth,
        mapped_bytes=0,
        state_bytes=0,
        pictures_bytes=0,
        transient_bytes=0,
    )


class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What training one set of components costs.

    Attributes:
        micro_batch_size: images that pass through the graph at once.
        recompute: how much of the blocks is computed again in the backward pass.
        base_bytes: of the process, its graphs opened and nothing trained.
        frozen_bytes: frozen weights as stored.
        state_bytes: trainable parameters, gradients and optimizer state, float32.
        images_bytes: one micro-batch of pictures.
        transient_bytes: the most that is alive at once inside one run of the training graph.
        flops_per_image: operations of one image, forward and backward.
        step_seconds: time of one optimizer step.
        disk_bytes: size of the bundle.
    """

    micro_batch_size: int
    recompute: Recompute
    base_bytes: int
    frozen_bytes: int
    state_bytes: int
    images_bytes: int
    transient_bytes: int
    flops_per_image: float
    step_seconds: float
    disk_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Peak of the process. Evaluation at the same micro-batch needs less: the forward pass alone."""
        return (
            self.base_bytes
            + SESSIONS * self.frozen_bytes
            + self.state_bytes
            + self.images_bytes
            + round(ARENA_MARGIN * self.transient_bytes)
        )


def estimate(
    architecture: Architecture,
    trainable: Collection[str],
    *,
    micro_batch_size: int = 16,
    recompute: Recompute = "none",
    optimizer: str = "adamw",
    weight_bits: int = 8,
    batch_size: int | None = None,
    flops_per_second: float = FLOPS_PER_SECOND,
) -> Estimate:
    """Estimate what training some components of a model costs.

    Args:
        architecture: of the model, its head already the new one.
        trainable: names of the components that train.
        micro_batch_size: images that pass through the graph at once.
        recompute: how much of the blocks is computed again in the backward pass.
        optimizer: ``adamw`` or ``sgd``.
        weight_bits: of frozen matrices: 32, 8 or 4.
        batch_size: images of an optimizer step, for its time; by default one micro-batch.
        flops_per_second: of the device, for the time.

    Raises:
        UsageError: an unknown component or optimizer, or impossible bits or sizes.
    """
    bits = dict.fromkeys(all_components(architecture.depth), weight_bits)
    workload = Workload(architecture, bits, optimizer, batch_size or micro_batch_size, flops_per_second)
    return workload.estimate(trainable, micro_batch_size, recompute)


@dataclass(frozen=True)
class Workload:
    """A model and everything about its training that does not depend on which components train.

    Attributes:
        architecture: sizes of the model, its head the new one.
        weight_bits: component to bits of its matrices where it is frozen.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images of an optimizer step.
        flops_per_second: of the device.
    """

    architecture: Architecture
    weight_bits: Mapping[str, int]
    optimizer: str = "adamw"
    batch_size: int = 16
    flops_per_second: float = FLOPS_PER_SECOND

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZER_SLOTS:
            raise one_of("optimizer", self.optimizer, tuple(OPTIMIZER_SLOTS))
        for bits in self.weight_bits.values():
            if bits not in (32, 8, 4):
                raise UsageError(f"weight_bits={bits} is not possible. Frozen matrices are stored in 32, 8 or 4 bits.")
        if self.batch_size < 1 or self.flops_per_second <= 0:
            raise UsageError(
                f"batch_size={self.batch_size} and flops_per_second={self.flops_per_second:g} must be positive."
            )

    @cached_property
    def blocks(self) -> tuple[BlockSizes, ...]:
        """Sizes of every block."""
        return block_sizes(self.architecture)

    @cached_property
    def stored(self) -> dict[str, int]:
        """Component to its bytes when frozen."""
        a = self.architecture
        return {name: stored_bytes(a, name, self.weight_bits[name]) for name in all_components(a.depth)}

    @cached_property
    def copies(self) -> dict[str, int]:
        """Component to the bytes of its largest matrix as float32 while it is read, when frozen."""
        a = self.architecture
        return {name: float_copy_bytes(a, name, self.weight_bits[name]) for name in all_components(a.depth)}

    @property
    def state_bytes_per_parameter(self) -> int:
        """Parameter, gradient and optimizer state."""
        return state_bytes_per_parameter(self.optimizer)

    def fixed_bytes(self, micro_batch_size: int) -> int:
        """Return what is resident whatever trains, were everything frozen: runtime, stored weights, images."""
        images = micro_batch_size * image_bytes(self.architecture)
        return base_bytes(self.architecture.depth) + SESSIONS * sum(self.stored.values()) + images

    def trained_bytes(self, component: str) -> int:
        """Return what training a component adds to memory, activations aside."""
        state = self.state_bytes_per_parameter * self.architecture.parameters[component]
        return state - SESSIONS * self.stored[component]

    def trained_disk_bytes(self, component: str) -> int:
        """Return what training a component adds to the bundle: it is stored as float32."""
        return 4 * self.architecture.parameters[component] - self.stored[component]

    def disk_bytes(self, trainable: Collection[str]) -> int:
        """Return the size of the bundle."""
        crossed = next((self.architecture.depth - i for i, t in enumerate(self.by_block(trainable)) if t), 0)
        return self.frozen_disk_bytes(crossed) + sum(map(self.trained_disk_bytes, trainable))

    def frozen_disk_bytes(self, crossed: int) -> int:
        """Return the size of a bundle in which nothing trains, with graphs that cross some blocks."""
        depth = self.architecture.depth
        graphs = GRAPH_BYTES_PER_BLOCK * depth + GRAPH_BYTES_PER_CROSSED_BLOCK * crossed
        return graphs + sum(self.stored.values())

    @cached_property
    def _known(self) -> dict[tuple[int, tuple[str, ...], bool, Recompute], BlockMemory]:
        """Blocks already computed: the search asks for each again at every micro-batch size."""
        return {}

    def block(self, index: int, trained: Collection[str], entered: bool, recompute: Recompute = "none") -> BlockMemory:
        """Return the activation memory of one block."""
        recompute = self.computed_again(index, recompute)
        key = (index, tuple(trained), entered, recompute)
        if key not in self._known:
            copies = {k: 0 if k in trained else self.copies[f"blocks.{index}.{k}"] for k in COMPONENT_TYPES}
            end = gradient_end(trained, entered)
            self._known[key] = block_memory(self.blocks[index], trained, end, copies, recompute)
        return self._known[key]

    def block_flops(self, index: int, trained: Collection[str], entered: bool, recompute: Recompute) -> float:
        """Return the operations of one block, for one image."""
        b, end = self.blocks[index], gradient_end(trained, entered)
        again = recomputed_flops(b, self.computed_again(index, recompute), end)
        return forward_flops(b) + backward_flops(b, trained, end) + again

    def edge_flops(self, trainable: Collection[str]) -> float:
        """Return the operations of patch embedding and head, for one image; a product that trains counts twice."""
        a = self.architecture
        embed = 2.0 * image_bytes(a) / 4 * a.width
        head = 2.0 * a.parameters[HEAD]
        deeper = any(name != HEAD for name in trainable)
        return embed * (1 + (EMBED in trainable)) + head * (1 + (HEAD in trainable) + deeper)

    def computed_again(self, index: int, recompute: Recompute) -> Recompute:
        """Return how much of a block, if the gradient reaches it, is computed again; of the last one nothing."""
        return recompute if index < len(self.blocks) - 1 else "none"

    def held_and_peak(
        self, index: int, trained: Collection[str], entered: bool, micro_batch_size: int, recompute: Recompute
    ) -> tuple[int, int]:
        """Return the bytes a block keeps between its two passes, and the most alive while it computes.

        Both on top of what earlier blocks keep.
        """
        memory = self.block(index, trained, entered, recompute)
        if gradient_end(trained, entered) < UNTOUCHED and self.computed_again(index, recompute) == "full":
            rows = 4 * self.blocks[index].tokens * self.blocks[index].width
            return rows * micro_batch_size, memory.peak(micro_batch_size, incoming=rows)
        return memory.kept * micro_batch_size, memory.peak(micro_batch_size)

    def embedding_bytes(self, micro_batch_size: int) -> int:
        """Return the most alive while patches become tokens."""
        b = self.blocks[0]
        per_image = image_bytes(self.architecture) + 4 * b.tokens * b.width
        return self.copies[EMBED] + per_image * micro_batch_size

    def transient_bytes(self, trainable: Collection[str], micro_batch_size: int, recompute: Recompute) -> int:
        """Return the most bytes that are alive at once inside one run of the training graph."""
        entered = EMBED in trainable
        held = image_bytes(self.architecture) * micro_batch_size if entered else 0
        peak = self.embedding_bytes(micro_batch_size)
        for i, trained in enumerate(self.by_block(trainable)):
            kept, most = self.held_and_peak(i, trained, entered, micro_batch_size, recompute)
            peak = max(peak, held + most)
            held += kept
            entered = entered or bool(trained)
        return peak

    def by_block(self, trainable: Collection[str]) -> list[list[str]]:
        """Return the trained component types of each block."""
        return [
            [kind for kind in COMPONENT_TYPES if f"blocks.{i}.{kind}" in trainable] for i in range(len(self.blocks))
        ]

    def estimate(self, trainable: Collection[str], micro_batch_size: int, recompute: Recompute) -> Estimate:
        """Return what training these components costs.

        Raises:
            UsageError: an unknown component, or a micro-batch below 1.
        """
        names = set(in_order(trainable, self.architecture.depth))
        if micro_batch_size < 1:
            raise UsageError(f"micro_batch_size={micro_batch_size} must be at least 1.")
        parameters = sum(self.architecture.parameters[name] for name in names)
        frozen = sum(size for name, size in self.stored.items() if name not in names)
        entered, flops = EMBED in names, self.edge_flops(names)
        for i, trained in enumerate(self.by_block(names)):
            flops += self.block_flops(i, trained, entered, recompute)
            entered = entered or bool(trained)
        return Estimate(
            micro_batch_size=micro_batch_size,
            recompute=recompute,
            base_bytes=base_bytes(self.architecture.depth),
            frozen_bytes=frozen,
            state_bytes=self.state_bytes_per_parameter * parameters,
            images_bytes=micro_batch_size * image_bytes(self.architecture),
            transient_bytes=self.transient_bytes(names, micro_batch_size, recompute),
            flops_per_image=flops,
            step_seconds=step_seconds(flops, self.batch_size, micro_batch_size, self.flops_per_second),
            disk_bytes=self.disk_bytes(names),
        )


def micro_batches(batch_size: int) -> Sequence[int]:
    """Return the micro-batch sizes that are tried: the batch, halved until 1, e.g. 12, 6, 3, 2, 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


ALWAYS = (NORM, HEAD)
"""What trains in every plan that has room for it; the norm costs next to nothing."""
