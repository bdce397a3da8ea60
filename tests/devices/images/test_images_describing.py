"""What is said of a data set, and what the workstation does with pictures that cannot be read."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from edgeplast.errors import FallbackWarning, InputError
from edgeplast.prepared_images import PreparedImages
from edgeplast_devices.images import open_images, open_splits, preprocess, understood


def test_classes_and_parts_in_a_line(make_folder):
    root = make_folder({"Training/no": 5, "Training/yes": 9, "validation/no": 2, "Testing/yes": 3})
    (root / "Training" / "no" / "notes").write_text("x")
    assert understood(open_splits(root, seed=0)) == [
        "2 classes: no (7), yes (12); 14 train, 2 val, 3 test",
        "left out of 'no' (train): 1 file that is no picture (Training/no/notes)",
    ]
    assert understood(open_images(root, "test"))[:1] == ["2 classes: no (0), yes (3); 3 pictures"]


def test_many_classes_and_names_that_do_not_print(make_folder):
    root = make_folder({f"c{i:02d}\x1b[2J": 1 for i in range(20)})
    (line,) = understood(open_images(root))
    assert line.startswith(r"20 classes: c00\x1b[2J (1), c01") and line.endswith("(1) and 8 more; 20 pictures")


def test_unreadable_pictures_are_named_and_replaced_within_their_class(make_folder, how):
    root = make_folder({"a": 3, "b": 15})
    (root / "a" / "002.png").write_bytes(b"\xff\xd8\xff")
    images = open_images(root)
    prepared = PreparedImages(images, how)
    with pytest.warns(FallbackWarning, match=r"left out: a/002\.png: it is damaged .*; another picture of"):
        stand_in = prepared.tensor(2)
    assert np.array_equal(stand_in, preprocess(images.open(0), how))  # not b/000.png, which is next
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared.tensor(2)  # said once
    for number in range(15):
        (root / "b" / f"{number:03d}.png").write_bytes(b"text")
    with (
        pytest.warns(FallbackWarning) as said,
        pytest.raises(InputError, match=r"Of class 'b' not one can be read"),
    ):
        prepared.tensor(4)
    assert len(said) == 9  # with the one above ten by name


def test_a_large_picture_is_decoded_as_on_a_device(make_folder, how):
    from sample_pictures import picture  # type: ignore[import-not-found]

    root = make_folder({"a": 1})
    picture(3, (3000, 2500)).save(root / "a" / "large.jpg", quality=40)
    images = open_images(root)
    device = preprocess(images.open(1, at_least=(13, 13)), how)
    assert np.array_equal(PreparedImages(images, how).tensor(1), device)
