"""The deployed file says what ``evaluate`` says, everywhere; ``predict`` runs it on whatever it is given."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_models import CLASSES, blob, blob_tar, small_bundle, truncated_png

import edgeplast
from edgeplast.bundle import DEPLOYMENT_GRAPH, Bundle, describe_file
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast.placement import ON_CPU
from edgeplast_devices.deploying import CLASSES_KEY, PREPROCESSING_KEY
from edgeplast_devices.images import Unreadable, batches, open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.predicting import Classifier, session_over
from edgeplast_devices.runtime import import_onnxruntime


@pytest.fixture(scope="module")
def adapted(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    into = tmp_path_factory.mktemp("adapted") / "adapted"
    edgeplast.adapt(bundle, blobs, into=into, options=TrainingOptions(epochs=5, learning_rate=3e-3))
    return Bundle.open(into)


@pytest.fixture(scope="module")
def model(adapted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgeplast.deploy(adapted, tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.mark.parametrize(
    ("weight_bits", "options"),
    [(32, {}), (8, {}), (8, {"class_token": False, "global_pool": "avg"}), (32, {"init_values": 0.5, "qk_norm": True})],
)
def test_logits_equal_those_of_evaluate(tmp_path: Path, blobs: Path, weight_bits: int, options: dict) -> None:
    fresh = small_bundle(tmp_path / "fresh", "blocks:1", weight_bits, **options)
    edgeplast.adapt(fresh, blobs, into=tmp_path / "a", options=TrainingOptions(epochs=1, learning_rate=3e-3))
    bundle, file = Bundle.open(tmp_path / "a"), tmp_path / "model.onnx"
    edgeplast.deploy(bundle, file)
    if find_spec("onnx"):
        import onnx

        onnx.checker.check_model(str(file), full_check=True)
    ours = session_over(bundle, 1, ON_CPU)
    stock = import_onnxruntime().InferenceSession(str(file), providers=["CPUExecutionProvider"])
    how = bundle.manifest.preprocessing
    for batch in batches(open_images(blobs, "test"), how, 5, unreadable=Unreadable()):
        (logits,) = stock.run(None, {"images": batch.images})
        temperature = bundle.manifest.temperature or 1.0
        np.testing.assert_allclose(temperature * logits, ours.logits(batch.images), atol=1e-4)


def test_the_file_is_one_that_others_can_read(model: Path, adapted: Bundle) -> None:
    onnx = pytest.importorskip("onnx")
    loaded = onnx.load(model)
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.ir_version <= 10 and [(o.domain, o.version) for o in loaded.opset_import] == [("", 17)]
    assert [i.name for i in loaded.graph.input] == ["images"] and [o.name for o in loaded.graph.output] == ["logits"]
    assert {node.domain for node in loaded.graph.node} == {""}
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    assert json.loads(metadata[CLASSES_KEY]) == list(CLASSES)
    assert json.loads(metadata[PREPROCESSING_KEY])["image_size"] == [32, 32]
    assert {i.name for i in loaded.graph.initializer} >= set(adapted.manifest.parameters)


def test_a_taken_name_a_folder_and_a_damaged_graph(adapted: Bundle, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        edgeplast.deploy(adapted, model)
    assert edgeplast.deploy(adapted, model, force=True) == model
    with pytest.raises(UsageError, match="is a folder"):
        edgeplast.deploy(adapted, tmp_path)
    copy = small_bundle(tmp_path / "copy")
    for data in (b"", b"\x08\x0a", b"\x3a\xff", b"\xff" * 9):
        (copy.path / DEPLOYMENT_GRAPH).write_bytes(data)
        with pytest.raises(DamagedError, match=r"deploy\.onnx of the bundle was changed"):
            edgeplast.deploy(copy, tmp_path / "m.onnx")
        files = copy.manifest.files | {DEPLOYMENT_GRAPH: describe_file(copy.path / DEPLOYMENT_GRAPH)}
        vouched = Bundle(copy.path, msgspec.structs.replace(copy.manifest, files=files))
        with pytest.raises(DamagedError, match="Export the bundle again"):
            edgeplast.deploy(vouched, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_photo_is_named_with_its_classes_most_likely_first(model: Path, blobs: Path) -> None:
    (prediction,) = edgeplast.predict(model, blobs / "test/red/000.png")
    p = list(prediction.probabilities.values())
    assert prediction.name == "000.png" and set(prediction.probabilities) == set(CLASSES)
    assert p == sorted(p, reverse=True) and sum(p) == pytest.approx(1)


def test_predictions_agree_with_evaluate(model: Path, adapted: Bundle, blobs: Path) -> None:
    found = edgeplast.predict(model, blobs / "test")
    right = [next(iter(p.probabilities)) == p.name.split("/")[0] for p in found]
    assert np.mean(right) == pytest.approx(edgeplast.evaluate(adapted, blobs).accuracy) and len(found) == 36


def test_several_places_are_one_run_and_every_picture_says_where_it_lies(
    model: Path, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blob("red", 5).save("here.png")
    (tmp_path / "bad.jpg").write_bytes(truncated_png())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "bad.jpg").write_bytes(b"")
    blob_tar(tmp_path / "some.tar", blobs / "test/blue")
    unreadable = Unreadable()
    places = ["here.png", blobs / "test/green", "bad.jpg", Path("deep"), "some.tar", blobs / "test/green/000.png"]
    found = edgeplast.predict(model, places, unreadable=unreadable)
    green = blobs / "test/green"
    assert [p.name for p in found] == [
        "here.png",
        *(str(green / f"{i:03d}.png") for i in range(12)),
        *(f"some.tar/{i:03d}.png" for i in range(12)),
        str(green / "000.png"),
    ]
    assert found[1].probabilities == found[-1].probabilities
    assert [name for name, _ in unreadable.examples] == ["bad.jpg", "deep/bad.jpg"]


def test_only_unreadable_pictures_are_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(truncated_png())
    with pytest.raises(InputError, match=r"The picture could not be read.*bad\.jpg"):
        edgeplast.predict(model, tmp_path / "bad.jpg")
    with pytest.raises(InputError, match="does not exist"):
        edgeplast.predict(model, tmp_path / "none.jpg")


def _foreign(path: Path, shape: list[object], metadata: dict[str, str]) -> Path:
    onnx = pytest.importorskip("onnx", reason="it makes models from elsewhere")
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "foreign",
        [tensor("x", onnx.TensorProto.FLOAT, shape)],
        [tensor("y", onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


HOW = '{"image_size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}'


@pytest.mark.parametrize(
    ("shape", "metadata", "match"),
    [
        (["n", 5], {}, "edgeplast.classes.*edgeplast deploy"),
        ([], {}, "edgeplast.classes"),
        (["n", 5], {CLASSES_KEY: '["a", "b"]'}, "edgeplast.preprocessing"),
        (["n", 5], {CLASSES_KEY: "7", PREPROCESSING_KEY: HOW}, "make no sense"),
        (["n", 5], {CLASSES_KEY: '["a"]', PREPROCESSING_KEY: HOW.replace("8", "0")}, "make no sense"),
        (["n", 5], {CLASSES_KEY: '["a", "b"]', PREPROCESSING_KEY: HOW}, "2 classes and has 5 outputs"),
        (["n", "m"], {CLASSES_KEY: '["a", "b"]', PREPROCESSING_KEY: HOW}, r"logits are \(images, classes\)"),
    ],
)
def test_a_model_from_elsewhere_is_refused_with_the_reason(
    tmp_path: Path, shape: list[object], metadata: dict[str, str], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        Classifier(_foreign(tmp_path / "foreign.onnx", shape, metadata))


def test_a_missing_model_and_one_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no model .*edgeplast deploy"):
        Classifier(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"text\.onnx is no ONNX model"):
        Classifier(tmp_path / "text.onnx")


def test_shapes_that_no_file_holds_are_damage(bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle.path, tmp_path / "b")
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["parameters"]["head.weight"]["shape"] = [2**40, 2**40]  # as many bytes as no 64 bits can say
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=r"head\.weight in \S+ has shape .*, and the manifest says"):
        edgeplast.deploy(folder, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
