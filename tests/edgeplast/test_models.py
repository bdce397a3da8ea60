"""Models by name, from checkpoints and by hand: what fits, what does not, and what is said about it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import small_vit

from edgeplast.errors import InputError, UsageError
from edgeplast.models import create, describe, import_timm, input_shape_of, load_model, preprocessing_of, with_classes
from edgeplast.pretrained.files import read_state_dict

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
NAME = "vit_tiny_patch16_224"


def saved(tmp_path: Path, classes: int = 5, **options: object) -> tuple[torch.nn.Module, Path]:
    model = import_timm().create_model(NAME, num_classes=classes, **{**SMALL, **options})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "weights.safetensors")
    return model, tmp_path / "weights.safetensors"


def test_a_checkpoint_fills_the_model_and_brings_its_number_of_classes(tmp_path: Path):
    model, path = saved(tmp_path)
    loaded = load_model(NAME, checkpoint=path, options=SMALL)
    assert not loaded.training and describe(loaded).classes == 5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model"])
def test_torch_files_are_read_plain_or_wrapped(tmp_path: Path, wrapped: str):
    model, _ = saved(tmp_path)
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save(state if wrapped == "plain" else {wrapped: state}, tmp_path / "weights.pth")
    assert (
        load_model(NAME, checkpoint=tmp_path / "weights.pth", options=SMALL).state_dict().keys()
        == model.state_dict().keys()
    )


class Payload:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pth", "pickle.pth"):
        with pytest.raises(InputError, match=r"does not run code from checkpoints|cannot be read"):
            read_state_dict(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_missing_and_damaged_checkpoints_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"There is no checkpoint .*nowhere\.safetensors"):
        read_state_dict(tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(saved(tmp_path)[1].read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        read_state_dict(tmp_path / "cut.safetensors")


def test_a_checkpoint_that_does_not_fit_says_which_keys(tmp_path: Path):
    _, path = saved(tmp_path, embed_dim=64)
    with pytest.raises(InputError, match=r"of another shape: .*\(64,\) in the file and \(32,\) in the model"):
        load_model(NAME, checkpoint=path, options=SMALL)
    _, path = saved(tmp_path, depth=3)
    with pytest.raises(InputError, match=r"not in the model: blocks\.2\.attn"):
        load_model(NAME, checkpoint=path, options=SMALL)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean vit_tiny_patch16_224"):
        load_model("vit_tny_patch16_224")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_other_models_get_pictures_and_a_head_and_have_no_sizes_of_a_transformer(name: str) -> None:
    options = {"num_classes": 5} | ({"embed_dim": 12, "depths": (1, 1)} if name.startswith("swin") else {})
    model = create(name, options)
    assert preprocessing_of(model).image_size == input_shape_of(model)[1:]
    fresh = with_classes(model, 4)
    with torch.no_grad():
        logits = fresh(torch.randn(2, *input_shape_of(model)))
    assert logits.shape == (2, 4) and not logits.any(), "a fresh head is zero"
    with pytest.raises(InputError, match=f"{name} is no plain vision transformer.*Pruning takes models built like"):
        describe(model, name)


class Remembers(torch.nn.Module):
    """Keeps what it computed from a parameter for the next call, as LeViT and TinyViT do."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([2.0, 3.0, 5.0]))
        self.head = torch.nn.Linear(3, 7)
        self.kept: dict[str, list[torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.setdefault("squares", [self.bias**2])
        out: torch.Tensor = self.head(x.mean((2, 3)) + self.kept["squares"][0])
        return out


def test_a_model_that_keeps_what_it_computed_is_copied() -> None:
    model = Remembers().eval()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    model.kept["squares"] = [model.bias**2]  # as after a call outside torch.no_grad
    fresh = with_classes(model, 4)
    assert fresh(torch.randn(2, 3, 4, 4)).shape == (2, 4)
    assert (
        fresh.kept["squares"][0].tolist() == [4.0, 9.0, 25.0]
        and fresh.kept["squares"][0] is not model.kept["squares"][0]
    )


def test_a_module_of_ones_own_gets_a_head_where_its_last_linear_is() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6), torch.nn.ReLU(), torch.nn.Linear(6, 7))
    fresh = with_classes(model, 4)
    assert fresh(torch.randn(2, 3, 4, 4)).tolist() == [[0.0] * 4] * 2
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 7)
    with pytest.raises(InputError, match=r"Flatten has no Linear.*keep_head"):
        with_classes(torch.nn.Flatten(), 4)
    with pytest.raises(InputError, match=r"Flatten does not say what images it takes.*input_shape=\(3, 224, 224\)"):
        input_shape_of(torch.nn.Flatten())


def test_checkpoint_and_hub_together_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="both name the weights"):
        load_model(NAME, checkpoint=tmp_path / "x.safetensors", pretrained=True)


def test_a_new_head_leaves_the_given_model_alone_and_starts_at_zero():
    model = small_vit()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = with_classes(model, 9)
    assert describe(fresh).classes == 9 and not fresh.head.weight.any() and not fresh.head.bias.any()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_preprocessing_is_timms_own_for_the_models_input_size():
    how = preprocessing_of(import_timm().create_model(NAME, **SMALL))
    assert how.image_size == (32, 32) and how.mean == (0.5, 0.5, 0.5) and how.crop_fraction == 0.9
