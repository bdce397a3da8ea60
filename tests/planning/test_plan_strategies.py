from __future__ import annotations

import re

import pytest
from planning_models import MIB, architecture, block_components, small, table, workload

from edgeplast.budget import Budget
from edgeplast.errors import BudgetError, UsageError
from edgeplast.planning import STRATEGIES, plan
from edgeplast.planning.estimating import process_bytes
from edgeplast.scores import ComponentScore, ScoreTable
from edgeplast.units import format_bytes

ARCH = small(depth=4)
OUTLINE = ARCH[0]
SCORES = table(ARCH)
RANKED = sorted(SCORES.components, key=lambda name: -SCORES.components[name].score)

DEPTH = 6
DEEP = table(architecture(depth=DEPTH))


def trained(strategy: str, **how: object) -> set[str]:
    return set(plan(SCORES, Budget(), strategy=strategy, **how).trainable)


def test_the_largest_sum_without_limits_trains_all_that_is_scored():
    assert trained("summed") == {*block_components(4), "norm", "head"}


def test_uniform_trains_everything():
    assert trained("uniform") == set(OUTLINE.names)


@pytest.mark.parametrize("kind", ["norm1", "attn", "norm2", "fc1", "fc2"])
def test_a_component_type_trains_in_all_blocks(kind):
    assert trained(kind) == {*OUTLINE.select(kind), "norm", "head"}


def test_last_k_trains_whole_blocks():
    assert trained("last-k:2") == {*OUTLINE.select("blocks:2-3"), "norm", "head"}


@pytest.mark.parametrize("strategy", ["freeze-low:0.75", "focus-high:0.25", "focus-high 0.25"])
def test_fractions_go_by_score(strategy):
    assert trained(strategy) == {*RANKED[:5], "norm", "head"}


def test_names_are_taken_as_they_are_and_the_head_added():
    assert trained("best", train="attn:2-3") == {"blocks.2.attn", "blocks.3.attn", "head"}
    assert trained("names", train=["patch_embed", "norm"]) == {"patch_embed", "norm", "head"}


def test_every_listed_strategy_works():
    numbers = {"FRACTION": "0.5", "BLOCKS": "2", "KIND": "fc2"}
    for listed in STRATEGIES:
        strategy = re.sub("FRACTION|BLOCKS|KIND", lambda m: numbers[m.group()], listed)
        assert "head" in trained(strategy, **({"train": "norm"} if strategy == "names" else {}))


def test_a_plan_says_how_everything_is_stored():
    made = plan(SCORES, Budget(), strategy="attn", weight_bits=8, component_weight_bits={"blocks.0.fc1": 4})
    bits = {name: c.weight_bits for name, c in made.components.items()}
    assert bits["blocks.0.attn"] == bits["head"] == bits["blocks.0.norm1"] == 32
    assert (bits["blocks.0.fc1"], bits["blocks.1.fc1"], bits["patch_embed"]) == (4, 8, 8)
    assert made.components["blocks.1.fc2"].score == SCORES.components["blocks.1.fc2"].score
    assert (made.strategy, made.notes[0]) == ("attn", "Scores: plasticity.")


def test_the_new_head_is_planned_for():
    assert plan(SCORES, Budget(), classes=11).components["head"].parameters == 33 * 11
    named = plan(SCORES, Budget(), classes=("a", "b", "c", "d"))
    assert (named.classes, named.outline.classes) == (("a", "b", "c", "d"), 4)
    from_images = table(ARCH)
    from_images = ScoreTable.from_json(
        from_images.to_json().replace(b'"classes": []', b'"classes": ["x", "y"]'), where=""
    )
    assert plan(from_images, Budget()).components["head"].parameters == 33 * 2


