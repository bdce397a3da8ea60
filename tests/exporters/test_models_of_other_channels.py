"""Models of one channel, of five, and of pictures that are not square: from scores to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError
from edgeplast.models import import_timm, input_shape_of, preprocessing_of
from edgeplast.preprocessing import Preprocessing


def test_timms_model_of_one_channel_gets_grey_pictures() -> None:
    model = import_timm().create_model("test_resnet", in_chans=1)
    assert input_shape_of(model)[0] == preprocessing_of(model).channels == 1
    with pytest.raises(InputError, match=r"takes 4 channels.*Say how they are prepared.*with 4 values each"):
        preprocessing_of(import_timm().create_model("test_resnet", in_chans=4))


def test_five_channels_of_arrays_from_scores_to_predictions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(5, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    labels = np.arange(24) % 2
    images = np.random.default_rng(0).integers(0, 100, (24, 20, 28, 5), dtype=np.uint8)
    images[labels == 1, :, :, 4] += 150  # what tells them apart is in a channel that no colour picture has
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=labels)
    prepared = Preprocessing(image_size=(16, 24), mean=(0.4,) * 5, std=(0.3,) * 5)
    scores = edgeplast.score(model, tmp_path / "set.npz", preprocessing=prepared, pairs=2)
    bundle = edgeplast.export(model, edgeplast.plan(scores), into=tmp_path / "bundle", preprocessing=prepared)
    options = edgeplast.TrainingOptions(epochs=12, learning_rate=1e-2, batch=8, augment="none")
    edgeplast.adapt(bundle, tmp_path / "set.npz", into=tmp_path / "adapted", options=options)
    edgeplast.deploy(tmp_path / "adapted", into=tmp_path / "model.onnx")
    found = edgeplast.predict(tmp_path / "model.onnx", list(images[:4]))
    assert [next(iter(one.probabilities)) for one in found] == ["0", "1", "0", "1"]
    _predicts_in_a_learner(tmp_path / "adapted", tmp_path / "set.npz", images)


def _predicts_in_a_learner(adapted: Path, pictures: Path, images: np.ndarray) -> None:
    """It is calibrated too, and keeps nothing: no file of a picture holds five channels."""
    said = list[str]()
    with edgeplast.Learner(adapted, memory="none", notice=said.append) as learner:
        assert [label for label, _ in learner.predict(list(images[:4]))] == ["0", "1", "0", "1"]
        assert learner.evaluate(pictures, split="train").accuracy == 1.0
        with pytest.raises(
            InputError, match=r"has 5 channels; a Learner keeps examples of one.*an \.npz of them with adapt"
        ):
            learner.add(images[0], "0")
        found = learner.calibrate(pictures, false_alarms=0.1)
        assert found is not None and found.images == 24 and learner.versions()[-1].by == "calibrate"
    assert Bundle.open(adapted).manifest.unknown == found and not [*adapted.parent.glob("*.held-out/*")]
    assert said == [
        "Pictures of 5 channels cannot be kept as files, so what was fitted on them is not fitted again after a learn. "
        "Calibrate again then."
    ]
