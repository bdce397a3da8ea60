"""Labels in a table (Hugging Face's imagefolder), in WebDataset shards, and pictures in zip archives."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import CLASSES, blob, blob_folder, blob_npz

from edgeplast.errors import InputError
from edgeplast_devices.images import open_images, open_splits, open_unlabelled, understood

WHAT = ("blue", "green", "red", "blue", "green", "red")


def flat(folder: Path, split: str = "", count: int = 6) -> list[str]:
    """Pictures without class folders; their names."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    names = [f"{i:04d}.png" for i in range(count)]
    for i, name in enumerate(names):
        blob(WHAT[i % len(WHAT)], i).save(folder / split / name)
    return names


def table(path: Path, rows: Iterable[dict]) -> None:
    rows = list(rows)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n")  # as a spreadsheet writes it


def shown(images) -> list[tuple[str, str]]:
    return sorted((images.name(i), images.classes[images.labels[i]]) for i in range(len(images)))


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl", "labels.csv"])
class TestTables:
    def test_at_the_top(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        table(tmp_path / kind, [{"file_name": n, "label": w} for n, w in zip(names, WHAT, strict=True)])
        images = open_images(tmp_path)
        assert shown(images) == sorted(zip(names, WHAT, strict=True)) and images.classes == CLASSES
        picture = np.asarray(images.open(0))
        expected = np.asarray(blob(WHAT[0], 0))
        np.testing.assert_array_equal(picture, expected)

    def test_in_each_split(self, tmp_path: Path, kind: str) -> None:
        for split in ("train", "test"):
            names = flat(tmp_path, split)
            table(tmp_path / split / kind, [{"file_name": n, "label": w} for n, w in zip(names, WHAT, strict=True)])
        splits = open_splits(tmp_path, seed=0, val_fraction=0)
        assert splits.test is not None and len(splits.train) == len(splits.test) == 6
        assert shown(splits.test)[0] == ("test/0000.png", "blue")

    def test_with_a_column_of_splits(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path / "images", count=12)
        rows = [
            {"image": f"images/{n}", "split": "Train" if i < 6 else "valid", "species": WHAT[i % 6]}
            for i, n in enumerate(names)
        ]
        table(tmp_path / kind, rows)
        splits = open_splits(tmp_path, seed=0)
        assert splits.val is not None and (len(splits.train), len(splits.val), splits.test) == (6, 6, None)

    def test_numbers_are_sorted_as_numbers(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        table(tmp_path / kind, [{"file_name": n, "label": (10, 9, 2, 10, 9, 2)[i]} for i, n in enumerate(names)])
        assert open_images(tmp_path).classes == ("2", "9", "10")

    def test_what_has_no_row_or_no_picture_is_told(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        rows = [{"file_name": n, "label": w} for n, w in zip(names[:4], WHAT, strict=False)]
        table(tmp_path / kind, [*rows, {"file_name": "gone.png", "label": "red"}])
        images = open_images(tmp_path)
        assert len(images) == 4
        told = " ".join(understood(images))
        assert "left out: 2 pictures without a label (such as 000" in told
        assert "1 label of pictures that are not there" in told

    def test_several_columns_that_may_be_the_label_are_refused_by_name(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        for columns in ({"label": "a", "category": "b"}, {"colour": "a", "shape": "b"}):
            table(tmp_path / kind, [{"file_name": n, **columns} for n in names])
            named = ", ".join(map(repr, columns))
            with pytest.raises(InputError, match=rf"{kind} has several columns.* {named}\."):
                open_images(tmp_path)

    def test_a_label_column_goes_before_captions(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        table(
            tmp_path / kind, [{"file_name": n, "text": "a blob", "label": w} for n, w in zip(names, WHAT, strict=True)]
        )
        assert open_images(tmp_path).classes == CLASSES

    def test_two_labels_for_one_picture_are_refused(self, tmp_path: Path, kind: str) -> None:
        names = flat(tmp_path)
        table(
            tmp_path / kind,
            [{"file_name": n, "label": w} for n, w in [*zip(names, WHAT, strict=True), (names[0], "red")]],
        )
        with pytest.raises(InputError, match=r"says of 0000\.png that it is 'blue' and 'red'"):
            open_images(tmp_path)

    def test_a_table_of_something_else_beside_class_folders(self, tmp_path: Path, kind: str) -> None:
        blob_folder(tmp_path, 2, 0)
        table(tmp_path / kind, [{"taken": "may", "by": "me"}])
        assert open_images(tmp_path).classes == CLASSES

    def test_no_column_of_files(self, tmp_path: Path, kind: str) -> None:
        flat(tmp_path)
        table(tmp_path / kind, [{"id": 1, "label": "a"}])
        with pytest.raises(InputError, match=rf"{kind} has the columns 'id', 'label'.* Call that one file_name"):
            open_images(tmp_path)

    def test_names_that_are_not_there(self, tmp_path: Path, kind: str) -> None:
        flat(tmp_path)
        table(tmp_path / kind, [{"file_name": f"../{i}.png", "label": "a"} for i in range(3)])
        with pytest.raises(InputError, match=r"Not one row of its table .* names a picture that is there"):
            open_images(tmp_path)

    @pytest.mark.parametrize("pack", ["tar", "zip"])
    def test_in_an_archive(self, tmp_path: Path, kind: str, pack: str) -> None:
        names = flat(tmp_path / "set")
        table(tmp_path / "set" / kind, [{"file_name": n, "label": w} for n, w in zip(names, WHAT, strict=True)])
        archive = Path(shutil.make_archive(str(tmp_path / "set"), pack, tmp_path / "set"))
        assert shown(open_images(archive)) == sorted(zip(names, WHAT, strict=True))


def test_a_list_of_labels_is_refused(tmp_path: Path) -> None:
    names = flat(tmp_path)
    table(tmp_path / "metadata.jsonl", [{"file_name": n, "label": ["a", "b"]} for n in names])
    with pytest.raises(InputError, match=r"Line 1 of .*metadata\.jsonl: label holds several values"):
        open_images(tmp_path)


def test_some_in_a_split_and_some_in_none(tmp_path: Path) -> None:
    names = flat(tmp_path)
    rows = [{"file_name": n, "label": w, "split": s} for n, w, s in zip(names, WHAT, ["train", ""] * 3, strict=True)]
    table(tmp_path / "metadata.csv", rows)
    with pytest.raises(InputError, match="says of some pictures in which split they are, and of others not"):
        open_images(tmp_path)


@given(st.binary(max_size=300), st.sampled_from(["metadata.csv", "metadata.jsonl"]))
@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
def test_anything_in_a_table_is_an_error_of_ours(tmp_path: Path, data: bytes, kind: str) -> None:
    if not (tmp_path / "0000.png").exists():
        flat(tmp_path)
    (tmp_path / kind).write_bytes(b"file_name,label\n" + data)
    try:
        open_images(tmp_path)
    except InputError:
        pass
    finally:
        (tmp_path / kind).unlink()


def test_a_line_without_end_is_refused_unread(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "x" * (1 << 20))
    with pytest.raises(InputError, match="a line of more than 64 KiB"):
        open_images(tmp_path)


def shard(path: Path, samples: Iterable[tuple[str, str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for key, label, picture in samples:
            for name, data in ((f"{key}.jpg", picture), (f"{key}.cls", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def encoded(label: str, seed: int) -> bytes:
    file = io.BytesIO()
    blob(label, seed).save(file, "PNG")
    return file.getvalue()


class TestWebDataset:
    def test_a_shard(self, tmp_path: Path) -> None:
        samples = [(f"{i:06d}", str(CLASSES.index(w)), encoded(w, i)) for i, w in enumerate(WHAT)]
        images = open_images(shard(tmp_path / "train-0000.tar", samples))
        assert images.classes == ("0", "1", "2")
        assert shown(images) == sorted((f"{key}.jpg", label) for key, label, _ in samples)
        np.testing.assert_array_equal(np.asarray(images.open(0)), np.asarray(blob("blue", 0)))

    def test_a_label_that_is_none(self, tmp_path: Path) -> None:
        for text in ("", "a\nb", "x" * 2000):
            with pytest.raises(InputError, match=r"k\.cls in .*s\.tar holds no label"):
                open_images(shard(tmp_path / "s.tar", [("k", text, encoded("red", 0))]))


class TestZips:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_hold_what_the_folder_holds(self, tmp_path: Path, compression: int) -> None:
        root = blob_folder(tmp_path / "data", 8, 2)
        with zipfile.ZipFile(tmp_path / "data.zip", "w", compression) as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, f"wrapped/{file.relative_to(root)}")
            archive.writestr("__MACOSX/._x.png", b"junk")
        folder, packed = open_splits(root, seed=0), open_splits(tmp_path / "data.zip", seed=0)
        for name in ("train", "val", "test"):
            ours, theirs = getattr(packed, name), getattr(folder, name)
            assert [ours.name(i) for i in range(len(ours))] == [f"wrapped/{theirs.name(i)}" for i in range(len(theirs))]
            for i in range(len(ours)):
                np.testing.assert_array_equal(np.asarray(ours.open(i)), np.asarray(theirs.open(i)))

    def test_can_be_predicted(self, tmp_path: Path) -> None:
        flat(tmp_path / "set")
        assert len(open_unlabelled(Path(shutil.make_archive(str(tmp_path / "p"), "zip", tmp_path / "set")))) == 6

    @pytest.mark.parametrize(
        "spoil", [lambda data: data[:-40], lambda data: data[: len(data) // 2], lambda data: b"PK\3\4" + data[4:300]]
    )
    def test_that_are_cut_off(self, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
        root = blob_folder(tmp_path / "data", 3, 2)
        archive = Path(shutil.make_archive(str(tmp_path / "data"), "zip", root))
        archive.write_bytes(spoil(archive.read_bytes()))
        with pytest.raises(InputError, match=r"no zip that can be read, or is cut short|damaged or cut short"):
            open_images(archive)

    @given(st.integers(0, 10**6), st.integers(1, 255))
    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    def test_of_which_a_byte_is_another(self, tmp_path: Path, place: int, change: int) -> None:
        from edgeplast_devices.images import UnreadableImageError

        if not (tmp_path / "whole.zip").exists():
            shutil.make_archive(str(tmp_path / "whole"), "zip", blob_folder(tmp_path / "data", 1, 0))
        data = bytearray((tmp_path / "whole.zip").read_bytes())
        data[place % len(data)] ^= change
        (tmp_path / "other.zip").write_bytes(data)
        try:
            images = open_images(tmp_path / "other.zip")
            for i in range(len(images)):
                images.open(i)
        except (InputError, UnreadableImageError):
            pass

    def test_names_that_lead_out_are_left_out(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            for i, label in enumerate(("blue", "red")):
                archive.writestr(f"{label}/{i}.png", encoded(label, i))
                archive.writestr(f"{label}/../../{i}.png", encoded(label, i))
        assert len(open_images(tmp_path / "z.zip")) == 2

    def test_that_are_encrypted(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            archive.writestr("blue/0.png", encoded("blue", 0))
        data = (tmp_path / "z.zip").read_bytes()
        at = data.index(b"PK\1\2") + 8
        (tmp_path / "z.zip").write_bytes(data[:at] + b"\1" + data[at + 1 :])
        with pytest.raises(InputError, match=r"is encrypted \(blue/0\.png\)"):
            open_images(tmp_path / "z.zip")


class TestExcluded:
    def test_a_class_a_name_and_a_path(self, tmp_path: Path) -> None:
        root = blob_folder(tmp_path / "data", 4, 2)
        images = open_images(root, exclude=("red", "*1.png", "train/blue/002*"))
        assert images.classes == ("blue", "green")
        names = {images.name(i) for i in range(len(images))}
        assert names == {"train/blue/000.png", "train/blue/003.png"} | {f"train/green/00{i}.png" for i in (0, 2, 3)}
        assert understood(images)[1].startswith("excluded: ")

    def test_a_folder_that_is_in_the_way(self, tmp_path: Path) -> None:
        root = blob_folder(tmp_path / "data", 4, 2)
        (root / "elsewhere").mkdir()
        blob("red", 0).save(root / "elsewhere" / "x.png")
        with pytest.raises(InputError, match="which is no split"):
            open_splits(root, seed=0)
        assert len(open_splits(root, seed=0, val_fraction=0, exclude=("elsewhere/",)).train) == 12

    @pytest.mark.parametrize("pack", ["tar", "zip"])
    def test_in_an_archive(self, tmp_path: Path, pack: str) -> None:
        root = blob_folder(tmp_path / "data", 3, 0)
        archive = Path(shutil.make_archive(str(tmp_path / "data"), pack, root))
        images, folder = open_images(archive, exclude=("green",)), open_images(root, exclude=("green",))
        assert shown(images) == shown(folder) and len(images) == 6
        for i in range(6):
            np.testing.assert_array_equal(np.asarray(images.open(i)), np.asarray(folder.open(i)))

    def test_a_pattern_that_is_like_nothing_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"Nothing is like 'rde', which was to be excluded"):
            open_images(blob_folder(tmp_path / "data", 2, 0), exclude=("red", "rde"))

    def test_everything(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no pictures"):
            open_images(blob_folder(tmp_path / "data", 2, 0), exclude=("*",))

    def test_arrays_have_no_names(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no names to exclude them by"):
            open_images(blob_npz(tmp_path / "x.npz"), exclude=("a",))


def test_a_folder_with_train_alone(tmp_path: Path) -> None:
    root = blob_folder(tmp_path / "data", 8, 2)
    shutil.rmtree(root / "test")
    splits = open_splits(root, seed=0)
    assert splits.test is None and splits.val is not None and len(splits.train) + len(splits.val) == 24
