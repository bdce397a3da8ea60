"""What a model said before it learned, kept beside labels: by a formula; less is forgotten, no rare class drowns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CLASSES, blob, blob_folder, small_bundle
from wrapped_sessions import whole_and_resumed

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError, UsageError
from edgeplast_devices import distilling
from edgeplast_devices.distilling import ASKED_OF_EACH, ENOUGH_PICTURES, Teacher, held
from edgeplast_devices.images import ImageSet
from edgeplast_devices.options import TrainingOptions

KNOWN = CLASSES[:2]


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 4, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
    return TrainingOptions(**(given | more))


def softmax(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def pictures(labels: dict[str, int], first: int = 0) -> ImageSet:
    named = [(label, first + i) for label, count in labels.items() for i in range(count)]
    return ImageSet.of([blob(*each) for each in named], [label for label, _ in named])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that has learned three classes from pictures of its own."""
    root = tmp_path_factory.mktemp("learned")
    edgeplast.adapt(
        small_bundle(root / "fresh"), blob_folder(root / "data"), into=root / "a", options=options(epochs=6)
    )
    return root / "a"


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that tells blue from green, and keeps twelve pictures of each."""
    root = tmp_path_factory.mktemp("keeping")
    fresh, known = small_bundle(root / "fresh", classes=KNOWN), blob_folder(root / "data", classes=KNOWN)
    edgeplast.adapt(fresh, known, into=root / "a", options=options(epochs=6, replay="12/class"))
    return root / "a"


class TestTargets:
    """Arithmetic."""

    @given(st.integers(2, 6), st.floats(0, 1), st.integers(0, 2**32 - 1), st.booleans())
    @settings(max_examples=50, deadline=None)
    def test_they_are_the_mixture_of_label_and_what_was_said(
        self, classes: int, share: float, seed: int, in_a_file: bool
    ) -> None:
        import tempfile

        rng = np.random.default_rng(seed)
        logits, labels = rng.normal(size=(9, classes)) * 3, rng.integers(0, classes, 9)
        weight = rng.uniform(0.1, 2, (9, 1))
        given = (np.eye(classes)[labels] * weight).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) if in_a_file else None
            teacher = Teacher(9, np.full(classes, share, np.float32), np.zeros(classes, np.float32), place)
            order = rng.permutation(9)
            for part in (order[:4], order[4:]):
                teacher.note(part, logits[part].astype(np.float32))
            some = rng.integers(0, 9, 5)
            found = teacher.mixed(given[some], labels[some], some)
            del teacher
        expected = (1 - share) * given + share * weight * softmax(logits)
        np.testing.assert_allclose(found, expected[some], atol=1e-5)
        np.testing.assert_allclose(found.sum(1), given[some].sum(1), rtol=1e-5)  # each picture weighs what it did

    def test_a_rare_class_is_kept_on_others_pictures_and_its_own_have_their_label(self) -> None:
        labels = np.repeat([0, 1, 2], [20, 20, 5])
        shares = held(labels, 4)
        np.testing.assert_allclose(shares, [0, 0, 0.75, 0])
        teacher = Teacher(45, np.zeros(4, np.float32), shares)
        said = np.tile(np.log([[0.5, 0.2, 0.2, 0.1]]), (45, 1)).astype(np.float32)
        teacher.note(np.arange(44), said[:44])
        one = np.eye(4, dtype=np.float32)
        found = teacher.mixed(one[[1, 2]], np.asarray([1, 2]), np.asarray([25, 41]))
        np.testing.assert_allclose(found, [[0, 0.85, 0.15, 0], [0, 0, 1, 0]], atol=1e-6)
        unread = teacher.mixed(one[[1]], np.asarray([1]), np.asarray([44]))  # nothing was said of it
        np.testing.assert_allclose(unread, one[[1]])

    def test_what_is_typical_of_a_class_holds_for_its_pictures_that_were_not_asked_about(self) -> None:
        labels = np.repeat([0, 1, 2], [20, 20, 5])
        teacher = Teacher(45, np.zeros(4, np.float32), held(labels, 4))
        teacher.note(np.asarray([0, 1]), np.log([[0.5, 0.2, 0.2, 0.1], [0.4, 0.1, 0.4, 0.1]]).astype(np.float32))
        teacher.generalize(labels)
        one = np.eye(4, dtype=np.float32)
        found = teacher.mixed(one[[0, 0, 1, 2]], np.asarray([0, 0, 1, 2]), np.asarray([1, 9, 25, 41]))
        np.testing.assert_allclose(found[:2], [[0.7, 0, 0.3, 0], [0.775, 0, 0.225, 0]], atol=1e-6)
        np.testing.assert_allclose(found[2:], one[[1, 2]])  # nobody was asked about any of it; its own have their label

    def test_enough_pictures_are_enough_whatever_there_is_of_others(self) -> None:
        labels = np.repeat([0, 1, 2], [5000, ENOUGH_PICTURES, 4])
        np.testing.assert_allclose(held(labels, 3), [0, 0, 0.9])
        assert not held(np.repeat([0, 1], [20, 12]), 2).any()


def test_wholly_held_to_what_it_said_a_model_stays_what_it_is(learned: Path, tmp_path: Path) -> None:
    images = pictures({"blue": 8, "green": 8, "red": 8}, 50)
    q = np.asarray([[*p.probabilities.values()] for p in edgeplast.predict(learned, [blob("red", 3)])])
    assert q.max() < 0.999  # not so sure that any target would do
    how = options(distill=1.0, epochs=2, optimizer="sgd", batch=24, weight_decay=0.0)
    report = edgeplast.adapt(learned, images, into=tmp_path / "a", options=how)
    manifest = Bundle.open(learned).manifest
    with edgeplast.Learner(learned, into=tmp_path / "b", memory="none", options=options()) as learner:
        said = [[*p.probabilities.values()] for p in learner.predict(images)]
    logits = np.log(np.asarray(said)) * (manifest.temperature or 1.0)
    p = softmax(logits)
    entropy = float(-(p * np.log(p)).sum(1).mean())
    train = report.images["train"]
    assert report.gradient_norms[0] < 1e-4 and train == len(images) - report.images.get("val", 0)
    assert report.losses[0] == pytest.approx(entropy, rel=1e-2) or train < len(images)


def test_less_is_forgotten(learned: Path, tmp_path: Path) -> None:
    """Pictures whose labels contradict what was known: the old ones suffer, and less where half is what was said."""
    named = [(label, i) for label in CLASSES for i in range(16)]
    turned = dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    images = ImageSet.of([blob(label, 200 + i) for label, i in named], [turned[label] for label, _ in named])
    old = blob_folder(tmp_path / "old", train=1, test=20)
    lost = {}
    for share in (0.0, 0.7):
        report = edgeplast.adapt(
            learned, images, into=tmp_path / f"{share}", also=[old], options=options(epochs=2, distill=share)
        )
        lost[share] = report.also[str(old)].lost_points
    assert lost[0.0] > 20 and lost[0.7] < lost[0.0] - 10, lost


@pytest.mark.parametrize("how", [{"distill": 0.5}, {"distill": 0.5, "new_classes": "add"}], ids=["old", "new"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(keeping: Path, tmp_path: Path, how: dict) -> None:
    images = pictures({"red": 3, "blue": 9} if "new_classes" in how else {"blue": 9, "green": 4}, 70)
    chosen = options(checkpoint_every="2steps", **how)
    whole, again = whole_and_resumed(Bundle.open(keeping), images, tmp_path, chosen)
    assert again.resumed_at and again.losses == whole.losses and again.new_classes == whole.new_classes


@pytest.mark.parametrize("count", [1, 4])
def test_few_pictures_of_a_new_class_are_not_unlearned_by_those_that_were_kept(
    keeping: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the placed class got of the kept pictures' probability stays, where training for labels alone takes it."""
    kept = sorted((keeping / "replay").glob("*/*"))

    def mean_of_red(into: str, **how: object) -> float:
        chosen = options(**({"new_classes": "add"} | how))
        report = edgeplast.adapt(keeping, pictures({"red": count}), into=tmp_path / into, options=chosen)
        assert report.replay is not None and report.replay.mixed_in == len(kept) == 24 and report.steps
        said = edgeplast.predict(tmp_path / into, [*kept], temperature=False)
        return float(np.mean([p.probabilities["red"] for p in said]))

    placed = mean_of_red("placed", epochs=1, learning_rate=1e-9, head_learning_rate=1e-12, weight_decay=0.0, warmup=1.0)
    held_to_it = mean_of_red("held", epochs=16)
    monkeypatch.setattr(distilling, "held", lambda _, classes: np.zeros(classes, np.float32))
    alone = mean_of_red("alone", epochs=16)
    assert placed > 0.05 and held_to_it > 0.5 * placed > 1.5 * alone, (placed, held_to_it, alone)


