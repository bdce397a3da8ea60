"""A bundle learns classes that it was not exported with: from folders, from one picture, and from none yet."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, blob, blob_folder, small_bundle
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import TRAINABLE, Bundle, is_graph
from edgeplast.errors import DamagedError, DiskFullError, InputError, InterruptedRunError, UsageError
from edgeplast.files import sha256
from edgeplast.score_taps import SCORE_GRAPH
from edgeplast_devices import growing
from edgeplast_devices.fitted_heads import head_if_linear
from edgeplast_devices.growing import grow, resize_graphs
from edgeplast_devices.images import ImageSet
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.protobuf import resized_values
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.workplace import prepare

KNOWN = CLASSES[:2]


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 4, "learning_rate": 3e-3, "threads": 1, "augment": "none", "checkpoint_every": "2steps"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("fresh") / "bundle", classes=KNOWN)


@pytest.fixture(scope="module")
def two(fresh: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that tells blue from green and has seen no red."""
    root = tmp_path_factory.mktemp("two")
    blob_folder(root / "data", classes=KNOWN)
    edgeplast.adapt(fresh, root / "data", into=root / "bundle", options=options(epochs=6))
    return Bundle.open(root / "bundle")


def reds(count: int) -> ImageSet:
    return ImageSet.of([blob("red", i) for i in range(count)], ["red"] * count)


def copied(bundle: Bundle, folder: Path) -> Bundle:
    return prepare(bundle, folder)


def test_a_folder_of_an_unknown_class_is_an_error_that_says_how_to_learn_it(
    two: Bundle, blobs: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"pictures of 'red', .*'blue', 'green'.* --new-classes add, or --add-class red"
    ):
        edgeplast.adapt(two, blobs, into=tmp_path / "a", options=options())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [{"new_classes": "add"}, {"add_classes": ("red",)}], ids=["folder", "named"])
def test_a_new_class_is_learned_beside_the_old_ones(two: Bundle, blobs: Path, tmp_path: Path, how: dict) -> None:
    report = edgeplast.adapt(two, blobs, into=tmp_path / "a", options=options(epochs=8, **how))
    made = Bundle.open(tmp_path / "a")
    assert made.manifest.classes == CLASSES and made.manifest.waiting == () and report.new_classes == {"red": 14}
    assert report.history[0].epoch == 0 and report.steps > 0
    found = edgeplast.evaluate(made, blobs)
    assert found.accuracy > 0.7 and (found.per_class["red"].accuracy or 0) > 0.6
    assert Adaptation.read(tmp_path / "a" / "report.json") == report
    edgeplast.deploy(made, tmp_path / "model.onnx")
    deployed = edgeplast.evaluate(tmp_path / "model.onnx", blobs)
    assert deployed.accuracy == found.accuracy and {*deployed.per_class} == {*CLASSES}
    assert {*edgeplast.predict(tmp_path / "model.onnx", blob("red", 77))[0].probabilities} == {*CLASSES}
    again = edgeplast.adapt(made, blobs, into=tmp_path / "b", options=options(epochs=1))
    assert again.new_classes == {} and edgeplast.evaluate(tmp_path / "b", blobs).accuracy > 0.7


@pytest.mark.parametrize("count", [1, 6])
def test_pictures_of_a_new_class_alone_place_it_and_train_nothing(
    two: Bundle, blobs: Path, tmp_path: Path, count: int
) -> None:
    before = edgeplast.evaluate(two, blob_folder(tmp_path / "known", classes=KNOWN)).accuracy
    report = edgeplast.adapt(two, reds(count), into=tmp_path / "a", options=options(new_classes="add"))
    assert report.stopped_because == "placed" and report.steps == 0 and report.new_classes == {"red": count}
    kept, came = (read_arrays(folder / TRAINABLE) for folder in (tmp_path / "a", two.path))
    for name, array in came.items():
        np.testing.assert_array_equal(kept[name][: len(array)] if name.startswith("head.") else kept[name], array)
    found = edgeplast.evaluate(tmp_path / "a", blobs)
    assert (found.per_class["red"].accuracy or 0) > 0.3  # of a class that it could not name at all
    known = [found.per_class[name].accuracy or 0.0 for name in KNOWN]
    assert np.mean(known) > before - 0.45
    assert Bundle.open(tmp_path / "a").manifest.temperature == two.manifest.temperature


