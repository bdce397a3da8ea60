"""Hugging Face's layouts: timm's models with their weights renamed as transformers saves them, read back, equal logits.

That the renaming here is transformers' own was checked against its models (5.24), whose features came out equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeplast.errors import InputError
from edgeplast.models import has_head, import_timm, load_model, source_of
from edgeplast.pretrained.files import read_state_dict
from edgeplast.pretrained.fitting import fill

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
Tensors = dict[str, torch.Tensor]

VIT = [
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^dist_token$", "embeddings.distillation_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.attn\.(query|key|value)\.", r"encoder.layer.\1.attention.attention.\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^norm\.", "layernorm."),
]
OF_VIT = [
    *VIT,
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
]
OF_DINOV2 = [
    *VIT,
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^blocks\.(\d+)\.ls(\d)\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
]
NEWER = [  # what transformers 5 calls the same parts in memory
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(q|k|v)\w+\.", r"layers.\1.attention.\2_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.o_proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.mlp.fc2."),
    (r"^encoder\.layer\.", "layers."),
]
OF_CLIP = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding.weight"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm_pre\.", "pre_layrnorm."),
    (r"^blocks\.(\d+)\.attn\.(q|k|v)\w+\.", r"encoder.layers.\1.self_attn.\2_proj."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"^norm\.", "post_layernorm."),
]
OF_DINOV3 = [
    (r"^(cls_token)$", r"embeddings.\1"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.attn\.(q|k|v)\w+\.", r"layer.\1.attention.\2_proj."),
    (r"^blocks\.(\d+)\.attn\.([qv])_bias$", r"layer.\1.attention.\2_proj.bias"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.gamma_(\d)$", r"layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.mlp\.fc1_g\.", r"layer.\1.mlp.gate_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1(?:_x)?\.", r"layer.\1.mlp.up_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layer.\1.mlp.down_proj."),
    (r"^blocks\.(\d+)\.", r"layer.\1."),
]


def made(name: str, **options: object) -> torch.nn.Module:
    """A model whose every weight is random, those that start at zero or one included."""
    model = import_timm().create_model(name, **{**SMALL, **options}).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return model


def renamed(tensors: Tensors, names: list[tuple[str, str]], prefix: str = "") -> Tensors:
    """The weights under other names, query, key and value apart."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        parts = {name: tensor}
        if ".attn.qkv." in name:
            three = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            parts = {name.replace("qkv", which): third for which, third in three}
        for key, value in parts.items():
            for pattern, replacement in names:
                key = re.sub(pattern, replacement, key)
            result[key if key.startswith("head") else prefix + key] = value.contiguous().clone()
    return result


def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def read_back(tmp_path: Path, name: str, tensors: Tensors, **options: object) -> torch.nn.Module:
    save_file(tensors, tmp_path / "model.safetensors")
    return load_model(name, checkpoint=tmp_path, options={**SMALL, **options})


def layout_of(model: torch.nn.Module) -> str:
    source = source_of(model)
    assert source is not None
    return source.used


@pytest.mark.parametrize("prefix", ["vit.", "module.vit."])
@pytest.mark.parametrize("newer", [False, True])
def test_vit_with_its_classifier(tmp_path: Path, prefix: str, newer: bool):
    model = made("vit_tiny_patch16_224", num_classes=5)
    tensors = renamed(renamed(model.state_dict(), OF_VIT), NEWER if newer else [], prefix)
    root = prefix.removesuffix("vit.")
    for leaf in ("weight", "bias"):
        tensors[f"{root}classifier.{leaf}"] = tensors.pop(f"head.{leaf}")
    again = read_back(tmp_path, "vit_tiny_patch16_224", tensors)
    assert torch.equal(again(pictures()), model(pictures()))
    assert "Hugging Face ViT layout, 5 classes" in layout_of(again)


def test_deit_with_both_classifiers(tmp_path: Path):
    model = made("deit_tiny_distilled_patch16_224", num_classes=5)
    tensors = renamed(model.state_dict(), OF_VIT, "deit.")
    for leaf in ("weight", "bias"):
        tensors[f"cls_classifier.{leaf}"] = tensors.pop(f"head.{leaf}")
        tensors[f"distillation_classifier.{leaf}"] = tensors.pop(f"head_dist.{leaf}")
    again = read_back(tmp_path, "deit_tiny_distilled_patch16_224", tensors)
    assert torch.equal(again(pictures()), model(pictures()))
    assert "Hugging Face DeiT layout" in layout_of(again)


