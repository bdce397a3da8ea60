"""Folders and tar archives: what is found, in which order, and what is said when it is not."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

from edgeplast.errors import InputError, UsageError
from edgeplast_devices.images import (
    ImageSet,
    open_images,
    open_splits,
    open_unlabelled,
    require_classes,
    storage,
    tars,
)


def names(images: ImageSet) -> list[str]:
    return [images.name(i) for i in range(len(images))]


PNG = encoded(picture(0))


def test_a_plain_folder_in_order_of_class_and_name(make_folder):
    images = open_images(make_folder({"b": 2, "a": 1}))
    assert images.classes == ("a", "b")
    assert names(images) == ["a/000.png", "b/000.png", "b/001.png"]
    assert images.labels.dtype == np.int32 and images.labels.tolist() == [0, 1, 1]
    assert images.open(1).size == (20, 16) and images.open(1).mode == "RGB"
    assert repr(images) == "ImageSet(3 pictures, 2 classes)"


def test_what_is_hidden_foreign_or_no_file_is_left_out(make_folder):
    root = make_folder({"a": 1, "b": 1, ".cache": 1, "a/.ipynb_checkpoints": 1, "__MACOSX/a": 1, "a/deep": 1})
    (root / "a" / "._000.jpg").write_bytes(b"x")
    (root / "a" / "notes.txt").write_text("no picture")
    (root / "logo.png").write_bytes(PNG)
    (root / "a" / "SHOUT.JPEG").write_bytes(PNG)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    assert names(open_images(root)) == ["a/000.png", "a/SHOUT.JPEG", "a/deep/000.png", "b/000.png"]


def test_splits_have_one_class_list(make_folder):
    root = make_folder({"train/a": 2, "train/b": 2, "Val/b": 1, "test/a": 1})
    splits = open_splits(root, seed=0)
    assert [names(part) for part in (splits.val, splits.test)] == [["Val/b/000.png"], ["test/a/000.png"]]
    assert splits.train.classes == splits.val.classes == splits.test.classes == ("a", "b")
    assert splits.val.labels.tolist() == [1]
    assert splits.val.present_classes() == ["b"]
    assert len(open_images(root)) == len(open_images(root, "train")) == 4


def test_val_is_cut_from_train_by_seed_and_test_may_be_missing(make_folder):
    root = make_folder({"a": 10, "b": 20, "c": 1})
    splits = open_splits(root, seed=3, val_fraction=0.2)
    assert splits.test is None
    assert np.bincount(splits.val.labels).tolist() == [2, 4]
    assert np.bincount(splits.train.labels).tolist() == [8, 16, 1]
    assert sorted(names(splits.train) + names(splits.val)) == names(open_images(root))
    again, other = open_splits(root, seed=3, val_fraction=0.2), open_splits(root, seed=4, val_fraction=0.2)
    assert names(again.val) == names(splits.val) != names(other.val)
    assert open_splits(root, seed=3, val_fraction=0).val is None
    assert open_splits(make_folder({"a": 2, "b": 1}, "few"), seed=3).val is None


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("lead", ["", "./", "data/", "./data/"])
def test_an_archive_equals_the_folder_it_was_made_of(make_folder, make_tar, ending, lead):
    root = make_folder({"train/a": 2, "train/b": 1, "test/b": 1})
    files = sorted(root.rglob("*.png"), reverse=True)  # the order in the archive does not matter
    path = make_tar({f"{lead}{file.relative_to(root)}": file.read_bytes() for file in files}, f"x.{ending}")
    folder, archive = open_images(root), open_images(path)
    assert archive.classes == folder.classes
    assert archive.labels.tolist() == folder.labels.tolist()
    for i in range(len(folder)):
        assert archive.name(i).endswith(folder.name(i))
        assert np.array_equal(np.asarray(archive.open(i)), np.asarray(folder.open(i)))


def test_xz_in_several_streams_with_padding(make_tar):
    first = make_tar({"a/1.png": PNG, "b/1.png": PNG}, "x.tar.xz")
    import lzma

    data = lzma.decompress(first.read_bytes())
    first.write_bytes(lzma.compress(data[:700]) + bytes(8) + lzma.compress(data[700:]) + bytes(4))
    assert names(open_images(first)) == ["a/1.png", "b/1.png"]


def test_unpacking_says_how_far_it_is(make_tar):
    calls = []
    open_images(make_tar({"a/1.png": PNG}, "x.tar.gz"), progress=lambda what, done, of: calls.append((what, done, of)))
    assert calls[-1][0] == "unpacking x.tar.gz" and calls[-1][1] == calls[-1][2] > 0


def test_links_and_names_that_leave_the_archive_are_left_out(make_tar, tmp_path):
    path = make_tar({"a/1.png": PNG, "a/../../evil.png": PNG, "/abs/root/a/2.png": PNG})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"a/{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    before = set(tmp_path.parent.rglob("*"))
    assert names(open_unlabelled(path)) == ["a/1.png", "abs/root/a/2.png"]
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_member_that_was_appended_again_counts_once(make_tar):
    newer = encoded(picture(1, (33, 21)))
    images = open_images(make_tar([("a/1.png", PNG), ("b/1.png", PNG), ("a/1.png", newer)]))
    assert names(images) == ["a/1.png", "b/1.png"]
    assert images.open(0).size == (33, 21)


def test_long_and_foreign_names(make_tar):
    long = "ж" * 90 + ".png"  # needs a pax header
    raw = b"b\xff.png".decode("utf-8", "surrogateescape")
    images = open_images(make_tar([(f"a/{long}", PNG), (f"a/{raw}", PNG)]))
    assert names(images) == ["a/b�.png", f"a/{long}"]
    assert images.open(0).size == (20, 16)
    assert len(images.fingerprint()) == 32
    with pytest.raises(InputError, match=r"class folder 'c\?' in .* is not named in UTF-8"):
        open_images(make_tar([("c\udcff/1.png", PNG)], "bad.tar"))


def test_a_file_name_that_is_no_utf8_in_a_folder(make_folder):
    root = make_folder({"a": 1})
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/a/\xff.png")).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    images = open_images(root)
    assert images.name(1) == "a/�.png" and images.open(1).size == (20, 16)


def test_pictures_to_predict_on(make_folder, make_tar, tmp_path):
    root = make_folder({"x/y": 2})
    (root / "top.png").write_bytes(PNG)
    images = open_unlabelled(root)
    assert names(images) == ["top.png", "x/y/000.png", "x/y/001.png"]
    assert images.labels.tolist() == [-1, -1, -1] and images.classes == ()
    assert images.aligned_to(["a", "b"]).labels.tolist() == [-1, -1, -1]
    assert names(open_unlabelled(root / "top.png")) == ["top.png"]
    assert open_unlabelled(root / "top.png").open(0).size == (20, 16)
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"to predict, give a picture, a folder, a tar or a zip archive"):
        open_unlabelled(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"holds no pictures. Give a picture, or a folder or tar"):
        open_unlabelled(make_folder({}, "empty"))


def test_aligned_to_another_class_list(make_folder):
    images = open_images(make_folder({"dog": 2, "cat": 1}))
    aligned = images.aligned_to(["wolf", "dog", "cat"])
    assert aligned.classes == ("wolf", "dog", "cat")
    assert aligned.labels.tolist() == [2, 1, 1]
    assert names(aligned) == names(images)
    with pytest.raises(InputError, match=r"pictures of 'cat', and the known classes are 'dog', 'wolf'\. Rename"):
        images.aligned_to(["dog", "wolf"])
    assert images.subset([1, 2]).aligned_to(["dog"]).labels.tolist() == [0, 0]
    with pytest.raises(InputError, match=r"'c11' and 8 more"):
        images.aligned_to([f"c{i}" for i in range(20)])


def test_a_fingerprint_tells_names_labels_order_and_classes(make_folder):
    root = make_folder({"a": 2, "b": 2})
    images = open_images(root)
    same = open_images(root).fingerprint()
    assert images.fingerprint() == same == images.subset(range(4)).fingerprint()
    others = [images.subset([1, 0, 2, 3]), images.subset([0, 1, 2]), images.aligned_to(["b", "a"])]
    prints = {same, *(other.fingerprint() for other in others)}
    (root / "a" / "000.png").rename(root / "a" / "zzz.png")
    assert len(prints | {open_images(root).fingerprint()}) == 5


def test_a_fingerprint_of_an_archive_notices_another_size(make_tar):
    first = open_images(make_tar({"a/1.png": PNG})).fingerprint()
    assert open_images(make_tar({"a/1.png": PNG + b"x"})).fingerprint() != first


def test_a_subset_keeps_the_limit_and_the_order(make_folder):
    images = open_images(make_folder({"a": 3}), decode_limit_bytes=123456)
    part = images.subset(np.asarray([2, 0]))
    assert part.decode_limit_bytes == 123456
    assert names(part) == ["a/002.png", "a/000.png"]
    with pytest.raises(IndexError):
        images.subset([3])


def test_one_class_opens_but_is_not_enough_to_learn(make_folder):
    images = open_images(make_folder({"a": 3}))
    require_classes(images, at_least=1)
    with pytest.raises(InputError, match=r"The 3 pictures show 1 class \('a'\); learning needs at least 2"):
        require_classes(images)
    with pytest.raises(InputError, match=r"show 0 classes \(none\)"):
        require_classes(images.subset([]))


@pytest.mark.parametrize(
    ("counts", "split", "message"),
    [
        (
            {},
            None,
            r"holds no pictures that can be read \(JPEG, .*\)\. Put the pictures in one folder a class",
        ),
        ({".": 2}, None, r"are in no class folder, so nothing says what they show\. Put"),
        ({"train": 2, "test/a": 1}, None, r"\(train\) are in no class folder"),
        ({"train/a": 1, "extra/a": 1}, None, r"has train, and beside it pictures in 'extra', which is no split"),
        ({"train/a": 1, "val/a": 1, "x": 1}, None, r"train and val, and beside them pictures in 'x'"),
        ({"test/a": 1}, None, r"has no 'train' pictures: it has test\. Choose one of those, or add train/"),
        ({"train/a": 1, "test/a": 1}, "val", r"has no 'val' pictures: it has train, test"),
        ({"a": 1, "b": 1}, "val", r"has no 'val' pictures: it has no splits, its class folders lie at the top"),
    ],
)
def test_a_layout_that_cannot_be_used_says_why(make_folder, counts, split, message):
    with pytest.raises(InputError, match=message):
        open_images(make_folder(counts), split)


def test_a_class_that_only_val_or_test_shows(make_folder):
    with pytest.raises(InputError, match=r"test shows 'c', of which train has no picture, so it cannot be learned"):
        open_splits(make_folder({"train/a": 2, "train/b": 2, "test/c": 1}), seed=0)


def test_what_is_no_data_set_says_why(make_folder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist\. Give a folder, a \.tar .* or an \.npz"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"Unknown split 'vall'\. Did you mean 'val'\?"):
        open_images(make_folder({"a": 1}), "vall")
    with pytest.raises(InputError, match=r"is one picture; a data set is a folder"):
        open_images(make_folder({"a": 1}) / "a" / "000.png")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe is neither a file nor a folder"):
        open_images(tmp_path / "pipe")
    for content in (b"", b"plain text " * 100, bytes(range(256)) * 8):
        (tmp_path / "file.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"file\.tar is no archive that can be read, or is cut short"):
            open_images(tmp_path / "file.tar")


def test_a_folder_without_permission(make_folder):
    root = make_folder({"a": 1, "b": 1})
    (root / "b").chmod(0)
    try:
        if os.access(root / "b", os.R_OK):
            pytest.skip("running as root, to whom all folders are open")
        with pytest.raises(InputError, match=r"Cannot read the folder .*b: Permission denied\. Check"):
            open_images(root)
    finally:
        (root / "b").chmod(0o755)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_that_is_cut_short(make_tar, ending):
    noise = np.random.default_rng(0).bytes(3000)
    path = make_tar({f"a/{i}.png": PNG + noise for i in range(20)}, f"x.{ending}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut short"):
        open_images(path)


@pytest.mark.parametrize("ending", ["tar.gz", "tar.xz", "tar.bz2"])
def test_compressed_bytes_that_were_changed(make_tar, ending):
    path = make_tar({f"a/{i}.png": np.random.default_rng(i).bytes(3000) for i in range(20)}, f"x.{ending}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\x55" * 40
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is damaged or cut short \(.*\)\. Fetch or pack it again"):
        open_images(path)


def test_a_tar_header_that_was_overwritten(make_tar):
    path = make_tar({f"a/{i}.png": bytes(512) for i in range(4)})
    data = bytearray(path.read_bytes())
    data[1024:1536] = b"\x33" * 512
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged or cut short at byte 1024"):
        open_images(path)


def test_xz_that_wants_too_much_memory(make_tar, monkeypatch):
    monkeypatch.setattr(tars, "XZ_MEMORY_BYTES", 4 << 20)
    with pytest.raises(InputError, match=r"needs more than 4 MiB of memory to unpack .* pack it again with xz -6"):
        open_images(make_tar({"a/1.png": PNG}, "x.tar.xz"))


def test_a_full_disk_is_said_before_it_is_full(make_tar, monkeypatch):
    monkeypatch.setattr(storage, "_FREE_DISK_BYTES", 1 << 62)
    with pytest.raises(InputError, match=r"No room to unpack .*x\.tar\.gz: 0 B were written .* set TMPDIR"):
        open_images(make_tar({"a/1.png": PNG}, "x.tar.gz"))


def test_a_window_reads_only_its_part(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(100)))
    window = storage.SharedFile.at(tmp_path / "file").window(10, 20)
    assert window.read() == bytes(range(10, 30))
    assert window.seek(-5, io.SEEK_END) == 15 and window.tell() == 15
    assert window.read(100) == bytes(range(25, 30))
    with pytest.raises(InputError, match=r"Cannot read .*missing: No such file"):
        storage.SharedFile.at(tmp_path / "missing")


def test_shared_data_sets_open(shared_data):
    splits = open_splits(shared_data / "rsscn7_224_100pc.tar", seed=0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (413, 77, 210)
    assert len(splits.train.classes) == 7
    cells = open_images(shared_data / "bccd_cells_balanced.tar.xz")
    assert cells.classes == ("Platelets", "RBC", "WBC")
    assert cells.open(len(cells) - 1).mode == "RGB"
    xrays = open_splits(shared_data / "pneumoniamnist_imbalanced.npz", seed=0)
    assert (len(xrays.train), len(xrays.val), len(xrays.test)) == (3882, 524, 624)
    assert np.bincount(xrays.train.labels).tolist() == [388, 3494]
    assert xrays.train.open(0).size == (28, 28)