class TestLearner:
    """The same in one process."""

    def test_the_first_time_there_is_nothing_to_hold_it_to(self, bundle: Bundle, tmp_path: Path) -> None:
        images = pictures({"blue": 6, "green": 6, "red": 6})
        with edgeplast.Learner(bundle, into=tmp_path / "a", memory="none", options=options(distill=0.5)) as learner:
            learner.add(images)
            assert learner.learn(steps=3).options["distill"] == 0
            assert learner.learn(steps=3).options["distill"] == 0.5

    def test_what_is_said_of_pictures_that_no_step_will_see_is_not_asked(self, learned: Path, tmp_path: Path) -> None:
        asked: list[int] = []

        def progress(activity: str, _: int, total: int) -> None:
            if activity == "asking what was known":
                asked.append(total)

        with edgeplast.Learner(learned, into=tmp_path / "a", memory="none", options=options()) as learner:
            learner.add(pictures({"blue": 16, "green": 16, "red": 15}))
            learner.learn(steps=2, progress=progress)
            assert not asked  # no class is rare
            learner.add(pictures({"blue": 20}, 100))
            learner.learn(steps=2, progress=progress)
            assert 0 < max(asked) < ASKED_OF_EACH  # two steps of eight pictures, of three classes
            asked.clear()
            learner.learn(epochs=1, progress=progress)
            assert {*asked} == {ASKED_OF_EACH}  # of blue, beside which the others are rare
            learner.add(pictures({"blue": 60}, 200))
            asked.clear()
            learner.learn(epochs=1, progress=progress)
            assert {*asked} == {ASKED_OF_EACH}  # however many there are

    @pytest.mark.parametrize(("seconds", "least", "most"), [(3600, 32, 32), (1e-9, 1, 8)])
    def test_given_seconds_it_is_asked_of_pictures_that_there_may_be_time_for(
        self, learned: Path, tmp_path: Path, seconds: float, least: int, most: int
    ) -> None:
        """The first time nobody knows what a step takes; one step of eight pictures is always taken."""
        asked: list[int] = []

        def progress(activity: str, done: int, _: int) -> None:
            if activity == "asking what was known":
                asked.append(done)
            elif activity.startswith("epoch"):
                raise InterruptedRunError("stopped")

        with edgeplast.Learner(learned, into=tmp_path / "a", memory="none", options=options()) as learner:
            learner.add(pictures({"blue": 56, "green": 40, "red": 15}))
            with pytest.raises(InterruptedRunError, match="stopped"):
                learner.learn(seconds=seconds, progress=progress)
        assert least <= asked[-1] <= most and asked == sorted(asked)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "--distill 0.5 holds a model to what it said before, and this head has learned nothing yet. Leave it out"),
        ({"labels": "none"}, "Without labels there is nothing to distil beside them. Leave out --distill"),
        ({"distill": 1.5}, "--distill 1.5 is out of range; allowed is 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(bundle: Bundle, blobs: Path, tmp_path: Path, how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=options(**({"distill": 0.5} | how)))
    assert not list(tmp_path.iterdir())


def test_a_head_that_begins_anew_said_nothing(learned: Path, blobs: Path, tmp_path: Path) -> None:
    for head in ("zero", "fitted"):
        with pytest.raises(UsageError, match=rf"begins anew \(--head {head}\)\. Leave it out, or keep the head"):
            edgeplast.adapt(learned, blobs, into=tmp_path / "a", options=options(distill=0.5, head=head))
