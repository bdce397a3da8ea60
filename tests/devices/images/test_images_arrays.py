"""The MedMNIST layout: rows read in place, and what is said about arrays that do not fit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeplast.errors import InputError
from edgeplast_devices.images import UnreadableImageError, open_images, open_splits

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.asarray([0, 1, 2, 0, 1, 10])


@pytest.fixture
def save(tmp_path: Path):
    def save(compressed: bool = False, **arrays: np.ndarray) -> Path:
        path = tmp_path / "data.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    return save


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_rows_come_back_as_rgb(save, compressed, channels):
    rows = RNG.integers(0, 256, (6, 5, 4, *channels), dtype=np.uint8)
    images = open_images(save(compressed, train_images=rows, train_labels=LABELS[:, None]))
    assert images.classes == tuple(str(i) for i in range(11))
    assert images.labels.tolist() == LABELS.tolist() and images.labels.dtype == np.int32
    assert images.name(3) == "train_images[3]"
    for i in range(6):
        expected = rows[i] if channels == (3,) else np.repeat(rows[i].reshape(5, 4, 1), 3, axis=2)
        assert np.array_equal(np.asarray(images.open(i, at_least=(99, 99))), expected)
    assert images.present_classes() == ["0", "1", "2", "10"]


def test_splits_share_the_classes(save):
    path = save(train_images=GREY, train_labels=LABELS, val_images=GREY[:2], val_labels=LABELS[:2].astype(np.uint8))
    splits = open_splits(path, seed=0)
    assert len(splits.val.classes) == 11 and len(splits.val) == 2 and splits.test is None
    with pytest.raises(InputError, match=r"has no 'test' pictures: it has train, val"):
        open_images(path, "test")


def test_a_changed_picture_changes_the_fingerprint(save):
    first = open_images(save(train_images=GREY, train_labels=LABELS)).fingerprint()
    changed = GREY.copy()
    changed[5, 4, 3] ^= 1
    assert open_images(save(train_images=changed, train_labels=LABELS)).fingerprint() != first
    assert open_images(save(train_images=GREY, train_labels=LABELS)).fingerprint() == first


def test_unpacking_says_how_far_it_is(save):
    calls = []
    open_images(
        save(True, train_images=GREY, train_labels=LABELS),
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert calls[-1] == ("unpacking train_images.npy", 248, 248)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY}, r"holds x; expected is the MedMNIST layout: train_images and train_labels"),
        ({"train_images": GREY}, r"has train_images and no train_labels\. It needs one label for each"),
        (
            {"train_images": GREY * 1.0, "train_labels": LABELS},
            r"is float64 of shape \(6, 5, 4\); pictures are uint8",
        ),
        ({"train_images": GREY[:, 0], "train_labels": LABELS}, r"uint8 of shape \(6, 4\); pictures are"),
        ({"train_images": GREY[..., None, None], "train_labels": LABELS}, r"shape \(6, 5, 4, 1, 1\)"),
        ({"train_images": GREY[:, :0], "train_labels": LABELS}, r"shape \(6, 0, 4\)"),
        ({"train_images": np.asfortranarray(GREY), "train_labels": LABELS}, r"in Fortran order; pictures"),
        ({"train_images": GREY, "train_labels": LABELS[:5]}, r"has 6 train_images and 5 train_labels"),
        ({"train_images": GREY, "train_labels": LABELS * 1.0}, r"train_labels .* is float64 of shape \(6,\)"),
        (
            {"train_images": GREY, "train_labels": LABELS - 1},
            r"train_labels\[0\] .* is -1; labels are whole numbers",
        ),
        ({"train_images": GREY, "train_labels": LABELS * 10**6}, r"train_labels\[1\] .* is 1000000; .* to 65535"),
        (
            {"train_images": GREY, "train_labels": np.zeros((6, 14), int)},
            r"14 labels for each picture.*exactly one",
        ),
        ({"train_images": GREY[:0], "train_labels": LABELS[:0]}, r"\(train\) holds no pictures"),
        ({"train_images": GREY, "train_labels": np.asarray([None] * 6)}, r"holds Python objects, .* pickle"),
        ({"test_images": GREY, "test_labels": LABELS}, r"has no 'train' pictures: it has test"),
    ],
)
def test_arrays_that_do_not_fit_say_why(save, arrays, message):
    with pytest.raises(InputError, match=message):
        open_images(save(**arrays))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compression_that_numpy_does_not_write_is_refused(save, tmp_path, method):
    with (
        zipfile.ZipFile(save(train_images=GREY, train_labels=LABELS)) as plain,
        zipfile.ZipFile(tmp_path / "x.npz", "w", method) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    message = rf"train_labels in .*x\.npz is compressed in a way that numpy does not write \(method {method}\). Save"
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "x.npz")


def test_a_zip_of_pictures_that_is_called_npz_is_told_apart(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a/1.png", b"x")
    with pytest.raises(InputError, match=r"holds a/1\.png; .* If it is a zip of pictures, call it"):
        open_images(tmp_path / "x.npz")


def test_an_npz_cut_short(save):
    path = save(train_images=GREY, train_labels=LABELS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"is no \.npz that can be read, or is cut short"):
        open_images(path)


def test_an_array_that_promises_more_rows_than_it_has(tmp_path):
    import io

    file = io.BytesIO()
    np.save(file, GREY)
    data = file.getvalue().replace(b"(6, 5, 4)", b"(6000, 5, 4)").replace(b" " * 3 + b"\n", b"\n")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train_images.npy", data)
        file = io.BytesIO()
        np.save(file, np.zeros(6000, int))
        archive.writestr("train_labels.npy", file.getvalue())
    with pytest.raises(InputError, match=r"train_images in .* is damaged \(.*\)\. Fetch or save"):
        images = open_images(tmp_path / "x.npz")
        images.open(5999)


def test_rows_that_vanish_and_rows_that_are_too_large(save):
    path = save(train_images=GREY, train_labels=LABELS)
    images = open_images(path)
    images.decode_limit_bytes = 50
    with pytest.raises(UnreadableImageError, match=r"train_images\[0\] cannot be used: 4 x 5 pixels take 100 B, 50 B"):
        images.open(0)
    large = open_images(save(train_images=RNG.integers(0, 256, (6, 99, 99), dtype=np.uint8), train_labels=LABELS))
    with path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(UnreadableImageError, match=r"the file ends before this row"):
        large.open(5)


def bomb(path: Path, **arrays: tuple[str, int]) -> Path:
    """An .npz whose arrays claim a shape and hold so many zeros, in next to no bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (header, zeros) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                text = header.ljust(117) + "\n"
                file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
                for start in range(0, zeros, 1 << 20):
                    file.write(bytes(min(1 << 20, zeros - start)))
    return path


