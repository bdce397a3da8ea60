"""Bits chosen for a size or an accuracy: bundles that keep to it, plastic parts that stay precise, clear refusals."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from exporter_models import CLASSES, forward_graph, parameters, pictures, plan_of, small
from torch import nn

from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.models import preprocessing_of
from edgeplast.placement import ON_CPU
from edgeplast.plans import Plan
from edgeplast.units import format_bytes
from edgeplast_devices.predicting import session_over
from edgeplast_exporters import export
from edgeplast_exporters.automatic_bits import choose_bits, relative_plasticity
from edgeplast_exporters.calibration import sample_inputs
from edgeplast_exporters.held_out_accuracy import AccuracyTarget
from edgeplast_exporters.rounding_errors import rounded_matrix, rounding_errors

MATRICES = ("patch_embed", *(f"blocks.{i}.{kind}" for i in range(2) for kind in ("attn", "fc1", "fc2")))


@functools.cache
def model() -> nn.Module:
    return small(embed_dim=64)


@functools.cache
def images() -> list[np.ndarray]:
    return list(pictures(model(), 8))


def scored(scores: dict[str, float], train: str = "head") -> Plan:
    plan = plan_of(model(), train)
    components = {
        name: msgspec.structs.replace(component, score=scores.get(name)) for name, component in plan.components.items()
    }
    return msgspec.structs.replace(plan, components=components)


def chosen(plan: Plan, **how: Any) -> Plan:
    return choose_bits(model(), plan, images=images(), classes=CLASSES, preprocessing=preprocessing_of(model()), **how)


def written(plan: Plan, into: Path) -> Bundle:
    how: dict = {"classes": CLASSES, "preprocessing": preprocessing_of(model()), "images": images()}
    return export(model(), plan, into=into, **how)


def bits(plan: Plan) -> dict[str, int]:
    return {name: plan.components[name].weight_bits for name in MATRICES if not plan.components[name].trainable}


@functools.cache
def smallest_bytes() -> int:
    with pytest.raises(BudgetError, match=r"fits into 1000 B.*4 bits.*takes.*train less") as refused:
        chosen(plan_of(model(), "head"), size_bytes=1000)
    return int(str(refused.value).split(" bytes)")[0].rsplit("(", 1)[1])


def test_a_size_too_small_is_refused_with_the_smallest_that_works(tmp_path: Path) -> None:
    least = smallest_bytes()
    plan = plan_of(model(), "head")
    with pytest.raises(BudgetError, match=rf"{least} bytes"):
        chosen(plan, size_bytes=least - 1)
    made = chosen(plan, size_bytes=least)
    assert set(bits(made).values()) == {4}
    assert least - 2048 < written(made, tmp_path / "b").bytes <= least


def test_bundles_keep_to_their_size_and_less_room_never_gives_more_bits(tmp_path: Path) -> None:
    least, before = smallest_bytes(), dict.fromkeys(MATRICES, 4)
    seen = set()
    for step, size in enumerate((*range(least, least + 360_000, 40_000), least + 400_000)):
        made = chosen(plan_of(model(), "head"), size_bytes=size)
        here = bits(made)
        assert all(here[name] >= before[name] for name in MATRICES)
        bundle = written(made, tmp_path / str(step))
        assert bundle.bytes <= size
        assert f"a bundle of {format_bytes(bundle.bytes)} (" in bundle.manifest.plan.notes[-1]
        before, seen = here, seen | {tuple(here.values())}
    assert len(seen) > 4 and set(before.values()) == {32}


def test_plastic_components_keep_more_bits_than_smooth_ones() -> None:
    """The same model and size; the scores of the two blocks exchanged."""
    size = smallest_bytes() + 14_000
    kinds = ("attn", "fc1", "fc2")
    for plastic, smooth in ((0, 1), (1, 0)):
        scores = {f"blocks.{plastic}.{kind}": 100.0 for kind in kinds} | {f"blocks.{smooth}.{k}": 1e-3 for k in kinds}
        made = bits(chosen(scored(scores), size_bytes=size))
        assert sum(made[f"blocks.{plastic}.{k}"] for k in kinds) > sum(made[f"blocks.{smooth}.{k}"] for k in kinds)


def test_plasticity_counts_relative_to_its_kind() -> None:
    plan = scored({"blocks.0.attn": 1.0, "blocks.1.attn": 3.0, "blocks.0.fc1": 0.0, "blocks.1.fc1": 50.0})
    found = relative_plasticity(plan.components)
    assert (found["blocks.0.attn"], found["blocks.1.attn"]) == (0.5, 1.5)
    assert (found["blocks.0.fc1"], found["blocks.1.fc1"]) == (0.1, 2.0)
    assert found["blocks.0.fc2"] == found["patch_embed"] == 1.0


def test_what_trains_stays_float32_and_the_model_is_not_changed() -> None:
    before = parameters(model())
    made = chosen(plan_of(model(), "attn:1,head"), size_bytes=10**9)
    assert made.trainable == ("blocks.1.attn", "head") and "blocks.1.attn" not in bits(made)
    assert set(bits(made).values()) == {32}
    for name, array in parameters(model()).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_plan_that_does_not_fit_gets_fewer_bits_and_nothing_is_measured_again() -> None:
    asked, told = list[set[int]](), list[tuple[str, int]]()

    def fits(tried: Plan) -> bool:
        asked.append({*bits(tried).values()})
        return asked[-1] <= {most}

    for most in (32, 8, 4):
        asked.clear(), told.clear()
        made = chosen(
            plan_of(model(), "attn:1,head"), size_bytes=10**9, fits=fits, progress=lambda *one: told.append(one[:2])
        )
        assert {*bits(made).values()} == {most}
        assert asked == [{each} for each in (32, 8, 4) if each >= most]
        begun = [activity for activity, done in told if done == 0 and activity != "writing training graphs"]
        assert begun and len(begun) == len({*begun})


def test_errors_are_those_of_torch_with_rounded_weights() -> None:
    """Of one component each, at the end of its block."""
    forward, stored = forward_graph(model()), parameters(model())
    names = ["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight"]
    rows = {name: s.rows for name, s in sample_inputs(forward, stored, images(), names).items()}
    found = rounding_errors(forward, stored, images(), rows)
    assert found.keys() == {"blocks.0.attn", "blocks.0.fc1"}
    for component, own in (("blocks.0.attn", names[:2]), ("blocks.0.fc1", names[2:])):
        for count in (8, 4):
            rounded = small(embed_dim=64)
            for name in own:
                rounded.get_parameter(name).data = torch.from_numpy(rounded_matrix(stored[name], count, rows[name]))
            exact, changed = (_first_block(m) for m in (model(), rounded))
            expected = ((changed - exact) ** 2).sum() / ((exact - exact.mean(dim=0)) ** 2).sum()
            assert found[component][count] == pytest.approx(float(expected), rel=1e-2)
        assert 0 < found[component][8] < found[component][4]


@torch.no_grad()
def _first_block(network: Any) -> torch.Tensor:
    x = network._pos_embed(network.patch_embed(torch.from_numpy(np.stack(images()))))
    return network.blocks[0](x).flatten(0, 1).double()


def test_a_dead_component_and_what_feeds_it_alone_go_to_4_bits_first() -> None:
    dead = small(embed_dim=64)
    dead.blocks[0].mlp.fc2.weight.data.zero_()
    how: dict = {"images": images(), "classes": CLASSES, "preprocessing": preprocessing_of(dead)}
    made = bits(choose_bits(dead, plan_of(dead, "head"), size_bytes=smallest_bytes() + 270_000, **how))
    assert (made.pop("blocks.0.fc1"), made.pop("blocks.0.fc2")) == (4, 4)
    assert set(made.values()) == {32}


def target(points: float, count: int = 40) -> AccuracyTarget:
    """Labels are the float32 model's own classes, so that every change of class is a loss."""
    held_out = pictures(model(), count, seed=1)
    with torch.no_grad():
        labels = model()(torch.from_numpy(held_out)).argmax(dim=1).numpy()
    return AccuracyTarget(points, np.zeros(8, np.int64), list(held_out), labels, None)


