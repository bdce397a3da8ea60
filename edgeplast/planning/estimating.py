"""Estimate: the memory, time and disk of training a set of components, from walks over the graph that would run.

    peak = process with its graphs + frozen weights as stored + parameters, gradients, optimizer + images + arena

is :func:`edgeplast.footprint.peak_bytes`, the device's own formula, with an assumed process that opens the graph that
trains and the one that evaluates in turns, as a device does whose budget has no room for both. Two ways lead to the
arena: :meth:`Workload.estimate` adds up what was walked unit by unit and allows for the arena's holes, in microseconds;
:meth:`Workload.measured` builds the whole training graph as the exporter does and places it in the arena.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from edgeplast.contract import LOGITS, packed_name, quantized_name, scale_name
from edgeplast.errors import UsageError
from edgeplast.footprint import ASSUMED_RESIDENT_BYTES, Footprint, MemoryLine, peak_bytes
from edgeplast.graphs.closing import closed
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.footprints import footprint_of
from edgeplast.graphs.measures.serialized import serialized_bytes
from edgeplast.graphs.passes.dequantize import quantizable, quantize_frozen
from edgeplast.graphs.passes.expand_activations import expand_activations
from edgeplast.graphs.passes.halves import LEAST_SHARE, halves
from edgeplast.graphs.passes.merge_low_rank import merge_low_rank
from edgeplast.graphs.passes.new_classes import with_classes
from edgeplast.graphs.passes.recompute import recompute as computed_again
from edgeplast.graphs.training import promote, training_graph
from edgeplast.micro_batches import slowdown
from edgeplast.optimizers import optimizer_facts
from edgeplast.outline import Outline
from edgeplast.planning.estimates import Estimate, Footprints
from edgeplast.planning.segment_costs import UnitCost, UnitCosts, first_trained, total_lines
from edgeplast.planning.units import Unit, units_of
from edgeplast.prefixes import Prefix
from edgeplast.recomputation import Recompute

ARENA_STRETCH = 1.10
"""The arena's region over the bytes alive, for holes: 1.05 to 1.10 on ViT-Tiny; the whole graph tells exactly."""

FLOPS_PER_SECOND = 170e9
"""What onnxruntime reaches in a training step on the 2 x86-64 cores that facts.md was measured on: ViT-Tiny,
attention of all blocks, batch 16, 93 GFLOP in 0.55 s. Give the device's own figure where time matters."""

FORWARD_GRAPHS, TRAINING_GRAPHS = 6.7, 7.6
"""Bytes on disk of the graphs that predict and score (with the manifest's and the deployed model's), over those of
evaluation; and of all training graphs of a bundle (four tiers, three degrees of recomputation) over those of the
largest without recomputation. Those of ViT-Tiny with all attention trained, the most of the models that were looked at:
a bundle is to be no larger than its plan's budget."""

IMAGE_BYTES = 4
"""Of one number of a preprocessed picture, float32."""


def check_training(optimizer: str, batch_size: int) -> None:
    """Raise unless a device can train so; no model is needed.

    Raises:
        UsageError: no such optimizer, or a batch of nothing.
    """
    optimizer_facts(optimizer)
    if batch_size < 1:
        raise UsageError(f"--batch {batch_size} (batch_size) must be at least 1, such as 16.")


