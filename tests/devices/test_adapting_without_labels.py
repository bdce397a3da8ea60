"""Learning from pictures of which nobody said what they show: what is learned, kept, refused, and never made worse."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, blob, blob_folder, blob_tar
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle, describe_file
from edgeplast.errors import InputError, InterruptedRunError, UsageError
from edgeplast.evaluation import Judgement
from edgeplast_devices.images import open_splits_without_labels
from edgeplast_devices.interrupts import Interrupts
from edgeplast_devices.objectives import OBJECTIVES
from edgeplast_devices.options import METHODS, WITHOUT_TRAINING, TrainingOptions
from edgeplast_devices.reheading import REHEADS, check_can_rehead
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.tethers import Tether


def dim(picture: Image.Image) -> Image.Image:
    """The same scene by poor light."""
    return Image.fromarray((np.asarray(picture) * 0.35 + 60).astype(np.uint8))


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures by poor light: to learn from in no order, to measure on by class."""
    root = tmp_path_factory.mktemp("dark")
    for i in range(96):
        folder = root / "loose" / f"day {i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        dim(blob(CLASSES[i % 3], 500 + i)).save(folder / f"{i}.png")
    for path in blob_folder(root / "test", train=1, test=20).glob("test/*/*.png"):
        dim(Image.open(path)).save(path)
    return root


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 3, "learning_rate": 1e-3, "threads": 1, "labels": "none", "checkpoint_every": "2steps"}
    return TrainingOptions(**(given | more))


def weights(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(folder / TRAINABLE)


def test_it_learns_from_loose_pictures_and_says_what_it_cannot_know(
    learned: Bundle, dark: Path, tmp_path: Path
) -> None:
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options())
    assert report.measured_on == "" and report.accuracy.before is None and report.accuracy.after is None
    assert report.judged is not None and report.judged.after.objective < report.judged.before.objective
    assert report.judged.after.images == report.images["val"] == 14 and report.images["train"] == 82
    assert report.batch_size == 32 and report.steps == 3 * 3
    assert edgeplast.adaptation.Adaptation.read(tmp_path / "a" / "report.json") == report


def test_labels_that_are_there_are_not_looked_at(learned: Bundle, blobs: Path, tmp_path: Path) -> None:
    """Swapped names of training folders change nothing; the test pictures' labels say what came of it."""
    swapped = tmp_path / "swapped"
    for split in ("train", "test"):
        for folder in (blobs / split).iterdir():
            place = CLASSES[(CLASSES.index(folder.name) + (split == "train")) % 3]
            shutil.copytree(folder, swapped / split / place)
    one, other = (
        edgeplast.adapt(learned, data, into=tmp_path / name, options=options(epochs=1, augment="none", batch=48))
        for name, data in (("one", blobs), ("other", swapped))
    )
    assert one.measured_on == other.measured_on == "test" and one.accuracy.before == other.accuracy.before
    assert one.accuracy.after is not None and one.accuracy.after >= one.accuracy.before - 0.1


def test_a_collapse_is_noticed_and_what_came_is_kept(learned: Bundle, dark: Path, tmp_path: Path) -> None:
    how = options(learning_rate=0.3, epochs=6, clip=0.0, schedule="constant", warmup=0.0, move_at_most=100)
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=how)
    assert report.stopped_because == "collapsed" and report.best_epoch == 0 and report.epochs < 6
    assert report.judged is not None and report.judged.after == report.judged.before
    for name, array in weights(learned.path).items():
        np.testing.assert_array_equal(array, weights(tmp_path / "a")[name])