def test_another_method_of_the_table_can_decide():
    other = {"blocks.3.fc2": ComponentScore(score=1.0, parameters=1)}
    scores = table(ARCH, others={"fisher": other})
    assert plan(scores, Budget(), method="fisher").trainable == ("blocks.3.fc2", "norm", "head")
    with pytest.raises(UsageError, match="Unknown score method in this table 'snr'"):
        plan(scores, Budget(), method="snr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strategy": "atn"},
            r"Unknown strategy 'atn'. Did you mean 'attn'\? Known: best, focus, summed, uniform, freeze-low",
        ),
        ({"strategy": "last-k:5"}, r"'last-k:5' needs a number of blocks from 1 to 4, e\.g\. last-k:4"),
        ({"strategy": "last-k"}, r"needs a number of blocks"),
        ({"strategy": "freeze-low:1.5"}, r"'freeze-low:1\.5' needs a fraction between 0 and 1, e\.g\. freeze-low:0\.5"),
        ({"strategy": "focus-high:x"}, r"'focus-high:x' needs a fraction"),
        ({"strategy": "attn:3"}, r"'attn' takes no number; 'attn:3' was given"),
        ({"strategy": "names"}, r"'names' needs the names: give train, e\.g\. --train"),
        ({"strategy": "attn", "train": "fc1"}, r"Both strategy 'attn' and train='fc1'.*Give one"),
        ({"train": "blocks.7.attn"}, r"'blocks\.7\.attn' names nothing in vit_for_tests"),
        ({"micro_batch_size": 17}, r"micro_batch_size=17 must lie between 1 and the batch size 16"),
        ({"classes": 1}, r"at least 2 classes"),
        ({"component_weight_bits": {"fc9": 8}}, r"component_weight_bits names 'fc9', which is no component"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        plan(SCORES, Budget(), **options)


def test_ranks_need_scores():
    with pytest.raises(UsageError, match=r"'focus-high' goes by scores, and this table scores no component"):
        plan(table(ARCH, {}), Budget(), strategy="focus-high:0.5")


def test_scores_of_single_heads_cannot_be_planned_by():
    heads = {"blocks.0.attn.head.0": ComponentScore(score=1.0, parameters=1)}
    scores = table(ARCH, components=heads)
    with pytest.raises(UsageError, match=r"blocks\.0\.attn\.head\.0, which is no component.*--granularity component"):
        plan(scores, Budget())


def refusal(arch, budget: Budget, **options: object) -> str:
    with pytest.raises(BudgetError) as caught:
        plan(table(arch), budget, **options)
    assert caught.value.exit_code == 4
    return str(caught.value)


TINY = architecture(depth=6)


def test_below_the_runtime_the_base_is_named_and_the_smallest_budget_works():
    message = refusal(TINY, Budget(memory_bytes=50 * MIB))
    assert "Nothing of vit_for_tests can be trained within 50 MiB of memory" in message
    assert (
        f"The runtime alone takes about {format_bytes(process_bytes(workload(TINY).evaluation_graph_bytes))}" in message
    )
    mib = int(re.search(r"The head alone needs .* give --memory (\d+)MiB or more", message).group(1))
    assert plan(table(TINY), Budget(memory_bytes=mib * MIB)).trainable[-1] == "head"
    assert "runtime" not in refusal(TINY, Budget(memory_bytes=(mib - 1) * MIB))


@pytest.mark.parametrize("strategy", ["attn", "uniform", "last-k:4", "focus-high:0.5"])
def test_a_choice_by_hand_that_does_not_fit_names_the_smallest_budget_that_would(strategy):
    message = refusal(TINY, Budget(memory_bytes=72 * MIB), strategy=strategy)
    assert f"Strategy {strategy!r} does not fit vit_for_tests into 72 MiB of memory" in message
    assert "Or let --strategy best choose what fits" in message
    mib = int(re.search(r"give --memory (\d+)MiB or more", message).group(1))
    assert plan(table(TINY), Budget(memory_bytes=mib * MIB), strategy=strategy).strategy == strategy
    refusal(TINY, Budget(memory_bytes=(mib - 1) * MIB), strategy=strategy)


def test_settings_that_would_lower_the_need_are_named():
    message = refusal(TINY, Budget(memory_bytes=78 * MIB), train="attn,head", micro_batch_size=8, weight_bits=32)
    assert "--train attn,head does not fit" in message
    assert "lower the need by --weight-bits 8 and a smaller --micro-batch and --optimizer sgd" in message


@pytest.mark.parametrize(
    ("budget", "pattern"),
    [
        (Budget(step_seconds=0.01), r"give --time-per-step ([\d.]+) or more, or a smaller --batch"),
        (Budget(disk_bytes=1000), r"give --disk (\d+)MiB or more"),
    ],
)
def test_time_and_disk_are_limits_too(budget, pattern):
    number = float(re.search(pattern, refusal(TINY, budget)).group(1))
    enough = Budget(step_seconds=number) if budget.step_seconds else Budget(disk_bytes=int(number) * MIB)
    assert "head" in plan(table(TINY), enough).trainable


def test_the_norm_is_dropped_when_the_head_alone_fits():
    arch = architecture(depth=1)
    w = plan(table(arch, {}), Budget(), micro_batch_size=1)
    head_alone = w.predicted_peak_bytes - 8 * 2 * 192
    assert plan(table(arch, {}), Budget(memory_bytes=head_alone), micro_batch_size=1).trainable == ("head",)


def test_focus_takes_the_plastic_kinds_in_all_blocks_or_in_the_last_that_fit_then_the_others():
    """By MEDIANS norm2, fc1 and norm1 are at least half as plastic as norm2; fc2 comes next and attn last."""
    kinds, before, counts = ("norm1", "norm2", "fc1"), 0, set()
    for mib in (90, 95, 105, 130, 200, 400):
        made = plan(DEEP, Budget(memory_bytes=mib * MIB), strategy="focus")
        first = next(i for i in range(DEPTH + 1) if i == DEPTH or f"blocks.{i}.fc1" in made.trainable)
        others = [kind for kind in ("fc2", "attn") if f"blocks.0.{kind}" in made.trainable]
        inner = {f"blocks.{i}.{kind}" for i in range(first, DEPTH) for kind in (*kinds, *others)}
        assert set(made.trainable) == {*inner, "norm", "head"}
        assert others in ([], ["fc2"], ["fc2", "attn"])
        assert not others or first == 0
        assert "attn" not in others or made.micro_batch_size >= 4
        assert made.predicted_peak_bytes <= mib * MIB and len(inner) >= before
        before = len(inner)
        counts.add(before)
    assert len(counts) > 2
    assert set(plan(DEEP, Budget()).trainable) == {*block_components(DEPTH), "norm", "head"}
    assert plan(DEEP, Budget()).strategy == "focus"


def test_what_has_no_positive_score_is_no_focus():
    scores = {n: (-1.0 if n.endswith("fc1") else 0.5) for n in DEEP.components}
    made = plan(table(architecture(depth=DEPTH), scores), Budget())
    assert not [n for n in made.trainable if n.endswith("fc1")] and len(made.trainable) > 2
    nothing = plan(table(architecture(depth=DEPTH), dict.fromkeys(scores, -1.0)), Budget())
    assert nothing.trainable == ("norm", "head")
    assert any("No component of a block has a positive plasticity score" in note for note in nothing.notes)
