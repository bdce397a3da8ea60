"""The device's verbs from Python: pictures in memory, and arguments of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, blob

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError, UsageError
from edgeplast_devices.images import open_images
from edgeplast_devices.learner_arguments import to_learn_from
from edgeplast_devices.options import TrainingOptions


@pytest.fixture(scope="module")
def model(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgeplast.deploy(bundle, tmp_path_factory.mktemp("model") / "model.onnx")


class Dataset:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return index, 0


def test_a_picture_in_memory_is_classified_as_its_file_is(model: Path, tmp_path: Path) -> None:
    picture, array = blob("red", 3), np.asarray(blob("red", 3))
    picture.save(tmp_path / "a.png")
    (expected,) = edgeplast.predict(model, tmp_path / "a.png")
    for given in (picture, array, [picture], (array,), array[None]):
        (found,) = edgeplast.predict(model, given)  # type: ignore[arg-type]
        assert found.probabilities == expected.probabilities and found.name == "images[0]"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_pillows_modes_are_converted_as_those_of_files_are(model: Path, tmp_path: Path, mode: str) -> None:
    picture = blob("green", 1).convert(mode)
    picture.save(tmp_path / "a.tif")
    both = [edgeplast.predict(model, given)[0].probabilities for given in (picture, tmp_path / "a.tif")]
    assert both[0] == both[1]


def test_a_grey_array_is_a_grey_picture(model: Path) -> None:
    grey = blob("blue", 1).convert("L")
    given = [grey, np.asarray(grey), np.asarray(grey)[:, :, None]]
    first, *others = edgeplast.predict(model, given)
    assert all(other.probabilities == first.probabilities for other in others)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"images is empty: there is nothing to predict\. Allowed: the path of a picture"),
        (np.empty((0, 8, 8, 3), np.uint8), "images is empty"),
        (
            np.zeros((8, 8, 3), np.float32),
            r"images\[0\] is an array of float32 of shape \(8, 8, 3\); a picture is uint8",
        ),
        (np.zeros((3, 8, 8), np.uint8), r"these pictures have 8\. More .* \(height, width, channels\)"),
        (np.zeros((0, 8, 3), np.uint8), r"of shape \(0, 8, 3\)"),
        (Image.new("I;16", (8, 8)), "has the mode 'I;16': scale it to 8 bits"),
        (Image.new("F", (8, 8)), "has the mode 'F'"),
        (Dataset(), r"images is of the kind .*Dataset\. Allowed: the path of a picture"),
        (7, r"images is of the kind int\. Allowed"),
        (["a.png", blob("red", 1)], r"images\[0\] is of the kind str"),
        ([None], r"images\[0\] is of the kind NoneType"),
    ],
)
def test_what_cannot_be_predicted_on_is_told_what_can(model: Path, given: Any, message: str) -> None:
    with pytest.raises((UsageError, InputError), match=message):
        edgeplast.predict(model, given)


def test_a_file_that_was_closed_is_left_out_like_one_that_cannot_be_read(model: Path, tmp_path: Path) -> None:
    blob("red", 1).save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    assert len(edgeplast.predict(model, [blob("red", 1), closed])) == 1


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("adapt", {"images": Dataset()}, r"images is of the kind .*Dataset\. Allowed: the path of a folder CLASS/name"),
        ("adapt", {"bundle": 3}, r"bundle is of the kind int\. Allowed: a bundle's folder"),
        ("adapt", {"budget": "256MiB"}, r"budget is of the kind str\. Allowed: an edgeplast\.Budget"),
        ("adapt", {"options": {"epochs": 3}}, r"options is of the kind dict\. Allowed: edgeplast\.TrainingOptions"),
        ("evaluate", {"images": [1, 2]}, r"images is of the kind list\. Allowed"),
        ("evaluate", {"bundle": None}, r"bundle is of the kind NoneType\. Allowed: a bundle's folder.*or an ONNX file"),
        ("deploy", {"bundle": []}, "bundle is of the kind list"),
        ("predict", {"model": 3}, r"model is of the kind int\. Allowed: the path of an ONNX file"),
        ("plan", {"scores": {}}, r"scores is of the kind dict\. Allowed: a score table"),
    ],
)
def test_arguments_of_another_kind_are_told_what_is_allowed(
    bundle: Bundle, blobs: Path, tmp_path: Path, verb: str, arguments: dict, message: str
) -> None:
    usual: dict[str, dict[str, Any]] = {
        "adapt": {"bundle": bundle, "images": blobs, "into": tmp_path / "out"},
        "evaluate": {"bundle": bundle, "images": blobs},
        "deploy": {"bundle": bundle, "into": tmp_path / "m.onnx"},
        "predict": {"model": tmp_path, "images": blobs},
        "plan": {},
    }
    with pytest.raises(UsageError, match=message):
        getattr(edgeplast, verb)(**(usual[verb] | arguments))
    assert not (tmp_path / "out").exists()


def test_an_opened_set_is_enough_to_adapt(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    images = open_images(blobs, "train")
    report = edgeplast.adapt(bundle, images, into=tmp_path / "out", options=TrainingOptions(epochs=1))
    assert report.epochs


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.int64(1), r"The label np\.int64\(1\) is of the kind int64; .* Number 1 of them is 'green'"),
        (np.array([0]), "is of the kind int64; .* Number 0 of them is 'blue'"),
        ([2], r"The label 2 is of the kind int; a label is the name of a class, a text\. .* Number 2 of them is 'red'"),
        (True, r"The label True is of the kind bool; .* 'red'\. For numbers, give a set: ImageSet\.of"),
        (b"red", "The label b'red' is of the kind bytes"),
        ([None], "The label None is of the kind NoneType"),
    ],
)
def test_what_a_learner_is_told_of_a_picture_is_the_name_of_its_class(labels: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        to_learn_from([np.zeros((8, 8, 3), np.uint8)], labels, CLASSES)  # type: ignore[arg-type]
    assert to_learn_from([np.zeros((8, 8, 3), np.uint8)], np.array(["red"]), CLASSES).labels.tolist() == [2]  # type: ignore[arg-type]
