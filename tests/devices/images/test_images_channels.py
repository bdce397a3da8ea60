"""Pictures of other than three channels: grey ones from files, any number from arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeplast.errors import InputError
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images import open_images
from edgeplast_devices.images.batching import Unreadable, batches
from edgeplast_devices.images.in_memory import from_memory
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.images.transforms import Augmentation, preprocess


def how(channels: int, **more: object) -> Preprocessing:
    values = tuple(0.1 + 0.8 * i / channels for i in range(channels))
    return Preprocessing(image_size=(24, 40), mean=values, std=values, **more)  # type: ignore[arg-type]


def pixels(channels: int, height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(50, 70), (9, 200)])
def test_planes_go_the_way_of_colours(crop_mode: str, size: tuple[int, int]) -> None:
    colour, more = pixels(3, *size), pixels(2, *size)
    five = np.concatenate([colour, more], axis=2)
    prepared = how(5, crop_mode=crop_mode)
    first = Preprocessing(image_size=(24, 40), mean=prepared.mean[:3], std=prepared.std[:3], crop_mode=crop_mode)
    made = preprocess(Planes.of(five), prepared)
    assert made.shape == (5, 24, 40) and made.dtype == np.float32
    np.testing.assert_array_equal(made[:3], preprocess(Image.fromarray(colour), first))
    varied = Augmentation().augment(Planes.of(five), prepared, np.random.default_rng(1))
    same = Augmentation().augment(Image.fromarray(colour), first, np.random.default_rng(1))
    np.testing.assert_array_equal(varied[:3], same)


def test_a_model_of_one_channel_gets_grey() -> None:
    grey = pixels(1)
    three = Image.fromarray(np.repeat(grey, 3, axis=2))
    made = preprocess(three, how(1))
    assert made.shape == (1, 24, 40)
    np.testing.assert_array_equal(made, preprocess(Image.fromarray(grey[:, :, 0]), how(1)))


@pytest.mark.parametrize(
    ("picture", "channels", "says"),
    [
        (Image.new("RGB", (30, 30)), 4, r"takes 4 channels; pictures of files have one \(grey\) or three"),
        (Planes.of(pixels(4)), 3, r"takes 3 channels; these pictures have 4.*\.npz"),
        (Planes.of(pixels(2)), 5, r"takes 5 channels; these pictures have 2"),
    ],
)
def test_other_channels_than_the_models_are_refused(picture: Image.Image, channels: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        preprocess(picture, how(channels))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_arrays_of_any_number_of_channels_are_read(tmp_path: Path, channels: int) -> None:
    rows = np.stack([pixels(channels) + i for i in range(3)])
    np.savez(tmp_path / "set.npz", train_images=rows, train_labels=np.arange(3) % 2)
    held = [batches(s, how(channels), 2, unreadable=Unreadable()) for s in (
        open_images(tmp_path / "set.npz", "train"), from_memory(list(rows)),
    )]  # fmt: skip
    for a, b in zip(*held, strict=True):
        assert a.images.shape[1:] == (channels, 24, 40)
        np.testing.assert_array_equal(a.images, b.images)


def test_an_array_too_deep_is_no_picture(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train_images=np.zeros((2, 3, 3, 1025), np.uint8), train_labels=np.arange(2))
    with pytest.raises(InputError, match="channels up to 1024"):
        open_images(tmp_path / "set.npz", "train")
    with pytest.raises(InputError, match="as many channels as the model takes"):
        from_memory([np.zeros((3, 3, 1025), np.uint8)])


def test_means_and_deviations_are_one_of_each_a_channel() -> None:
    with pytest.raises(InputError, match="4 means and 3 deviations"):
        Preprocessing(image_size=(8, 8), mean=(0.5,) * 4, std=(0.5,) * 3)
