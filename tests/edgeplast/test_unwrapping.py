"""Models inside what trainers put around them, and what is no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import CLASSES, blob_folder, hand_made_plan, small_vit

import edgeplast
from edgeplast.errors import InputError, UsageError
from edgeplast.unwrapping import unwrapped

WRAPPERS: list[Callable[[Any], Any]] = [
    torch.nn.DataParallel,
    torch.compile,
    lambda model: torch.compile(torch.nn.DataParallel(model)),
    lambda model: torch.nn.DataParallel(torch.compile(model)),
    torch.optim.swa_utils.AveragedModel,
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_the_model_inside_is_found(wrap: Callable[[Any], Any]):
    model = small_vit()
    inside = unwrapped(wrap(model))
    assert type(inside) is type(model)
    assert torch.equal(inside.state_dict()["head.weight"], model.state_dict()["head.weight"])


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, torch.compile])
def test_wrapped_models_are_scored_and_exported_as_themselves(tmp_path: Path, wrap: Callable[[Any], Any]):
    blobs = blob_folder(tmp_path / "blobs", train=4, test=0)
    plain, wrapped = (edgeplast.score(m, blobs, pairs=4) for m in (small_vit(), wrap(small_vit())))
    assert plain.components == wrapped.components
    bundle = edgeplast.export(wrap(small_vit()), hand_made_plan(small_vit()), into=tmp_path / "b")
    assert bundle.manifest.classes == CLASSES


def test_a_model_compiled_in_place_works_too(tmp_path: Path):
    model = small_vit()
    model.compile()
    assert edgeplast.score(model, blob_folder(tmp_path, train=4, test=0), pairs=4).components


@pytest.mark.parametrize("given", ["vit_tiny_patch16_224", None, {}])
def test_what_is_no_module_is_told_how_one_is_made(tmp_path: Path, given: Any):
    with pytest.raises(UsageError, match=r"a torch.nn.Module is needed\. By name, it is made by: edgeplast\.models"):
        edgeplast.score(given, tmp_path)
    with pytest.raises(UsageError, match=r"a torch\.nn\.Module is needed"):
        edgeplast.export(given, hand_made_plan(small_vit()), into=tmp_path / "b")
    with pytest.raises(UsageError, match=r"a torch\.nn\.Module is needed"):
        edgeplast.prune(given, tmp_path, keep=0.5)


def test_a_module_of_another_family_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="Sequential does not say what images it takes"):
        edgeplast.score(torch.nn.Sequential(torch.nn.Linear(2, 2)), blob_folder(tmp_path, train=4, test=0))


def test_backbones_without_a_head_get_one_and_have_none_to_keep(tmp_path: Path):
    backbone = small_vit(num_classes=0)
    scores = edgeplast.score(backbone, blob_folder(tmp_path / "blobs", train=4, test=0), pairs=4)
    assert scores.outline.classes == 3
    bundle = edgeplast.export(backbone, edgeplast.plan(scores), into=tmp_path / "b")
    assert bundle.manifest.classes == CLASSES and isinstance(backbone.head, torch.nn.Identity)
    with pytest.raises(InputError, match="has no head to keep"):
        edgeplast.export(backbone, edgeplast.plan(scores), into=tmp_path / "c", keep_head=True)
