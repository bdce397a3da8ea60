from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from planning_models import MIB, architecture, table

from edgeplast.budget import Budget
from edgeplast.cli.app import run
from edgeplast.cli.plan import _had
from edgeplast.errors import BudgetError, UsageError
from edgeplast.planning import contest, explain, plan
from edgeplast.plans import Plan

ARCH = architecture(depth=4)
SCORES = table(ARCH)
TIGHT = Budget(memory_bytes=112 * MIB)


def test_what_was_chosen_is_the_plan():
    why = explain(SCORES, TIGHT)
    assert why.plan == plan(SCORES, TIGHT)
    assert why.estimate.peak_bytes == why.plan.predicted_peak_bytes
    assert why.score == pytest.approx(sum(why.plan.components[n].score or 0 for n in why.plan.trainable))


def test_what_just_missed_is_short_by_what_it_says():
    why = explain(SCORES, TIGHT, strategy="summed")
    assert {m.component for m in why.missed} == set(SCORES.components) - set(why.plan.trainable)
    assert [m.score for m in why.missed] == sorted((m.score for m in why.missed), reverse=True)
    for missed in why.missed:
        assert missed.short_bytes == missed.memory_bytes - TIGHT.memory_bytes > 0
        names = [*why.plan.trainable, missed.component]
        assert plan(SCORES, Budget(memory_bytes=missed.memory_bytes), train=names).predicted_peak_bytes
    first = why.missed[0]
    assert why.next_step is not None
    assert TIGHT.memory_bytes < why.next_step.memory_bytes <= min(m.memory_bytes for m in why.missed)
    assert why.next_step.score > why.score
    assert first.score > 0


def test_the_next_step_is_reached_by_the_memory_it_names():
    why = explain(SCORES, TIGHT, strategy="summed")
    after = explain(SCORES, Budget(memory_bytes=why.next_step.memory_bytes), strategy="summed")
    assert after.score == pytest.approx(why.next_step.score)
    assert set(after.plan.trainable) == {*why.plan.trainable, *why.next_step.gained} - set(why.next_step.lost)


