"""What is verified is what is read; nothing leads out of the folders that a verb was given."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgeplast
from edgeplast.bundle import DEPLOYMENT_GRAPH, EVALUATION_GRAPH, FROZEN, MANIFEST, TRAINABLE, Bundle, describe_file
from edgeplast.errors import DamagedError, InputError, InterruptedRunError, UsageError
from edgeplast_devices import running
from edgeplast_devices.checkpoints import read_best_into, write_hashed
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.predicting import Classifier
from edgeplast_devices.runtime import EvaluationSession, TrainingSession
from edgeplast_devices.tensors import read_arrays

QUICK = TrainingOptions(epochs=1, learning_rate=3e-3, threads=1, seed=3)
links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


@pytest.fixture
def mixed(int8_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle of its own whose frozen weights are in int8."""
    return Bundle.open(shutil.copytree(int8_bundle.path, tmp_path / "bundle"))


def exchange(file: Path, content: bytes | None = None) -> None:
    """Put another file in the place of one: of the same size, other bytes."""
    other = file.with_name("other")
    other.write_bytes(file.read_bytes()[::-1] if content is None else content)
    other.replace(file)


EXCHANGED = [FROZEN, TRAINABLE, EVALUATION_GRAPH, "train-full.onnx", "train-head.onnx", DEPLOYMENT_GRAPH]


