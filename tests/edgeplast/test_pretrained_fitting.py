"""Weights that do not fit: what is missing, what it means, and sizes that are resampled only when asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeplast.errors import InputError
from edgeplast.models import has_head, import_timm, load_model, source_of

NAME = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def saved(tmp_path: Path, name: str = NAME, drop: str = "", **options: object) -> Path:
    model = import_timm().create_model(name, num_classes=5, **{**SMALL, **options})
    kept = {k: v.contiguous() for k, v in model.state_dict().items() if not (drop and k.startswith(drop))}
    save_file(kept, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def used(model: torch.nn.Module) -> str:
    source = source_of(model)
    assert source is not None
    return source.used


def test_what_is_missing_of_the_body_is_listed_and_counted(tmp_path: Path):
    path = saved(tmp_path, drop="blocks.1.")
    with pytest.raises(InputError) as raised:
        load_model(NAME, checkpoint=path, options=SMALL)
    message = str(raised.value)
    assert "of the 30 tensors of its body it fills 18" in message and "12 missing: blocks.1.attn" in message
    assert "(7 more)" in message
    assert "The file holds width 32, 1 blocks, patches of 16×16; vit_tiny_patch16_224 has width 32, 2 blocks" in message
    assert "Is the model name right?" in message


def test_the_name_beside_the_weights_is_a_hint(tmp_path: Path):
    path = saved(tmp_path, depth=3)
    (tmp_path / "config.json").write_text('{"architecture": "vit_small_patch16_224"}')
    with pytest.raises(InputError, match=r"Beside it, config\.json names vit_small_patch16_224\."):
        load_model(NAME, checkpoint=path, options=SMALL)


@pytest.mark.parametrize(
    ("name", "options", "meaning"),
    [
        ("deit_tiny_distilled_patch16_224", {}, r"a distilled DeiT: take one of timm's deit_\*_distilled_"),
        ("vit_base_patch32_clip_224", {"patch_size": 16}, r"a CLIP tower: take one of timm's vit_\*_clip_"),
        (NAME, {"init_values": 1e-5}, "a model with layer scale"),
        (NAME, {"reg_tokens": 4, "no_embed_class": True}, r"a model with registers: take one of timm's vit_\*_reg4"),
        (NAME, {"global_pool": "avg"}, r"""add --model-kwargs '\{"global_pool": "avg"\}'"""),
    ],
)
def test_weights_of_another_kind_of_model_are_never_used_in_part(
    tmp_path: Path, name: str, options: dict, meaning: str
):
    path = saved(tmp_path, name, **options)
    with pytest.raises(InputError, match=meaning):
        load_model(NAME, checkpoint=path, options=SMALL)


@pytest.mark.parametrize(
    ("name", "options", "meaning"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "The model is a distilled DeiT, and the file is none"),
        ("vit_base_patch32_clip_224", {"patch_size": 16}, "The model is a CLIP tower, and the file is none"),
        (NAME, {"init_values": 1e-5}, "The model has layer scale, and the file has none"),
    ],
)
def test_a_model_of_another_kind_than_the_weights_is_never_filled_in_part(
    tmp_path: Path, name: str, options: dict, meaning: str
):
    path = saved(tmp_path)
    with pytest.raises(InputError, match=meaning):
        load_model(name, checkpoint=path, options={**SMALL, **options})


def test_a_norm_before_pooling_can_be_had(tmp_path: Path):
    path, pooled = saved(tmp_path), {**SMALL, "global_pool": "avg"}
    with pytest.raises(InputError, match=r"""add --model-kwargs '\{"fc_norm": false\}'"""):
        load_model(NAME, checkpoint=path, options=pooled)
    assert load_model(NAME, checkpoint=path, options={**pooled, "fc_norm": False}) is not None


def test_another_picture_size_is_resampled_only_when_asked(tmp_path: Path):
    path = saved(tmp_path, img_size=96)
    message = (
        r"is for pictures of 96×96 in patches of 16×16, and vit_tiny_patch16_224 takes pictures of 224×224 in patches "
        r"of 16×16\. .*position embedding resampled: --image-size 224"
    )
    with pytest.raises(InputError, match=message):
        load_model(NAME, checkpoint=path, options=SMALL)
    model = load_model(NAME, checkpoint=path, image_size=(64, 64), options=SMALL)
    assert model.state_dict()["pos_embed"].shape == (1, 17, 32)
    assert "resampled from pictures of 96×96" in used(model)


def test_another_patch_size_likewise(tmp_path: Path):
    path = saved(tmp_path, patch_size=32)
    with pytest.raises(InputError, match=r"in patches of 32×32, and .* in patches of 16×16.*its patch embedding and"):
        load_model(NAME, checkpoint=path, options=SMALL)
    model = load_model(NAME, checkpoint=path, image_size=(224, 224), options=SMALL)
    assert model.state_dict()["patch_embed.proj.weight"].shape[-1] == 16 and "patches of 32×32" in used(model)


def test_a_size_that_fits_is_left_to_the_bit(tmp_path: Path):
    path = saved(tmp_path, img_size=96)
    model = load_model(NAME, checkpoint=path, image_size=(96, 96), options=SMALL)
    assert "resampled" not in used(model)


def test_a_backbone_without_a_head_gives_a_model_without_one(tmp_path: Path):
    model = load_model(NAME, checkpoint=saved(tmp_path, drop="head."), options=SMALL)
    assert not has_head(model) and "no head" in used(model)


def test_what_pretraining_needed_beside_the_body_is_left_out_and_said(tmp_path: Path):
    path = saved(tmp_path)
    from safetensors.torch import load_file

    more = {"decoder_pos_embed": torch.zeros(1), "mask_token": torch.zeros(1)}
    save_file(load_file(path) | more, path)
    model = load_model(NAME, checkpoint=path, options=SMALL)
    assert "left out decoder_pos_embed" in used(model) and has_head(model)


@pytest.mark.parametrize("classes", [0, 3, 10])
def test_the_tensors_that_are_counted_are_those_of_the_body(tmp_path: Path, classes: int):
    name, sizes = "vit_small_patch14_dinov2", {**SMALL, "img_size": 28}
    model = import_timm().create_model(name, num_classes=classes, **sizes)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    body = [key for key in model.state_dict() if not key.startswith("head.")]
    again = load_model(name, checkpoint=tmp_path / "w.safetensors", options=sizes)
    head = f"{classes} classes" if classes else "no head"
    assert f"all {len(body)} tensors of the body, timm layout, {head};" in used(again)


def test_what_is_missing_of_the_head_is_not_missing_of_the_body(tmp_path: Path):
    path = saved(tmp_path, drop="head.bias", img_size=32)
    with pytest.raises(InputError, match=r"of the 30 tensors of its body it fills 30\. Keys 1 missing: head\.bias"):
        load_model(NAME, checkpoint=path, options={**SMALL, "img_size": 32})
