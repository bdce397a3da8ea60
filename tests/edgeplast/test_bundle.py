"""Opening bundles: every fault is found before a parser sees a byte, and all of them are reported at once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeplast.architecture import Architecture
from edgeplast.budget import Budget
from edgeplast.bundle import (
    DEPLOYMENT_GRAPH,
    EVALUATION_GRAPH,
    FROZEN,
    MANIFEST,
    TRAINABLE,
    Bundle,
    Manifest,
    StoredFile,
    StoredParameter,
    Tier,
    TrainingGraph,
    describe_file,
)
from edgeplast.components import all_components
from edgeplast.errors import DamagedError, EdgeplastError, InputError
from edgeplast.footprint import Footprint, MemoryLine
from edgeplast.plans import Plan, PlannedComponent
from edgeplast.preprocessing import Preprocessing

FILES = (FROZEN, TRAINABLE, EVALUATION_GRAPH, DEPLOYMENT_GRAPH, "train-full.onnx")


def manifest_of(folder: Path) -> Manifest:
    architecture = Architecture(
        model="tiny",
        image_size=(16, 16),
        tokens=5,
        width=8,
        depth=1,
        heads=(2,),
        mlp_width=(32,),
        classes=2,
        parameters={"head": 18},
    )
    components = {name: PlannedComponent(trainable=name == "head", parameters=18) for name in all_components(1)}
    footprint = Footprint(
        transient=(MemoryLine(10, 20),), frozen_bytes=1, trained_parameters=18, held_parameters=18, graph_bytes=5
    )
    return Manifest(
        model="tiny",
        classes=("cat", "dog"),
        preprocessing=Preprocessing(image_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3),
        plan=Plan(architecture=architecture, components=components, strategy="names", budget=Budget()),
        parameters={"head.weight": StoredParameter(component="head", shape=(2, 8), trainable=True)},
        tiers=(
            Tier(
                name="full",
                components=("head",),
                graphs=(TrainingGraph(file="train-full.onnx", footprint=footprint, recompute="none", step_flops=1.0),),
            ),
        ),
        evaluation=footprint,
        files={name: describe_file(folder / name) for name in FILES},
        versions={"edgeplast": "0"},
    )


def make(folder: Path) -> Path:
    folder.mkdir()
    for i, name in enumerate(FILES):
        (folder / name).write_bytes(f"{name} ".encode() * (i + 3))
    manifest_of(folder).write(folder / MANIFEST)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Path]:
    yield make(tmp_path / "bundle")


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


def damage(bundle: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        Bundle.open(bundle)
    return str(caught.value)


def test_a_whole_bundle_opens_as_it_was_written(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest == manifest_of(bundle)
    assert opened.bytes == sum(p.stat().st_size for p in bundle.iterdir())


def test_the_fingerprint_changes_with_anything_in_the_bundle(bundle: Path) -> None:
    before = Bundle.open(bundle).fingerprint
    (bundle / TRAINABLE).write_bytes(b"other")
    manifest_of(bundle).write(bundle / MANIFEST)
    assert Bundle.open(bundle).fingerprint != before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, -1])
def test_a_flipped_bit_is_found(bundle: Path, name: str, at: int) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[at] ^= 1
    (bundle / name).write_bytes(data)
    assert f"{name} was changed" in damage(bundle)


def test_a_truncated_file_is_found_by_its_size(bundle: Path) -> None:
    data = (bundle / FROZEN).read_bytes()
    (bundle / FROZEN).write_bytes(data[:-1])
    assert f"{FROZEN} has {len(data) - 1} bytes instead of {len(data)}" in damage(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name} is missing" in damage(bundle)


def test_a_folder_in_the_place_of_a_file_is_missing(bundle: Path) -> None:
    (bundle / FROZEN).unlink()
    (bundle / FROZEN).mkdir()
    assert f"{FROZEN} is missing" in damage(bundle)


def test_all_faults_are_listed_at_once(bundle: Path) -> None:
    (bundle / FROZEN).unlink()
    (bundle / TRAINABLE).write_bytes(b"short")
    data = bytearray((bundle / EVALUATION_GRAPH).read_bytes())
    data[0] ^= 255
    (bundle / EVALUATION_GRAPH).write_bytes(data)
    edit(bundle, lambda content: content["files"].pop("train-full.onnx"))
    message = damage(bundle)
    for part in (f"{FROZEN} is missing", f"{TRAINABLE} has 5 bytes", f"{EVALUATION_GRAPH} was changed"):
        assert part in message
    assert "train-full.onnx is used but not listed" in message
    assert str(bundle) in message and "again" in message


ESCAPES = ["../secret", "a/../../secret", "/etc/passwd", "C:\\secret", "..\\secret", "c:secret", "", "..", "."]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_path_out_of_the_folder_is_never_followed(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": describe_file(bundle.parent / "secret").sha256}
    edit(bundle, lambda content: content["files"].update({name: entry}))
    message = damage(bundle)
    assert repr(name) in message or f"{name} is missing" in message


@pytest.mark.parametrize("name", ESCAPES)
def test_a_graph_named_out_of_the_folder_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_bytes(b"secret")
    edit(bundle, lambda content: content["tiers"][0]["graphs"][0].update({"file": name}))
    assert "is used but not listed" in damage(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_out_of_the_folder_is_refused(bundle: Path) -> None:
    secret = bundle.parent / "secret"
    shutil.copy(bundle / FROZEN, secret)
    (bundle / FROZEN).unlink()
    (bundle / FROZEN).symlink_to(secret)
    assert f"{FROZEN!r} is a link out of the folder" in damage(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_inside_the_folder_is_followed(bundle: Path) -> None:
    (bundle / FROZEN).rename(bundle / "elsewhere")
    (bundle / FROZEN).symlink_to("elsewhere")
    Bundle.open(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_folder_that_leads_out_is_refused(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    outside.mkdir()
    shutil.copy(bundle / FROZEN, outside / "secret")
    (bundle / "sub").symlink_to(outside)
    entry = describe_file(outside / "secret")
    edit(bundle, lambda c: c["files"].update({"sub/secret": {"bytes": entry.bytes, "sha256": entry.sha256}}))
    assert "link out of the folder" in damage(bundle)


def test_a_bundle_reached_through_a_link_opens(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    assert Bundle.open(link).manifest.model == "tiny"


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    edit(bundle, lambda content: content.update(format_version=2, something_new=True))
    with pytest.raises(InputError, match=r"has format 2.*pip install --upgrade edgeplast"):
        Bundle.open(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no bundle.*edgeplast export"):
        Bundle.open(tmp_path)
    with pytest.raises(InputError, match=r"There is no .*absent\. Make a bundle with: edgeplast export"):
        Bundle.open(tmp_path / "absent")
    (tmp_path / "m.onnx").touch()
    with pytest.raises(InputError, match=r"is a file, and a bundle is a folder.*predict"):
        Bundle.open(tmp_path / "m.onnx")
    (tmp_path / "a.partial").mkdir()
    with pytest.raises(InputError, match=r"is an unfinished run: finish it with edgeplast adapt … -o .*a --resume"):
        Bundle.open(tmp_path / "a.partial")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "{}", '{"format_version": 1}', '{"format_version": "1"}', "\x00\xff"]
)
def test_a_manifest_that_is_none_is_damage(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_bytes(text.encode("latin-1"))
    assert "Export the bundle again" in damage(bundle)


def test_a_manifest_that_is_not_utf8_is_damage(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_bytes().replace(b"tiny", b"t\xff\xfey")
    (bundle / MANIFEST).write_bytes(text)
    assert "Export the bundle again" in damage(bundle)


def test_a_manifest_whose_values_cannot_be_is_damage(bundle: Path) -> None:
    edit(bundle, lambda content: content.update(classes=["cat", "cat"]))
    assert "different class names" in damage(bundle)


def test_a_budget_that_cannot_be_is_damage(bundle: Path) -> None:
    edit(bundle, lambda content: content["plan"]["budget"].update(memory_bytes=-1))
    damage(bundle)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_flipped_bytes_opens_or_says_so(bundle: Path, data: st.DataObject) -> None:
    """No byte of the manifest can make opening raise anything but one of edgeplast's own errors."""
    manifest_of(bundle).write(bundle / MANIFEST)
    text = bytearray((bundle / MANIFEST).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.integers(0, 127))
    (bundle / MANIFEST).write_bytes(text[: data.draw(st.integers(1, len(text)))])
    try:
        Bundle.open(bundle)
    except EdgeplastError as error:
        assert isinstance(error, InputError | DamagedError)


def test_sizes_and_hashes_describe_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert describe_file(tmp_path / "f") == StoredFile(
        bytes=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
