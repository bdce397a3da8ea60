"""Pictures in several archives or in parquet files, and test sets that nobody labelled."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from small_models import CLASSES, blob, blob_folder

from edgeplast.errors import InputError, MissingExtraError
from edgeplast_devices.images import open_images, open_splits, open_splits_without_labels, open_unlabelled
from edgeplast_devices.images import shards as shards_room


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    blob(CLASSES[index % 3], index).save(file, "PNG")
    return file.getvalue()


def shard(path: Path, indices: range) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for place, index in enumerate(indices):  # keys begin anew in every shard
            for name, data in ((f"{place:04d}.png", encoded(index)), (f"{place:04d}.cls", str(index % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    "names", [("train-0000.tar", "train-0001.tar", "test-0000.tar"), ("train/0.tar", "train/1.tar", "test/0.tar")]
)
def test_shards_of_a_folder_are_one_data_set(names: tuple[str, ...], tmp_path: Path) -> None:
    for name, indices in zip(names, (range(12), range(12, 24), range(24, 30)), strict=True):
        shard(tmp_path / name, indices)
    train, test = open_images(tmp_path, "train"), open_images(tmp_path, "test")
    assert (len(train), len(test), train.classes) == (24, 6, ("0", "1", "2"))
    for index in range(24):
        inside = train.name(index)
        place = int(Path(inside).stem)
        number = place + 12 * (Path(inside).parent.name == Path(names[1]).name)
        assert train.labels[index] == number % 3
        assert train.open(index).tobytes() == blob(CLASSES[number % 3], number).convert("RGB").tobytes()


def test_without_labels_nothing_is_learned_from_a_shard_of_test_pictures(tmp_path: Path) -> None:
    for name, indices in (("train-0000.tar", range(24)), ("test-0000.tar", range(24, 30))):
        shard(tmp_path / name, indices)
    splits = open_splits_without_labels(tmp_path, seed=0)
    assert splits.val is not None and len(splits.train) + len(splits.val) == 24
    assert splits.test is not None and len(splits.test) == 6 and splits.test.classes == ("0", "1", "2")
    assert not splits.train.classes and all("train" in splits.train.name(i) for i in range(len(splits.train)))


def test_shards_without_labels_are_said_to_have_none(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("1.png")
        member.size = len(encoded(0))
        archive.addfile(member, io.BytesIO(encoded(0)))
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes())
    with pytest.raises(InputError, match=r"hold neither files \.cls nor class folders.*Put 0001\.cls beside 0001\.jpg"):
        open_splits(tmp_path, seed=0)
    assert len(open_unlabelled(tmp_path)) == 2


def with_folders(path: Path, indices: range, around: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index in indices:
            member = tarfile.TarInfo(f"{around}{CLASSES[index % 3]}/{index // 3 % 2}.png")  # names begin anew
            member.size = len(encoded(index))
            archive.addfile(member, io.BytesIO(encoded(index)))


@pytest.mark.parametrize("around", ["", "birds/", "birds/{}/", "{}/"])
@pytest.mark.parametrize(
    "names", [("train.tar", "val.tar"), ("train-0.tar", "dev-0.tar"), ("train/a.tar", "val/a.tar")]
)
def test_archives_of_splits_with_class_folders_mean_what_folders_would(
    names: tuple[str, str], around: str, tmp_path: Path
) -> None:
    for name, split, indices in zip(names, ("train", "val"), (range(6), range(6, 12)), strict=True):
        with_folders(tmp_path / name, indices, around.format(split))
    splits = open_splits(tmp_path, seed=0)
    assert splits.val is not None and splits.test is None
    for images, first in ((splits.train, 0), (splits.val, 6)):
        assert (images.classes, len(images)) == (CLASSES, 6)
        for index in range(6):
            of = first + CLASSES.index(CLASSES[images.labels[index]]) + 3 * int(Path(images.name(index)).stem)
            assert images.open(index).tobytes() == blob(CLASSES[of % 3], of).convert("RGB").tobytes()


def test_several_archives_of_one_split_keep_pictures_of_one_name_apart(tmp_path: Path) -> None:
    for number in range(3):
        with_folders(tmp_path / f"part-{number}.tar", range(6 * number, 6 * number + 6))
    images = open_images(tmp_path)
    assert (len(images), images.classes) == (18, CLASSES)
    kept = open_images(tmp_path, exclude=["part-1.tar"])
    assert len(kept) == 12 and kept.classes == CLASSES


def test_what_is_left_out_of_archives_is_told_by_its_class(tmp_path: Path) -> None:
    for name in ("train.tar", "val.tar"):
        with_folders(tmp_path / name, range(6))
        with tarfile.open(tmp_path / name, "a") as archive:
            archive.addfile(tarfile.TarInfo(f"{CLASSES[0]}/notes.txt"), io.BytesIO())
    notes = open_splits(tmp_path, seed=0).notes
    assert any(f"left out of {CLASSES[0]!r} (train): 1 file that is no picture" in note for note in notes), notes


def test_labels_that_lie_beside_no_picture_are_said_to_be_for_those_that_do(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            for inside, data in (("1.png", encoded(0)), ("2.cls", b"0")):
                member = tarfile.TarInfo(inside)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    for place in (tmp_path, tmp_path / "a.tar"):
        with pytest.raises(InputError, match=r"Not one file \.cls in .* lies beside a picture of its name") as error:
            open_splits(place, seed=0)
        assert "file_name" not in str(error.value)


def test_names_of_archives_are_no_classes_when_labels_cannot_be_used(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", range(6))
    shard(tmp_path / "extra-0.tar", range(6, 12))
    with pytest.raises(InputError, match="says of some pictures in which split they are, and of others not"):
        open_splits(tmp_path, seed=0)


def test_too_many_shards_are_refused_before_the_system_refuses_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_room, "MOST_SHARDS", 2)
    for number in range(3):
        shard(tmp_path / f"{number}.tar", range(3))
    with pytest.raises(InputError, match=r"holds 3 archives, and 2 at most are opened. Join some"):
        open_splits(tmp_path, seed=0)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for place in (tmp_path, tmp_path / "train.parquet"):
        with pytest.raises(MissingExtraError, match=r"pip install 'edgeplast\[parquet\]'"):
            open_splits(place, seed=0)


def test_archives_beside_parquet_files_are_not_guessed_about(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    shard(tmp_path / "a.tar", range(3))
    with pytest.raises(InputError, match=r"holds parquet files and archives \(train.parquet, a.tar\)"):
        open_splits(tmp_path, seed=0)


class TestParquet:
    """Skipped where pyarrow is not installed: it is an extra."""

    @pytest.fixture(autouse=True)
    def _pyarrow(self) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            pytest.skip("needs edgeplast[parquet]")

    def write(self, path: Path, indices: range, *, named: bool = True, notes: str = "", **more: object) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"image": {"bytes": encoded(i), "path": None}, "label": i % 3, **more} for i in indices]
        table = pa.Table.from_pylist(rows)
        if named:
            features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
            notes = notes or json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": notes})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)

    def test_files_as_hugging_face_stores_them(self, tmp_path: Path) -> None:
        self.write(tmp_path / "data" / "train-00000-of-00002.parquet", range(12))
        self.write(tmp_path / "data" / "train-00001-of-00002.parquet", range(12, 24))
        self.write(tmp_path / "data" / "test-00000-of-00001.parquet", range(24, 30))
        train = open_images(tmp_path, "train")
        assert (len(train), train.classes) == (24, CLASSES) and len(open_images(tmp_path, "test")) == 6
        for index in range(24):
            *_, file, key = train.name(index).split("/")
            number = int(key) + 12 * ("00001-of" in file)
            assert train.labels[index] == number % 3
            assert train.open(index).tobytes() == blob(CLASSES[number % 3], number).convert("RGB").tobytes()

    def test_one_file_and_numbers_for_classes(self, tmp_path: Path) -> None:
        self.write(tmp_path / "birds.parquet", range(12), named=False)
        splits = open_splits(tmp_path / "birds.parquet", seed=0)
        assert splits.train.classes == ("0", "1", "2") and splits.test is None

    def test_several_labels_are_refused_by_name(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.parquet", range(6), named=False, category=1)
        with pytest.raises(InputError, match=r"'label', 'category'. A model here learns one label a picture"):
            open_splits(tmp_path / "a.parquet", seed=0)

    @pytest.mark.parametrize(
        "notes",
        [
            "{",
            "[" * 100_000,
            "[]",
            "null",
            '{"info": null}',
            '{"info": {"features": []}}',
            '{"info": {"features": {"label": [{"names": ["a", "b", "c"]}]}}}',
            '{"info": {"features": {"label": {"names": {"0": "a"}}}}}',
            '{"info": {"features": {"label": {"names": [1, 2, 3]}}}}',
        ],
    )
    def test_notes_of_any_other_shape_leave_the_numbers(self, notes: str, tmp_path: Path) -> None:
        self.write(tmp_path / "a.parquet", range(12), notes=notes)
        assert open_images(tmp_path).classes == ("0", "1", "2")

    def test_a_label_of_several_values_is_refused(self, tmp_path: Path) -> None:
        notes = json.dumps({"info": {"features": {"label": [{"names": ["a", "b"], "_type": "ClassLabel"}]}}})
        self.write(tmp_path / "a.parquet", range(6), notes=notes, label=[0, 1])
        with pytest.raises(InputError, match=r"label holds several values\. A model here learns one label a picture"):
            open_images(tmp_path)

    def test_names_of_files_are_no_classes_when_labels_cannot_be_used(self, tmp_path: Path) -> None:
        self.write(tmp_path / "train.parquet", range(6))
        self.write(tmp_path / "extra.parquet", range(6, 12))
        with pytest.raises(InputError, match="says of some pictures in which split they are, and of others not"):
            open_splits(tmp_path, seed=0)

    def test_without_a_picture_it_says_so(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.parquet", range(6), image={"bytes": b"no picture", "path": None})
        with pytest.raises(InputError, match="holds no pictures that can be read"):
            open_splits(tmp_path, seed=0)

    def test_memory_does_not_grow_with_the_row_group(self, tmp_path: Path) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        noise = np.random.default_rng(0)
        rows = [{"image": {"bytes": encoded(0) + noise.bytes(60_000)}, "label": i % 3} for i in range(400)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=400, write_batch_size=16)
        code = (
            "import sys; from pathlib import Path; import pyarrow; from edgeplast_devices.images import open_images; "
            "print(len(open_images(Path(sys.argv[1]))), pyarrow.default_memory_pool().max_memory())"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "a.parquet")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
        )
        count, most = map(int, done.stdout.split())
        assert count == 400 and 1_000_000 < most < 8_000_000 < 400 * 60_000

    def test_memory_that_ran_out_is_no_fault_of_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def refused(*_: object, **__: object) -> None:
            raise pa.ArrowMemoryError("malloc of size 120000000 failed")

        self.write(tmp_path / "a.parquet", range(6))
        monkeypatch.setattr(pq.ParquetFile, "iter_batches", refused)
        with pytest.raises(MemoryError, match="malloc of size 120000000 failed"):
            open_splits(tmp_path, seed=0)

    def test_what_is_no_parquet_file_is_an_error_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing of the kind")
        with pytest.raises(InputError, match="is no parquet file that can be read"):
            open_splits(tmp_path, seed=0)


@pytest.mark.parametrize("inner", [".", "images", "unknown"])
def test_a_test_set_without_answers_does_not_stop_training(inner: str, tmp_path: Path) -> None:
    folder = blob_folder(tmp_path / "photos", train=6, test=2)
    shutil.rmtree(folder / "test")
    (folder / "test" / inner).mkdir(parents=True)
    for number in range(4):
        blob("red", number).save(folder / "test" / inner / f"{number}.png")
    splits = open_splits(folder, seed=0)
    assert splits.test is None and splits.train.classes == CLASSES
    assert any("4 pictures in no class folder (such as test/" in note for note in splits.notes)


def test_a_class_that_only_the_test_set_has_is_still_an_error(tmp_path: Path) -> None:
    folder = blob_folder(tmp_path / "photos", train=6, test=2)
    (folder / "test" / "red").rename(folder / "test" / "lynx")
    with pytest.raises(InputError, match="test shows 'lynx', of which train has no picture"):
        open_splits(folder, seed=0)
