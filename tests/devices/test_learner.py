"""A Learner: predicts, takes examples and learns in one process; its loop is adapt's, its state is on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, blob, truncated_png

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError, DivergedError, InputError, InterruptedRunError, UsageError
from edgeplast_devices.examples import Examples, folder_name
from edgeplast_devices.learner import Learner
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession, OutOfMemoryError, TrainingSession
from edgeplast_devices.sessions import Sessions
from edgeplast_devices.weights import read_trainable

OPTIONS = TrainingOptions(epochs=2, learning_rate=3e-3, threads=1, augment="none")
Open = Callable[..., Learner]


@pytest.fixture
def learner_of(bundle: Bundle, tmp_path: Path) -> Iterator[Open]:
    """Open a Learner into ``tmp_path / "adapted"``, without a budget; closed at the end."""
    opened: list[Learner] = []

    def open_one(start: Bundle | Path = bundle, into: Path | None = None, **how: object) -> Learner:
        settings: dict = {"memory": "none", "options": OPTIONS}
        opened.append(Learner(start, into=into or tmp_path / "adapted", **(settings | how)))
        return opened[-1]

    yield open_one
    for learner in opened:
        learner.close()


def _show(learner: Learner, count: int = 8) -> None:
    for label in CLASSES:
        learner.add([blob(label, i) for i in range(count)], label)


def _frame(label: str = "red", seed: int = 5) -> np.ndarray:
    return np.asarray(blob(label, seed))


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return read_trainable(Bundle.open(folder))


class TestLearning:
    def test_what_it_learns_is_what_adapt_learns_from_the_same_pictures(
        self, learner_of: Open, bundle: Bundle, tmp_path: Path
    ) -> None:
        learner = learner_of()
        _show(learner)
        first, second = learner.learn(epochs=2), learner.learn(epochs=1)
        pictures = edgeplast.ImageSet.of(
            [blob(label, i) for label in CLASSES for i in range(8)], [c for c in CLASSES for _ in range(8)], CLASSES
        )
        alike = edgeplast.adapt(bundle, pictures, into=tmp_path / "a", budget=edgeplast.Budget(), options=OPTIONS)
        once = TrainingOptions(epochs=1, learning_rate=3e-3, threads=1, augment="none")
        again = edgeplast.adapt(tmp_path / "a", pictures, into=tmp_path / "b", budget=edgeplast.Budget(), options=once)
        assert first.losses == alike.losses and second.losses == again.losses
        mine, theirs = _weights(tmp_path / "adapted"), _weights(tmp_path / "b")
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
        assert Bundle.open(tmp_path / "adapted").manifest.adapted_from == bundle.fingerprint

    def test_it_learns_the_classes_it_is_shown(self, learner_of: Open, blobs: Path) -> None:
        learner = learner_of()
        before = learner.evaluate(blobs).accuracy
        _show(learner, 16)
        report = learner.learn(epochs=6)
        assert report.accuracy.after is None and report.measured_on == "" and report.images == {"train": 48}
        assert learner.evaluate(blobs).accuracy > max(before, 0.75)
        label, confidence = learner.predict(_frame("green", 3))
        assert label == "green" and 0.34 < confidence <= 1
        assert learner.report == report

    def test_steps_and_seconds_end_it(self, learner_of: Open) -> None:
        learner = learner_of()
        _show(learner)
        assert learner.learn(steps=1).steps == 1
        assert learner.learn(steps=7).steps == 7  # beyond an epoch of three
        report = learner.learn(seconds=0.3)
        assert report.steps >= 1 and report.stopped_because == "finished"
        assert learner.learn().epochs == OPTIONS.epochs

    def test_a_second_time_opens_nothing_anew(self, learner_of: Open) -> None:
        opened: list[str] = []

        def training(*given: object) -> TrainingSession:
            opened.append("training")
            return TrainingSession(*given)  # type: ignore[arg-type]

        def evaluation(*given: object) -> EvaluationSession:
            opened.append("evaluation")
            return EvaluationSession(*given)  # type: ignore[arg-type]

        learner = learner_of(sessions=Sessions(training, evaluation))
        assert opened == ["evaluation"]
        _show(learner)
        for _ in range(3):
            learner.learn(steps=2)
            learner.predict(_frame())
        assert opened == ["evaluation", "training"]

    def test_predictions_go_on_between_its_micro_batches(self, learner_of: Open) -> None:
        learner = learner_of()
        _show(learner)
        seen: list[str] = []
        told = threading.Event()

        def camera() -> None:
            while not told.is_set():
                seen.append(learner.predict(_frame()).label)

        thread = threading.Thread(target=camera)
        thread.start()
        try:
            during: list[int] = []
            learner.learn(epochs=6, progress=lambda *_: during.append(len(seen)))
        finally:
            told.set()
            thread.join()
        assert during[-1] - during[0] >= len(during) - 2  # one at least in nearly every step

    def test_only_one_learns_at_a_time_and_the_other_is_told(self, learner_of: Open) -> None:
        learner = learner_of()
        _show(learner)
        said: list[str] = []

        def another(*_: object) -> None:
            try:
                learner.learn(steps=1)
            except UsageError as error:
                said.append(str(error))

        learner.learn(steps=1, progress=another)
        assert said and "learning already" in said[0]


class TestWhatIsTaken:
    def test_arrays_pillow_and_paths_one_or_several(self, learner_of: Open, tmp_path: Path) -> None:
        learner = learner_of()
        blob("red", 1).save(tmp_path / "red.png")
        assert learner.add(_frame("red", 1), "red") == 1
        assert learner.add(blob("red", 1), "red") == 1
        assert learner.add(tmp_path / "red.png", "red") == 1
        assert learner.add(str(tmp_path / "red.png"), "red") == 1
        assert learner.add(np.stack([_frame("blue", i) for i in range(3)]), ["blue"] * 3) == 3
        assert learner.add([_frame("green"), blob("green", 2)], "green") == 2
        assert learner.add(edgeplast.ImageSet.of([_frame()], ["red"]), None) == 1
        assert learner.examples == {"blue": 3, "green": 2, "red": 5}
        kept = sorted((tmp_path / "adapted.examples/red").iterdir())
        assert len({file.read_bytes() for file in kept[:4]}) == 1  # the same pixels, whatever they came as
        assert len(learner.predict([_frame(), blob("red", 1), tmp_path / "red.png"])) == 3
        assert learner.predict(_frame("red", 1)).probabilities == learner.predict(blob("red", 1)).probabilities

    def test_examples_are_a_data_set_that_adapt_opens(self, learner_of: Open, bundle: Bundle, tmp_path: Path) -> None:
        learner = learner_of()
        _show(learner, 2)
        learner.close()
        found = edgeplast.evaluate(bundle, tmp_path / "adapted.examples")
        assert found.images == 6 and sorted(found.per_class) == sorted(CLASSES)

    def test_a_frame_much_larger_than_the_model_needs_is_kept_smaller(self, learner_of: Open, tmp_path: Path) -> None:
        learner = learner_of()
        learner.add(np.asarray(blob("red", 1).resize((640, 480))), "red")
        with Image.open(next((tmp_path / "adapted.examples/red").iterdir())) as kept:
            assert 32 <= min(kept.size) < 100

    @pytest.mark.parametrize(
        ("pictures", "labels", "said"),
        [
            (np.zeros((8, 8, 4), np.uint8), "red", r"has 4 channels; a Learner keeps examples of one \(grey\)"),
            (np.zeros((8, 8, 3), np.float32), "red", "array of float32"),
            (np.zeros(8, np.uint8), "red", r"shape \(8,\)"),
            (_frame(), "purple", "'purple' is no class. The classes are 'blue', 'green', 'red'"),
            (_frame(), None, "has no label, and learning needs to know"),
            ([_frame(), _frame()], ["red"], "There are 2 pictures and 1 labels"),
            (Path("nowhere.png"), "red", "nowhere.png cannot be used"),
            (edgeplast.ImageSet.of([_frame()]), None, "has no label, and learning needs to know"),
            (None, "red", "pictures is of the kind NoneType; allowed are a numpy array, a PIL image or a path"),
            (b"\xff\xd8", "red", "pictures is of the kind bytes"),
            ([_frame(), 5], "red", r"images\[1\] is of the kind int; allowed are"),
            (np.zeros((0, 8, 3), np.uint8), "red", r"array of uint8 of shape \(0, 8, 3\)"),
            (_frame(), 7, r"The label 7 is of the kind int; .* The classes are 'blue', 'green', 'red'\. For numbers"),
        ],
    )
    def test_what_is_no_example_is_refused_and_nothing_taken(
        self, learner_of: Open, pictures: object, labels: object, said: str
    ) -> None:
        learner = learner_of()
        with pytest.raises(InputError, match=said):
            learner.add(pictures, labels)  # type: ignore[arg-type]
        assert sum(learner.examples.values()) == 0
        learner.predict(_frame())

    def test_of_several_none_is_taken_where_one_is_damaged(self, learner_of: Open, tmp_path: Path) -> None:
        learner = learner_of()
        (tmp_path / "broken.png").write_bytes(truncated_png())
        with pytest.raises(InputError, match=r"broken\.png cannot be used"):
            learner.add([_frame(), tmp_path / "broken.png"], "red")
        assert sum(learner.examples.values()) == 0
        with pytest.raises(InputError, match=r"broken\.png cannot be used"):
            learner.predict([_frame(), tmp_path / "broken.png"])

    def test_learning_needs_examples_of_two_classes(self, learner_of: Open) -> None:
        learner = learner_of()
        with pytest.raises(InputError, match=r"nothing to learn from yet\. Add pictures first"):
            learner.learn()
        learner.add(_frame(), "red")
        with pytest.raises(InputError, match="All 1 pictures show 'red'; from one class alone"):
            learner.learn()

    def test_options_for_pictures_without_labels_are_for_adapt(self, learner_of: Open) -> None:
        with pytest.raises(UsageError, match="learns from labelled pictures"):
            learner_of(options=TrainingOptions(labels="none"))

    def test_a_set_without_labels_cannot_be_measured_on(self, learner_of: Open) -> None:
        with pytest.raises(InputError, match="2 of the 2 pictures have no label, and evaluating needs to know"):
            learner_of().evaluate(edgeplast.ImageSet.of([_frame(), _frame()]))

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"seconds": 0}, "seconds is 0"),
            ({"steps": 0}, "steps is 0"),
            ({"epochs": 0}, "epochs is 0"),
            ({"epochs": 1, "seconds": 1}, "Give one of epochs, steps and seconds"),
            ({"epochs": "2"}, "epochs is '2'; give a whole number"),
            ({"steps": 1.5}, "steps is 1.5; give a whole number"),
            ({"seconds": "2s"}, "seconds is '2s'; give a number above 0"),
            ({"seconds": float("nan")}, "seconds is nan; a run takes more than 0 seconds"),
        ],
    )
    def test_how_long_is_a_number_above_zero(self, learner_of: Open, how: dict, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            learner_of().learn(**how)

    def test_what_cannot_be_measured_on_or_gone_back_to_is_said(self, learner_of: Open, blobs: Path) -> None:
        learner, unlabelled = learner_of(), edgeplast.ImageSet.of([_frame()])
        _show(learner)
        learner.learn(steps=1)
        with pytest.raises(InputError, match=r"There is no version '3'\. Kept are v0, v1"):
            learner.roll_back(3)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"--false-alarms 2 is out of range; allowed is 0 to 0.5"):
            learner.calibrate(blobs, false_alarms=2)
        with pytest.raises(InputError, match="has no label, and evaluating needs to know"):
            learner.calibrate(unlabelled)
        with pytest.raises(InputError, match=r"--also old: .* has no label, and measuring what was kept needs to know"):
            learner.learn(also={"old": unlabelled})
        with pytest.raises(UsageError, match="--keep-within 2 needs pictures of what is to be kept"):
            learner.learn(keep_within=2)
        assert learner.predict(_frame()).label and learner.learn(steps=1).steps == 1


class TestWhatStays:
    def test_opened_again_it_is_as_it_was(self, learner_of: Open, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        learner = learner_of()
        _show(learner)
        learner.learn()
        was = learner.predict(_frame()).probabilities
        learner.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "adapted.examples"]
        for start in (bundle, tmp_path / "adapted"):
            again = learner_of(start)
            assert again.predict(_frame()).probabilities == was and sum(again.examples.values()) == 24
            assert again.report is not None
            again.close()
        assert edgeplast.predict(tmp_path / "adapted", _frame())[0].probabilities == was
        alone = learner_of(tmp_path / "adapted", into=tmp_path / "adapted")
        assert alone.into == tmp_path / "adapted"

    def test_a_bundle_an_adapted_folder_and_a_deployed_file_answer_alike(
        self, learner_of: Open, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        learner = learner_of()
        _show(learner)
        learner.learn()
        model = learner.deploy(tmp_path / "model.onnx")
        mine = learner.predict(_frame()).probabilities
        for place in (tmp_path / "adapted", Bundle.open(tmp_path / "adapted"), model):
            assert edgeplast.predict(place, _frame())[0].probabilities == pytest.approx(mine, abs=1e-4)
            assert edgeplast.evaluate(place, blobs).accuracy == learner.evaluate(blobs).accuracy  # type: ignore[arg-type]
        assert edgeplast.predict(bundle.path, _frame())[0].confidence == pytest.approx(1 / 3)

    def test_close_stops_what_is_learned_and_keeps_it(self, learner_of: Open, tmp_path: Path) -> None:
        learner = learner_of()
        _show(learner)
        begun, said = threading.Event(), []

        def begins(activity: str, *_: int) -> None:
            if activity.startswith("epoch"):  # before, nothing is learned that could be kept
                begun.set()

        def learns() -> None:
            try:
                learner.learn(epochs=10_000, progress=begins)
            except InterruptedRunError as error:
                said.append(str(error))

        thread = threading.Thread(target=learns)
        thread.start()
        assert begun.wait(60)
        learner.close()
        thread.join()
        assert said and Bundle.open(tmp_path / "adapted").manifest.adapted_from
        for asked in (lambda: learner.predict(_frame()), lambda: learner.add(_frame(), "red"), learner.learn):
            with pytest.raises(UsageError, match="This Learner is closed"):
                asked()

    def test_after_any_exception_it_predicts_as_before(self, learner_of: Open, tmp_path: Path) -> None:
        faults: list[Exception] = []

        class Faulty(TrainingSession):
            def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
                if faults:
                    raise faults[0]
                return super().accumulate(images, targets)

        learner = learner_of(sessions=Sessions(Faulty, EvaluationSession))
        _show(learner)
        learner.learn()
        was = learner.predict(_frame()).probabilities

        def fails_after_a_step(*_: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            learner.learn(progress=fails_after_a_step)
        assert learner.predict(_frame()).probabilities == was
        faults.append(InputError("the graph stopped"))
        with pytest.raises(InputError, match="the graph stopped"):
            learner.learn()
        faults[:] = [OutOfMemoryError("no room")]
        with pytest.raises(BudgetError, match="Memory ran out on the smallest step"):
            learner.learn()
        faults.clear()
        assert learner.predict(_frame()).probabilities == was
        assert learner.learn(steps=1).steps == 1

    def test_what_diverges_is_undone(self, learner_of: Open) -> None:
        options = TrainingOptions(learning_rate=1e3, clip=0, warmup=0, threads=1, optimizer="sgd", augment="none")
        learner = learner_of(options=options)
        _show(learner)
        was = learner.predict(_frame()).probabilities
        with pytest.raises(DivergedError, match="diverged"):
            learner.learn(epochs=20)
        assert learner.predict(_frame()).probabilities == was

    def test_a_fresh_bundle_needs_an_output_and_another_bundle_another(
        self, learner_of: Open, bundle: Bundle, int8_bundle: Bundle, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="is a fresh bundle, which stays as it is"):
            Learner(bundle)
        learner = learner_of()
        _show(learner)
        learner.learn(steps=1)
        learner.close()
        with pytest.raises(UsageError, match="was adapted from another bundle"):
            learner_of(int8_bundle)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/letter.txt").write_text("dear")
        with pytest.raises(UsageError, match="is there and is no adapted bundle"):
            learner_of(into=tmp_path / "mine")

    def test_a_second_process_is_told_who_holds_the_folder(
        self, learner_of: Open, bundle: Bundle, tmp_path: Path
    ) -> None:
        learner = learner_of()
        code = "import sys, edgeplast\ntry: edgeplast.Learner(*sys.argv[1:2], into=sys.argv[2])\n"
        code += "except edgeplast.EdgeplastError as error: print(error)"
        again = [sys.executable, "-c", code, str(bundle.path), str(tmp_path / "adapted")]
        said = subprocess.run(again, capture_output=True, text=True).stdout
        assert f"is being written by process {os.getpid()} on" in said
        learner.predict(_frame())

    def test_a_class_whose_name_is_no_folder_has_one_all_the_same(self, tmp_path: Path) -> None:
        classes = ("a/b", "..", "100%", "train", " x", "a%2Fb", "a:", "@eaDir")
        assert len({folder_name(name) for name in classes}) == len(classes)
        examples = Examples(tmp_path / "kept", classes, (8, 8))
        for label in range(len(classes)):
            examples.add(blob("red", label), label)
        assert Examples(tmp_path / "kept", classes, (8, 8)).counts == dict.fromkeys(classes, 1)
        found = examples.images()
        assert found.classes == classes and found.labels.tolist() == list(range(len(classes)))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]

    def test_where_adapt_was_interrupted_its_run_is_not_lost(self, learner_of: Open, tmp_path: Path) -> None:
        (tmp_path / "adapted.partial").mkdir()
        (tmp_path / "adapted.partial/checkpoint-00000003-0123456789abcdef.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match="holds an unfinished run of edgeplast adapt"):
            learner_of()
        assert len(list((tmp_path / "adapted.partial").iterdir())) == 1
