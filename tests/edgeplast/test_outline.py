"""The outline of a model: its components by name, by short forms, by parameter."""

from __future__ import annotations

import msgspec
import pytest

from edgeplast.errors import InputError, UsageError
from edgeplast.outline import Component, Outline, Segment, kind_of


def part(name: str, block: int | None = None, role: str = "inner", **shapes: tuple[int, ...]) -> Component:
    parameters = {f"{name}.{key}": shape for key, shape in (shapes or {"weight": (4, 2)}).items()}
    return Component(name=name, kind=kind_of(name), role=role, block=block, parameters=parameters)  # type: ignore[arg-type]


def outline(*more: Component, segments: tuple[Segment, ...] = ()) -> Outline:
    parts = (
        part("stem.0", role="embedding"),
        *(part(f"stages.{s}.{i}.{kind}", 2 * s + i) for s in (0, 1) for i in (0, 1) for kind in ("attn", "fc1")),
        part("final", role="norm", weight=(4,)),
        part("head.fc", role="head", weight=(3, 4), bias=(3,)),
        *more,
    )
    return Outline(model="small", input_shape=(3, 32, 32), classes=3, components=parts, segments=segments)


def test_short_forms_name_kinds_blocks_roles_and_paths() -> None:
    model = outline()
    assert model.select("attn:1-2") == ["stages.0.1.attn", "stages.1.0.attn"]
    assert model.select("blocks:3") == ["stages.1.1.attn", "stages.1.1.fc1"]
    assert model.select("head, embedding") == ["stem.0", "head.fc"]
    assert model.select("stages.0") == [n for n in model.names if n.startswith("stages.0.")]
    assert model.select("norm,fc1:0") == ["stages.0.0.fc1", "final"]
    assert model.select("all") == list(model.names)
    assert model.select("head.fc") == model.select("fc") == ["head.fc"]
    assert model.blocks == 4


def test_what_names_nothing_is_answered_with_what_there_is() -> None:
    model = outline()
    with pytest.raises(UsageError, match=r"'atn' names nothing in small.*kinds.*attn.*Did you mean attn\?"):
        model.select("atn")
    with pytest.raises(UsageError, match=r"'attn:2-9' names no blocks.*0 to 3"):
        model.select("attn:2-9")
    with pytest.raises(UsageError, match=r"Unknown component 'stem.1'.*Did you mean stem\.0"):
        model.in_order(["stem.1"])
    with pytest.raises(UsageError, match="Unknown component 'body'"):
        model.component("body")
    with pytest.raises(InputError, match=r"no parameter 'tail\.weight'"):
        model.owner("tail.weight")


def test_sizes_and_owners_come_from_the_parameters() -> None:
    model = outline()
    assert model.component("head.fc").size == 15
    assert model.owner("stages.1.0.fc1.weight") == "stages.1.0.fc1"
    assert model.head == ("head.fc",)


def test_an_outline_survives_json() -> None:
    model = outline(segments=(Segment(start="images", end="a", components=("stem.0",), block=None),))
    assert msgspec.json.decode(msgspec.json.encode(model), type=Outline) == model


def test_an_outline_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(InputError, match=r"lists a component twice: stem\.0"):
        outline(part("stem.0"))
    with pytest.raises(InputError, match=r"lists a parameter twice: stem\.0\.weight"):
        outline(Component(name="x", kind="x", role="inner", block=None, parameters={"stem.0.weight": (4,)}))
    with pytest.raises(InputError, match="components that the model has not: body"):
        outline(segments=(Segment(start="a", end="b", components=("body",), block=None),))
    with pytest.raises(InputError, match="no head"):
        Outline(model="m", input_shape=(3, 8, 8), classes=2, components=(part("a"),))


def test_a_kind_is_the_last_step_that_is_no_number() -> None:
    assert [kind_of(p) for p in ("blocks.3.attn", "layer1.0.downsample.1", "stem.0", "0", "head.fc")] == [
        "attn", "downsample.1", "stem.0", "0", "fc",
    ]  # fmt: skip