def test_weights_stay_within_their_tether_however_far_steps_would_go(
    learned: Bundle, dark: Path, tmp_path: Path
) -> None:
    how = options(learning_rate=0.3, epochs=1, clip=0.0, schedule="constant", warmup=0.0)
    seen: list[float] = []
    tether, wrapped = Tether(learned, 0.03, learned.manifest.parameters), Wrapped(tmp_path / "a")
    wrapped.before = lambda session, images: seen.append(tether.moved(session.parameters))
    report = adapt_over(wrapped, learned, dark / "loose", tmp_path / "a", how)
    assert report.judged is not None
    assert max(seen) == pytest.approx(0.03, rel=1e-3) and report.judged.moved <= 0.03 * 1.001
    before, after = weights(learned.path), weights(tmp_path / "a")
    assert report.judged.moved == pytest.approx(distance(before, after), rel=1e-4)


def distance(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    flat = [np.concatenate([arrays[name].ravel().astype(np.float64) for name in before]) for arrays in (before, after)]
    return float(np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0]))


def test_without_labels_steps_are_a_tenth_as_long(learned: Bundle, dark: Path, blobs: Path, tmp_path: Path) -> None:
    few = {"epochs": 1, "threads": 1}
    labelled = edgeplast.adapt(learned, blobs, into=tmp_path / "a", options=TrainingOptions(**few))  # type: ignore[arg-type]
    loose = edgeplast.adapt(
        learned,
        dark / "loose",
        into=tmp_path / "b",
        options=TrainingOptions(labels="none", **few),  # type: ignore[arg-type]
    )
    rates = [float(str(report.options["learning_rate"])) for report in (labelled, loose)]
    assert rates[1] == pytest.approx(0.1 * rates[0])
    assert (labelled.options["move_at_most"], loose.options["move_at_most"]) == (None, 0.03)


def test_where_predictions_are_spread_over_the_classes_already_nothing_changes(
    learned: Bundle, dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeplast.cli.app import run

    monkeypatch.setattr("edgeplast.evaluation.NOTHING_TO_MEND", 0.1)
    for number, method in enumerate(METHODS):
        into = tmp_path / str(number)
        words = ["adapt", learned.path, "--data", dark / "loose", "--labels", "none", "--method", method, "-o", into]
        assert run(list(map(str, words))) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "the weights as they came (nothing to mend)" in said and "Nothing was changed: predictions" in said
        for name, array in weights(learned.path).items():
            np.testing.assert_array_equal(array, weights(into)[name])
    report = Adaptation.read(into / "report.json")
    assert report.judged is not None and report.judged.before == report.judged.after and report.judged.moved == 0
    assert report.steps == 0 and report.stopped_because == "nothing to mend"


def test_where_all_pictures_are_called_the_same_there_is_nothing_to_go_by(
    learned: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeplast.cli.app import run

    for i in range(40):
        place = tmp_path / "pictures" / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        blob("red", 700 + i).save(place)
    for number, method in enumerate(METHODS):
        into = tmp_path / str(number)
        words = [
            "adapt",
            learned.path,
            "--data",
            tmp_path / "pictures",
            "--labels",
            "none",
            "--method",
            method,
            "-o",
            into,
        ]
        assert run(list(map(str, words))) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "(nothing to go by)" in said and "most pictures were called the same" in said
        for name, array in weights(learned.path).items():
            np.testing.assert_array_equal(array, weights(into)[name])


def test_the_look_before_the_first_step_does_not_grow_with_the_set(
    learned: Bundle, dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeplast_devices.measuring.MANY", 10)
    looked: list[int] = []

    def progress(activity: str, _: int, total: int) -> None:
        if activity == "looking at the pictures":
            looked.append(total)

    edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options(epochs=1), progress=progress)
    assert {*looked} == {10}


def test_where_views_come_to_disagree_what_came_is_kept(
    learned: Bundle, dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast.cli.kept import why_it_went_back

    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options())
    assert report.judged is not None and report.stopped_because == "finished"
    assert 0.5 < (report.judged.before.agreement or 0) <= 1 and 0.5 < (report.judged.after.agreement or 0) <= 1
    monkeypatch.setattr(Judgement, "disagrees_since", lambda self, before: self != before)
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "b", options=options())
    assert report.stopped_because == "disagreed" and report.best_epoch == 0 and report.epochs == 1
    assert "views of a picture came to be called differently" in why_it_went_back(report)
    for name, array in weights(learned.path).items():
        np.testing.assert_array_equal(array, weights(tmp_path / "b")[name])


def test_recentring_changes_the_bias_of_the_head_and_nothing_else(learned: Bundle, dark: Path, tmp_path: Path) -> None:
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options(method="recentre"))
    before, after = weights(learned.path), weights(tmp_path / "a")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {"head.bias"} and report.steps == 0
    assert bool(changed) == (report.best_epoch == 1)


