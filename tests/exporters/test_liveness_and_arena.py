"""Predicted bytes: by hand on small graphs, by slow arithmetic on random ones, and against measured peaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exporter_models import CLASSES, parameters_of, plan_of, small, training_graph_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.bundle import Bundle
from edgeplast.footprint import MemoryLine, envelope
from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.measures.arena import arena_lines, fits
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.liveness import Step, steps, transient_lines
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import preprocessing_of
from edgeplast.recomputation import RECOMPUTE
from edgeplast_exporters import export

UNIT = 256


def test_a_value_lives_from_its_node_to_its_last_reader() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)  # 80 bytes an image, outside
    a = g.unary("Tanh", x)
    b = g.unary("Exp", a)
    c = g.unary("Exp", b)  # a is gone by now
    g.output(g.add(c, c))  # outside
    assert transient_lines(g) == (MemoryLine(0, 160),)


def test_what_is_read_late_is_kept_until_then() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    a = g.unary("Tanh", x)
    b = g.unary("Exp", g.unary("Exp", g.unary("Exp", a)))
    g.output(g.add(a, b))
    assert transient_lines(g) == (MemoryLine(0, 240),)


def test_a_view_costs_nothing_and_keeps_what_it_views() -> None:
    g = Graph()
    x = g.input("x", (4, 6), batched=True)
    a = g.unary("Tanh", x)
    view = g.reshape(g.reshape(a, (1, 4, 6)), (8, 3))
    b = g.unary("Exp", g.unary("Exp", x))
    g.output(g.add(g.reshape(b, (8, 3)), view))
    assert transient_lines(g) == (MemoryLine(0, 3 * 96),)


def test_a_view_of_an_input_costs_nothing() -> None:
    g = Graph()
    x = g.input("x", (4, 6), batched=True)
    g.output(g.unary("Tanh", g.reshape(x, (2, 12))))
    assert transient_lines(g) == (MemoryLine(0, 0),)


def test_an_output_nobody_reads_lives_during_its_node() -> None:
    g = Graph()
    x = g.input("x", (4, 6), batched=True)
    first, _, _ = g.split(x, 1, 3)
    g.output(g.unary("Tanh", first))
    assert transient_lines(g) == (MemoryLine(0, 96),)


def test_what_does_not_grow_with_the_batch_is_counted_once() -> None:
    g = Graph()
    x, w = g.input("x", (4, 5), batched=True), g.weight("w", (3, 5))
    copy = g.unary("Tanh", w)
    g.output(g.unary("Tanh", g.gemm(x, copy, trans_b=True)))
    assert transient_lines(g) == (MemoryLine(60, 48),)


lines = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), min_size=1, max_size=12)


@settings(deadline=None)
@given(lines, st.integers(1, 200))
def test_the_envelope_is_the_highest_line_everywhere(given: list[tuple[int, int]], micro_batch: int) -> None:
    upper = envelope(given)
    expected = max(fixed + slope * micro_batch for fixed, slope in given)
    assert max(line.at(micro_batch) for line in upper) == expected


def walk_of(*moves: str) -> list[Step]:
    """Steps such as ``+a2`` (a gets two units) and ``-a``."""
    values: dict[str, Value] = {}
    walk: list[Step] = []
    for move in moves:
        if move[0] == "+":
            values[move[1]] = Value(move[1], (int(move[2:]) * UNIT // 4,))
            walk.append(([values[move[1]]], []))
        else:
            walk.append(([], [values[move[1]]]))
    return walk


def test_a_hole_between_two_tensors_does_not_hold_a_larger_one() -> None:
    """Two free units that do not touch are not two units."""
    walk = walk_of("+a1", "+b1", "+c1", "+d1", "-a", "-c", "+e2")
    assert not fits(walk, [], 1, 4 * UNIT)
    assert not fits(walk, [], 1, 5 * UNIT)
    assert fits(walk, [], 1, 6 * UNIT)


def test_neighbours_join_when_they_are_freed() -> None:
    assert fits(walk_of("+a1", "+b1", "+c1", "-a", "-c", "-b", "+e3"), [], 1, 3 * UNIT)


def test_the_smallest_hole_that_fits_is_taken() -> None:
    """First fit would put e into the hole of three and leave no room for f."""
    walk = walk_of("+a3", "+b1", "+c1", "+d1", "-a", "-c", "+e1", "+f3")
    assert fits(walk, [], 1, 6 * UNIT)


def test_a_region_holds_the_walk_beside_the_first_region_too() -> None:
    """Alone a and b lie side by side and leave one hole for d; with a in the first region b and c lie there instead."""
    mib = (1 << 20) // UNIT
    walk = walk_of(f"+a{3 * mib}", f"+b{4 * mib}", "-a", f"+c{5 * mib}", "-b", f"+d{6 * mib}")
    assert not fits(walk, [], 1, 12 << 20)
    assert fits(walk, [], 1, 15 << 20)


def test_what_stays_for_good_takes_room() -> None:
    walk = walk_of("+a2")
    assert fits(walk, [8, 300], 1, 5 * UNIT)
    assert not fits(walk, [8, 300], 1, 4 * UNIT)


@st.composite
def walks(draw: st.DrawFn) -> list[Step]:
    alive: list[Value] = []
    walk: list[Step] = []
    for i in range(draw(st.integers(1, 25))):
        if alive and draw(st.booleans()):
            walk.append(([], [alive.pop(draw(st.integers(0, len(alive) - 1)))]))
        else:
            alive.append(Value(f"v{i}", (draw(st.integers(1, 40_000)),), batched=draw(st.booleans())))
            walk.append(([alive[-1]], []))
    return walk


@settings(deadline=None)
@given(walks(), st.integers(1, 8))
def test_no_region_smaller_than_what_is_alive_and_every_region_as_large_as_all_tensors(
    walk: list[Step], micro_batch: int
) -> None:
    most = alive = everything = 0
    for made, freed in walk:
        sizes = [-(-v.bytes * (micro_batch if v.batched else 1) // UNIT) * UNIT for v in made]
        everything += sum(sizes)
        alive += sum(sizes)
        most = max(most, alive)
        alive -= sum(-(-v.bytes * (micro_batch if v.batched else 1) // UNIT) * UNIT for v in freed)
    if most:
        assert not fits(walk, [], micro_batch, most - UNIT)
    # a chunk may stay up to 64 KiB larger than asked for
    assert fits(walk, [], micro_batch, 2 * everything + (len(walk) << 16))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("pattern", ["all", "attn", "head"])
def test_predicted_regions_hold_the_graph_and_little_else(pattern: str, again: bool) -> None:
    model = small(depth=4, img_size=64)
    graph = training_graph_of(model, parameters_of(model, pattern))
    graph = recompute(graph) if again else graph
    live, region = transient_lines(graph), arena_lines(graph)
    walk, constants = steps(graph), [a.nbytes for a in graph.constants.values()]
    for micro_batch in (1, 2, 4, 8, 16, 32):
        least = max(line.at(micro_batch) for line in live)
        predicted = max(line.at(micro_batch) for line in region)
        assert least <= predicted <= 1.5 * least + 200_000
        assert fits(walk, constants, micro_batch, predicted)


def test_operations_are_counted_over_matrix_products() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    w, v = g.weight("w", (3, 5)), g.input("v", (4, 3), batched=True)
    y = g.gemm(x, w, trans_b=True)  # 4·3 outputs of 5 products
    g.gemm(y, v, trans_a=True)  # 3·3 of 4
    a = g.reshape(x, (1, 4, 5))
    g.matmul(a, a, trans_b=True)  # (4, 4) of 5
    assert flops_per_image(g) == 2 * (12 * 5 + 9 * 4 + 16 * 5)


@pytest.fixture(scope="module")
def measured_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = small(embed_dim=96, num_heads=3, depth=4, img_size=128)
    return export(
        model,
        plan_of(model, "attn"),
        into=tmp_path_factory.mktemp("measured") / "bundle",
        classes=CLASSES,
        preprocessing=preprocessing_of(model),
    )


def peak_rise(bundle: Bundle, file: str, micro_batch: int, region_bytes: int) -> int:
    script = Path(__file__).with_name("peak_of_one_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(bundle.path), file, str(micro_batch), str(region_bytes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's resettable peak")
@pytest.mark.parametrize(
    "file", ["train-full.onnx", "train-full-selective.onnx", "train-full-recompute.onnx", "train-head.onnx"]
)
def test_measured_peaks_follow_the_prediction(measured_bundle: Bundle, file: str) -> None:
    """Between two micro-batches the peak rises as predicted; below lies what does not grow: mapped weights, code."""
    tiers = measured_bundle.manifest.tiers
    footprint = next(g for t in tiers for g in t.graphs if g.file == file).footprint
    few, many = 4, 16
    predicted = {size: footprint.transient_bytes(size) for size in (few, many)}
    measured = {size: peak_rise(measured_bundle, file, size, predicted[size]) for size in (few, many)}
    ratio = (measured[many] - measured[few]) / (predicted[many] - predicted[few])
    assert 0.85 < ratio < 1.05
    rest = measured[many] - predicted[many]
    assert rest < footprint.frozen_bytes + 6_000_000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's resettable peak")
def test_recomputation_lowers_the_measured_peak(measured_bundle: Bundle) -> None:
    graphs = {g.recompute: g for g in measured_bundle.manifest.tiers[0].graphs}
    kept, partly, again = (
        peak_rise(measured_bundle, graphs[choice].file, 8, graphs[choice].footprint.transient_bytes(8))
        for choice in RECOMPUTE
    )
    assert again < 0.75 * kept
    assert again < partly < kept


def test_int8_storage_lowers_what_stays(tmp_path: Path) -> None:
    model = small()
    sizes = {}
    for bits in (8, 32):
        bundle = export(
            model,
            plan_of(model, "head", bits=bits),
            into=tmp_path / str(bits),
            classes=CLASSES,
            preprocessing=preprocessing_of(model),
        )
        assert bundle.manifest.prefix is not None  # the head alone trains
        sizes[bits] = bundle.manifest.prefix.footprint.frozen_bytes
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim in (2, 4) and not n.startswith("head"))
    assert sizes[32] - sizes[8] == pytest.approx(3 * matrices, rel=0.05)
