"""What a choice costs: walks of units against the whole graph, and against what any cost must satisfy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_models import Model, architecture, conv_net, small, table, workload

from edgeplast.budget import Budget
from edgeplast.errors import InputError, UsageError
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import recompute as computed_again
from edgeplast.graphs.recording import recorded, restored
from edgeplast.graphs.training import promote, training_graph
from edgeplast.planning import plan
from edgeplast.planning.estimating import Workload, micro_batches, process_bytes, resized
from edgeplast.planning.segment_costs import total_lines
from edgeplast.recomputation import RECOMPUTE, Recompute

SMALL = small()
MODELS: dict[str, Model] = {
    "token": small(depth=3),
    "average": small(depth=2, prefix=0),
    "two tokens": small(depth=2, prefix=2),
    "uneven": small(depth=3, narrow={1: 2}),
    "convolutions": conv_net(),
}
sets = st.sets(st.sampled_from(SMALL[0].names), max_size=8).map(lambda names: {*names, "head"})


def alive(w: Workload, names: set[str], how: Recompute) -> tuple[int, int]:
    """Most bytes alive at micro-batches 1 and 16, of the graph that would be written."""
    chosen = [p for p, owner in w.owner.items() if owner in names]
    graph = w.reading(computed_again(training_graph(promote(w.graph, chosen), chosen), how))
    lines = transient_lines(graph)
    return max(line.at(1) for line in lines), max(line.at(16) for line in lines)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(MODELS)), st.sampled_from(RECOMPUTE), st.sampled_from([32, 8, 4]))
def test_costs_of_units_add_up_to_those_of_the_whole_graph(data, model, how, bits):
    w = workload(MODELS[model], bits)
    names = {*data.draw(st.sets(st.sampled_from(w.outline.names))), *w.outline.head}
    lines = total_lines(w.unit_costs(names, how))
    for size, true in zip((1, 16), alive(w, names, how), strict=True):
        assert max(line.at(size) for line in lines) == pytest.approx(true, rel=0.01)
    rough, real = w.estimate(names, 16, how), w.measured(names, 16, how)
    assert rough.flops_per_image == real.flops_per_image
    assert rough.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)
    assert (rough.state_bytes, rough.frozen_bytes, rough.images_bytes) == (
        real.state_bytes,
        real.frozen_bytes,
        real.images_bytes,
    )


def test_alike_units_are_walked_once():
    assert len(workload(architecture()).units) == 15
    assert workload(architecture()).costs.distinct == 5  # embedding, a block, the last one, norm, head
    assert workload(small(depth=4, narrow={1: 2})).costs.distinct == 6
    mixed = dict.fromkeys(SMALL[0].names, 8)
    assert Workload(*SMALL, mixed).costs.distinct == 5
    deep = small(depth=3)
    assert Workload(*deep, dict.fromkeys(deep[0].names, 8) | {"blocks.1.fc1": 4}).costs.distinct == 6


def test_optimizer_state_is_counted():
    adamw, sgd = (workload(SMALL, optimizer=o).estimate(["head"], 4, "none") for o in ("adamw", "sgd"))
    assert adamw.state_bytes * 3 == sgd.state_bytes * 4


@settings(max_examples=40, deadline=None)
@given(sets, st.sampled_from(SMALL[0].names), st.sampled_from([1, 4, 16]), st.sampled_from(RECOMPUTE))
def test_training_more_never_costs_less(trained, more, size, recompute):
    w = workload(SMALL)
    less, added = (w.estimate(names, size, recompute) for names in (trained, {*trained, more}))
    # A frozen 8-bit matrix costs a float copy while it is read, which training it saves; the state outweighs it. What
    # comes before everything that trains is a third session, which a set that begins earlier does without.
    third = (
        process_bytes(0, has_prefix=True) - process_bytes(0) if less.latents_bytes and not added.latents_bytes else 0
    )
    assert added.peak_bytes + third + less.latents_bytes >= less.peak_bytes
    assert added.flops_per_image >= less.flops_per_image
    assert added.disk_bytes >= less.disk_bytes


@settings(max_examples=40, deadline=None)
@given(sets, st.integers(1, 16), st.sampled_from(RECOMPUTE))
def test_more_images_cost_more_and_recomputation_trades_time_for_memory(trained, size, recompute):
    w = workload(SMALL)
    e = w.estimate(trained, size, recompute)
    assert w.estimate(trained, size + 1, recompute).peak_bytes > e.peak_bytes
    assert w.estimate(trained, size, "full").flops_per_image >= e.flops_per_image


def test_recomputation_saves_memory_in_deep_models_and_costs_a_third_more_time():
    w = workload(architecture())
    chosen = w.outline.select("attn,norm,head")
    kept, partly, again = (w.estimate(chosen, 16, r) for r in RECOMPUTE)
    assert again.transient_bytes < kept.transient_bytes / 4
    assert 1.2 < again.step_seconds / kept.step_seconds < 1.4
    assert partly.transient_bytes < 0.75 * kept.transient_bytes  # a quarter of the bytes for a thirtieth of the time
    assert 1 < partly.step_seconds / kept.step_seconds < 1.05


def test_a_step_takes_less_once_latents_are_cached_and_as_long_where_there_are_none():
    w = workload(architecture())
    late, all_of_it = w.outline.select("head"), w.outline.select("all")
    for estimate in (w.estimate, w.measured):
        head, whole = estimate(late, 4, "none"), estimate(all_of_it, 4, "none")
        assert head.cached_step_seconds < 0.1 * head.step_seconds
        assert whole.cached_step_seconds == whole.step_seconds


def test_small_micro_batches_take_longer():
    w = workload(SMALL, flops_per_second=1e9)
    times = [w.step_seconds(1e9, size) for size in (16, 8, 4, 3, 2, 1)]
    assert times == pytest.approx([16, 16, 16, 18.4, 18.4, 23.2])


def test_stored_bytes_by_bits():
    matrix, bias = 192 * 768, 192
    tiny = architecture(depth=1)
    stored = {bits: workload(tiny, bits).stored for bits in (32, 8, 4)}
    assert stored[32]["blocks.0.fc2"] == 4 * (matrix + bias)
    assert stored[8]["blocks.0.fc2"] == matrix + 4 * 192 + 4 * bias
    assert stored[4]["blocks.0.fc2"] == matrix // 2 + 4 * matrix // 32 + 4 * bias
    assert stored[8]["blocks.0.norm1"] == 4 * 384


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_a_new_head_changes_its_parameters_alone(prefix):
    before = small(prefix=prefix)
    outline, graph = resized(*before, 11)
    assert outline.classes == graph.values["logits"].shape[1] == 11
    assert outline.component("head").size == 33 * 11
    same = [name for name in before[0].names if name != "head"]
    assert [outline.component(n) for n in same] == [before[0].component(n) for n in same]
    like = small(prefix=prefix, classes=11)
    found, expected = (workload(m).measured(["head"], 4, "none") for m in ((outline, graph), like))
    assert found == expected
    assert resized(*before, None) == before
    with pytest.raises(UsageError, match="at least 2 classes"):
        resized(*before, 1)


def test_micro_batches_are_halved_down_to_one():
    assert list(micro_batches(16)) == [16, 8, 4, 2, 1]
    assert list(micro_batches(12)) == [12, 6, 3, 2, 1]
    assert list(micro_batches(1)) == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adam"}, r"Unknown optimizer 'adam'. Did you mean 'adamw'\? Known: adamw, sgd"),
        ({"weight_bits": 16}, r"weight_bits=16 is not possible.*32, 8 or 4"),
        ({"batch_size": -1}, r"--batch -1 \(batch_size\) must be at least 1"),
        ({"flops_per_second": 0.0}, r"flops_per_second=0 must be positive"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        workload(SMALL, **arguments)


def test_unknown_components_and_no_images_are_refused():
    with pytest.raises(UsageError, match=r"Unknown component 'blocks\.9\.attn'"):
        workload(SMALL).estimate(["blocks.9.attn", "head"], 4, "none")
    with pytest.raises(UsageError, match=r"micro_batch_size=0 must be at least 1"):
        workload(SMALL).estimate(["head"], 0, "none")


def test_a_graph_comes_back_from_its_record_as_it_was():
    for outline, graph in MODELS.values():
        again = restored(recorded(graph))
        assert (again.nodes, again.values, again.inputs, again.outputs, again.weights) == (
            graph.nodes,
            graph.values,
            graph.inputs,
            graph.outputs,
            graph.weights,
        )
        assert workload((outline, again)).measured(outline.head, 1, "none") == workload((outline, graph)).measured(
            outline.head, 1, "none"
        )


def test_a_damaged_record_is_refused():
    import msgspec

    record = recorded(SMALL[1])
    swapped = msgspec.structs.replace(record, nodes=record.nodes[::-1])
    with pytest.raises(InputError, match=r"recorded graph is damaged: .* reads .* before it is made.*Score the model"):
        restored(swapped)
    cut = msgspec.structs.replace(record, values=record.values[:5])
    with pytest.raises(InputError, match=r"recorded graph is damaged"):
        restored(cut)
    other = table(SMALL, graph=recorded(conv_net()[1]))
    with pytest.raises(InputError, match=r"lacks the parameter blocks.*Score the model again"):
        plan(other, Budget())
