"""What folders and files mean: names of splits, contents before suffixes, and what is said of the rest."""

from __future__ import annotations

import pytest
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

from edgeplast.errors import InputError
from edgeplast_devices.images import ImageSet, UnreadableImageError, open_images, open_splits, open_unlabelled

PNG = encoded(picture(0))
HEIC = b"\0\0\0\x20ftypheic\0\0\0\0mif1heic" + bytes(100)


def names(images: ImageSet) -> list[str]:
    return [images.name(i) for i in range(len(images))]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("train", "validation", None),
        ("TRAIN", "valid", "Test"),
        ("trn", "dev", "tst"),
        ("training_set", "Val", "test_set"),
        ("data/train", "data/Validation", "data/test"),
    ],
)
def test_splits_by_their_common_names_in_any_case(make_folder, train, val, test):
    parts = {train: 4, val: 2, test: 1}
    root = make_folder({f"{part}/{name}": n for part, n in parts.items() if part for name in ("no", "yes")})
    splits = open_splits(root, seed=0, val_fraction=0)
    assert splits.train.classes == ("no", "yes") and len(splits.train) == 8
    assert (splits.val is None, splits.test is None) == (val is None, test is None)
    assert val is None or len(splits.val) == 4
    if test:
        assert len(open_images(root, "testing")) == 2


@pytest.mark.parametrize("around", ["", "archive/", "dataset2-master/dataset2-master/images/"])
def test_any_number_of_folders_may_lie_around_it(make_folder, around):
    counts = {"Training": 4, "Testing": 2}
    tree = {f"{around}{split}/{name}": n for split, n in counts.items() for name in ("glioma", "no", "pituitary")}
    splits = open_splits(make_folder(tree), seed=0, val_fraction=0)
    assert splits.train.classes == ("glioma", "no", "pituitary")
    assert (len(splits.train), len(splits.test)) == (12, 6)
    plain = open_images(make_folder({f"{around}x/cat": 2, f"{around}x/dog": 3}, "plain"))
    assert plain.classes == ("cat", "dog") and len(plain) == 5


def test_a_sample_or_a_copy_beside_the_splits_is_left_out_and_said(make_folder):
    tree = {f"{split}/{name}": 2 for split in ("TRAIN", "TEST", "TEST_SIMPLE") for name in ("EOS", "LYM")}
    splits = open_splits(make_folder(tree), seed=0, val_fraction=0)
    assert (len(splits.train), len(splits.test)) == (4, 4)
    assert "'TEST_SIMPLE' is none of train, val, test, and is left out" in splits.notes
    assert any(note.startswith("left out: 4 pictures in no class folder (such as TEST_SIMPLE") for note in splits.notes)
    tree = {f"{around}{split}/{name}": 2 for around in ("", "chest/") for split in ("train", "val") for name in "ab"}
    splits = open_splits(make_folder(tree, "copy"), seed=0)
    assert (len(splits.train), len(splits.val)) == (4, 4)
    assert "'chest' is none of train, val, test, and is left out" in splits.notes
    for other in ({"cat": 1}, {"more/a": 1, "more/z": 1}, {"more": 1, "more/a": 1}):  # classes of its own, or pictures
        root = make_folder({"train/a": 2, "train/b": 2, **other}, f"other{len(other)}{next(iter(other))[:2]}")
        with pytest.raises(InputError, match="which is no split"):
            open_splits(root, seed=0)


def test_two_folders_for_one_split_are_refused(make_folder):
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    with pytest.raises(InputError, match=r"has 'val' and 'valid', which both mean val\. Join them, or rename one"):
        open_splits(root, seed=0)


def test_top_folders_that_hold_the_same_classes_are_no_classes(make_folder):
    root = make_folder({"a/cat": 1, "a/dog": 1, "b/cat": 1, "b/dog": 1})
    with pytest.raises(InputError, match=r"'a' and 'b' both hold 'cat', 'dog', so which of the two are the classes\?"):
        open_images(root)
    for fine in ({"cat/2023": 1, "dog/2023": 1}, {"a": 1, "a/x": 1, "a/y": 1, "b": 1, "b/x": 1, "b/y": 1}):
        assert len(open_images(make_folder(fine, f"fine{len(fine)}")).classes) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_contents_decide_what_is_a_picture(make_folder, make_tar, packed):
    files = {
        "a/1.jfif": encoded(picture(1), "JPEG"),
        "a/2": PNG,
        "a/3.txt": PNG,
        "b/1.pgm": encoded(picture(2, mode="L"), "PPM"),
        "b/2.AVIF": encoded(picture(3), "AVIF"),
        "b/3.JP2": encoded(picture(3), "JPEG2000"),
        "b/table.csv": b"name,label\n1,2\n",
        "b/BMI.csv": b"BMI,label\n1,2\n",
        "b/P1": b"P1 is a place\n",
        "b/phone.HEIC": HEIC,
    }
    if packed:
        root = make_tar(files)
    else:
        root = make_folder({"a": 0, "b": 0})
        for name, data in files.items():
            (root / name).write_bytes(data)
    images = open_images(root)
    assert names(images) == ["a/1.jfif", "a/2", "a/3.txt", "b/1.pgm", "b/2.AVIF", "b/3.JP2"]
    assert all(images.open(i).mode == "RGB" for i in range(len(images)))
    (note,) = images.notes
    assert "left out of 'b': 1 HEIC picture (b/phone.HEIC), 3 files that are no pictures (such as b/" in note