IMAGES = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
LABELS_OF = "{'descr': '<i8', 'fortran_order': False, 'shape': (%s,), }"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("5000000, 1, 1", "5000000", r"train_labels in .* claims 5000000 pictures; it can have 0 to 4194304"),
        ("5000000, 1, 1", "6", r"train_images in .* claims 5000000 pictures"),
        ("-6, 5, 4", "6", r"train_images in .* is uint8 of shape \(-6, 5, 4\)"),
        ("6, -5, -4", "6", r"shape \(6, -5, -4\)"),
        ("6, 5, 4", "-6", r"train_labels in .* claims -6 pictures"),
        ("6, 4294967296, 4294967296", "6", r"train_images in .* is damaged \(it ends too early\)"),
        ("6, 5, 4", "3000000", r"train_labels in .* is damaged \(it ends too early\)"),
    ],
)
def test_shapes_that_cannot_be_meant_are_refused_before_memory_is_asked_for(tmp_path, images, labels, message):
    path = bomb(tmp_path / "x.npz", train_images=(IMAGES % images, 120), train_labels=(LABELS_OF % labels, 48))
    with pytest.raises(InputError, match=message):
        open_images(path)


def test_a_long_header_and_a_long_directory_are_refused(tmp_path):
    path = bomb(tmp_path / "x.npz", train_images=(IMAGES % "6, 5, 4" + " " * 20000, 120), train_labels=("", 0))
    with pytest.raises(InputError, match=r"is damaged"):
        open_images(path)
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for number in range(12000):
            archive.writestr(f"{number:050d}.npy", b"")
    with pytest.raises(InputError, match=r"a directory of 1\.\d+ MiB, for a few arrays"):
        open_images(tmp_path / "many.npz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), compressed=st.booleans())
def test_any_changed_byte_is_an_input_error_or_harmless(save, at, value, compressed):
    path = save(compressed, train_images=GREY, train_labels=LABELS)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)
    try:
        images = open_images(path)
        for i in range(len(images)):
            images.open(i)
    except InputError as error:
        assert str(path) in str(error) or "train_" in str(error)
