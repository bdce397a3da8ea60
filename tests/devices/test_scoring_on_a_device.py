"""``score`` of a bundle as a device runs it: no torch, inside its budget, on pictures as people have them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import blob_folder
from typed_commands import Typed, on_a_terminal

import edgeplast
from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, Bundle, Manifest
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.score_taps import ScoreTaps
from edgeplast.scores import ScoreTable
from edgeplast_devices import scoring
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import open_images
from edgeplast_devices.memory import Reading
from edgeplast_devices.runtime import OutOfMemoryError


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return on_a_terminal(80, capsys, monkeypatch)


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOADED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=120)
    assert done.returncode == code, done.stderr
    return done


LOADED = """
import sys
from edgeplast.cli.app import run
code = run(sys.argv[1:])
print("loaded:", *({"torch", "timm", "onnx", "matplotlib"} & {*sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def test_a_process_of_its_own_keeps_to_its_budget_and_loads_no_torch(int8_bundle: Bundle, blobs: Path) -> None:
    words = ("score", int8_bundle.path, "--data", blobs, "--threads", 1, "--pairs", 8, "--json", "--memory")
    done = run(*words, "none")
    assert done.stderr.splitlines()[-1].split() == ["loaded:"]
    needed = json.loads(done.stdout)["memory"]["predicted_peak_bytes"] + (8 << 20)
    done = run(*words, f"{needed >> 20}MiB")
    table = json.loads(done.stdout)
    memory = table["memory"]
    assert (
        memory["measured_peak_bytes"] <= memory["predicted_peak_bytes"] <= memory["budget_bytes"] == needed >> 20 << 20
    )
    assert table["method"] == "plasticity-branch" and len(table["components"]) == 9
    assert all(entry["samples"] == 8 and entry["score"] > 0 for entry in table["components"].values())


def test_a_budget_that_is_too_small_is_refused_with_one_that_does(int8_bundle: Bundle, blobs: Path) -> None:
    with pytest.raises(
        BudgetError, match=r"not enough to score small_vit: one pair of pictures needs about .* Allow"
    ) as e:
        edgeplast.score_bundle(int8_bundle, blobs, budget=Budget(memory_bytes=8 << 20))
    assert "--memory" in str(e.value)


def test_the_same_pictures_give_the_same_scores_however_many_pass_at_once(
    int8_bundle: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that find no room together go one by one."""
    whole = edgeplast.score_bundle(int8_bundle, blobs, pairs=8, threads=1)
    measured, largest = scoring.ScoringSession.distances, []

    def short(self: scoring.ScoringSession, pictures: object) -> object:
        if len(pictures) > 2:  # type: ignore[arg-type]
            raise OutOfMemoryError("so it was told")
        largest.append(len(pictures))  # type: ignore[arg-type]
        return measured(self, pictures)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring.ScoringSession, "distances", short)
    one_by_one = edgeplast.score_bundle(int8_bundle, blobs, pairs=8, threads=1)
    assert largest == [2] * 8
    for name, entry in whole.components.items():
        assert one_by_one.components[name].score == pytest.approx(entry.score, rel=1e-5)


def guarded(bundle: Bundle, data: Path, guard: Guard, **how: Any) -> ScoreTable:
    images = open_images(data)
    return scoring.score(bundle, images, threads=1, guard=guard, **{"pairs": 8, **how})


def test_where_the_kernel_has_no_wall_the_watcher_ends_what_goes_over(int8_bundle: Bundle, blobs: Path) -> None:
    looks: list[int] = []

    def resident() -> int:
        looks.append(1)
        return 5 << 30

    def progress(*_: object) -> None:
        seen = len(looks)
        while len(looks) < seen + 2:
            time.sleep(0.01)

    with pytest.raises(BudgetError, match="this process holds 5 GiB of 4 GiB allowed"):
        guarded(int8_bundle, blobs, Guard(4 << 30, 8 << 30, read_resident=resident), progress=progress, pairs=32)


def test_where_others_leave_no_memory_pairs_go_one_by_one(
    int8_bundle: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, sizes = scoring.ScoringSession.distances, list[int]()

    def noted(self: scoring.ScoringSession, pictures: np.ndarray) -> np.ndarray:
        sizes.append(len(pictures))
        return measured(self, pictures)

    monkeypatch.setattr(scoring.ScoringSession, "distances", noted)
    whole = guarded(int8_bundle, blobs, Guard(None, 8 << 30, lambda: Reading(100 << 20, 8 << 30)))
    assert sizes == [8, 8]
    sizes.clear()
    found = guarded(int8_bundle, blobs, Guard(None, 8 << 30, lambda: Reading(100 << 20, 1 << 20)))
    assert sizes == [2] * 8
    for name, entry in whole.components.items():
        assert found.components[name].score == pytest.approx(entry.score, rel=1e-5)


def test_pictures_need_no_labels(int8_bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    for number, picture in enumerate(sorted(blobs.rglob("train/*/*.png"))[:10]):
        shutil.copy(picture, tmp_path / f"{number}.png")
    table = edgeplast.score_bundle(int8_bundle, tmp_path, pairs=4)
    assert table.classes == () and all(entry.samples == 4 for entry in table.components.values())


def test_a_class_that_was_added_is_in_the_table(int8_bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """What is planned by it is planned for the head that there is now."""
    how = edgeplast.TrainingOptions(epochs=1, add_classes=("lynx",), threads=1)
    edgeplast.adapt(int8_bundle, blobs, into=tmp_path / "a", options=how)
    unlabelled = edgeplast.ImageSet.of([*blobs.glob("train/*/*")])
    before, now = (edgeplast.score_bundle(b, unlabelled, pairs=4) for b in (int8_bundle, tmp_path / "a"))
    assert (before.outline.classes, now.outline.classes) == (3, 4)
    size = before.outline.component("head").size
    assert now.outline.component("head").size == size * 4 // 3
    assert [c.name for c in now.outline.components] == [c.name for c in before.outline.components]
    three, four = (edgeplast.plan(table, train="head") for table in (before, now))
    assert (three.outline.classes, four.outline.classes) == (3, 4)
    assert four.components["head"].parameters == now.outline.component("head").size
    asked = edgeplast.plan(before, train="head", classes=4)
    assert asked.predicted_peak_bytes == four.predicted_peak_bytes > three.predicted_peak_bytes  # the graph follows


def test_too_few_pictures_and_none_are_told_apart(int8_bundle: Bundle, tmp_path: Path) -> None:
    few = blob_folder(tmp_path / "few", train=1, test=0)
    with pytest.raises(InputError, match="has 3 pictures; scoring pairs of pictures needs at least 4"):
        edgeplast.score_bundle(int8_bundle, few)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        edgeplast.score_bundle(int8_bundle, tmp_path / "none")


def test_a_bundle_of_before_says_so(int8_bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    shutil.copytree(int8_bundle.path, tmp_path / "old")
    old = msgspec.structs.replace(Manifest.read(tmp_path / "old" / MANIFEST), scoring=None)
    old.write(tmp_path / "old" / MANIFEST)
    with pytest.raises(UsageError, match=r"has no score.onnx: it was exported before .* Export it again"):
        edgeplast.score_bundle(tmp_path / "old", blobs)


class TestTyped:
    def test_the_table_fits_and_is_written_where_asked(
        self, typed: Typed, int8_bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        code, out, err = typed("score", int8_bundle.path, "--data", blobs, "--pairs", 8, "--method", "plasticity")
        assert code == 0 and "small_vit by plasticity" in out and "Peak memory" in out and "Written" not in out
        assert all(len(line) <= 80 for line in out.splitlines() if "█" in line) and "3 classes" in err
        to = tmp_path / "s.json"
        code, out, _ = typed("score", int8_bundle.path, "--data", blobs, "--pairs", 8, "-o", to)
        assert code == 0 and f"Written: {to}" in out and len(ScoreTable.read(to).components) == 9

    def test_options_of_models_and_of_bundles_do_not_mix(self, typed: Typed, int8_bundle: Bundle, blobs: Path) -> None:
        code, _, err = typed("score", int8_bundle.path, "--data", blobs, "--checkpoint", "w", "--torch-device", "cpu")
        assert code == 2 and "is a bundle" in err and "Leave out --checkpoint, --torch-device" in err
        code, _, err = typed("score", "vit_tiny_patch16_224", "--data", blobs, "-o", "s.json", "--memory", "1GiB")
        assert code == 2 and "is no bundle but a model" in err and "Leave out --memory" in err

    def test_a_method_without_a_graph_is_refused(self, typed: Typed, int8_bundle: Bundle, blobs: Path) -> None:
        code, _, err = typed("score", int8_bundle.path, "--data", blobs, "--method", "fisher")
        assert code == 2 and "'fisher'" in err and "plasticity-branch" in err


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda data: data.hex()), st.just("eNoDAAAAAAE=")))
def test_a_damaged_record_is_an_error_with_a_name(text: str) -> None:
    with pytest.raises(InputError, match=r"score\.onnx"):
        ScoreTaps.unpacked(text, where="score.onnx")