def test_prototypes_turn_the_rows_of_the_head_and_train_nothing(learned: Bundle, dark: Path, tmp_path: Path) -> None:
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options(method="prototypes"))
    before, after = weights(learned.path), weights(tmp_path / "a")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed in ({"head.weight", "head.bias"}, set()) and report.steps == 0
    assert bool(changed) == (report.best_epoch == 1)


def test_shot_trains_the_body_and_leaves_the_head(learned: Bundle, dark: Path, tmp_path: Path) -> None:
    report = edgeplast.adapt(learned, dark / "loose", into=tmp_path / "a", options=options(method="shot"))
    before, after = weights(learned.path), weights(tmp_path / "a")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert report.steps > 0 and not {"head.weight", "head.bias"} & changed
    assert bool(changed) == (report.best_epoch > 0)


@pytest.mark.parametrize("method", ["information", "recentre", "prototypes"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    learned: Bundle, dark: Path, tmp_path: Path, method: str
) -> None:
    def adapt(into: str, resume: bool = False) -> Adaptation:
        wrapped = Wrapped(tmp_path / into)
        if into == "cut" and not resume:
            wrapped.at_step(4, lambda: stop(Interrupts))
        return adapt_over(wrapped, learned, dark / "loose", tmp_path / into, options(method=method), resume=resume)

    def stop(_: object) -> None:
        raise InterruptedRunError("stopped")

    whole = adapt("whole")
    if method == "information":
        with pytest.raises(InterruptedRunError, match="The run is saved at step"):
            adapt("cut")
    again = adapt("cut", resume=True)
    assert again.judged == whole.judged and again.losses == whole.losses
    for name, array in weights(tmp_path / "whole").items():
        np.testing.assert_array_equal(array, weights(tmp_path / "cut")[name])


def test_a_head_that_knows_nothing_cannot_begin(learned: Bundle, dark: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(learned.path, tmp_path / "fresh")
    fresh = Bundle.open(tmp_path / "fresh")
    arrays = {n: np.zeros_like(a) if n.startswith("head.") else a for n, a in load_file(fresh.path / TRAINABLE).items()}
    save_file(arrays, fresh.path / TRAINABLE)
    files = {**fresh.manifest.files, TRAINABLE: describe_file(fresh.path / TRAINABLE)}
    msgspec.structs.replace(fresh.manifest, files=files).write(fresh.path / MANIFEST)
    with pytest.raises(
        InputError, match=r"has learned nothing yet, and without labels it cannot begin\. Adapt it with"
    ):
        edgeplast.adapt(fresh.path, dark / "loose", into=tmp_path / "a", options=options())
    assert not (tmp_path / "a").exists()


def test_a_head_without_a_bias_cannot_be_recentred(learned: Bundle) -> None:
    parameters = {n: p for n, p in learned.manifest.parameters.items() if n != "head.bias"}
    manifest = msgspec.structs.replace(learned.manifest, parameters=parameters)
    with pytest.raises(UsageError, match=r"--method recentre changes the bias of a head.*Give another --method"):
        check_can_rehead(manifest, "recentre", 32)
    check_can_rehead(learned.manifest, "recentre", 0)
    with pytest.raises(UsageError, match="--method prototypes looks at features"):
        check_can_rehead(learned.manifest, "prototypes", 0)


def test_each_method_without_training_is_one_that_adjusts_a_head() -> None:
    assert tuple(REHEADS) == WITHOUT_TRAINING and not {*REHEADS} & {*OBJECTIVES}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": "some"}, "Unknown --labels 'some'"),
        ({"method": "tent"}, "Unknown method without labels 'tent'.*information, shot, entropy, pseudo.*recentre"),
        (
            {"labels": "given", "method": "recentre"},
            "--method recentre says how to learn without labels. Give --labels",
        ),
        ({"class_weights": "balanced"}, "Without labels no class can be weighted. Leave out --class-weights"),
        ({"labels": "given", "move_at_most": 0.5}, "--move-at-most 0.5 bounds what is learned without labels. Give"),
        ({"move_at_most": -1.0}, "--move-at-most -1.0 is out of range; allowed is 0 to 100"),
        ({"head": "fitted"}, "Without labels the head stays what it is; --head fitted needs them"),
    ],
)
def test_options_that_mean_nothing_without_labels(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**given)


