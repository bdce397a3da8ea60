from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_models import architecture, small

from edgeplast.components import all_components, select
from edgeplast.errors import UsageError
from edgeplast.planning import base_bytes, estimate
from edgeplast.planning.estimating import micro_batches
from edgeplast.planning.flops import step_seconds
from edgeplast.planning.sizes import block_sizes, patches, pooled_tokens, with_classes
from edgeplast.planning.weights import stored_bytes
from edgeplast.recomputation import RECOMPUTE

TINY = architecture()
sets = st.sets(st.sampled_from(all_components(2)), max_size=8).map(lambda names: {*names, "head"})


def test_peak_is_the_sum_of_its_parts():
    e = estimate(TINY, select("attn,norm,head", 12), micro_batch_size=16, weight_bits=32)
    assert e.base_bytes == base_bytes(12)
    assert e.frozen_bytes + e.state_bytes // 4 == 4 * sum(TINY.parameters.values())
    assert e.images_bytes == 16 * 4 * 3 * 224 * 224
    parts = e.base_bytes + 2 * e.frozen_bytes + e.state_bytes + e.images_bytes + round(1.25 * e.transient_bytes)
    assert e.peak_bytes == parts


def test_optimizer_state_is_counted():
    adamw, sgd = (estimate(TINY, select("fc1,head", 12), optimizer=o) for o in ("adamw", "sgd"))
    assert adamw.state_bytes * 3 == sgd.state_bytes * 4


@settings(max_examples=60, deadline=None)
@given(
    sets,
    st.sampled_from(all_components(2)),
    st.sampled_from([1, 4, 16]),
    st.sampled_from(RECOMPUTE),
    st.sampled_from([8, 32]),
)
def test_training_more_never_costs_less(trained, more, size, recompute, bits):
    arch = small()
    less = estimate(arch, trained, micro_batch_size=size, recompute=recompute, weight_bits=bits)
    added = estimate(arch, {*trained, more}, micro_batch_size=size, recompute=recompute, weight_bits=bits)
    # A frozen 8-bit matrix costs a float copy while it is read, which training it saves; the state outweighs it.
    assert added.peak_bytes >= less.peak_bytes
    assert added.flops_per_image >= less.flops_per_image
    assert added.disk_bytes >= less.disk_bytes


@settings(max_examples=40, deadline=None)
@given(sets, st.integers(1, 16), st.sampled_from(RECOMPUTE))
def test_more_images_cost_more_and_recomputation_trades_time_for_memory(trained, size, recompute):
    arch = small(depth=2)
    e = estimate(arch, trained, micro_batch_size=size, recompute=recompute)
    assert estimate(arch, trained, micro_batch_size=size + 1, recompute=recompute).peak_bytes > e.peak_bytes
    assert estimate(arch, trained, micro_batch_size=size, recompute="full").flops_per_image >= e.flops_per_image


def test_recomputation_saves_memory_in_deep_models_and_costs_a_third_more_time():
    chosen = select("attn,norm,head", 12)
    kept, partly, again = (estimate(TINY, chosen, recompute=r) for r in RECOMPUTE)
    assert again.transient_bytes < kept.transient_bytes / 4
    assert 1.2 < again.step_seconds / kept.step_seconds < 1.4
    assert partly.transient_bytes < 0.75 * kept.transient_bytes  # a quarter of the bytes for a thirtieth of the time
    assert 1 < partly.step_seconds / kept.step_seconds < 1.05


def test_small_micro_batches_take_longer():
    times = [step_seconds(1e9, 16, size, 1e9) for size in (16, 8, 4, 3, 2, 1)]
    assert times == pytest.approx([16, 16, 16, 18.4, 18.4, 22.4])


def test_stored_bytes_by_bits():
    matrix, bias = 192 * 768, 192
    assert stored_bytes(TINY, "blocks.0.fc2", 32) == 4 * (matrix + bias)
    assert stored_bytes(TINY, "blocks.0.fc2", 8) == matrix + 4 * 192 + 4 * bias
    assert stored_bytes(TINY, "blocks.0.fc2", 4) == matrix // 2 + 4 * matrix // 32 + 4 * bias
    assert stored_bytes(TINY, "blocks.0.norm1", 8) == 4 * 384


def test_rows_that_the_head_reads():
    assert (patches(TINY), pooled_tokens(TINY)) == (196, 1)
    average = architecture(prefix=0)
    assert (patches(average), pooled_tokens(average)) == (196, 196)
    distilled = architecture(prefix=2)
    assert (patches(distilled), pooled_tokens(distilled)) == (196, 2)


def test_pruned_heads_and_hidden_units_are_seen():
    parameters = {**TINY.parameters, "blocks.0.attn": 192 * 3 * 128 + 3 * 128 + 128 * 192 + 192}
    import msgspec

    pruned = msgspec.structs.replace(
        TINY, heads=(2, *TINY.heads[1:]), mlp_width=(500, *TINY.mlp_width[1:]), parameters=parameters
    )
    first = block_sizes(pruned)[0]
    assert (first.attention, first.heads, first.hidden) == (128, 2, 500)


def test_a_new_head_changes_its_parameters_alone():
    assert with_classes(TINY, 1000).parameters["head"] == 193 * 1000
    assert with_classes(architecture(prefix=2), 10).parameters["head"] == 2 * 193 * 10
    assert with_classes(TINY, None) is TINY


def test_micro_batches_are_halved_down_to_one():
    assert list(micro_batches(16)) == [16, 8, 4, 2, 1]
    assert list(micro_batches(12)) == [12, 6, 3, 2, 1]
    assert list(micro_batches(1)) == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adam"}, r"Unknown optimizer 'adam'. Did you mean 'adamw'\? Known: adamw, sgd"),
        ({"weight_bits": 16}, r"weight_bits=16 is not possible.*32, 8 or 4"),
        ({"micro_batch_size": 0, "batch_size": 16}, r"micro_batch_size=0 must be at least 1"),
        ({"batch_size": -1}, r"batch_size=-1 and .* must be positive"),
        ({"flops_per_second": 0.0}, r"flops_per_second=0 must be positive"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        estimate(small(), ["head"], **arguments)


def test_unknown_components_are_refused():
    with pytest.raises(UsageError, match=r"Unknown component 'blocks\.9\.attn'"):
        estimate(small(), ["blocks.9.attn", "head"])


def test_one_class_is_refused():
    with pytest.raises(UsageError, match="at least 2 classes"):
        with_classes(TINY, 1)
