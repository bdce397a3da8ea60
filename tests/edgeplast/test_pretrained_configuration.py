"""The JSON beside the weights decides how pictures are prepared; names with a source; pruned models keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from edgeplast.errors import InputError
from edgeplast.models import (
    describe,
    has_head,
    import_timm,
    load_model,
    pictures_of,
    preprocessing_of,
    source_of,
    with_head,
)
from edgeplast.preprocessing import Preprocessing
from edgeplast.pretrained.configuration import read_configuration

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
MEAN = [0.1, 0.2, 0.3]


def saved(folder: Path, classes: int = 5, name: str = NAME, **files: dict[str, Any]) -> Path:
    model = import_timm().create_model(name, num_classes=classes, **SMALL)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


def prepared(folder: Path, **options: Any) -> Preprocessing:
    return preprocessing_of(load_model(NAME, checkpoint=folder, options=SMALL, **options))


@pytest.mark.parametrize("flat", [False, True])
def test_timms_own_file(tmp_path: Path, flat: bool):
    inner = {"mean": MEAN, "std": MEAN, "interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": "border"}
    content = inner | {"architecture": NAME} if flat else {"architecture": NAME, "pretrained_cfg": inner}
    how = prepared(saved(tmp_path, config=content))
    assert (how.mean, how.interpolation, how.crop_fraction, how.crop_mode) == (tuple(MEAN), "bilinear", 0.8, "border")


@pytest.mark.parametrize(
    ("content", "mode", "fraction"),
    [
        ({"size": {"height": 224, "width": 224}}, "squash", 1.0),
        ({"size": 224, "image_processor_type": "ViTImageProcessor"}, "squash", 1.0),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, "squash", 0.875),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224}, "do_center_crop": True}, "center", 0.875),
        ({"size": 224, "crop_size": 224, "do_center_crop": True, "feature_extractor_type": "CLIP"}, "center", 1.0),
    ],
)
def test_transformers_file(tmp_path: Path, content: dict, mode: str, fraction: float):
    content |= {"image_mean": MEAN, "image_std": MEAN, "resample": 2}
    how = prepared(saved(tmp_path, preprocessor_config=content, config={"model_type": "vit"}))
    assert (how.crop_mode, how.crop_fraction, how.interpolation, how.std) == (mode, fraction, "bilinear", tuple(MEAN))


def test_pictures_that_are_not_normalized(tmp_path: Path):
    how = prepared(saved(tmp_path, preprocessor_config={"do_normalize": False, "size": 32}))
    assert how.mean == (0, 0, 0) and how.std == (1, 1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rescale_factor": 0.00784}, "does not scale pictures to 0..1"),
        ({"image_mean": [0.5]}, r"mean is \[0\.5\]; three numbers are needed"),
        ({"image_std": "x"}, "std is 'x'; three numbers"),
    ],
)
def test_what_a_device_does_not_do_is_refused(tmp_path: Path, content: dict, message: str):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_configuration(tmp_path)


@pytest.mark.parametrize("resample", [[3], {"a": 3}, "bicubic", 2.5, 99, None])
def test_a_resampling_that_is_no_number_of_pillows_says_nothing(tmp_path: Path, resample: object):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224, "resample": resample}))
    assert "interpolation" not in read_configuration(tmp_path).pictures


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("crop_pct", [0.9], r"crop_pct is \[0.9\]; it is a number above 0, up to 1"),
        ("crop_pct", ".", r"crop_pct is \.; it is a number"),
        ("crop_pct", -1, "crop_pct is -1"),
        ("crop_pct", True, "crop_pct is True"),
        ("crop_mode", {"a": 1}, "crop_mode is .*; known: center, squash, border"),
        ("interpolation", ["bicubic"], "interpolation .* is not known"),
        ("mean", [10**400, 0, 0], "mean is .*; three numbers are needed"),
        ("std", [float("nan"), 1, 1], "std is .*; three numbers are needed"),
        ("mean", ["0", 0, 0], "mean is .*; three numbers are needed"),
    ],
)
def test_a_setting_of_timms_that_makes_no_sense(tmp_path: Path, key: str, value: object, reason: str):
    content = {"architecture": NAME, "pretrained_cfg": {key: value}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=reason) as caught:
        read_configuration(tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json beside the weights"):
        read_configuration(tmp_path)


def test_options_go_before_files_and_files_before_timm_and_the_line_says_which(tmp_path: Path):
    saved(tmp_path, config={"architecture": NAME, "pretrained_cfg": {"mean": MEAN, "crop_pct": 0.8}})
    model = load_model(NAME, checkpoint=tmp_path, options=SMALL, pictures={"crop_pct": 0.7})
    how, source = preprocessing_of(model), source_of(model)
    assert (how.mean, how.crop_fraction, how.interpolation) == (tuple(MEAN), 0.7, "bicubic")
    assert source is not None and "mean 0.1,0.2,0.3" in source.used and "(config.json and options)" in source.used


def test_quick_gelu_is_not_taken_for_gelu(tmp_path: Path):
    clip = "vit_base_patch32_clip_224"
    saved(tmp_path, name=clip, config={"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}})
    with pytest.raises(InputError, match=r"trained with quick_gelu, and vit_base_patch32_clip_224 computes gelu"):
        load_model(clip, checkpoint=tmp_path, options=SMALL)
    load_model(clip, checkpoint=tmp_path, options={**SMALL, "act_layer": "quick_gelu"})
    with pytest.raises(InputError, match="without quickgelu in its name"):
        (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}')
        load_model("vit_base_patch32_clip_quickgelu_224", checkpoint=tmp_path, options=SMALL)


@pytest.mark.parametrize("classes", [0, 5])
def test_a_folder_in_timms_format_is_a_model(tmp_path: Path, classes: int):
    content = {"architecture": NAME, "model_args": SMALL, "pretrained_cfg": {"mean": MEAN, "num_classes": classes}}
    saved(tmp_path, classes=classes, config=content)
    model = load_model(f"local-dir:{tmp_path}")
    assert preprocessing_of(model).mean == tuple(MEAN) and has_head(model) == bool(classes)
    if not classes:
        with pytest.raises(InputError, match=rf"{NAME} is a backbone without a head. Give it one"):
            describe(model)
    assert describe(with_head(model, 5)).model == NAME and describe(with_head(model, 5)).width == 32


def test_a_folder_of_another_library_says_what_to_do(tmp_path: Path):
    saved(tmp_path, config={"model_type": "vit"})
    with pytest.raises(InputError, match=r"no architecture of timm's.*Give timm's name of the model"):
        load_model(f"local-dir:{tmp_path}")
    with pytest.raises(InputError, match="holds no checkpoint in one file"):
        (tmp_path / "empty").mkdir()
        load_model(f"local-dir:{tmp_path / 'empty'}")


def test_a_hub_that_cannot_be_reached_is_no_traceback(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"timm cannot create hf[-_]hub:nobody/nothing: "):
        load_model("hf_hub:nobody/nothing")


def test_a_pruned_model_prepares_pictures_as_its_source_did(tmp_path: Path):
    pytest.importorskip("torch_pruning")
    import numpy as np

    from edgeplast.compression import Target, prune, write_pruned

    class Noise:
        classes, labels = ("a", "b"), np.arange(8) % 2

        def __len__(self) -> int:
            return 8

        def tensor(self, index: int) -> np.ndarray:
            return np.random.default_rng(index).standard_normal((3, 32, 32), dtype=np.float32)

    saved(tmp_path, config={"architecture": NAME, "pretrained_cfg": {"mean": MEAN, "crop_pct": 0.8}})
    model = load_model(NAME, checkpoint=tmp_path, options=SMALL)
    write_pruned(prune(model, Noise(), Target(keep=0.8)), tmp_path / "pruned")
    assert pictures_of(load_model(str(tmp_path / "pruned"))) == pictures_of(model)
    assert preprocessing_of(load_model(str(tmp_path / "pruned"), pictures={"crop_pct": 1.0})).crop_fraction == 1