def test_a_class_waits_for_its_first_picture_and_is_never_the_answer(two: Bundle, blobs: Path, tmp_path: Path) -> None:
    known = blob_folder(tmp_path / "known", classes=KNOWN)
    edgeplast.adapt(two, known, into=tmp_path / "a", options=options(epochs=1, add_classes=("red", "lynx")))
    made = Bundle.open(tmp_path / "a")
    assert made.manifest.classes == (*CLASSES, "lynx") and made.manifest.waiting == ("red", "lynx")
    said = edgeplast.predict(made, [blob(label, 300 + i) for label in CLASSES for i in range(8)])
    assert max(p.probabilities["red"] + p.probabilities["lynx"] for p in said) < 1e-4
    report = edgeplast.adapt(made, blobs, into=tmp_path / "b", options=options())
    assert {*report.new_classes} == {"red"} and Bundle.open(tmp_path / "b").manifest.waiting == ("lynx",)
    assert (edgeplast.evaluate(tmp_path / "b", blobs).per_class["red"].accuracy or 0) > 0.6


def test_a_new_head_has_nothing_to_place_a_class_beside(fresh: Bundle, blobs: Path, tmp_path: Path) -> None:
    report = edgeplast.adapt(fresh, blobs, into=tmp_path / "a", options=options(epochs=6, new_classes="add"))
    made = Bundle.open(tmp_path / "a")
    assert report.new_classes == {} and made.manifest.waiting == () and edgeplast.evaluate(made, blobs).accuracy > 0.7
    with pytest.raises(InputError, match="learning needs at least 2"):
        edgeplast.adapt(fresh, reds(3), into=tmp_path / "b", options=options(new_classes="add"))


def test_a_fitted_head_holds_new_classes_too(two: Bundle, blobs: Path, tmp_path: Path) -> None:
    how = options(epochs=0, head="fitted", new_classes="add")
    report = edgeplast.adapt(two, blobs, into=tmp_path / "a", options=how)
    assert report.steps == 0 and report.new_classes == {"red": 14}
    assert edgeplast.evaluate(tmp_path / "a", blobs).accuracy > 0.5


def test_a_run_that_was_stopped_goes_on_with_its_new_class(two: Bundle, blobs: Path, tmp_path: Path) -> None:
    def adapt(into: str, resume: bool = False) -> Adaptation:
        wrapped = Wrapped(tmp_path / into)
        if into == "cut" and not resume:
            wrapped.at_step(5, stop)
        how = options(new_classes="add", patience=3)
        return adapt_over(wrapped, two, blobs, tmp_path / into, how, resume=resume)

    def stop() -> None:
        raise InterruptedRunError("stopped")

    whole = adapt("whole")
    with pytest.raises(InterruptedRunError, match="The run is saved at step"):
        adapt("cut")
    again = adapt("cut", resume=True)
    assert again.losses == whole.losses and again.new_classes == whole.new_classes
    mine, theirs = (read_arrays(tmp_path / name / TRAINABLE) for name in ("cut", "whole"))
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_names_that_cannot_be_added_are_refused_by_name(two: Bundle, blobs: Path, tmp_path: Path) -> None:
    for names, said in (
        (("blue",), "The class 'blue' is known already, as number 0 of 2"),
        (("lynx", "lynx"), "The new class 'lynx' is given twice"),
        (("",), "'' is no name of a class"),
        (("x" * 2000,), r"A class name has 2,000 characters"),
    ):
        with pytest.raises(UsageError, match=said):
            edgeplast.adapt(two, blobs, into=tmp_path / "a", options=options(add_classes=names, new_classes="add"))
    with pytest.raises(UsageError, match="Without labels no class can be added"):
        options(labels="none", add_classes=("lynx",))
    with pytest.raises(UsageError, match="--new-classes"):
        options(new_classes="yes")
    assert not list(tmp_path.iterdir())