@dataclass(frozen=True)
class Workload:
    """A model and everything about its training that does not depend on which components train.

    Attributes:
        outline: of the model, its head the new one.
        graph: its forward graph.
        weight_bits: component to bits of its matrices where it is frozen.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images of an optimizer step.
        flops_per_second: of the device.
    """

    outline: Outline
    graph: Graph
    weight_bits: Mapping[str, int]
    optimizer: str = "adamw"
    batch_size: int = 16
    flops_per_second: float = FLOPS_PER_SECOND
    _measured: dict[tuple[frozenset[str], Recompute], Footprints] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_training(self.optimizer, self.batch_size)
        for bits in self.weight_bits.values():
            if bits not in (32, 8, 4):
                raise UsageError(f"weight_bits={bits} is not possible. Frozen matrices are stored in 32, 8 or 4 bits.")
        if not self.flops_per_second > 0:
            raise UsageError(f"flops_per_second={self.flops_per_second:g} must be positive.")

    # -- what does not depend on the choice -----------------------------------------------------------------

    @cached_property
    def owner(self) -> dict[str, str]:
        """Parameter to its component."""
        return {parameter: c.name for c in self.outline.components for parameter in c.parameters}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Component to how many numbers its parameters hold."""
        return {c.name: c.size for c in self.outline.components}

    @cached_property
    def matrices(self) -> dict[str, int]:
        """Frozen weights that can be stored in fewer bits, to their bits."""
        return {n: self.weight_bits[self.owner[n]] for n in quantizable(self.graph) if n in self.owner}

    def _of_bits(self, bits: int) -> list[str]:
        return [name for name, b in self.matrices.items() if b == bits]

    def reading(self, graph: Graph) -> Graph:
        """Return a graph as it will run, frozen matrices read as they are stored."""
        return quantize_frozen(expand_activations(graph), self._of_bits(8), four_bits=self._of_bits(4))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What is planned as one, in the order of data."""
        return units_of(self.outline, self.graph)

    @cached_property
    def costs(self) -> UnitCosts:
        """Walks of units."""
        return UnitCosts(self.units, self._of_bits(8), self._of_bits(4))

    @cached_property
    def stored(self) -> dict[str, int]:
        """Component to its bytes when frozen."""
        frozen = self.reading(self.graph)
        sizes = dict.fromkeys(self.sizes, 0)
        for name in self.owner:
            parts = (name, quantized_name(name), packed_name(name), scale_name(name))
            sizes[self.owner[name]] += sum(frozen.values[n].bytes for n in parts if n in set(frozen.weights))
        return sizes

    @cached_property
    def constant_bytes(self) -> int:
        """Bytes of large arrays that are no parameters."""
        return sum(self.graph.values[name].bytes for name in self.graph.weights if name not in self.owner)

    @cached_property
    def evaluation_graph_bytes(self) -> int:
        """Size of the graph that predicts."""
        return serialized_bytes(self.reading(self.graph))

    @cached_property
    def closed(self) -> dict[str, str]:
        """Components that cannot train, each with the operator without a gradient that lies behind it."""
        return {self.owner[name]: where for name, where in closed(self.graph, [*self.owner]).items()}

    @cached_property
    def first_open(self) -> int:
        """Index of the first unit in which something can train; the gradient goes no further back."""
        last = max((i for i, u in enumerate(self.units) if self.closed.keys() & {*u.components}), default=-1)
        operators = set(self.closed.values())
        holding = [i for i, u in enumerate(self.units) if operators & {f"{n.component}: {n.op}" for n in u.graph.nodes}]
        return max([last, *holding], default=-1) if self.closed else 0

    @property
    def always(self) -> tuple[str, ...]:
        """What trains in every plan that has room for it: the head and the norms before it, which cost hardly more."""
        ends = (c.name for c in self.outline.components if c.role in ("norm", "head"))
        return tuple(name for name in ends if name not in self.closed)

    @property
    def state_bytes_per_parameter(self) -> int:
        """Parameter, gradient and optimizer state."""
        return 4 * (2 + len(optimizer_facts(self.optimizer).slots))

    def images_bytes(self, micro_batch_size: int) -> int:
        """Bytes of one micro-batch of pictures."""
        channels, height, width = self.outline.input_shape
        return micro_batch_size * IMAGE_BYTES * channels * height * width

    def trained_bytes(self, component: str) -> int:
        """Return what training a component adds to memory, activations aside."""
        return self.state_bytes_per_parameter * self.sizes[component] - self.stored[component]

    def trained_disk_bytes(self, component: str) -> int:
        """Return what training a component adds to the bundle: it is stored as float32."""
        return 4 * self.sizes[component] - self.stored[component]

    def frozen_disk_bytes(self) -> int:
        """Return the size of a bundle in which nothing trains, without training graphs."""
        return sum(self.stored.values()) + self.constant_bytes + round(FORWARD_GRAPHS * self.evaluation_graph_bytes)

    def step_seconds(self, flops_per_image: float, micro_batch_size: int) -> float:
        """Return the estimated time of one optimizer step."""
        return flops_per_image * self.batch_size * slowdown(micro_batch_size) / self.flops_per_second

    # -- what a choice costs --------------------------------------------------------------------------------

    def estimate(self, trainable: Collection[str], micro_batch_size: int, recompute: Recompute) -> Estimate:
        """Return what training these components costs, from the walks of units.

        Raises:
            UsageError: an unknown component, or a micro-batch below 1.
        """
        names = set(self.outline.in_order(trainable))
        costs = self.unit_costs(names, recompute)
        alive = max(line.at(micro_batch_size) for line in total_lines(costs))
        first = first_trained(self.units, names)
        prefix = self.prefix_of_units(first)
        return self._estimate(
            names,
            micro_batch_size,
            recompute,
            transient_bytes=round(ARENA_STRETCH * alive),
            graph_bytes=sum(cost.graph_bytes for cost in costs),  # a prefix's among them
            flops=sum(cost.flops for cost in costs),
            prefix=prefix,
        )

    @cached_property
    def _forward_flops(self) -> list[float]:
        """Operations of a forward pass through each unit, for one image."""
        return [self.costs.cost(i, (), False).flops for i in range(len(self.units))]

    def prefix_of_units(self, count: int) -> Prefix | None:
        """Return what is known of a prefix of the first units, all but its graph; None where it is not worth it."""
        flops = self._forward_flops
        if not count or sum(flops[:count]) < LEAST_SHARE * sum(flops):
            return None
        before = {name for unit in self.units[:count] for name in unit.components}
        end = self.units[count - 1]
        return Prefix(
            footprint=Footprint(
                transient=(MemoryLine(0, 0),),
                frozen_bytes=sum(self.stored[name] for name in before),
                trained_parameters=0,
                held_parameters=0,
                graph_bytes=0,
            ),
            shape=end.graph.values[end.end].shape,
            flops=sum(flops[:count]),
        )

    def unit_costs(self, trainable: Collection[str], recompute: Recompute) -> list[UnitCost]:
        """Return the cost of each unit for one choice."""
        first = first_trained(self.units, trainable)
        return [self.costs.cost(i, trainable, i > first, recompute) for i in range(len(self.units))]

    def measured(self, trainable: Collection[str], micro_batch_size: int, recompute: Recompute) -> Estimate:
        """Return what training these components costs by the graphs that the exporter would write.

        Raises:
            UsageError: an unknown component, or a micro-batch below 1.
        """
        names = set(self.outline.in_order(trainable))
        found = self.footprints(names, recompute)
        return self._estimate(
            names,
            micro_batch_size,
            recompute,
            transient_bytes=max(graph.transient_bytes(micro_batch_size) for graph in found.graphs),
            graph_bytes=max(found.training.graph_bytes, found.evaluation.graph_bytes),
            flops=found.flops,
            prefix=found.prefix,
        )

    def footprints(self, trainable: Collection[str], recompute: Recompute) -> Footprints:
        """Return the footprints of the graphs that the exporter would write."""
        key = frozenset(trainable), recompute
        if key not in self._measured:
            names = [name for name, owner in self.owner.items() if owner in key[0]]
            promoted = promote(self.graph, names)
            cut = halves(promoted)
            rest = cut.rest if cut else promoted
            training = computed_again(training_graph(rest, names), recompute)
            count = sum(self.sizes[name] for name in key[0])

            def footprint(graph: Graph, trained: int, *, predicts: bool = False) -> Footprint:
                runs = merge_low_rank(self.reading(graph)) if predicts else self.reading(graph)
                size = serialized_bytes(runs)
                return footprint_of(runs, graph_bytes=size, trained_parameters=trained, held_parameters=count)

            prefix, flops = None, flops_per_image(training)
            if cut is not None:
                before = flops_per_image(cut.prefix)
                prefix = Prefix(footprint=footprint(cut.prefix, 0), shape=cut.latents.shape, flops=before)
                flops += before
            self._measured[key] = Footprints(
                footprint(training, count), footprint(rest, 0, predicts=True), prefix, flops
            )
        return self._measured[key]

    def _estimate(
        self,
        names: set[str],
        micro_batch_size: int,
        recompute: Recompute,
        *,
        transient_bytes: int,
        graph_bytes: int,
        flops: float,
        prefix: Prefix | None,
    ) -> Estimate:
        if micro_batch_size < 1:
            raise UsageError(f"micro_batch_size={micro_batch_size} must be at least 1.")
        frozen = self.constant_bytes + sum(size for name, size in self.stored.items() if name not in names)
        state = self.state_bytes_per_parameter * sum(self.sizes[name] for name in names)
        images = self.images_bytes(micro_batch_size)
        graphs, latents = graph_bytes, 0
        if prefix is not None:  # what it hands on is an array of numpy's
            graphs += prefix.footprint.graph_bytes
            latents = micro_batch_size * prefix.latent_bytes
        trained_disk = sum(map(self.trained_disk_bytes, names))
        return Estimate(
            micro_batch_size=micro_batch_size,
            recompute=recompute,
            base_bytes=process_bytes(graphs, has_prefix=prefix is not None),
            frozen_bytes=frozen,
            state_bytes=state,
            images_bytes=images,
            latents_bytes=latents,
            transient_bytes=transient_bytes,
            flops_per_image=flops,
            step_seconds=self.step_seconds(flops, micro_batch_size),
            cached_step_seconds=self.step_seconds(flops - (prefix.flops if prefix else 0), micro_batch_size),
            disk_bytes=self.frozen_disk_bytes() + round(TRAINING_GRAPHS * graph_bytes) + trained_disk,
            peak_bytes=peak_bytes(
                resident_bytes=ASSUMED_RESIDENT_BYTES,
                graph_bytes=graphs,
                mapped_bytes=frozen,
                state_bytes=state,
                pictures_bytes=images + latents,
                transient_bytes=transient_bytes,
                forward_sessions=int(prefix is not None),
            ),
        )