def test_what_no_person_made_is_no_data(make_folder):
    folders = ["@eaDir", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN", "a/@eaDir", "a/.cache", "lost+found"]
    root = make_folder({"a": 1, "b": 1, **dict.fromkeys(folders, 1)})
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.jpg"):
        (root / "a" / name).write_bytes(PNG)
    images = open_images(root)
    assert names(images) == ["a/000.png", "b/000.png"] and images.notes == ()


def test_a_class_of_which_nothing_can_be_read_is_an_error(make_folder):
    root = make_folder({"cats": 2, "birds": 2, "dogs": 0})
    for number in range(3):
        (root / "dogs" / f"{number}.HEIC").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"of 'dogs' there is no picture that can be read: 3 HEIC pictures \(such"):
        open_splits(root, seed=0)
    splits = make_folder({"train/a": 2, "train/b": 2, "val/a": 2, "val/b": 0}, "splits")
    (splits / "val" / "b" / "1.heic").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"of 'b' \(val\) there is no picture that can be read: 1 HEIC picture \(val"):
        open_splits(splits, seed=0)
    only = make_folder({"a": 0}, "only")
    (only / "a" / "1.heic").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"There are 1 HEIC picture \(a/1\.heic\)\. Put the pictures"):
        open_images(only)


def test_a_folder_of_notes_and_pictures_without_a_class_are_said(make_folder):
    root = make_folder({"a": 1, "b": 1, "labels": 0})
    (root / "labels" / "1.xml").write_text("<annotation/>")
    (root / "README.md").write_text("# pictures")
    (root / "logo.png").write_bytes(PNG)
    notes = open_splits(root, seed=0).notes
    assert notes[0] == "left out: 1 picture in no class folder (logo.png)"
    assert notes[1:] == ("left out of 'labels': 1 file that is no picture (labels/1.xml)",)


def test_links_are_followed_within_the_folder_and_not_out_of_it(make_folder, tmp_path):
    root, secret = make_folder({"a": 2, "b": 1}), make_folder({"c": 3}, "elsewhere")
    (root / "b" / "again.png").symlink_to(root / "a" / "000.png")
    (root / "b" / "out.png").symlink_to(secret / "c" / "000.png")
    (root / "b" / "note").symlink_to("/etc/hostname")
    images = open_images(root)
    assert names(images) == ["a/000.png", "a/001.png", "b/000.png", "b/again.png"]
    assert "1 link that leads out of the folder (b/out.png)" in images.notes[0]
    (tmp_path / "link").symlink_to(root)
    assert names(open_images(tmp_path / "link")) == names(images)
    (root / "c").symlink_to(secret / "c")
    with pytest.raises(InputError, match=r"of 'c' there is no picture .* 1 link that leads out of the folder \(c\)"):
        open_images(root)


def test_a_file_that_became_a_link_after_it_was_listed_is_not_opened(make_folder):
    root, secret = make_folder({"a": 2, "b": 1}), make_folder({"c": 1}, "elsewhere")
    images = open_images(root)
    (root / "a" / "000.png").unlink()
    (root / "a" / "000.png").symlink_to(secret / "c" / "000.png")
    with pytest.raises(UnreadableImageError, match=r"a/000\.png cannot be used: a link that leads out of the data set"):
        images.open(0)


def test_a_picture_to_predict_on_is_told_by_its_contents(tmp_path, make_tar):
    (tmp_path / "photo").write_bytes(PNG)
    assert open_unlabelled(tmp_path / "photo").open(0).size == (20, 16)
    (tmp_path / "photo.HEIC").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"photo\.HEIC is a HEIC picture; readable are JPEG, .*\. Convert it"):
        open_unlabelled(tmp_path / "photo.HEIC")
    with pytest.raises(InputError, match=r"No pictures were given"):
        open_unlabelled([])
    assert names(open_unlabelled(make_tar({"BMW/1.png": PNG, "P1/2.png": PNG}, "cars"))) == ["BMW/1.png", "P1/2.png"]


def test_many_folders_deep(make_folder):
    root = make_folder({"a": 1, "b": 1})
    deep = root / "a"
    for _ in range(300):
        deep = deep / "x"
    deep.mkdir(parents=True)
    (deep / "1.png").write_bytes(PNG)
    assert len(open_images(root)) == 3
