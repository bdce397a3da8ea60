"""``adapt --rescore``: a run measures scores of its own and goes on with the set of components that they favour."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_models import blob, small_bundle
from typed_commands import Typed, on_a_terminal
from wrapped_sessions import Training, Wrapped, adapt_over

import edgeplast
from edgeplast import alternatives
from edgeplast.adaptation import Adaptation
from edgeplast.budget import Budget
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.errors import InterruptedRunError, UsageError
from edgeplast.versions import history
from edgeplast_devices import scoring, training
from edgeplast_devices.images import open_splits
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rescoring import LEAST_PAIRS
from edgeplast_devices.rungs import Climbing, ladder
from edgeplast_devices.runtime import OutOfMemoryError
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.versioning import roll_back
from edgeplast_devices.weights import read_trainable

Adapt = Callable[..., Adaptation]


class _Killed(BaseException):
    """Ends a run as a power cut does: nothing that catches errors sees it."""


def _cut_the_power() -> None:
    raise _Killed


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    return Wrapped(tmp_path / "adapted")


@pytest.fixture
def work() -> dict[str, Path]:
    """Where the run in progress works."""
    return {}


@pytest.fixture
def adapt(alternatives_bundle: Bundle, blobs: Path, tmp_path: Path, wrapped: Wrapped, work: dict[str, Path]) -> Adapt:
    """Adapt into ``tmp_path / into``: three epochs of five steps, a checkpoint every other step."""

    def run(
        into: str = "adapted", start: Bundle = alternatives_bundle, data: Path = blobs, **how: object
    ) -> Adaptation:
        work["folder"] = tmp_path / f"{into}.partial"
        verb = {name: how.pop(name) for name in ("resume", "notice", "budget") if name in how}
        options = {"epochs": 3, "threads": 1, "checkpoint_every": "2steps", "rescore": "every-epoch"} | how
        return adapt_over(wrapped, start, data, tmp_path / into, TrainingOptions(**options), **verb)  # type: ignore[arg-type]

    return run


@pytest.fixture
def going(monkeypatch: pytest.MonkeyPatch, work: dict[str, Path]) -> Callable[..., None]:
    """Let scores favour these sets, one before each epoch."""

    def arrange(*names: str) -> None:
        def favoured(outline: object, scores: object, sets: dict, at_once: dict, now: str) -> str:
            assert set(names) <= {*sets} == {*at_once} and now in sets
            steps = (work["folder"] / "telemetry.jsonl").read_text().count('"kind":"step"')
            return names[steps // 5]

        monkeypatch.setattr(alternatives, "favoured", favoured)

    return arrange


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(folder / TRAINABLE)


def _same(one: Adaptation, other: Adaptation) -> None:
    assert one.losses == other.losses and one.gradient_norms == other.gradient_norms
    assert one.history == other.history and one.accuracy == other.accuracy and one.best_epoch == other.best_epoch
    untimed = [[msgspec.structs.replace(s, seconds=0.0) for s in report.scored] for report in (one, other)]
    assert untimed[0] == untimed[1] and one.tier == other.tier and one.run_file == other.run_file


class TestMoving:
    def test_it_trains_what_its_own_scores_favour(
        self, adapt: Adapt, alternatives_bundle: Bundle, tmp_path: Path
    ) -> None:
        told: list[str] = []
        report = adapt(notice=told.append)
        assert [scored.epoch for scored in report.scored] == [1, 2, 3] and [s.step for s in report.scored] == [0, 5, 10]
        top = next(iter(report.scored[0].kinds))
        sets = {tier.name: tier.components for tier in alternatives_bundle.manifest.tiers}
        assert {s.tier for s in report.scored} == {report.tier} and set(sets[f"all-{top}"]) <= set(report.trained)
        assert report.trained == sets[report.tier] and report.scored[0].pairs == LEAST_PAIRS
        assert list(report.scored[0].kinds.values()) == sorted(report.scored[0].kinds.values(), reverse=True)
        change = report.rung_changes[0]
        assert (change.step, change.reason) == (0, "scores favour it") and "tier full" in change.before
        assert any(line.startswith(f"Scores favour {report.tier} over full: {top} ") for line in told)
        before, after = _weights(alternatives_bundle.path), _weights(tmp_path / "adapted")
        owner = alternatives_bundle.manifest.parameters
        moved = {owner[name].component for name in before if not np.array_equal(before[name], after[name])}
        assert moved == {*report.trained}

    def test_once_is_before_the_first_step_alone(self, adapt: Adapt) -> None:
        assert [scored.epoch for scored in adapt(rescore="once").scored] == [1]

    def test_the_scores_are_those_of_the_verb(self, adapt: Adapt, alternatives_bundle: Bundle, blobs: Path) -> None:
        report = adapt(rescore="once", epochs=1)
        table = edgeplast.score_bundle(
            alternatives_bundle, open_splits(blobs, seed=0).train, pairs=LEAST_PAIRS, threads=1
        )
        found = alternatives.kinds_by_plasticity(table.outline, {n: s.score for n, s in table.components.items()})
        assert report.scored[0].kinds == pytest.approx(found, rel=1e-3)

    def test_a_set_from_the_first_step_on_learns_as_a_static_one(
        self, adapt: Adapt, going: Callable[..., None], tmp_path: Path
    ) -> None:
        going("late", "late", "late")
        moved = adapt(into="moved")
        still = adapt(into="still", rescore="none", rung=f"late:{moved.micro_batch_size}:{moved.recompute}")
        assert still.tier == "late" and still.losses == moved.losses and still.scored == ()
        for name, array in _weights(tmp_path / "moved").items():
            np.testing.assert_array_equal(array, _weights(tmp_path / "still")[name])

    def test_what_was_learned_is_kept_and_what_both_sets_train_goes_on(
        self, adapt: Adapt, going: Callable[..., None], wrapped: Wrapped, alternatives_bundle: Bundle
    ) -> None:
        going("all-attn", "late", "all-attn")
        seen: list[tuple[set[str], dict[str, np.ndarray]]] = []
        owner = alternatives_bundle.manifest.parameters

        def look(session: Training, images: np.ndarray) -> None:
            trained = {owner[name].component for name in session.gradients}
            if not seen or seen[-1][0] != trained:
                seen.append((trained, {name: array.copy() for name, array in session.parameters.items()}))

        wrapped.before = look
        report = adapt(learning_rate=3e-3)
        sets = {tier.name: {*tier.components} for tier in alternatives_bundle.manifest.tiers}
        assert [trained for trained, _ in seen] == [sets["all-attn"], sets["late"], sets["all-attn"]]
        start = read_trainable(alternatives_bundle)
        weight = "blocks.0.attn.qkv.weight"
        assert not np.array_equal(seen[1][1][weight], start[weight])  # learned in the first epoch,
        np.testing.assert_array_equal(seen[2][1][weight], seen[1][1][weight])  # and left alone in the second
        assert report.losses[-1] < report.losses[0] and report.tier == "all-attn"
        assert [change.step for change in report.rung_changes] == [0, 5, 10]

    @pytest.mark.parametrize("given", [None, 1e-3])
    def test_the_learning_rate_follows_what_trains_unless_it_was_given(
        self, adapt: Adapt, going: Callable[..., None], given: float | None, tmp_path: Path
    ) -> None:
        """``late`` trains several kinds, which learn at 2e-4 by default where one kind does at 5e-4."""
        going("late")
        moved = adapt(into="moved", epochs=1, learning_rate=given)
        still = adapt(
            into="still",
            epochs=1,
            rescore="none",
            learning_rate=given,
            rung=f"late:{moved.micro_batch_size}:{moved.recompute}",
        )
        assert still.options["learning_rate"] == (given or 2e-4)
        assert still.options["head_learning_rate"] == moved.options["head_learning_rate"] == 3e-3
        assert still.losses == pytest.approx(moved.losses, abs=1e-6)
        for name, array in _weights(tmp_path / "moved").items():
            np.testing.assert_allclose(array, _weights(tmp_path / "still")[name], atol=1e-6)

    def test_without_memory_for_scores_the_run_goes_on_and_says_so(
        self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def short(*_: object) -> None:
            raise OutOfMemoryError("so it was told")

        monkeypatch.setattr(scoring.ScoringSession, "distances", short)
        told: list[str] = []
        report = adapt(notice=told.append)
        assert report.tier == "full" and {s.why_none for s in report.scored} == {"memory ran out"}
        assert "No scores were measured (memory ran out); full trains." in told and report.steps == 15

    def test_weights_that_are_no_numbers_have_no_scores(self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            scoring.ScoringSession,
            "distances",
            lambda self, pictures: np.full((len(pictures) // 2, self.taps.taps), np.nan),
        )
        report = adapt(epochs=1)
        assert report.scored[0].why_none == "the model's values are not finite" and report.steps == 5


class TestGoingOn:
    @pytest.mark.parametrize("step", [2, 4, 5, 6, 9, 11, 14])
    def test_a_power_cut_changes_nothing(
        self, adapt: Adapt, going: Callable[..., None], wrapped: Wrapped, tmp_path: Path, step: int
    ) -> None:
        names = ("all-attn", "late", "full")
        going(*names)
        whole = adapt(into="whole")
        assert [s.tier for s in whole.scored] == [*names]
        wrapped.at_step(step, _cut_the_power)
        with pytest.raises(_Killed):
            adapt()
        resumed = adapt(resume=True)
        _same(resumed, whole)
        assert resumed.resumed_at == (step // 2 * 2,)
        for name, array in _weights(tmp_path / "whole").items():
            np.testing.assert_array_equal(array, _weights(tmp_path / "adapted")[name])

    def test_interrupted_while_it_scores(self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        whole = adapt(into="whole")
        measured, calls = scoring.ScoringSession.distances, [0]

        def stop(self: scoring.ScoringSession, pictures: np.ndarray) -> np.ndarray:
            calls[0] += 1
            if calls[0] == 4:
                raise InterruptedRunError("stopped")
            return measured(self, pictures)

        monkeypatch.setattr(scoring.ScoringSession, "distances", stop)
        with pytest.raises(InterruptedRunError, match="saved at step 5"):
            adapt()
        _same(adapt(resume=True), whole)

    def test_another_rescore_is_another_run(self, adapt: Adapt, wrapped: Wrapped) -> None:
        wrapped.at_step(7, _cut_the_power)
        with pytest.raises(_Killed):
            adapt()
        with pytest.raises(edgeplast.EdgeplastError, match="--rescore is once and was every-epoch"):
            adapt(resume=True, rescore="once")


class TestShort:
    """After a way down for lack of memory, until there is seen to be more of it."""

    @pytest.fixture
    def offered(
        self, adapt: Adapt, wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[int], tuple[list[set[str]], Adaptation]]:
        """Adapt in four epochs, the second of which changes the set; return the sets that each was offered.

        Memory runs out in the first epoch, in one step, for all but the smallest micro-batch; so many steps later it is
        asked for again.
        """
        given: list[set[str]] = []

        def favoured(outline: object, scores: object, sets: dict, *rest: object) -> str:
            now = str(rest[-1])
            given.append({*sets})
            others = [name for name in sets if name != now]
            return others[0] if len(given) == 2 else now

        monkeypatch.setattr(alternatives, "favoured", favoured)

        def scarce(_: object, images: np.ndarray) -> None:
            if wrapped.told("step") == 2 and len(images) > 1:
                raise OutOfMemoryError("there was less of it")

        wrapped.before = scarce

        def run(patience: int) -> tuple[list[set[str]], Adaptation]:
            monkeypatch.setattr(training, "Climbing", lambda: Climbing(patience=patience))
            return given, adapt(epochs=4)

        return run

    def test_sets_that_need_more_are_not_offered_after_a_change_of_set_either(self, offered: Callable) -> None:
        given, report = offered(1000)
        assert len(given[0]) > len(given[1]) > 1 and given[2] == given[3] == given[1] - {"full"}
        reasons = [change.reason for change in report.rung_changes]
        assert reasons[-1] == "scores favour it" and {*reasons[:-1]} == {"there was less of it"}

    def test_they_are_offered_once_there_is_memory_again(self, offered: Callable) -> None:
        given, report = offered(4)
        assert len(given[0]) > len(given[1]) and given[3] == given[0]
        assert report.rung_changes[-1].reason == "scores favour it"  # the set that trains goes on as it does


class TestBudget:
    def test_a_process_of_its_own_keeps_to_its_budget(
        self, alternatives_bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        words = [sys.executable, "-m", "edgeplast", "adapt", alternatives_bundle.path, "--data", blobs, "--threads", 1]
        words += ["--rescore", "every-epoch", "--epochs", 2, "--json", "--no-probe"]

        def run(into: Path, memory: str) -> dict:
            command = [*map(str, words), "--memory", memory, "-o", str(into)]
            done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        needed = run(tmp_path / "free", "512MiB")["memory"]["predicted_peak_bytes"] + (4 << 20)
        report = run(tmp_path / "tight", f"{needed >> 20}MiB")
        memory = report["memory"]
        assert memory["measured_peak_bytes"] <= memory["predicted_peak_bytes"] <= memory["budget_bytes"]
        assert [s["why_none"] for s in report["scored"]] == ["", ""] and report["tier"] != "full"


def test_what_measures_scores_is_loaded_before_what_is_resident_is_asked(
    alternatives_bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    """What is loaded later takes memory that was promised elsewhere by then; and nobody pays who did not ask."""
    code = """