def test_dinov2_is_a_backbone_and_a_classifier_of_token_and_average_is_left_out(tmp_path: Path):
    model = made("vit_small_patch14_dinov2", num_classes=0)
    tensors = renamed(model.state_dict(), OF_DINOV2, "dinov2.")
    tensors |= {"dinov2.embeddings.mask_token": torch.zeros(1, 32), "classifier.weight": torch.zeros(5, 64)}
    again = read_back(tmp_path, "vit_small_patch14_dinov2", tensors)
    assert not has_head(again) and torch.equal(again(pictures()), model(pictures()))
    assert "no head, left out dinov2.embeddings.mask_token, classifier.weight" in layout_of(again)


def test_dinov2_with_registers_moves_the_class_tokens_position_into_it(tmp_path: Path):
    model = made("vit_small_patch14_reg4_dinov2", num_classes=0)
    tensors = renamed(model.state_dict(), OF_DINOV2)
    position = torch.full((1, 1, 32), 0.25)
    tensors["embeddings.cls_token"] -= position
    tensors["embeddings.position_embeddings"] = torch.cat([position, tensors["embeddings.position_embeddings"]], 1)
    again = read_back(tmp_path, "vit_small_patch14_reg4_dinov2", tensors)
    torch.testing.assert_close(again(pictures()), model(pictures()))


@pytest.mark.parametrize("split", [False, True])
def test_dinov2s_gated_mlp(tmp_path: Path, split: bool):
    model = made("vit_giant_patch14_dinov2", num_classes=0, mlp_ratio=4)
    tensors = renamed(model.state_dict(), OF_DINOV2)
    for name in [name for name in tensors if ".mlp.fc1." in name]:
        whole = tensors.pop(name)
        if split:
            gate, up = whole.chunk(2)
            tensors[name.replace("fc1", "gate_proj")], tensors[name.replace("fc1", "up_proj")] = (
                gate.clone(),
                up.clone(),
            )
        else:
            tensors[name.replace("fc1", "weights_in")] = whole
    end = "down_proj" if split else "weights_out"
    tensors = {name.replace("mlp.fc2", f"mlp.{end}"): tensor for name, tensor in tensors.items()}
    again = read_back(tmp_path, "vit_giant_patch14_dinov2", tensors, mlp_ratio=4)
    assert torch.equal(again(pictures()), model(pictures()))


def test_clips_tower_out_of_the_whole_of_clip(tmp_path: Path):
    model = made("vit_base_patch32_clip_quickgelu_224", num_classes=0)
    tensors = renamed(model.state_dict(), OF_CLIP, "vision_model.")
    tensors["vision_model.embeddings.class_embedding"] = tensors["vision_model.embeddings.class_embedding"].flatten()
    where = "vision_model.embeddings.position_embedding.weight"
    tensors[where] = tensors[where][0].clone()
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tensors |= {"text_model.final_layer_norm.weight": torch.ones(8), "visual_projection.weight": torch.ones(8, 32)}
    again = read_back(tmp_path, "vit_base_patch32_clip_quickgelu_224", tensors)
    assert torch.equal(again(pictures()), model(pictures()))
    assert "Hugging Face CLIP layout, no head" in layout_of(again)


def of_siglip(model: torch.nn.Module) -> Tensors:
    tensors = renamed({k: v for k, v in model.state_dict().items() if not k.startswith("attn_pool.")}, OF_CLIP)
    where = "embeddings.position_embedding.weight"
    tensors[where] = tensors[where][0].clone()
    return {f"vision_model.{k}": v for k, v in tensors.items()}


def test_siglips_tower_pooled_by_average(tmp_path: Path):
    model = made("vit_base_patch16_siglip_gap_224", num_classes=0)
    pooling = {"vision_model.head.probe": torch.zeros(1, 1, 32), "vision_model.head.layernorm.bias": torch.zeros(32)}
    again = read_back(tmp_path, "vit_base_patch16_siglip_gap_224", of_siglip(model) | pooling)
    assert torch.equal(again(pictures()), model(pictures()))
    assert "Hugging Face SigLIP layout, no head, left out" in layout_of(again)