def test_what_is_said_of_a_placed_class_is_of_what_happened(
    two: Bundle, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No figure where nothing was measured, no row in the place of another one."""
    from edgeplast.cli.app import run

    for i in range(8):
        place = tmp_path / "reds" / "red" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        blob("red", i).save(place)
    blob_folder(tmp_path / "old", train=1, test=10, classes=KNOWN)
    for i in range(12):  # of which half is called otherwise once red is known
        blob("red", 50 + i).save(tmp_path / "old" / "test" / "blue" / f"r{i}.png")
    words = ["adapt", two.path, "--data", tmp_path / "reds", "--new-classes", "add", "--threads", "1", "--epochs", "1"]
    words += ["--also", tmp_path / "old", "--keep-within", "1", "-o", tmp_path / "a"]
    assert run(list(map(str, words))) == 0
    out, err = capsys.readouterr()
    assert "training loss 3402" not in err and "new classes placed: validation loss" in err
    titles = [line.split("  ")[0] for line in out.splitlines()]
    assert titles.count("time") == titles.count("trained") == 1 and "0 steps of" not in out
    said = " ".join(out.split())
    assert "trained nothing" in said and "Stopped: once new classes were placed" in said


class TestGraphs:
    """What becomes of the files."""

    def test_a_class_more_and_less_is_the_same_file_again(self, two: Bundle, tmp_path: Path) -> None:
        grown = grow(copied(two, tmp_path / "copy"), ["red", "lynx"])
        graphs = [name for name in two.manifest.files if is_graph(name)]
        graphs.remove(SCORE_GRAPH)  # it ends before the head
        assert all(sha256(grown.path / name) != two.manifest.files[name].sha256 for name in graphs)
        head = head_if_linear(grown.manifest)
        assert head is not None and head.classes == 4
        assert {*resize_graphs(grown, head, 2)} == {*graphs}
        assert all(sha256(grown.path / name) == two.manifest.files[name].sha256 for name in graphs)

    def test_what_the_exporter_writes_for_more_classes_is_what_grows(self, two: Bundle, tmp_path: Path) -> None:
        three = small_bundle(tmp_path / "three")
        grown = grow(copied(two, tmp_path / "copy"), ["red"])
        for name in filter(is_graph, three.manifest.files):
            if name == SCORE_GRAPH:  # the head is in no score; what it records of the model is that of its export
                assert (grown.path / name).read_bytes() == (two.path / name).read_bytes()
                continue
            assert (grown.path / name).read_bytes() == (three.path / name).read_bytes(), name
        assert grown.manifest.parameters == three.manifest.parameters
        assert grown.manifest.plan.outline.components == three.manifest.plan.outline.components
        assert grown.manifest.plan.components == three.manifest.plan.components
        for mine, theirs in zip(grown.manifest.tiers, three.manifest.tiers, strict=True):
            for a, b in zip(mine.graphs, theirs.graphs, strict=True):
                assert a.footprint.trained_parameters == b.footprint.trained_parameters
                assert a.footprint.held_parameters == b.footprint.held_parameters
                assert a.footprint.transient_bytes(8) >= b.footprint.transient_bytes(8)

    def test_a_graph_of_other_classes_is_not_believed(self, two: Bundle) -> None:
        data = (two.path / "evaluate.onnx").read_bytes()
        with pytest.raises(DamagedError, match="does not have 5 classes in"):
            resized_values(data, {"logits": 1}, 5, 6)
        assert resized_values(data, {"nothing": 0}, 5, 6) == data

    def test_the_bundle_that_was_given_stays_as_it_is(self, two: Bundle, blobs: Path, tmp_path: Path) -> None:
        shutil.copytree(two.path, tmp_path / "mine")
        mine = Bundle.open(tmp_path / "mine")
        edgeplast.adapt(mine, blobs, into=tmp_path / "a", options=options(epochs=1, new_classes="add"))
        mine.check_unchanged()
        assert Bundle.open(tmp_path / "mine").manifest == two.manifest


class TestLearner:
    """A class that a program adds while it runs."""

    def test_one_picture_begins_and_more_are_learned(self, two: Bundle, blobs: Path, tmp_path: Path) -> None:
        how: dict = {"memory": "none", "options": options(epochs=2)}
        with edgeplast.Learner(two.path, into=tmp_path / "a", **how) as learner:
            learner.add_class("red", "lynx")
            assert learner.classes == (*CLASSES, "lynx")
            assert learner.predict(blob("red", 5)).probabilities["red"] < 1e-4
            assert Bundle.open(tmp_path / "a").manifest.waiting == ("red", "lynx")
            learner.add(np.asarray(blob("red", 1)), "red")
            report = learner.learn()
            assert report.stopped_because == "placed" and report.new_classes == {"red": 1} and report.steps == 0
            assert learner.predict(blob("red", 1)).label == "red"
            for label in CLASSES:
                learner.add([blob(label, i) for i in range(2, 14)], label)
            report = learner.learn(epochs=6)
            assert report.steps > 0 and report.new_classes == {}
            found = learner.evaluate(blobs)
            assert found.accuracy > 0.6 and {*found.per_class} == {*CLASSES, "lynx"}
            learner.deploy(tmp_path / "model.onnx")
        assert edgeplast.evaluate(tmp_path / "model.onnx", blobs).accuracy == found.accuracy
        with edgeplast.Learner(tmp_path / "a", **how) as learner:
            assert learner.classes == (*CLASSES, "lynx") and learner.examples == {
                "blue": 12,
                "green": 12,
                "red": 13,
                "lynx": 0,
            }
            assert learner.evaluate(blobs).accuracy == found.accuracy

    def test_where_first_blocks_never_change_it_goes_on_all_the_same(self, blobs: Path, tmp_path: Path) -> None:
        late = small_bundle(tmp_path / "late", "blocks:1", classes=KNOWN)
        assert late.manifest.prefix is not None
        with edgeplast.Learner(late, into=tmp_path / "a", memory="none", options=options(epochs=2)) as learner:
            for label in KNOWN:
                learner.add([blob(label, i) for i in range(8)], label)
            learner.learn()
            before = learner.predict(blob("blue", 5))
            learner.add_class("red")
            grown = learner.predict(blob("blue", 5)).probabilities
            assert {name: grown[name] for name in KNOWN} == pytest.approx(before.probabilities, abs=1e-4)
            learner.add(blob("red", 1), "red")
            learner.learn(epochs=1)
            assert learner.evaluate(blobs).images and learner.predict(blob("red", 1)).label in CLASSES
            learner.calibrate(blobs)
            learner.roll_back("v1")
            assert learner.predict(blob("blue", 5)).probabilities == pytest.approx(before.probabilities, abs=1e-6)

    def test_names_are_refused_and_the_model_goes_on(self, two: Bundle, tmp_path: Path) -> None:
        with edgeplast.Learner(two.path, into=tmp_path / "a", memory="none", options=options()) as learner:
            for names, said in (
                (("blue",), "known already"),
                (("x", "x"), "given twice"),
                (("",), "no name of a class"),
                ((), r"No class was named. Give one name or several: learner\.add_class"),
            ):
                with pytest.raises(UsageError, match=said):
                    learner.add_class(*names)
            assert learner.classes == KNOWN and learner.predict(blob("blue", 1)).label in KNOWN
            assert not (tmp_path / "a").exists()
        with pytest.raises(UsageError, match="This Learner is closed"):
            learner.add_class("lynx")

    def test_others_predict_while_a_class_is_added(self, two: Bundle, tmp_path: Path) -> None:
        seen: list[set[str]] = []
        with edgeplast.Learner(two.path, into=tmp_path / "a", memory="none", options=options()) as learner:
            going = threading.Event()

            def watch() -> None:
                while not going.is_set():
                    seen.append({*learner.predict(blob("blue", 1)).probabilities})

            thread = threading.Thread(target=watch)
            thread.start()
            for name in ("red", "lynx", "fox"):
                learner.add_class(name)
            going.set()
            thread.join()
        assert seen and all({*KNOWN} <= names <= {*KNOWN, "red", "lynx", "fox"} for names in seen)

    def test_a_disk_that_is_full_leaves_the_model_as_it_was(
        self, two: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with edgeplast.Learner(two.path, into=tmp_path / "a", memory="none", options=options()) as learner:
            before = learner.predict(blob("blue", 1)).probabilities

            def full(*_: object, **__: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(growing, "write_arrays", full)
            with pytest.raises(DiskFullError):
                learner.add_class("lynx")
            monkeypatch.undo()
            assert learner.classes == KNOWN and learner.predict(blob("blue", 1)).probabilities == before
            learner.add_class("lynx")
            assert learner.classes == (*KNOWN, "lynx")
