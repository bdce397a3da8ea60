"""What one picture moves through memory in a training step, read off the graphs alone: by operator and phase.

    python examples/benchmarks/traffic.py [--model vit_tiny_patch16_224] [--train attn] [--recompute none] [--json]

For each operator and phase of the graphs that a bundle would hold (prefix and training graph together): bytes read
and written for a picture, bytes for a micro-batch whatever its size (weights; dequantized ones are written and read),
and operations. A view moves nothing, ``Shape`` reads nothing; ``Slice``, ``Gather`` and ``Expand`` count as reading
what they write. Kept is what the forward pass leaves alive for the backward pass. Caches hold some of all this, so it
is no time; passes over large arrays are what slows down machines with small caches.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from workloads import SEVEN, wanted

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.flops import node_flops
from edgeplast.graphs.measures.liveness import steps
from edgeplast.graphs.nodes import Node, Value
from edgeplast.graphs.operators import operator
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import import_timm, preprocessing_of
from edgeplast.plans import plan_by_names
from edgeplast.recomputation import RECOMPUTE
from edgeplast.units import format_bytes
from edgeplast_exporters.capture import capture
from edgeplast_exporters.preparing import prepared
from edgeplast_exporters.training import training_graph

READS_WHAT_IT_WRITES = {"Slice", "Gather", "Expand"}


@dataclass
class Traffic:
    """What the nodes of one operator and phase move and compute.

    Attributes:
        nodes: how many there are.
        read: bytes for a picture.
        written: bytes for a picture.
        fixed: bytes for a micro-batch, read and written.
        operations: of products, for a picture.
    """

    nodes: int = 0
    read: int = 0
    written: int = 0
    fixed: int = 0
    operations: int = 0


def main() -> None:
    """Build the graphs, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["vit_tiny_patch16_224"], help="timm's names; or: seven")
    parser.add_argument("--train", default="attn", help="attn, attn:8-11, fc1, head, last-quarter …")
    parser.add_argument("--recompute", choices=RECOMPUTE, default="none")
    parser.add_argument("--weight-bits", type=int, default=8, choices=(32, 8, 4), help="of what is frozen")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = []
    for model in SEVEN if given.model == ["seven"] else given.model:
        graphs = built(model, given.train, given.weight_bits, given.recompute)
        table = counted(graphs)
        kept = kept_bytes(graphs[-1])
        if given.json:
            rows = [{"operator": op, "phase": phase, **asdict(row)} for (op, phase), row in table.items()]
            found.append({"model": model, "train": given.train, "kept": kept, "traffic": rows})
        else:
            _show(f"{model}, {given.train}, recomputed: {given.recompute}", table, kept)
    if given.json:
        print(json.dumps(found, indent=2))


def built(name: str, train: str, bits: int, how: str) -> list[Graph]:
    """Return the graphs that a step runs, from pictures to gradients: prefix (where there is one), training."""
    model = import_timm().create_model(name, num_classes=7).eval()
    captured = capture(model, (3, *preprocessing_of(model).image_size), name=name)
    plan = plan_by_names(captured.outline, wanted(captured.outline, train), weight_bits=bits)
    made = prepared(captured, plan, plan.trainable)
    graph = training_graph(made.varying, made.trainable)
    if how != "none":
        graph = recompute(graph, how)  # type: ignore[arg-type]
    return [made.frozen.reading(each) for each in ([made.cut.prefix, graph] if made.cut else [graph])]


def counted(graphs: Iterable[Graph]) -> dict[tuple[str, str], Traffic]:
    """Return operator and phase to what they move, the most first."""
    table: dict[tuple[str, str], Traffic] = defaultdict(Traffic)
    for graph in graphs:
        for node in graph.nodes:
            if operator(node.op).kind not in ("view", "shape"):
                _add(table[node.op, node.phase], graph, node)
    return dict(sorted(table.items(), key=lambda pair: -(pair[1].read + pair[1].written)))


def _add(row: Traffic, graph: Graph, node: Node) -> None:
    made = [graph.values[name] for name in node.outputs if name]
    seen = [graph.values[name] for name in dict.fromkeys(node.inputs) if name]  # x·x reads x once
    row.nodes += 1
    row.written += _bytes(made, batched=True)
    row.read += _bytes(made if node.op in READS_WHAT_IT_WRITES else seen, batched=True)
    row.fixed += _bytes(seen, batched=False) + _bytes(made, batched=False)
    row.operations += node_flops(graph, node)


def _bytes(values: Iterable[Value], *, batched: bool) -> int:
    return sum(value.bytes for value in values if value.batched == batched)


def kept_bytes(graph: Graph) -> int:
    """Return what is alive after the last node of the forward pass, for one picture."""
    alive = 0
    last = max(index for index, node in enumerate(graph.nodes) if node.phase == "forward")
    for made, freed in steps(graph)[: last + 1]:
        alive += _bytes(made, batched=True) - _bytes(freed, batched=True)
    return alive


def _show(title: str, table: dict[tuple[str, str], Traffic], kept: int) -> None:
    rows = list(table.values())
    moved, fixed = sum(row.read + row.written for row in rows), sum(row.fixed for row in rows)
    print(f"{title}: {format_bytes(moved)} a picture and {format_bytes(fixed)} a micro-batch move,")
    print(
        f"{format_bytes(kept)} a picture are kept, {sum(row.operations for row in rows) / 1e9:.2f} GFLOP of products\n"
    )
    print(f"{'operator':20}{'phase':10}{'nodes':>6}{'read':>11}{'written':>11}{'fixed':>11}{'GFLOP':>7}")
    for (op, phase), row in table.items():
        amounts = "".join(f"{format_bytes(count):>11}" for count in (row.read, row.written, row.fixed))
        print(f"{op:20}{phase:10}{row.nodes:6}{amounts}{row.operations / 1e9:7.2f}")
    print()


if __name__ == "__main__":
    main()
