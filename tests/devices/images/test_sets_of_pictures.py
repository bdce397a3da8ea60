"""ImageSet.of: a set of what a program holds, arrays, pictures and paths, as good as a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, blob

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError
from edgeplast_devices.images import Splits
from edgeplast_devices.options import TrainingOptions

FRAME = np.asarray(blob("red", 1))


def test_arrays_pictures_and_paths_are_the_same_pictures(tmp_path: Path) -> None:
    blob("red", 1).save(tmp_path / "a.png")
    found = edgeplast.ImageSet.of([FRAME, blob("red", 1), tmp_path / "a.png", str(tmp_path / "a.png")])
    pixels = [np.asarray(found.open(i)) for i in range(4)]
    assert all(np.array_equal(each, FRAME) for each in pixels)
    assert found.name(0) == "images[0]" and found.name(2) == str(tmp_path / "a.png")


def test_labels_are_names_or_numbers() -> None:
    stack = np.stack([FRAME, FRAME, FRAME])
    by_name = edgeplast.ImageSet.of(stack, ["red", "blue", "red"])
    assert by_name.classes == ("blue", "red") and by_name.labels.tolist() == [1, 0, 1]
    by_number = edgeplast.ImageSet.of(stack, np.array([[2], [0], [2]]), CLASSES)
    assert by_number.present_classes() == ["blue", "red"]
    assert edgeplast.ImageSet.of(stack[:, :, :, 0]).labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("pictures", "labels", "classes", "said"),
    [
        ([FRAME], ["purple"], CLASSES, "'purple' is no class. The classes are 'blue', 'green', 'red'"),
        ([FRAME], [3], CLASSES, "3 is no class.*numbers 0 to 2"),
        ([FRAME], [0], None, "Labels that are numbers need the names"),
        ([FRAME], ["red", "blue"], None, "There are 1 pictures and 2 labels"),
        ([FRAME], ["a"], ["a", "a"], "two of these are the same: 'a', 'a'"),
        ([FRAME, 7], None, None, r"images\[1\] is of the kind int; allowed are numpy arrays, PIL images and paths"),
        ([FRAME.astype(float)], None, None, "array of float64"),
        (FRAME[:, :, 0], None, None, "Several pictures are wanted and one was given"),
    ],
)
def test_what_makes_no_set_is_told(pictures: list, labels: list, classes: list, said: str) -> None:
    with pytest.raises(InputError, match=said):
        edgeplast.ImageSet.of(pictures, labels, classes)


def test_adapt_evaluate_and_predict_take_it(bundle: Bundle, tmp_path: Path) -> None:
    names = [label for label in CLASSES for _ in range(6)]
    train = edgeplast.ImageSet.of([np.asarray(blob(label, i)) for i, label in enumerate(names)], names)
    options = TrainingOptions(epochs=1, threads=1, augment="none")
    report = edgeplast.adapt(
        bundle, Splits(train, train, None), into=tmp_path / "a", budget=edgeplast.Budget(), options=options
    )
    assert report.images == {"train": 18, "val": 18}
    assert edgeplast.evaluate(tmp_path / "a", train).images == 18
    assert len(edgeplast.predict(tmp_path / "a", train)) == 18


def test_what_needs_labels_says_so(bundle: Bundle, tmp_path: Path) -> None:
    without = edgeplast.ImageSet.of([FRAME, FRAME])
    with pytest.raises(InputError, match="2 of the 2 pictures have no label, and evaluating needs"):
        edgeplast.evaluate(bundle, without)
    with pytest.raises(InputError, match="2 of the 2 pictures have no label, and learning needs"):
        edgeplast.adapt(bundle, without, into=tmp_path / "a", budget=edgeplast.Budget())