class TestOpening:
    def test_loose_pictures_are_cut_in_two(self, dark: Path) -> None:
        found = open_splits_without_labels(dark / "loose", seed=0)
        assert found.val is not None and found.test is None
        assert (len(found.train), len(found.val), found.train.classes) == (82, 14, ())
        assert {found.train.name(i) for i in range(82)}.isdisjoint(found.val.name(i) for i in range(14))

    def test_class_folders_lose_their_names_and_test_pictures_keep_them(self, blobs: Path) -> None:
        found = open_splits_without_labels(blobs, seed=0)
        assert found.val is not None and found.test is not None
        assert set(found.train.labels.tolist()) == {-1} and found.test.classes == CLASSES

    @pytest.mark.parametrize("place", ["train", ".", "day 1", "wrapped/train"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_labelled_test_pictures_beside_loose_ones_are_measured_on_and_not_learned(
        self, blobs: Path, tmp_path: Path, place: str, packed: bool
    ) -> None:
        root = tmp_path / "data"
        (root / place).mkdir(parents=True)
        for i in range(20):
            blob(CLASSES[i % 3], i).save(root / place / f"{i}.png")
        shutil.copytree(blobs / "test", (root / place).parent / "test" if "/" in place else root / "test")
        found = open_splits_without_labels(blob_tar(tmp_path / "d.tar", root) if packed else root, seed=0)
        assert found.val is not None and found.test is not None
        assert len(found.train) + len(found.val) == 20 and (len(found.test), found.test.classes) == (36, CLASSES)

    def test_a_class_that_test_alone_shows_keeps_nobody_from_learning(self, blobs: Path, tmp_path: Path) -> None:
        shutil.copytree(blobs, tmp_path / "data")
        shutil.rmtree(tmp_path / "data" / "train" / "red")
        found = open_splits_without_labels(tmp_path / "data", seed=0)
        assert found.val is not None and found.test is not None
        assert (len(found.train) + len(found.val), len(found.test)) == (32, 36)

    def test_test_pictures_alone_are_not_learned_from(self, blobs: Path, tmp_path: Path) -> None:
        shutil.copytree(blobs / "test", tmp_path / "data" / "test")
        with pytest.raises(
            InputError, match=r"holds test pictures alone\. Add some to learn from, or name their folder"
        ):
            open_splits_without_labels(tmp_path / "data", seed=0)

    def test_what_is_no_data_set_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            open_splits_without_labels(tmp_path / "nowhere", seed=0)
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no pictures"):
            open_splits_without_labels(tmp_path / "empty", seed=0)


def test_where_nothing_was_better_than_what_came_the_command_line_says_so(
    learned: Bundle, dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeplast.cli.app import run

    monkeypatch.setattr(Judgement, "disagrees_since", lambda self, before: self != before)
    words = ["adapt", learned.path, "--data", dark / "loose", "--labels", "none", "--epochs", 2, "-o", tmp_path / "a"]
    assert run(list(map(str, words))) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "best epoch the weights as they came (disagreed)" in said and "views that agree" in said
