"""``adapt --also``, ``--keep-within``, ``--new-classes`` as typed: what is printed of old knowledge and of new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_models import CLASSES, blob, blob_folder
from typed_commands import Typed, on_a_terminal

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast_devices.options import TrainingOptions

QUICK = ["--lr", "3e-3", "--threads", "1", "--augment", "none"]


@pytest.fixture(scope="module")
def learned(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("cli") / "learned"
    edgeplast.adapt(bundle, blobs, into=into, options=TrainingOptions(epochs=6, learning_rate=3e-3, threads=1))
    return into


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures under another's name."""
    root = tmp_path_factory.mktemp("shifted")
    for i in range(30):
        place = root / CLASSES[(i + 1) % 3] / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        blob(CLASSES[i % 3], i).save(place)
    return root


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return on_a_terminal(80, capsys, monkeypatch)


def test_what_was_lost_is_printed_and_handed_to_programs(
    typed, learned: Path, shifted: Path, blobs: Path, tmp_path: Path
) -> None:
    how = ["--data", shifted, "--also", blobs, "--epochs", "3", *QUICK]
    code, out, _ = typed("adapt", learned, *how, "-o", tmp_path / "a")
    said = " ".join(out.replace("│", " ").split())
    assert code == 0 and "lost" in said and "most of" in said
    code, out, _ = typed("adapt", learned, *how, "-o", tmp_path / "b", "--json")
    found = json.loads(out)["also"][str(blobs)]
    assert code == 0 and found["accuracy"]["before"] > found["accuracy"]["after"] and found["images"] == 36


def test_a_run_that_goes_back_says_why_and_what_to_do(
    typed, learned: Path, shifted: Path, blobs: Path, tmp_path: Path
) -> None:
    how = ["--data", shifted, "--also", blobs, "--epochs", "6", *QUICK]
    code, out, _ = typed("adapt", learned, *how, "--keep-within", "2", "-o", tmp_path / "a")
    said = " ".join(out.split())
    assert code == 0 and "more than the 2 of --keep-within" in said and "may keep more" in said and "(forgot)" in said
    code, _, err = typed("adapt", learned, "--data", shifted, "--keep-within", "2", "-o", tmp_path / "b")
    assert code == 2 and "--keep-within 2 needs pictures" in err
    code, out, _ = typed("report", tmp_path / "a", "-o", tmp_path / "page.html")
    assert code == 0 and "another set had lost more than 2 points" in (tmp_path / "page.html").read_text()


def test_a_new_class_is_added_as_the_error_says(typed, learned: Path, tmp_path: Path) -> None:
    for i in range(3):
        for place, label in (("lynx", "red"), ("blue", "blue")):
            path = tmp_path / "data" / place / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            blob(label, i).save(path)
    how = ["--data", tmp_path / "data", "--epochs", "1", *QUICK, "-o", tmp_path / "a"]
    code, _, err = typed("adapt", learned, *how)
    assert code == 3 and "To learn it as new: --new-classes add, or --add-class lynx." in " ".join(err.split())
    code, out, err = typed("adapt", learned, *how, "--new-classes", "add")
    assert code == 0 and "lynx by 3 pictures" in out and "new classes placed: " in " ".join(err.split())
    code, out, _ = typed("inspect", tmp_path / "a")
    assert code == 0 and "lynx" in out
    shutil.rmtree(tmp_path / "data" / "blue")
    how[-1] = tmp_path / "b"
    code, out, _ = typed("adapt", learned, *how, "--add-class", "lynx", "--add-class", "fox")
    assert code == 0 and "Nothing was trained: all pictures show lynx" in " ".join(out.split())
    code, _, err = typed("adapt", learned, *how[:-1], tmp_path / "c", "--add-class", "red")
    assert code == 2 and "The class 'red' is known already" in err


def test_versions_are_listed_and_put_back(typed, bundle: Bundle, learned: Path, blobs: Path, tmp_path: Path) -> None:
    made = tmp_path / "a"
    code, _, _ = typed("adapt", learned, "--data", blobs, "--epochs", "1", *QUICK, "-o", made)
    assert code == 0
    code, out, _ = typed("history", made)
    assert code == 0 and "v2 ←" in out and "v0" in out and "adapt" in out and f"roll-back {made} v0" in out
    code, out, _ = typed("roll-back", made, "v1")
    assert code == 0 and "is v1 again (3 classes)" in out
    code, out, _ = typed("history", made, "--json")
    found = json.loads(out)["versions"]
    assert [v["name"] for v in found] == ["v0", "v1", "v2"] and [v["current"] for v in found] == [False, True, False]
    assert found[2]["parent"] == found[1]["digest"]
    code, _, err = typed("roll-back", made, "v9")
    assert code == 3 and "There is no version 'v9'. Kept are v0, v1, v2." in err
    code, out, _ = typed("history", bundle.path)
    assert code == 0 and "keeps no versions" in " ".join(out.split())


def test_a_picture_of_nothing_known_is_called_unknown(typed, bundle: Bundle, learned: Path, tmp_path: Path) -> None:
    data = blob_folder(tmp_path / "data", train=40, test=4)
    code, out, _ = typed("adapt", learned, "--data", data, "--epochs", "2", *QUICK, "--false-alarms", "0.2", "-o", tmp_path / "a")  # fmt: skip  # noqa: E501
    said = " ".join(out.replace("│", " ").split())
    assert code == 0 and "of 18 known pictures (false alarms; of others 39.2% at most)" in said
    pictures = sorted((data / "train").glob("*/*.png"))
    code, out, _ = typed("predict", tmp_path / "a", *pictures, "--unknown")
    assert code == 0 and 1 <= out.count("  unknown  ") <= 60
    code, out, _ = typed("predict", tmp_path / "a", *pictures, "--json")
    found = json.loads(out)["predictions"]
    assert {each["known"] for each in found} == {True, False}
    code, _, err = typed("predict", bundle.path, pictures[0], "--unknown")
    assert code == 2 and "cannot say what it does not know" in err


def test_kept_pictures_are_told_of_and_deleted(typed, learned: Path, blobs: Path, tmp_path: Path) -> None:
    how = ["--data", blobs, "--epochs", "1", *QUICK, "--replay", "2/class", "-o", tmp_path / "a"]
    code, out, _ = typed("adapt", learned, *how)
    said = " ".join(out.replace("│", " ").split())
    assert code == 0 and "6 pictures are kept in" in said and "--replay deletes them" in said
    code, _, err = typed("forget", tmp_path / "a")
    assert code == 2 and "--replay, the pictures that it keeps" in err
    code, out, _ = typed("forget", tmp_path / "a", "--replay")
    assert code == 0 and "6 pictures of" in out and not (tmp_path / "a" / "replay").exists()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.5, 0.4, "50.0% → 40.0% (lost 10.0, most of a: 20.0)"),
        (0.4, 0.5, "40.0% → 50.0% (gained 10.0; a lost 20.0)"),
        (0.5, 0.5, "50.0% → 50.0% (nothing lost; a lost 20.0)"),
    ],
)
def test_what_was_gained_is_not_called_lost(before: float, after: float, said: str) -> None:
    from edgeplast.adaptation import BeforeAfter, OtherSet
    from edgeplast.cli.kept import _kept

    classes = {"a": BeforeAfter(before=0.9, after=0.7), "b": BeforeAfter(before=0.1, after=0.5)}
    assert _kept(OtherSet(accuracy=BeforeAfter(before=before, after=after), per_class=classes, images=9)) == said
