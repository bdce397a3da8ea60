"""The choice of what trains, against brute force and against what any choice must satisfy."""

from __future__ import annotations

import functools
import re
from functools import cache
from itertools import chain, combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_models import MIB, Model, architecture, block_components, conv_net, small, table, workload

from edgeplast.budget import Budget
from edgeplast.planning import plan as planned
from edgeplast.planning.choosing import FRONT, candidates, subsets_of
from edgeplast.planning.estimates import Estimate
from edgeplast.planning.estimating import micro_batches
from edgeplast.plans import Plan
from edgeplast.recomputation import RECOMPUTE

BATCH = 4
WIDE = {"width": 256, "heads": 4, "image": 64, "patch": 8}
"""Sizes at which weights and activations weigh about as much."""

scored = st.dictionaries(
    st.sampled_from(block_components(2)), st.floats(0.01, 10).map(lambda s: round(s, 2)), min_size=1, max_size=6
)


plan = functools.partial(planned, strategy="summed")


def score_of(made: Plan) -> float:
    return sum(made.components[name].score or 0 for name in made.trainable)


@cache
def every_way(arch_key: int, names: tuple[str, ...]) -> list[tuple[frozenset[str], Estimate]]:
    w = workload(MODELS[arch_key], batch_size=BATCH)
    subsets = chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))
    return [
        (frozenset(subset), w.estimate({*subset, "norm", "head"}, size, recompute))
        for subset in subsets
        for size in micro_batches(BATCH)
        for recompute in RECOMPUTE
    ]


MODELS: list[Model] = [small(), small(**WIDE), small(**WIDE, prefix=0)]


def brute_force(arch_key: int, scores: dict[str, float], budget: Budget) -> float:
    """The largest score of any set that fits in any way."""
    limit = budget.memory_bytes or 10**18
    return max(
        sum(scores[name] for name in subset)
        for subset, e in every_way(arch_key, tuple(sorted(scores)))
        if e.peak_bytes <= limit
        and e.step_seconds <= (budget.step_seconds or 1e9)
        and e.disk_bytes <= (budget.disk_bytes or 10**18)
    )


def between(arch_key: int, scores: dict[str, float], part: str, where: float) -> float:
    values = [getattr(e, part) for _, e in every_way(arch_key, tuple(sorted(scores)))]
    lowest = min(getattr(e, part) for subset, e in every_way(arch_key, tuple(sorted(scores))) if not subset)
    return lowest + where * (max(values) - lowest)


def searched(arch_key: int, scores: dict[str, float], budget: Budget, *, limited: bool = False) -> float | None:
    """The score of what the search finds."""
    w = workload(MODELS[arch_key], batch_size=BATCH)
    found = candidates(w, scores, micro_batches(BATCH), limited=limited)
    best = found.best(budget)
    return None if best is None else float(found.score[best])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), scored, st.floats(0, 1))
def test_the_choice_is_the_best_of_all_under_a_memory_limit(arch_key, scores, where):
    budget = Budget(memory_bytes=round(between(arch_key, scores, "peak_bytes", where)) + 2)
    assert searched(arch_key, scores, budget) == pytest.approx(brute_force(arch_key, scores, budget))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2), scored, st.floats(0.3, 1), st.floats(0.3, 1), st.floats(0.3, 1))
def test_under_three_limits_at_once_at_most_a_twentieth_of_the_score_is_missed(arch_key, scores, memory, time, disk):
    budget = Budget(
        memory_bytes=round(between(arch_key, scores, "peak_bytes", memory)) + 2,
        step_seconds=between(arch_key, scores, "step_seconds", time) * 1.0001,
        disk_bytes=round(between(arch_key, scores, "disk_bytes", disk)) + 2,
    )
    reached = searched(arch_key, scores, budget, limited=True)
    try:
        best = brute_force(arch_key, scores, budget)
    except ValueError:  # nothing fits
        assert reached is None
        return
    assert 0.95 * best <= reached <= best * (1 + 1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(126, 350), st.sampled_from([None, 0.4, 0.8]), st.sampled_from(["adamw", "sgd"]))
def test_a_plan_stays_within_its_budget_by_its_own_estimate(mib, seconds, optimizer):
    arch = architecture(depth=3)
    budget = Budget(memory_bytes=mib * MIB, step_seconds=seconds)
    made = plan(table(arch), budget, optimizer=optimizer)
    w = workload(arch, optimizer=optimizer)
    e = w.measured(made.trainable, made.micro_batch_size, made.recompute)
    assert made.predicted_peak_bytes == e.peak_bytes <= budget.memory_bytes
    assert seconds is None or e.step_seconds <= seconds


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(122, 300), min_size=2, max_size=4))
def test_more_memory_never_gives_a_smaller_score(seed, sizes):
    scores = table(architecture(depth=3), seed=seed)
    reached = [score_of(plan(scores, Budget(memory_bytes=mib * MIB))) for mib in sorted(sizes)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(reached))


