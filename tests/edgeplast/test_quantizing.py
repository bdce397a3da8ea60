"""Deployed models in 8 bits: close to float32, smaller, outliers left alone, and a drop that is said aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import CLASSES, hand_made_plan, small_vit

from edgeplast import verbs
from edgeplast.adaptation import BeforeAfter
from edgeplast.deployment import Deployment
from edgeplast.errors import InputError, UsageError
from edgeplast.quantizing import outlying, quantize
from edgeplast_devices.predicting import Classifier
from edgeplast_devices.runtime import EvaluationSession

onnx = pytest.importorskip("onnx")


class Noise:
    def __len__(self) -> int:
        return 10

    def tensor(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).standard_normal((3, 32, 32), dtype=np.float32)


def deployed(folder: Path, model: Any) -> Path:
    bundle = verbs.export(model, hand_made_plan(model, "head"), into=folder / "bundle", keep_head=True)
    return verbs.deploy(bundle, folder / "float.onnx")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("model"), small_vit(embed_dim=64, num_classes=3))


@pytest.fixture(scope="module")
def with_outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model: Any = small_vit(embed_dim=64, num_classes=3)
    model.blocks[0].mlp.fc1.weight.data[7] *= 3000.0  # one hidden unit far beyond the others
    model.blocks[0].mlp.fc2.weight.data[:, 7] /= 3000.0
    return deployed(tmp_path_factory.mktemp("model"), model)


def logits(model: Path, *, optimized: bool = True) -> np.ndarray:
    images = np.stack([Noise().tensor(100 + i) for i in range(6)])
    return EvaluationSession(model, {}, threads=1, optimized=optimized).logits(images)


def test_the_quantized_model_is_close_and_a_third_of_the_size(plain: Path, tmp_path: Path):
    used, kept = quantize(plain, tmp_path / "integer.onnx", Noise(), most=8)
    assert (used, kept) == (8, ())
    before, after = logits(plain), logits(tmp_path / "integer.onnx")
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert (tmp_path / "integer.onnx").stat().st_size < 0.4 * plain.stat().st_size
    loaded = pytest.importorskip("onnx").load(tmp_path / "integer.onnx")
    assert loaded.ir_version <= 10 and all(o.version <= 21 for o in loaded.opset_import)  # as old as any runtime reads
    opened = Classifier(tmp_path / "integer.onnx")
    assert opened.classes == CLASSES and opened.preprocessing == Classifier(plain).preprocessing


def test_fused_integer_products_compute_what_the_written_graph_says(plain: Path, tmp_path: Path):
    quantize(plain, tmp_path / "integer.onnx", Noise())
    # Operator by operator in float32 between steps, against the runtime's integer kernels.
    reference, fused = (logits(tmp_path / "integer.onnx", optimized=optimized) for optimized in (False, True))
    assert np.abs(fused - reference).max() < 0.02 * np.abs(reference).max()


def test_sums_of_two_products_fit_into_16_bits_on_every_processor(plain: Path, tmp_path: Path):
    quantize(plain, tmp_path / "integer.onnx", Noise())
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "integer.onnx").graph.initializer]
    weights = [array for array in stored if array.dtype == np.int8 and array.ndim == 2]
    assert weights
    for array in weights:
        assert 2 * 255 * np.abs(array.astype(int)).max() < 1 << 15


def test_a_layer_with_an_outlier_in_its_input_stays_float(with_outlier: Path, tmp_path: Path):
    model = onnx.load(with_outlier)
    images = [Noise().tensor(i)[None] for i in range(4)]
    assert list(outlying(model, images).values()) == ["blocks.0.mlp.fc2"]
    used, kept = quantize(with_outlier, tmp_path / "integer.onnx", Noise(), most=4)
    assert (used, kept) == (4, ("blocks.0.mlp.fc2",))
    names = {tensor.name for tensor in onnx.load(tmp_path / "integer.onnx").graph.initializer}
    assert "blocks.0.mlp.fc2.weight" in names and "blocks.1.mlp.fc2.weight" not in names
    before, after = logits(with_outlier), logits(tmp_path / "integer.onnx")
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_channels_of_zeros_and_of_outliers_in_the_weights_are_kept_apart(tmp_path: Path):
    model: Any = small_vit(embed_dim=64, num_classes=3)
    model.blocks[0].mlp.fc1.weight.data[3] = 0.0
    model.blocks[0].attn.qkv.weight.data[5, 2] = 40.0  # of its own channel alone
    plain = deployed(tmp_path, model)
    quantize(plain, tmp_path / "integer.onnx", Noise(), most=4)
    before, after = logits(plain), logits(tmp_path / "integer.onnx")
    assert np.isfinite(after).all() and np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_the_same_pictures_give_the_same_file(plain: Path, tmp_path: Path):
    for name in ("a", "b"):
        quantize(plain, tmp_path / name, Noise(), most=4, seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_quantized_is_refused(plain: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="--calibration-images 0: activation ranges need at least 1 picture"):
        quantize(plain, tmp_path / "integer.onnx", Noise(), most=0)
    model = onnx.load(plain)
    model.graph.node[3].op_type = "Nonsense"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(InputError, match=r"onnxruntime cannot quantize odd\.onnx: .*leave out --weight-bits"):
        quantize(tmp_path / "odd.onnx", tmp_path / "integer.onnx", Noise())


def test_a_drop_of_more_than_a_point_is_a_warning_with_advice():
    def deployment(after: float) -> Deployment:
        accuracy = BeforeAfter(before=0.9, after=after)
        facts: dict = {"output": "m.onnx", "bytes": 1, "weight_bits": 8, "measured_on": "test", "images": 200}
        return Deployment(**facts, calibrated_on=16, accuracy=accuracy)

    assert deployment(0.89).warning is None and deployment(0.95).warning is None
    warning = deployment(0.88).warning
    assert warning is not None
    assert "cost 2.0 points of accuracy (90.0% → 88.0% on 200 pictures)" in warning
    assert "--calibration-images 64" in warning and "deploy in float32" in warning