def process_bytes(graph_bytes: int, transient_bytes: int = 0, *, has_prefix: bool = False) -> int:
    """Return what a device process takes that has opened graphs of so many bytes, and no weights."""
    return peak_bytes(
        resident_bytes=ASSUMED_RESIDENT_BYTES,
        graph_bytes=graph_bytes,
        mapped_bytes=0,
        state_bytes=0,
        pictures_bytes=0,
        transient_bytes=transient_bytes,
        forward_sessions=int(has_prefix),
    )


def resized(outline: Outline, graph: Graph, classes: int | None) -> tuple[Outline, Graph]:
    """Return outline and graph with a new head for that many classes; None leaves the outline as it is.

    The graph of a table that a device measured is that of the export, its outline has the classes that came later too.

    Raises:
        UsageError: fewer than two classes.
    """
    classes = outline.classes if classes is None else classes
    logits = graph.values.get(LOGITS)  # none in a graph that is damaged or another model's, which a walk over it says
    head = [parameter for c in outline.components if c.role == "head" for parameter in c.parameters]
    is_same = logits is None or logits.shape[1:] == (classes,) or not graph.values.keys() >= {*head}
    if classes == outline.classes and is_same:
        return outline, graph
    if classes < 2:
        raise UsageError(f"classes={classes}: a head needs at least 2 classes to tell apart.")
    graph = with_classes(graph, head, LOGITS, classes)
    components = tuple(
        msgspec.structs.replace(c, parameters={p: graph.values[p].shape for p in c.parameters})
        if c.role == "head"
        else c
        for c in outline.components
    )
    return msgspec.structs.replace(outline, classes=classes, components=components), graph


def micro_batches(batch_size: int) -> Sequence[int]:
    """Return the micro-batch sizes that are tried: the batch, halved until 1, e.g. 12, 6, 3, 2, 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
