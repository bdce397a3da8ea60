"""The learning rate that a device chooses follows from what trains, by roles and shapes and not by names."""

from __future__ import annotations

import pytest

from edgeplast.contract import low_rank_names
from edgeplast.outline import Component, Role
from edgeplast_devices.options import default_head_learning_rate, default_learning_rate


def part(name: str, role: Role, *shapes: tuple[int, ...]) -> Component:
    parameters = {f"{name}.{i}": shape for i, shape in enumerate(shapes)}
    return Component(name=name, kind=name.rpartition(".")[2], role=role, block=0, parameters=parameters)


HEAD, LAST = part("fc", "head", (3, 8), (3,)), part("final", "norm", (8,))
NORM = part("layer1.0.bn1", "inner", (8,), (8,))
ONE, OTHER = part("layer1.0.conv1", "inner", (8, 8, 3, 3)), part("layer1.0.conv2", "inner", (8, 72))


@pytest.mark.parametrize(
    ("trained", "rate"),
    [
        ([HEAD], 3e-3),
        ([LAST, HEAD], 3e-3),
        ([NORM, HEAD], 1e-3),
        ([NORM, ONE, HEAD], 5e-4),
        ([ONE, part("layer2.0.conv1", "inner", (8, 8, 3, 3)), HEAD], 5e-4),
        ([ONE, OTHER, LAST, HEAD], 2e-4),
    ],
)
def test_it_follows_roles_and_shapes(trained: list[Component], rate: float) -> None:
    assert default_learning_rate(trained, "adamw") == pytest.approx(rate)
    assert default_learning_rate(trained, "sgd") == pytest.approx(30 * rate)


def test_low_rank_factors_take_more_than_whole_matrices() -> None:
    names = low_rank_names("blocks.0.attn.qkv.weight")
    shapes = dict(zip(names, ((4, 32), (96, 4)), strict=True))
    factors = Component(name="blocks.0.attn.lora", kind="lora", role="inner", block=0, parameters=shapes)
    assert default_learning_rate([factors, NORM, HEAD], "adamw") == pytest.approx(2e-3)
    assert default_learning_rate([factors, ONE, HEAD], "adamw") == pytest.approx(2e-4)


def test_a_new_head_learns_as_fast_as_alone() -> None:
    assert default_head_learning_rate(2e-4, "adamw", new=True) == pytest.approx(3e-3)
    assert default_head_learning_rate(2e-4, "adamw", new=False) == pytest.approx(2e-4)