def test_search_and_estimate_agree_on_what_a_choice_costs():
    arch = architecture(depth=5)
    w = workload(arch)
    scores = {name: entry.score for name, entry in table(arch).components.items()}
    found = candidates(w, scores, micro_batches(16), limited=True)
    for i in range(0, len(found.score), max(1, len(found.score) // 200)):
        names = found.trained(i)
        e = w.estimate(names, int(found.micro_batch_size[i]), str(found.recompute[i]))
        assert found.memory_bytes[i] == pytest.approx(e.peak_bytes, abs=2)
        assert found.disk_bytes[i] == pytest.approx(e.disk_bytes, abs=1)
        assert found.step_seconds[i] == pytest.approx(e.step_seconds)
        assert found.score[i] == pytest.approx(sum(scores.get(name, 0) for name in names))


def test_thinning_costs_little(monkeypatch):
    arch = architecture(depth=6)
    scores = table(arch)
    budgets = [Budget(memory_bytes=mib * MIB) for mib in (102, 112, 122, 142, 162)]
    full = [score_of(plan(scores, b, micro_batch_size=4)) for b in budgets]
    monkeypatch.setattr("edgeplast.planning.choosing.FRONT", FRONT // 8)
    thin = [score_of(plan(scores, b, micro_batch_size=4)) for b in budgets]
    assert all(0.97 * f <= t <= f * (1 + 1e-9) for f, t in zip(full, thin, strict=True))


def test_between_ways_that_train_the_same_the_fastest_is_taken():
    arch = architecture()
    scores = table(arch, {"blocks.0.attn": 1.0})
    roomy, tight = (plan(scores, Budget(memory_bytes=mib * MIB)) for mib in (1000, 150))
    assert (roomy.micro_batch_size, roomy.recompute) == (16, "none")
    assert roomy.trainable == tight.trainable
    # 4 images at a time cost no time, a second forward pass does.
    assert plan(scores, Budget(memory_bytes=230 * MIB)).recompute == "none"
    assert tight.recompute != "none" or tight.micro_batch_size < 4


def test_what_larger_micro_batches_would_save_is_said_only_where_they_save_something():
    scores = table(architecture())
    plans = [plan(scores, Budget(memory_bytes=mib * MIB)) for mib in range(100, 290, 30)]
    notes = [note for made in plans for note in made.notes if "`edgeplast plan --micro-batch 4` would be" in note]
    assert notes and all(int(re.search(r"would be (-?\d+)% faster", note)[1]) > 0 for note in notes)


def test_depth_counts():
    """One component at the front makes the gradient cross everything; under a tight budget the end is better."""
    arch = architecture()
    scores = table(arch, {"blocks.0.fc1": 1.0, "blocks.11.fc1": 0.9})
    made = plan(scores, Budget(memory_bytes=145 * MIB), micro_batch_size=16)
    assert made.trainable == ("blocks.11.fc1", "norm", "head")


def test_components_without_a_positive_score_never_train():
    arch = small()
    made = plan(table(arch, {"blocks.0.attn": -1.0, "blocks.1.fc1": 0.0, "blocks.1.fc2": 0.5}), Budget())
    assert made.trainable == ("blocks.1.fc2", "norm", "head")
    none = plan(table(arch, {"blocks.0.attn": -1.0}), Budget())
    assert none.trainable == ("norm", "head")
    assert any("No component of a block has a positive plasticity score" in note for note in none.notes)


def test_blocks_of_different_sizes_are_weighed_by_their_own_cost():
    narrow = architecture(depth=2, narrow={1: 1})
    scores = table(narrow, {"blocks.0.fc2": 1.0, "blocks.1.fc1": 0.6, "blocks.1.fc2": 0.6})
    room = workload(narrow).measured(["blocks.1.fc1", "blocks.1.fc2", "norm", "head"], 1, "none").peak_bytes
    assert plan(scores, Budget(memory_bytes=room)).trainable == ("blocks.1.fc1", "blocks.1.fc2", "norm", "head")


@pytest.mark.parametrize("model", [conv_net(), conv_net(width=32, depth=5, image=32)])
def test_convolutions_are_planned_too(model):
    scores = table(model)
    everything = plan(scores, Budget())
    assert set(everything.trainable) == set(model[0].names) - {"stem"}
    head = workload(model).measured(["head"], 1, "none").peak_bytes
    less = plan(scores, Budget(memory_bytes=(everything.predicted_peak_bytes + head) // 2))
    assert less.predicted_peak_bytes <= (everything.predicted_peak_bytes + head) // 2
    assert planned(scores, Budget(), train="conv1:1").trainable == ("layers.1.conv1", "head")
    assert planned(scores, Budget(), train="layers.1").trainable == ("layers.1.conv1", "layers.1.conv2", "head")
    assert planned(scores, Budget(), strategy="last-k:1").trainable[-2:] == (
        f"layers.{model[0].blocks - 1}.conv2",
        "head",
    )


def test_of_many_components_of_a_unit_some_sets_are_tried():
    names = [f"conv{i}" for i in range(20)]
    scores = {name: float((7 * i) % 20) for i, name in enumerate(names)}
    sets = subsets_of(names, scores)
    assert len(sets) < 90 and len(sets) == len(set(sets))
    assert () in sets and tuple(names) in sets and ("conv19",) in sets
    assert all(list(chosen) == [n for n in names if n in chosen] for chosen in sets)
    assert sorted(subsets_of(names[:2], scores)) == [(), ("conv0",), ("conv0", "conv1"), ("conv1",)]
