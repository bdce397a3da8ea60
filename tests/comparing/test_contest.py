"""Contests of small models in real processes: a winner, a tie, kills, Ctrl-C, and what cannot be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_models import CLASSES, blob, blob_folder, small_vit

import edgeplast
from edgeplast import journal
from edgeplast.budget import Budget
from edgeplast.cli.app import run
from edgeplast.comparing import halving
from edgeplast.comparison import COMPARISON, JOURNAL, PAGE, PLAN, Comparison
from edgeplast.errors import BudgetError, InputError, InterruptedRunError, UsageError
from edgeplast.plans import Plan

torch = pytest.importorskip("torch", reason="scoring and exporting need it")
BUDGET = Budget(memory_bytes=256 << 20)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 24 pictures each, and a test split that nobody may look at: it holds no picture at all."""
    root = blob_folder(tmp_path_factory.mktemp("compare") / "data", train=24, test=1)
    for file in (root / "test").rglob("*.png"):
        file.write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def blind() -> torch.nn.Module:
    """A model that sees next to nothing of a picture until its embedding trains."""
    model = small_vit()
    with torch.no_grad():
        model.patch_embed.proj.weight *= 1e-3
    return model


def test_a_clear_winner_is_found_and_its_plan_goes_into_a_bundle(
    blind: torch.nn.Module, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    found = edgeplast.compare(
        blind, pictures, BUDGET, minutes=5, into=tmp_path / "c", candidates=("head", "uniform"), notice=told.append
    )
    assert found.chosen == found.best == "uniform" and "uniform stands out" in found.verdict
    assert found.stopped_because == "one stands out" and found.seconds < 300
    head = found.candidate("head")
    assert head.outcome == "worse" and head.difference is not None and head.difference.high < 0
    assert head.measured_peak_bytes is not None and 30 << 20 < head.measured_peak_bytes < BUDGET.memory_bytes
    assert (found.learning, found.held_out, found.held_out_from) == (54, 18, "train")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted([COMPARISON, PLAN, PAGE, JOURNAL])
    assert Comparison.read(tmp_path / "c" / COMPARISON) == found
    plan = Plan.read(tmp_path / "c" / PLAN)
    assert plan == found.plan and plan.components["patch_embed"].trainable
    bundle = edgeplast.export(blind, tmp_path / "c" / PLAN, into=tmp_path / "bundle")
    assert bundle.manifest.plan == plan and bundle.manifest.classes == CLASSES
    page = (tmp_path / "c" / PAGE).read_text()
    assert page.count("<div class=chart>") == 3 and "uniform stands out" in page and "256 MiB" in page
    again = ["report", str(tmp_path / "c"), "-o", str(tmp_path / "page.html")]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        assert run(again) == 0 and (tmp_path / "page.html").read_text() == page
    assert run([*again, "--force", "--png", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
    assert "uniform stands out" in str(found) and "<td>uniform</td>" in found._repr_html_()
    assert any(line.startswith("round 1, seed 1: uniform: ") and line.endswith("left") for line in told), told


def test_labels_that_nothing_explains_show_no_difference_and_the_cheapest_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halving, "MOST_SEEDS", 1)
    for i in range(48):
        folder = tmp_path / "data" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        blob("red", i).save(folder / f"{i}.png")
    found = edgeplast.compare(small_vit(), tmp_path / "data", minutes=5, candidates=("uniform", "head", "last-k:2"))
    fast = [c for c in found.candidates if c.epoch_seconds <= 1.1 * found.candidates[0].epoch_seconds]
    assert found.chosen == min(fast, key=lambda c: c.predicted_peak_bytes).name
    assert "No difference that these pictures could show between " in found.verdict
    assert f"{found.chosen} is the cheapest" in found.verdict and "Each ran once" in found.verdict
    assert sorted(c.outcome for c in found.candidates) == ["chosen", "not worse", "not worse"]


def test_what_each_forgot_of_other_sets_is_measured_and_shown(pictures: Path, tmp_path: Path) -> None:
    right, wrong = blob_folder(tmp_path / "right", train=0, test=6), tmp_path / "wrong" / "test"
    for i, name in enumerate(CLASSES):
        shutil.copytree(right / "test" / name, wrong / CLASSES[(i + 1) % 3])
    found = edgeplast.compare(
        small_vit(), pictures, BUDGET, minutes=2, into=tmp_path / "c", candidates=("uniform",), keep_head=True,
        also=(right, wrong.parent),
    )  # fmt: skip
    kept = found.candidate("uniform").others
    assert {*kept} == {str(right), str(wrong.parent)} and found.measures_forgetting
    before, after = kept[str(right)].before, kept[str(right)].after
    assert before is not None and after is not None and after > before  # that is what it learned
    other = kept[str(wrong.parent)]
    assert other.after is not None and other.before is not None and other.after < 1 - after + 1e-9
    lost = found.candidate("uniform").lost_points
    assert lost == pytest.approx(100 * max(before - after, other.before - other.after))
    assert found.columns[3] == "forgot, points" and found.rows()[0][3] == f"{lost:.1f}" and "forgot" in str(found)
    assert "forgot, points" in (tmp_path / "c" / PAGE).read_text()
    again = Comparison.read(tmp_path / "c" / COMPARISON)
    assert again.candidate("uniform").others == kept


@pytest.mark.parametrize("changed", ["data", "right"])
def test_a_contest_does_not_go_on_with_other_pictures(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    right = blob_folder(tmp_path / "right", train=0, test=4)

    def hold() -> Comparison:
        return edgeplast.compare(
            small_vit(),
            data,
            BUDGET,
            minutes=2,
            into=tmp_path / "c",
            candidates=("head",),
            keep_head=True,
            also=[right],
        )

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeplast.comparing.contest.carried_out", stopped)
    with pytest.raises(InterruptedRunError):
        hold()
    with pytest.raises(InterruptedRunError):  # the same pictures: it goes on, as far as that goes here
        hold()
    one = next((tmp_path / changed / ("train" if changed == "data" else "test")).rglob("*.png"))
    shutil.copy(one, one.with_name("more.png"))
    with pytest.raises(UsageError, match=r"The pictures of .*data, .*right are others than when .* Remove that folder"):
        hold()


def test_the_time_that_is_left_goes_on_while_a_run_works(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast.progress import Beside

    told: list[Beside] = []

    def carried_out(order: object, scratch: Path, left: object, progress: Callable[[str, int, int], None]) -> None:
        now = time.monotonic()
        for later in (0.0, 30.0):
            monkeypatch.setattr("edgeplast.comparing.contest.time.monotonic", lambda at=now + later: at)
            progress("epoch 1 of 2", 8, 400)
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeplast.comparing.contest.carried_out", carried_out)
    with pytest.raises(InterruptedRunError):
        edgeplast.compare(
            small_vit(), pictures, BUDGET, minutes=1.4, into=tmp_path / "c", candidates=("head",),
            progress=lambda activity, done, total: told.append(activity) if isinstance(activity, Beside) else None,
        )  # fmt: skip
    first, second = told
    assert first == second == "a first try of head"
    seconds = [int(each.beside.removesuffix(" s left")) for each in told]
    assert seconds[0] - seconds[1] == 30


def test_a_run_that_is_silent_is_told_of_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeplast.comparing import processes

    monkeypatch.setattr(processes, "_LOOK_SECONDS", 0.05)
    script = "import time; time.sleep(0.5); print('{\"result\": {}}', flush=True)"
    heard: list[tuple[str, int, int]] = []
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as silent:
        answer = processes._listened(silent, lambda: 60.0, lambda *what: heard.append(what))
    assert answer is not None and answer.result == {}
    assert len(heard) > 2 and set(heard) == {("starting", 0, 0)}


def test_plans_that_are_the_same_run_once(pictures: Path) -> None:
    ways = ("last-k:2", "last-k", "blocks:0-1+norm")
    found = edgeplast.compare(small_vit(), pictures, minutes=5, candidates=ways)
    assert [(c.name, c.also, c.seeds) for c in found.candidates] == [("last-k:2", ways[1:], 1)]
    assert found.verdict == "last-k:2 is the only candidate: nothing else fits."


def test_export_chooses_by_trying_and_leaves_the_page(
    blind: torch.nn.Module, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halving, "MOST_SEEDS", 1)
    told: list[str] = []
    bundle = edgeplast.make_bundle(
        blind, pictures, BUDGET, into=tmp_path / "b", choose="measured", minutes=5, notice=told.append
    )
    found = Comparison.read(tmp_path / "b.comparison" / COMPARISON)
    assert bundle.manifest.plan == found.plan and {c.name for c in found.candidates} >= {"head", "uniform"}
    assert (tmp_path / "b.comparison" / PAGE).exists() and any(line.startswith("round 1, seed 0: ") for line in told)
    with pytest.raises(UsageError, match=r"--train head says it\. Give one of them"):
        edgeplast.make_bundle(blind, pictures, into=tmp_path / "c", choose="measured", train="head")


def test_what_leaves_no_block_to_merge_tokens_in_does_not_compete(pictures: Path) -> None:
    """The winner could not be exported, minutes later."""
    told: list[str] = []
    ways = {"minutes": 5, "candidates": ("head", "uniform"), "merge_tokens": 3}
    found = edgeplast.compare(small_vit(), pictures, **ways, notice=told.append)
    assert [candidate.name for candidate in found.candidates] == ["head"]
    assert any(line.startswith("uniform does not compete: --merge-tokens merges tokens in") for line in told)
    with pytest.raises(UsageError, match=r"none is left: patch_embed trains, .* or leave --merge-tokens out"):
        edgeplast.compare(small_vit(), pictures, **ways | {"candidates": ("uniform",)})


class TestStopping:
    """The command line, killed and interrupted."""

    @staticmethod
    def command(checkpoint: Path, pictures: Path, into: Path) -> list[str]:
        return [
            sys.executable, "-m", "edgeplast", "compare", "vit_tiny_patch16_224", "--checkpoint", str(checkpoint),
            "--image-size", "32", "--model-kwargs", '{"depth": 2, "embed_dim": 24}', "--data", str(pictures),
            "--memory", "256MiB", "--minutes", "3", "--candidates", "head", "-o", str(into),
        ]  # fmt: skip

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from safetensors.torch import save_file

        from edgeplast.models import import_timm

        torch.manual_seed(0)
        model = import_timm().create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2, embed_dim=24)
        path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
        save_file(model.state_dict(), path)
        return path

    @staticmethod
    def started(command: list[str]) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "80"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    @staticmethod
    def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if what():
                return
            time.sleep(0.02)
        raise AssertionError(process.communicate())

    def test_killed_and_interrupted_it_goes_on(self, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
        into, partial = tmp_path / "c", tmp_path / "c.partial"
        command = self.command(checkpoint, pictures, into)
        first = self.started(command)
        self.wait_for(lambda: list(partial.glob("run-*/order.json")), first)
        first.kill()
        first.communicate()
        assert list(partial.glob("run-*")) and not journal.read(partial / JOURNAL)
        second = self.started(command)
        self.wait_for(lambda: journal.read(partial / JOURNAL) and list(partial.glob("run-*/order.json")), second)
        second.send_signal(signal.SIGINT)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 130, said
        assert f"Interrupted; 1 run of the contest is kept in {partial}. The same command goes on from there." in said
        assert "Traceback" not in said and not list(partial.glob("run-*"))  # nor what the kill had left
        after_interrupt = journal.read(partial / JOURNAL)
        other = self.started([*command, "--seed", "1"])
        _, said = other.communicate(timeout=60)
        assert other.returncode == 2 and "holds an unfinished contest with another seed (0)" in said
        third = self.started([*command, "--json"])
        out, said = third.communicate(timeout=120)
        assert third.returncode == 0 and "Going on: 1 run is done" in said, said
        found = json.loads(out)
        envelope = {"kind": "comparison", "output": str(into)}
        assert found == json.loads((into / COMPARISON).read_text()) | envelope and found["seconds"] < 180
        lines = journal.read(into / JOURNAL)
        assert lines[: len(after_interrupt)] == after_interrupt
        assert [(line["round"], line["seed"]) for line in lines if line["what"] == "run"] == [(0, 0), (1, 0)]
        assert not partial.exists()


def test_what_cannot_be_is_said(pictures: Path, tmp_path: Path) -> None:
    model = small_vit()
    with pytest.raises(UsageError, match="--minutes 0 must be a positive number of minutes"):
        edgeplast.compare(model, pictures, minutes=0)
    with pytest.raises(UsageError, match=r"images is of the kind list\. Allowed: the path of a folder"):
        edgeplast.compare(model, [], minutes=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"a new head knows nothing yet\. Add --keep-head"):
        edgeplast.compare(model, pictures, minutes=1, also=[pictures])
    with pytest.raises(InputError, match=r"--also .*nothing does not exist\. Give a folder"):
        edgeplast.compare(model, pictures, minutes=1, keep_head=True, also=[tmp_path / "nothing"])
    with pytest.raises(UsageError, match="budget is of the kind str"):
        edgeplast.compare(model, pictures, "256MiB", minutes=1)  # type: ignore[arg-type]
    few = blob_folder(tmp_path / "few", train=4, test=0)
    with pytest.raises(InputError, match=r"has 12 training pictures, of which 3 can be held out .* below 8"):
        edgeplast.compare(model, few, minutes=1)
    with pytest.raises(UsageError, match=r"'focs' names nothing .* Ways to choose are head, last-k and the strategies"):
        edgeplast.compare(model, pictures, minutes=1, candidates=("focs",))
    with pytest.raises(BudgetError, match="MiB"):
        edgeplast.compare(model, pictures, Budget(memory_bytes=40 << 20), minutes=1)
    (tmp_path / "taken.partial").mkdir()
    with pytest.raises(UsageError, match=r"taken\.partial is in the way"):
        edgeplast.compare(model, pictures, minutes=1, into=tmp_path / "taken")


def test_minutes_that_are_over_before_anything_ran_are_told_with_how_many_do(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"The minutes were used .* started again with --minutes \d+ it goes on"):
        edgeplast.compare(small_vit(), pictures, minutes=0.01, into=tmp_path / "c", candidates=("head",))
    assert (tmp_path / "c.partial/scores.json").exists()
    shutil.rmtree(tmp_path / "c.partial")