def test_an_accuracy_is_kept_in_the_bundle_itself(tmp_path: Path) -> None:

    strict, loose = (chosen(plan_of(model(), "head"), accuracy=target(points)) for points in (0.0, 99.0))
    assert set(bits(loose).values()) == {4}
    assert sum(bits(strict).values()) >= sum(bits(loose).values())
    assert "0 allowed), on 40 held-out pictures: one of them is 2.50 points" in strict.notes[-1]
    assert "head 100.0% in float32" in strict.notes[-1] and "+0.00 points lost" in strict.notes[-1]
    bundle = written(strict, tmp_path / "b")
    session = session_over(bundle, 1, ON_CPU)
    aim = target(0.0)
    found = np.concatenate([session.logits(np.stack(aim.held_out[i : i + 8])) for i in range(0, 40, 8)])
    assert (found.argmax(axis=1) == aim.held_out_labels).all()


def test_a_probe_is_fitted_on_features_of_the_calibration_pictures() -> None:
    seen: list[tuple] = []

    def probe(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append((features.shape, labels.tolist()))
        return np.eye(3, 64, dtype=np.float32), np.zeros(3, np.float32)

    aim = dataclasses.replace(target(99.0), probe=probe)
    made = chosen(plan_of(model(), "head"), accuracy=aim)
    assert seen == [((8, 64), [0] * 8)] and "a logistic probe on its features" in made.notes[-1]


def test_an_accuracy_that_cannot_be_kept_in_the_size() -> None:
    with pytest.raises(BudgetError, match=r"drop of 0 points cannot be kept.*lose \d+\.\d\d points.*larger bundle"):
        chosen(plan_of(model(), "head"), accuracy=target(0.0, count=200), size_bytes=smallest_bytes())


@pytest.mark.parametrize(
    ("train", "how", "error", "message"),
    [
        ("head", {}, UsageError, "for a size or for an accuracy"),
        ("all", {"size_bytes": 10**9}, UsageError, "Every matrix trains.*Train less"),
    ],
)
def test_what_means_nothing_is_refused(train: str, how: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        chosen(plan_of(model(), train), **how)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(InputError, match=r"5 pictures are left.*at least 20.*--calibration-images"):
        chosen(plan_of(model(), "head"), accuracy=target(1.0, count=5))
