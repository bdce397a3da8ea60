"""What a checkpoint file may look like: wrappers, averages, prefixes, training state beside the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from small_models import small_vit

from edgeplast.errors import InputError
from edgeplast.models import import_timm, load_model, source_of
from edgeplast.pretrained.files import WRAPPERS, read_state_dict

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    return small_vit(seed).state_dict()


def loaded(path: Path) -> torch.nn.Module:
    return load_model(NAME, checkpoint=path, options=SMALL)


def same(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    mine = model.state_dict()
    return mine.keys() == tensors.keys() and all(torch.equal(mine[name], tensors[name]) for name in tensors)


PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")


@pytest.mark.parametrize(
    ("wrapper", "prefix"), [*((w, "") for w in WRAPPERS), *(("model", p) for p in PREFIXES), ("state_dict", "model.")]
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapper: str, prefix: str):
    torch.save({wrapper: {prefix + k: v for k, v in state().items()}, "epoch": 3}, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), state())


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model_state_dict"])
def test_an_average_goes_before_raw_weights_and_that_is_said(tmp_path: Path, average: str, raw: str):
    torch.save({raw: state(1), average: state(2)}, tmp_path / "w.pth")
    model = loaded(tmp_path / "w.pth")
    assert same(model, state(2))
    source = source_of(model)
    assert source is not None and f"the average {average}" in source.used
    torch.save({raw: state(1), average: None}, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), state(1))


def test_the_choice_of_average_is_timms(tmp_path: Path):
    import_timm()
    from timm.models import load_state_dict

    torch.save({"state_dict": state(1), "state_dict_ema": state(2)}, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), load_state_dict(str(tmp_path / "w.pth")))


def test_an_average_of_torchs_own_kind_has_a_counter_that_is_left_out(tmp_path: Path):
    averaged = torch.optim.swa_utils.AveragedModel(small_vit(3))
    torch.save({"model": state(1), "model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), state(3))


def test_the_arguments_that_timms_training_writes_are_no_hindrance(tmp_path: Path):
    content = {"state_dict": state(), "args": argparse.Namespace(lr=0.1), "optimizer": {"param_groups": []}}
    torch.save(content, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), state())


def test_a_folder_stands_for_the_file_with_a_usual_name(tmp_path: Path):
    torch.save(state(), tmp_path / "pytorch_model.bin")
    assert same(loaded(tmp_path), state())


def test_a_folder_without_one_file_of_weights_says_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no checkpoint in one file: none of model\.safetensors"):
        read_state_dict(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match=r"lie in several files \(model\.safetensors\.index\.json\)"):
        read_state_dict(tmp_path)


def test_unknown_content_is_named(tmp_path: Path):
    torch.save({"generator": state(), "step": 3}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"It has generator, step; weights are looked for under state_dict_ema"):
        read_state_dict(tmp_path / "w.pth")
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(InputError, match="but a list"):
        read_state_dict(tmp_path / "w.pth")


def test_two_models_in_one_file_are_not_guessed_between(tmp_path: Path):
    both = {f"{who}.{name}": tensor for who in ("student", "ours") for name, tensor in state().items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"holds 2 models of the timm layout, under ours\., student\."):
        loaded(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"learning rate: 3\n" * 40, "is text, which begins 'learning rate: 3'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer .* git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is a file of another library \\(HDF5\\)"),
        (b"", "is empty"),
        (bytes(600), "is in no format that is known here"),
    ],
    ids=["text", "lfs", "html", "hdf5", "empty", "zeros"],
)
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "model"])
def test_what_is_no_checkpoint_at_all_is_called_by_its_name(tmp_path: Path, content: bytes, words: str, name: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"The checkpoint .*{name} {words}"):
        read_state_dict(tmp_path / name)


def test_text_that_is_called_safetensors_is_text(tmp_path: Path):
    (tmp_path / "w.safetensors").write_text("no tensors here")
    with pytest.raises(InputError, match="is text, which begins 'no tensors here'"):
        read_state_dict(tmp_path / "w.safetensors")


def test_the_content_decides_and_not_the_suffix(tmp_path: Path):
    from safetensors.torch import save_file

    save_file(state(), tmp_path / "pytorch_model.bin")
    torch.save(state(), tmp_path / "w.safetensors")
    torch.save(state(), tmp_path / "old", _use_new_zipfile_serialization=False)
    for name in ("pytorch_model.bin", "w.safetensors", "old"):
        assert same(loaded(tmp_path / name), state())


def test_a_damaged_pickle_is_said_to_be_damaged(tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02i" + b"no such opcode here\n" * 4)
    with pytest.raises(InputError, match=r"cannot be read: .*[a-z]{4}|is no plain file of tensors"):
        read_state_dict(tmp_path / "w.pth")