def test_the_curve_rises_to_everything_that_is_scored():
    curve = explain(SCORES, TIGHT, strategy="summed").curve
    assert all(a.memory_bytes < b.memory_bytes and a.score <= b.score for a, b in pairwise(curve))
    assert curve[0].components >= 2
    assert curve[-1].score == pytest.approx(sum(c.score for c in SCORES.components.values()))
    some = curve[len(curve) // 2]
    assert explain(SCORES, Budget(memory_bytes=some.memory_bytes), strategy="summed").score == pytest.approx(some.score)


def test_fifty_mebibytes_more():
    tight, roomy = Budget(memory_bytes=92 * MIB), Budget(memory_bytes=142 * MIB)
    for strategy in ("best", "summed"):
        why = explain(SCORES, tight, strategy=strategy)
        after = explain(SCORES, roomy, strategy=strategy)
        assert why.with_more.score == pytest.approx(after.score)
        assert set(after.plan.trainable) == {*why.plan.trainable, *why.with_more.gained} - set(why.with_more.lost)
    assert explain(SCORES, Budget()).with_more is None
    assert explain(SCORES, Budget(memory_bytes=400 * MIB)).with_more is None  # all that it wants trains already
    assert explain(SCORES, Budget()).next_step is None


def test_what_another_way_has_within_the_budget_is_not_offered_as_new():
    said = {}
    for memory in (120, 135, 170, 220):
        why = explain(SCORES, Budget(memory_bytes=memory * MIB))
        if why.with_more is not None:
            others = [other for other in why.contest if not other.chosen]
            said[memory] = _had(why, why.with_more)
            assert bool(said[memory]) == any(other.score >= why.with_more.score - 1e-9 for other in others)
    assert any(re.fullmatch(r" \(within this budget \S+ has it too, at .+ a step\)", text) for text in said.values()), (
        said
    )


def test_other_ways_to_choose_stand_beside_the_plan():
    why = explain(SCORES, TIGHT)
    rows = {other.strategy: other for other in why.contest}
    assert {"focus", "summed"} <= set(rows) and any(name.startswith("last-k:") for name in rows)
    assert [other.strategy for other in why.contest if other.chosen] == ["focus"]
    assert rows["summed"].score >= max(other.score for other in why.contest) - 1e-9
    for other in why.contest:
        assert other.memory_bytes <= TIGHT.memory_bytes and other.step_seconds > 0
        again = plan(SCORES, TIGHT, strategy=other.strategy) if other.strategy != "names" else None
        assert again is None or again.trainable_parameters == other.parameters
        assert other.epoch_seconds == pytest.approx(other.step_seconds * -(-1000 // why.plan.batch_size))
    late = next(other for name, other in rows.items() if name.startswith("last-k:"))
    assert late.cached_epoch_seconds < late.epoch_seconds, "what comes before the last blocks is computed once"
    assert rows["focus"].cached_epoch_seconds == rows["focus"].epoch_seconds, "nothing comes before all blocks"
    faster = [other for other in why.contest if other.step_seconds < why.estimate.step_seconds]
    assert why.next_faster == max(faster, key=lambda other: other.step_seconds, default=None) and faster
    peaks = [other.memory_bytes for other in why.contest]
    assert peaks == sorted(peaks)


def test_time_can_forbid_what_memory_allows():
    why = explain(SCORES, Budget(step_seconds=plan_seconds() * 1.02))
    assert why.missed and all(m.memory_bytes is None for m in why.missed if m.component.endswith("0.attn"))


def plan_seconds() -> float:
    return explain(SCORES, TIGHT, train="norm,head").estimate.step_seconds


@pytest.fixture
def scores_file(tmp_path):
    path = tmp_path / "scores.json"
    SCORES.write(path)
    return path


def test_command_writes_a_plan_and_shows_why(scores_file, tmp_path, capsys):
    output = tmp_path / "plan.json"
    arguments = ["plan", str(scores_file), "--memory", "112MiB", "-o", str(output), "--explain", "--strategy", "summed"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    for words in (
        "within this budget",
        "summed ←",
        "focus",
        "last-k:",
        "what trains",
        "predicted peak",
        "what just missed",
        "50 MiB more would buy",
        "← budget",
        "█",
    ):
        assert words in shown
    assert Plan.read(output) == plan(SCORES, TIGHT, strategy="summed")
    assert run(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0


def test_command_prints_json(scores_file, capsys):
    assert run(["plan", str(scores_file), "--train", "attn,norm,head", "--json"]) == 0
    assert Plan.from_json(capsys.readouterr().out.encode(), where="output").strategy == "names"
    assert run(["plan", str(scores_file), "--memory", "112MiB", "--disk", "20MiB", "--explain", "--json"]) == 0
    assert {"plan", "estimate", "missed", "curve"} <= json.loads(capsys.readouterr().out).keys()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--memory", "20MiB"], 4, "The runtime alone takes"),
        (["--memory", "much"], 2, "Cannot read 'much' as an amount of bytes"),
        (["--gflops", "-1"], 2, "--gflops -1 must be positive"),
        (["--strategy", "all"], 2, "Unknown strategy 'all'"),
        (["--classes", "one"], 2, "at least 2 classes"),
    ],
)
def test_command_fails_with_one_message(scores_file, capsys, options, code, words):
    assert run(["plan", str(scores_file), *options]) == code
    assert words in capsys.readouterr().err


def test_planning_needs_numpy_alone():
    code = (
        "import sys, edgeplast.planning; print({'torch', 'timm', 'onnx', 'onnxruntime', 'psutil'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_networkx_the_command_to_type_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "networkx", None)
    scores = tmp_path / "scores.json"
    table(architecture(width=48, depth=3)).write(scores)
    assert run(["plan", str(scores), "--memory", "200MiB"]) == 3
    assert "networkx is not installed; planning and exporting need it" in capsys.readouterr().err


def test_a_contest_has_the_plans_that_the_explanation_shows_each_once():
    found = contest(SCORES, TIGHT)
    shown = {row.memory_bytes: row for row in explain(SCORES, TIGHT).contest}
    assert {made.predicted_peak_bytes for made, _ in found.values()} == shown.keys()
    assert len({made.trainable for made, _ in found.values()}) == len(found)
    assert next(iter(found)) == "head" and set(found) <= {"head", "uniform", "focus", "summed", "last-k:4", "last-k:3"}
    for name, (made, _) in found.items():
        if name != "head":
            assert made == plan(SCORES, TIGHT, strategy=name)


def test_a_contest_takes_ways_by_name():
    names = ("head", "last-k", "last-k:1", "fc1", "attn:2-3+norm", "norm1+fc1")
    found = contest(SCORES, Budget(), names)
    assert found["last-k"][0].trainable == plan(SCORES, Budget(), strategy="last-k:4").trainable
    assert found["attn:2-3+norm"][0].trainable == plan(SCORES, Budget(), train="attn:2-3,norm").trainable
    assert found["norm1+fc1"][0].trainable == plan(SCORES, Budget(), train="norm1,fc1").trainable
    low_rank = contest(SCORES, Budget(), ("lora:4@attn+head",))["lora:4@attn+head"][0]
    assert low_rank.trainable == plan(SCORES, Budget(), train="lora:4@attn,head").trainable
    assert contest(SCORES, Budget(), ("last-k", "last-k:4"))["last-k"][1] == ("last-k:4",)
    with pytest.raises(UsageError, match=r"'fc3' names nothing .* Ways to choose are head, last-k and"):
        contest(SCORES, Budget(), ("fc3",))
    with pytest.raises(BudgetError, match="MiB"):
        contest(SCORES, Budget(memory_bytes=20 * MIB))