import sys
import edgeplast
from edgeplast_devices import starting

measured, loaded = starting.resident_bytes, []

def resident_bytes():
    loaded.append({*sys.modules})
    return measured()

starting.resident_bytes = resident_bytes
options = edgeplast.TrainingOptions(epochs=1, threads=1, probe=False, rescore=sys.argv[4])
edgeplast.adapt(sys.argv[1], sys.argv[2], into=sys.argv[3], options=options)
print(*sorted(name for name in {*sys.modules} - loaded[0] if name.startswith("edgeplast")))
print(*sorted(name for name in loaded[0] if name.startswith("edgeplast")))
"""
    found = {}
    for word in ("once", "none"):
        given = [sys.executable, "-c", code, str(alternatives_bundle.path), str(blobs), str(tmp_path / word), word]
        done = subprocess.run(given, capture_output=True, text=True, env=dict(os.environ), timeout=120)
        assert done.returncode == 0, done.stderr
        found[word] = [{*line.split()} for line in done.stdout.splitlines()[-2:]]
    scoring_alone = {"edgeplast_devices.scoring", "edgeplast_devices.sets", "edgeplast.alternatives"}
    assert found["once"][0] <= found["none"][0]  # the others know no scores
    assert scoring_alone <= found["once"][1] and not scoring_alone & (found["none"][0] | found["none"][1])


class TestRefused:
    def test_a_bundle_of_one_plan(self, adapt: Adapt, int8_bundle: Bundle) -> None:
        with pytest.raises(
            UsageError, match=r"--rescore once chooses among sets .*Export it again with --alternatives"
        ):
            adapt(start=int8_bundle, rescore="once")

    def test_what_is_no_such_word(self) -> None:
        with pytest.raises(UsageError, match=r"'daily'.*every-epoch"):
            TrainingOptions(rescore="daily")

    def test_a_learner(self, alternatives_bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="A Learner trains what its plan trains"):
            edgeplast.Learner(
                alternatives_bundle, into=tmp_path / "l", options=TrainingOptions(rescore="once"), memory="none"
            )


class TestEverythingElse:
    """What else is done with a bundle works with one that has alternatives."""

    def test_without_rescore_it_trains_its_plan(self, adapt: Adapt, alternatives_bundle: Bundle) -> None:
        report = adapt(rescore="none")
        assert report.tier == "full" and report.trained == alternatives_bundle.manifest.tiers[0].components

    def test_lack_of_memory_leads_down_the_plan_and_into_no_alternative(self, alternatives_bundle: Bundle) -> None:
        manifest = alternatives_bundle.manifest
        assert {rung.tier.name for rung in ladder(manifest, 8)} == {tier.name for tier in manifest.ladder}
        rungs = ladder(manifest, 8, tier="late")
        assert rungs[0].tier.name == "late" and {r.tier.name for r in rungs} == {
            "late",
            *(t.name for t in manifest.ladder),
        }

    def test_it_is_measured_deployed_scored_and_predicts(self, adapt: Adapt, blobs: Path, tmp_path: Path) -> None:
        report = adapt()
        measured = edgeplast.evaluate(tmp_path / "adapted", blobs)
        assert measured.accuracy == report.accuracy.after
        edgeplast.deploy(tmp_path / "adapted", tmp_path / "model.onnx")
        assert edgeplast.evaluate(tmp_path / "model.onnx", blobs).loss == pytest.approx(measured.loss, abs=1e-4)
        assert len(edgeplast.score_bundle(tmp_path / "adapted", blobs, pairs=4).components) == 12

    def test_it_goes_on_from_what_was_adapted_and_back(
        self, adapt: Adapt, alternatives_bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        adapt(into="one", epochs=1)
        again = adapt(into="two", start=Bundle.open(tmp_path / "one"), epochs=1)
        assert again.scored
        first = history(tmp_path / "two")[0]
        edgeplast.detach(tmp_path / "two", tmp_path / "adapter")
        attached = edgeplast.evaluate(alternatives_bundle, blobs, adapter=tmp_path / "adapter")
        assert attached.accuracy == again.accuracy.after
        roll_back(tmp_path / "two", first.name)
        for name, array in _weights(alternatives_bundle.path).items():
            np.testing.assert_array_equal(array, _weights(tmp_path / "two")[name])

    def test_a_class_more_and_rescore(self, adapt: Adapt, blobs: Path, tmp_path: Path) -> None:
        more = tmp_path / "more"
        shutil.copytree(blobs, more)
        for number in range(8):
            for split in ("train", "test"):
                (more / split / "grey").mkdir(exist_ok=True)
                blob("red", 50 + number).convert("L").convert("RGB").save(more / split / "grey" / f"{number}.png")
        adapt(into="one", epochs=1)
        report = adapt(into="two", start=Bundle.open(tmp_path / "one"), data=more, epochs=2, new_classes="add")
        assert (
            list(report.new_classes) == ["grey"]
            and len(report.scored) == 2
            and Bundle.open(tmp_path / "two").manifest.classes[-1] == "grey"
        )


class TestTyped:
    @pytest.fixture
    def typed(self, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
        return on_a_terminal(80, capsys, monkeypatch)

    def test_scores_and_the_set_are_told(
        self, typed: Typed, alternatives_bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        words = ("adapt", alternatives_bundle.path, "--data", blobs, "--epochs", 2, "--threads", 1, "--memory", "none")
        code, out, err = typed(*words, "--rescore", "every-epoch", "-o", tmp_path / "a")
        assert code == 0, err
        told = " ".join(out.split())
        assert "measured 2 times" in told and "scores favour it" in told and "→" in told
        code, out, _ = typed("report", tmp_path / "a", "-o", tmp_path / "a.html")
        page = (tmp_path / "a.html").read_text()
        assert code == 0 and "Plasticity" in page and "scores favour it" in page and '"median score"' in page

    def test_a_bundle_of_one_plan_is_a_usage_error(
        self, typed: Typed, int8_bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        code, _, err = typed("adapt", int8_bundle.path, "--data", blobs, "--rescore", "once", "-o", tmp_path / "a")
        assert code == 2 and "--alternatives" in err


def test_bundles_without_alternatives_say_nothing_of_them(int8_bundle: Bundle) -> None:
    assert b"alternative" not in (int8_bundle.path / "bundle.json").read_bytes()


def test_an_alternative_learns_as_a_plan_of_the_same_set(blobs: Path, tmp_path: Path) -> None:
    """With everything in float32 nothing but the set decides: the graphs beside a plan are as good as its own."""
    scores = (("attn", 0.4), ("fc1", 3.0), ("fc2", 0.2))
    beside = small_bundle(tmp_path / "beside", "fc2,norm", depth=4, scores=scores)
    alone = small_bundle(tmp_path / "alone", "attn,norm", depth=4)
    how = {"epochs": 2, "threads": 1, "learning_rate": 3e-3}
    budget = Budget()
    one = edgeplast.adapt(
        beside, blobs, into=tmp_path / "a", budget=budget, options=TrainingOptions(rung="all-attn:4:none", **how)
    )
    other = edgeplast.adapt(
        alone, blobs, into=tmp_path / "b", budget=budget, options=TrainingOptions(rung="full:4:none", **how)
    )
    assert one.tier == "all-attn" and one.trained == other.trained
    assert one.losses == pytest.approx(other.losses, abs=1e-4) and one.accuracy == other.accuracy