def test_siglips_own_pooling(tmp_path: Path):
    model = made("vit_base_patch16_siglip_224", num_classes=0)
    pool = {k.removeprefix("attn_pool."): v for k, v in model.state_dict().items() if k.startswith("attn_pool.")}
    own = {"head.probe": pool["latent"]}
    for leaf in ("weight", "bias"):
        own[f"head.attention.in_proj_{leaf}"] = torch.cat([pool[f"q.{leaf}"], pool[f"kv.{leaf}"]])
        own[f"head.attention.out_proj.{leaf}"] = pool[f"proj.{leaf}"]
        own[f"head.layernorm.{leaf}"] = pool[f"norm.{leaf}"]
        own |= {f"head.mlp.{fc}.{leaf}": pool[f"mlp.{fc}.{leaf}"] for fc in ("fc1", "fc2")}
    save_file(of_siglip(model) | {f"vision_model.{k}": v.clone() for k, v in own.items()}, tmp_path / "w.safetensors")
    again = import_timm().create_model("vit_base_patch16_siglip_224", num_classes=0, **SMALL).eval()
    fill(again, read_state_dict(tmp_path / "w.safetensors"), name="siglip", resample=False)
    assert torch.equal(again(pictures()), model(pictures()))


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3_qkvb"])
def test_dinov3_with_biases_and_with_gates(tmp_path: Path, name: str):
    model = made(name, num_classes=0)
    save_file(renamed(model.state_dict(), OF_DINOV3), tmp_path / "w.safetensors")
    again = import_timm().create_model(name, num_classes=0, **SMALL).eval()
    filled = fill(again, read_state_dict(tmp_path / "w.safetensors"), name=name, resample=False)
    assert torch.equal(again(pictures()), model(pictures())) and filled.layout == "Hugging Face DINOv3"


def test_dinov3s_biases_of_zero_are_dropped_where_timm_has_none_and_others_are_refused(tmp_path: Path):
    tensors = renamed(made("vit_small_patch16_dinov3_qkvb", num_classes=0).state_dict(), OF_DINOV3)
    for name in tensors:
        if name.endswith(("q_proj.bias", "v_proj.bias")):
            tensors[name].zero_()
    plain = import_timm().create_model("vit_small_patch16_dinov3", num_classes=0, **SMALL)
    save_file(tensors, tmp_path / "w.safetensors")
    fill(plain, read_state_dict(tmp_path / "w.safetensors"), name="dinov3", resample=False)
    tensors["layer.1.attention.q_proj.bias"] += 1
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"take the variant of timm's model whose name ends in _qkvb"):
        fill(plain, read_state_dict(tmp_path / "w.safetensors"), name="dinov3", resample=False)


def of_meta(tensors: Tensors) -> Tensors:
    position = torch.full((1, 1, 32), 0.25)
    tensors["pos_embed"] = torch.cat([position, tensors["pos_embed"]], 1)
    tensors["cls_token"] = tensors["cls_token"] - position
    return tensors | {"register_tokens": tensors.pop("reg_token"), "mask_token": torch.zeros(1, 32)}


def of_openai(tensors: Tensors) -> Tensors:
    names = [
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"^blocks\.", "transformer.resblocks."),
    ]
    result: Tensors = {"logit_scale": torch.ones(1), "visual.proj": torch.ones(32, 8)}
    for key, value in tensors.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        result[f"visual.{key}"] = value
    result["visual.class_embedding"] = result["visual.class_embedding"].flatten()
    result["visual.positional_embedding"] = result["visual.positional_embedding"][0].clone()
    return result


@pytest.mark.parametrize(
    ("name", "back"),
    [("vit_small_patch14_reg4_dinov2", of_meta), ("vit_base_patch32_clip_quickgelu_224", of_openai)],
)
def test_original_layouts_are_read_by_timm(tmp_path: Path, name: str, back: Callable[[Tensors], Tensors]):
    model = made(name, num_classes=0)
    again = read_back(tmp_path, name, back(dict(model.state_dict())))
    torch.testing.assert_close(again(pictures()), model(pictures()))
    assert not has_head(again)


def test_a_layout_that_nobody_knows_is_refused_by_what_is_known(tmp_path: Path):
    with pytest.raises(InputError, match=r"names are of no known layout: conv1\.weight, fc\.bias\. Known are timm's"):
        read_back(tmp_path, "vit_tiny_patch16_224", {"conv1.weight": torch.ones(3), "fc.bias": torch.ones(3)})