class TestExchangedFiles:
    @pytest.mark.parametrize("name", EXCHANGED)
    def test_before_they_are_copied(self, mixed: Bundle, blobs: Path, tmp_path: Path, name: str) -> None:
        exchange(mixed.path / name)
        with pytest.raises(DamagedError, match=rf"{name} was changed"):
            edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=QUICK)
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()

    @pytest.mark.parametrize("way", ["exchanged", "written to", "gone"])
    def test_after_they_were_copied_change_nothing(
        self, mixed: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        """Of the bundle: the run reads its copies alone."""
        expected = edgeplast.adapt(mixed, blobs, into=tmp_path / "undisturbed", options=QUICK)
        real = running.Run.open

        def open_late(run: Any) -> None:
            for name in EXCHANGED:
                if way == "exchanged":
                    exchange(mixed.path / name)
                elif way == "written to":
                    (mixed.path / name).write_bytes(b"nonsense")
            if way == "gone":
                shutil.rmtree(mixed.path)
            real(run)

        monkeypatch.setattr(running.Run, "open", open_late)
        report = edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=QUICK)
        assert report.losses == expected.losses and report.accuracy == expected.accuracy
        made = Bundle.open(tmp_path / "out").manifest
        assert made == Bundle.open(tmp_path / "undisturbed").manifest

    @pytest.mark.parametrize("name", [FROZEN, TRAINABLE, EVALUATION_GRAPH, "train-full.onnx"])
    def test_copies_that_change_are_no_result(
        self, mixed: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        real = running.Run.open

        def open_late(run: Any) -> None:
            exchange(tmp_path / "out.partial" / name)
            real(run)

        monkeypatch.setattr(running.Run, "open", open_late)
        with pytest.raises(DamagedError, match=rf"changed while it was used: {name} was changed"):
            edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=QUICK)
        assert not (tmp_path / "out").exists()

    def test_a_copy_of_frozen_weights_that_changes_in_the_end_is_no_result(
        self, mixed: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = running.Run.train

        def train(run: Any, folder: Path, telemetry: Any) -> None:
            real(run, folder, telemetry)
            exchange(folder / FROZEN)

        monkeypatch.setattr(running.Run, "train", train)
        with pytest.raises(DamagedError, match=f"changed while it was used: {FROZEN} was changed"):
            edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=QUICK)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", [FROZEN, TRAINABLE, EVALUATION_GRAPH])
    def test_are_not_evaluated(self, mixed: Bundle, blobs: Path, name: str) -> None:
        exchange(mixed.path / name)
        with pytest.raises(
            DamagedError, match=rf"changed while it was used: .*{name} was changed|{name} cannot be read"
        ):
            edgeplast.evaluate(mixed, blobs)

    @pytest.mark.parametrize("name", [FROZEN, EVALUATION_GRAPH])
    def test_are_not_evaluated_if_changed_while_they_are_opened(
        self, mixed: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Changed for the runtime's eyes alone, and back before anybody looks again."""
        content, real = (mixed.path / name).read_bytes(), EvaluationSession.__init__

        def opening(session: Any, *arguments: Any, **more: Any) -> None:
            exchange(mixed.path / name, content)
            real(session, *arguments, **more)

        monkeypatch.setattr(EvaluationSession, "__init__", opening)
        with pytest.raises(DamagedError, match=rf"changed while it was used: {name} was changed"):
            edgeplast.evaluate(mixed, blobs)

    @pytest.mark.parametrize("name", [FROZEN, TRAINABLE, DEPLOYMENT_GRAPH])
    def test_are_not_deployed(self, mixed: Bundle, tmp_path: Path, name: str) -> None:
        exchange(mixed.path / name)
        with pytest.raises(DamagedError, match=rf"{name}.* (was changed|cannot be read)"):
            edgeplast.deploy(mixed, tmp_path / "m.onnx")
        assert not (tmp_path / "m.onnx").exists()

    def test_are_not_resumed_from(
        self, mixed: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint that was whole when it was looked for and is another now."""
        options = msgspec.structs.replace(QUICK, checkpoint_every="1steps")

        def interrupt(run: Any, *_: Any) -> None:
            if run.state.steps >= 3:
                raise InterruptedRunError("Stopped.")

        with monkeypatch.context() as patch:
            patch.setattr(running.Run, "between", interrupt)
            with pytest.raises(InterruptedRunError):
                edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=options)
        real = running.Run.open

        def open_late(run: Any) -> None:
            for file in (tmp_path / "out.partial").glob("checkpoint-*"):
                exchange(file)
            real(run)

        monkeypatch.setattr(running.Run, "open", open_late)
        with pytest.raises(DamagedError, match="its content does not match its checksum"):
            edgeplast.adapt(mixed, blobs, into=tmp_path / "out", options=options, resume=True)
        assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").exists()

    def test_nor_are_the_weights_of_the_best_epoch_taken(self, tmp_path: Path) -> None:
        best = write_hashed(tmp_path, "best", 7, {"a": np.ones(8, np.float32)})
        for named in (best.name, f"../{tmp_path.name}/{best.name}"):
            standing = {"a": np.zeros(8, np.float32)}
            read_best_into(tmp_path, named, standing)
            np.testing.assert_array_equal(standing["a"], np.ones(8))
        exchange(best)
        with pytest.raises(DamagedError, match="its content does not match its checksum"):
            read_best_into(tmp_path, best.name, {"a": np.zeros(8, np.float32)})

    def test_nor_is_a_model_predicted_with(
        self, mixed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = edgeplast.deploy(mixed, tmp_path / "m.onnx")
        real = EvaluationSession.__init__

        def opening(session: Any, *arguments: Any, **more: Any) -> None:
            exchange(file, file.read_bytes())
            real(session, *arguments, **more)

        monkeypatch.setattr(EvaluationSession, "__init__", opening)
        with pytest.raises(InputError, match=r"m\.onnx changed while it was opened"):
            Classifier(file)


def _field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def _reading(location: str) -> bytes:
    """A graph's field, to be appended to a model: one more initializer, whose four floats lie in another file."""
    entries = (("location", location), ("offset", "0"), ("length", "16"))
    tensor = b"\x08\x04\x10\x01" + _field(8, b"stolen") + b"\x70\x01"
    tensor += b"".join(_field(13, _field(1, key.encode()) + _field(2, value.encode())) for key, value in entries)
    return _field(7, _field(5, tensor))


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Ways to name a file of four floats that is nobody's business, as seen from ``tmp_path/in``."""
    folder = tmp_path / "in"
    folder.mkdir()
    for place in (tmp_path / "secret", folder / "unlisted"):
        np.arange(4, dtype=np.float32).tofile(place)
    ways = {"absolute": str(tmp_path / "secret"), "above": "../secret", "unlisted": "unlisted"}
    if sys.platform != "win32":
        (folder / "link").symlink_to("../secret")
        ways["link"] = "link"
    return ways


@pytest.mark.parametrize("way", ["absolute", "above", "unlisted", "link"])
class TestExternalData:
    def test_of_a_deployed_model(
        self, bundle: Bundle, blobs: Path, secrets: dict[str, str], tmp_path: Path, way: str
    ) -> None:
        file = edgeplast.deploy(bundle, tmp_path / "in" / "m.onnx")
        Classifier(file)
        file.write_bytes(file.read_bytes() + _reading(secrets.get(way, "absent")))
        for verb in (
            lambda: edgeplast.predict(file, blobs / "test"),
            lambda: edgeplast.evaluate(file, blobs),
            lambda: EvaluationSession(file, {}, 1, optimized=True),
        ):
            with pytest.raises(
                InputError, match=r"m\.onnx reads weights from other files \(.*a deployed model holds all"
            ):
                verb()

    def test_of_a_bundle(self, bundle: Bundle, secrets: dict[str, str], tmp_path: Path, way: str) -> None:
        copy = Path(shutil.copytree(bundle.path, tmp_path / "in" / "bundle"))
        for name in bundle.manifest.files:
            if not name.endswith(".onnx"):
                continue
            graph = copy / name
            before = graph.read_bytes()
            graph.write_bytes(before + _reading(secrets.get(way, "absent")))
            content = json.loads((copy / MANIFEST).read_text())
            content["files"][name] = {"bytes": graph.stat().st_size, "sha256": describe_file(graph).sha256}
            (copy / MANIFEST).write_text(json.dumps(content))
            with pytest.raises(DamagedError, match=rf"{name} reads weights from .*frozen\.safetensors alone"):
                Bundle.open(copy)
            with pytest.raises(
                InputError, match=r"reads weights from other files .*only frozen\.safetensors is allowed"
            ):
                TrainingSession(graph, {}, {}, 1)
            graph.write_bytes(before)


@links
class TestPlantedLinks:
    def test_a_link_in_the_place_of_the_unfinished_run_is_not_followed(
        self, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / TRAINABLE).write_bytes(b"mine")
        (tmp_path / "out.partial").symlink_to(precious)
        for how in ({}, {"resume": True}, {"force": True}):
            with pytest.raises(UsageError, match=r"out\.partial is a link or a file; .* Move it away"):
                edgeplast.adapt(bundle, blobs, into=tmp_path / "out", options=QUICK, **how)
        assert [file.name for file in precious.iterdir()] == [TRAINABLE]
        assert (precious / TRAINABLE).read_bytes() == b"mine" and (tmp_path / "out.partial").is_symlink()

    def test_nor_are_links_in_it(self, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        precious, folder = tmp_path / "precious", tmp_path / "out.partial"
        precious.write_bytes(b"mine")
        folder.mkdir()
        for name in (TRAINABLE, FROZEN, "train-full.onnx", "telemetry.jsonl", "report.json", MANIFEST, ".hidden"):
            (folder / name).symlink_to(precious)
        edgeplast.adapt(bundle, blobs, into=tmp_path / "out", options=QUICK)
        assert precious.read_bytes() == b"mine" and not os.access(precious, os.X_OK)
        assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())
        Bundle.open(tmp_path / "out")


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"force": True}], ids=["", "resume", "force"])
def test_a_folder_of_strangers_is_not_worked_in(bundle: Bundle, blobs: Path, tmp_path: Path, how: dict) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    (folder / "thesis\x1b[2J.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"holds what no run writes: thesis\\x1b\[2J\.tex\. Nothing was touched"):
        edgeplast.adapt(bundle, blobs, into=tmp_path / "out", options=QUICK, **how)
    assert (folder / "thesis\x1b[2J.tex").read_text() == "mine" and len(list(folder.iterdir())) == 1


def test_what_a_killed_run_left_is_no_stranger(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    shutil.copy(bundle.path / "train-head.onnx", folder)
    (folder / TRAINABLE).write_bytes(b"cut off")
    (folder / ".checkpoint.safetensors.x.partial").write_bytes(b"cut off")
    edgeplast.adapt(bundle, blobs, into=tmp_path / "out", options=QUICK)
    assert read_arrays(tmp_path / "out" / TRAINABLE)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda arrays: arrays.update({"head.bias": np.zeros(4, np.float32)}), r"head\.bias in .* has shape \(4,\)"),
        (lambda arrays: arrays.pop("head.bias"), "it has no array 'head.bias'"),
    ],
)
def test_weights_that_the_manifest_does_not_describe_are_damage(
    bundle: Bundle, blobs: Path, tmp_path: Path, spoil: Callable[[dict], Any], reason: str
) -> None:
    from edgeplast_devices.tensors import write_arrays

    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    arrays = read_arrays(copy / TRAINABLE)
    spoil(arrays)
    write_arrays(copy / TRAINABLE, arrays)
    content = json.loads((copy / MANIFEST).read_text())
    stored = describe_file(copy / TRAINABLE)
    content["files"][TRAINABLE] = {"bytes": stored.bytes, "sha256": stored.sha256}
    (copy / MANIFEST).write_text(json.dumps(content))
    opened = Bundle.open(copy)
    for verb in (
        lambda: edgeplast.adapt(opened, blobs, into=tmp_path / "out", options=QUICK),
        lambda: edgeplast.evaluate(opened, blobs),
        lambda: edgeplast.deploy(opened, tmp_path / "m.onnx"),
    ):
        with pytest.raises(DamagedError, match=reason):
            verb()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_shape_whose_size_no_machine_counts_is_damage(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    content = json.loads((copy / MANIFEST).read_text())
    content["parameters"]["head.weight"]["shape"] = [2**53, 2**10]  # 2⁶³ elements: below zero in 64 bits
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(DamagedError):
        edgeplast.deploy(Bundle.open(copy), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
