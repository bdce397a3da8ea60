"""Opening bundles: every fault is found before a parser sees a byte, and all of them are reported at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeplast import stored_files
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
from edgeplast.errors import DamagedError, EdgeplastError, InputError
from edgeplast.footprint import Footprint, MemoryLine
from edgeplast.outline import Component, Outline
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing

FILES = (FROZEN, TRAINABLE, EVALUATION_GRAPH, DEPLOYMENT_GRAPH, "train-full.onnx")


def manifest_of(folder: Path) -> Manifest:
    outline = Outline(
        model="tiny",
        input_shape=(3, 16, 16),
        classes=2,
        components=(
            Component(name="norm", kind="norm", role="norm", block=None, parameters={"norm.weight": (8,)}),
            Component(name="head", kind="head", role="head", block=None, parameters={"head.weight": (2, 8)}),
        ),
    )
    footprint = Footprint(
        transient=(MemoryLine(10, 20),), frozen_bytes=1, trained_parameters=18, held_parameters=18, graph_bytes=5
    )
    return Manifest(
        model="tiny",
        classes=("cat", "dog"),
        preprocessing=Preprocessing(image_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3),
        plan=plan_by_names(outline, "head"),
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


def contents(name: str, text: bytes) -> bytes:
    """Bytes for a file; those of a graph are a message of protobuf whose producer has that name."""
    return bytes([0x12, len(text)]) + text if name.endswith(".onnx") else text


def make(folder: Path) -> Path:
    folder.mkdir()
    for i, name in enumerate(FILES):
        (folder / name).write_bytes(contents(name, f"{name} ".encode() * (i + 3)))
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


def test_what_is_no_file_is_not_taken_for_one(bundle: Path) -> None:
    (bundle / FROZEN).unlink()
    (bundle / FROZEN).mkdir()
    if sys.platform != "win32":
        (bundle / TRAINABLE).unlink()
        os.mkfifo(bundle / TRAINABLE)  # reading it would wait for ever
        assert f"{TRAINABLE} cannot be used (it is no regular file)" in damage(bundle)
    assert f"{FROZEN} cannot be used (" in damage(bundle)


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
    assert f"{name!r} lies outside the folder" in damage(bundle)


OF_A_RUN = [
    "bundle.json", "report.json", "telemetry.jsonl", "checkpoint-00000001-0123456789abcdef.safetensors",
    "best-00000001-0123456789abcdef.safetensors", "REPORT.json", "frozen.safetensors.partial", ".lock",
    "x.onnx.partial", "Frozen.safetensors", "losses.bin", ".hidden.onnx", "a b.onnx", "x" * 5000, "ä.onnx",
    "a\x1b[2J.onnx", "train.onnx ",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_manifest_names_weights_and_graphs_and_nothing_that_a_run_writes(bundle: Path, name: str) -> None:
    entry = {"bytes": 6, "sha256": "0" * 64}
    edit(bundle, lambda content: content["files"].update({name: entry}))
    message = damage(bundle)
    assert "is no file of a bundle (frozen.safetensors, trainable.safetensors and graphs, *.onnx)" in message
    assert name[:80] in message or repr(name) in message
    assert len(message) < 1000 and message.isprintable()


@pytest.mark.parametrize("name", OF_A_RUN)
def test_nor_does_a_tier(bundle: Path, name: str) -> None:
    edit(bundle, lambda content: content["tiers"][0]["graphs"][0].update({"file": name}))
    assert "is used but not listed" in damage(bundle)


def test_a_graph_may_not_be_the_weights(bundle: Path) -> None:
    edit(bundle, lambda content: content["tiers"][0]["graphs"][0].update({"file": TRAINABLE}))
    assert f"{TRAINABLE} is no graph" in damage(bundle)


def test_names_that_some_systems_take_for_one_are_refused(bundle: Path) -> None:
    shutil.copy(bundle / "train-full.onnx", bundle / "Train-full.onnx")
    edit(bundle, lambda content: content["files"].update({"Train-full.onnx": content["files"]["train-full.onnx"]}))
    assert "train-full.onnx is listed twice" in damage(bundle)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_graph_named_out_of_the_folder_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_bytes(b"secret")
    edit(bundle, lambda content: content["tiers"][0]["graphs"][0].update({"file": name}))
    assert "is used but not listed" in damage(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("target", ["elsewhere", "../secret", "/etc/hostname"])
def test_a_link_in_the_place_of_a_file_is_refused(bundle: Path, target: str) -> None:
    for place in (bundle / "elsewhere", bundle.parent / "secret"):
        shutil.copy(bundle / FROZEN, place)
    (bundle / FROZEN).unlink()
    (bundle / FROZEN).symlink_to(target)
    assert f"{FROZEN} cannot be used (it is a link)" in damage(bundle)


def test_a_bundle_reached_through_a_link_opens(bundle: Path) -> None:
    link = bundle.parent / "link"
    link.symlink_to(bundle)
    assert Bundle.open(link).manifest.model == "tiny"


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    edit(bundle, lambda content: content.update(format_version=3, something_new=True))
    with pytest.raises(InputError, match=r"has format 3.*pip install --upgrade edgeplast"):
        Bundle.open(bundle)


def test_an_older_format_says_how_to_make_a_new_one(bundle: Path) -> None:
    edit(bundle, lambda content: content.update(format_version=1, plan={"architecture": {}}))
    with pytest.raises(InputError, match=r"has format 1; this edgeplast reads 2\. Export the bundle again: edgeplast"):
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
    "text", ["", "{", "[]", "null", '"text"', "{}", '{"format_version": 2}', '{"format_version": "1"}', "\x00\xff"]
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


def with_graph(bundle: Path, name: str, location: str) -> None:
    """Give a graph of the bundle a tensor whose values lie in another file."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(1, b"location") + field(2, location.encode())
    (bundle / name).write_bytes(field(7, field(5, field(13, entry))))
    manifest_of(bundle).write(bundle / MANIFEST)


@pytest.mark.parametrize("name", [EVALUATION_GRAPH, DEPLOYMENT_GRAPH, "train-full.onnx"])
@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "./frozen.safetensors", "unlisted", TRAINABLE, ""])
def test_a_graph_that_reads_other_files_is_refused(bundle: Path, name: str, location: str) -> None:
    for place in (bundle / "unlisted", bundle.parent / "secret"):
        place.write_bytes(b"secret")
    with_graph(bundle, name, location)
    message = damage(bundle)
    assert f"{name} reads weights from" in message and "a bundle's graphs read frozen.safetensors alone" in message
    assert location in message


def test_a_graph_may_read_the_frozen_weights(bundle: Path) -> None:
    with_graph(bundle, EVALUATION_GRAPH, FROZEN)
    Bundle.open(bundle)


def test_a_graph_that_is_none_or_too_large_is_damage(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / EVALUATION_GRAPH).write_bytes(b"\x07")
    manifest_of(bundle).write(bundle / MANIFEST)
    assert "evaluate.onnx cannot be used (evaluate.onnx is no ONNX model" in damage(bundle)
    monkeypatch.setattr("edgeplast.stored_files.MOST_GRAPH_BYTES", 100)
    assert "train-full.onnx has 114 B; a graph has 100 B at most" in damage(bundle)
    assert "deploy.onnx has" not in damage(bundle)


def _exchange(file: Path, content: bytes) -> None:
    other = file.with_name("other")
    other.write_bytes(content)
    other.replace(file)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("exchange", [_exchange, Path.write_bytes, lambda file, _: file.unlink()])
def test_what_changes_after_it_was_verified_is_found(
    bundle: Path, name: str, exchange: Callable[[Path, bytes], None]
) -> None:
    opened = Bundle.open(bundle)
    opened.check_unchanged()
    exchange(bundle / name, (bundle / name).read_bytes()[::-1])
    with pytest.raises(DamagedError, match=rf"changed while it was used: {name} was changed\. Nothing was made of it"):
        opened.check_unchanged()
    with pytest.raises(DamagedError):
        opened.check_unchanged(name)
    opened.check_unchanged(*(other for other in FILES if other != name))


def test_what_was_changed_and_changed_back_is_found_as_well(bundle: Path) -> None:
    opened, content = Bundle.open(bundle), (bundle / FROZEN).read_bytes()
    _exchange(bundle / FROZEN, content[::-1])
    _exchange(bundle / FROZEN, content)
    with pytest.raises(DamagedError, match="changed while it was used"):
        opened.check_unchanged()


@pytest.mark.parametrize("name", FILES)
def test_another_name_for_a_file_is_no_damage(
    bundle: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that keeps versions links their files, and someone may just be reading the folder."""
    hash_it, other = stored_files.hashed, tmp_path / "other"

    def linking(file: BinaryIO) -> str:
        digest = hash_it(file)
        if digest == stored.sha256 and not other.exists():
            os.link(bundle / name, other)
        return digest

    stored = describe_file(bundle / name)
    monkeypatch.setattr(stored_files, "hashed", linking)
    opened = Bundle.open(bundle)
    assert other.exists()
    opened.check_unchanged()
    other.unlink()
    opened.check_unchanged()


def test_a_file_that_never_rests_or_is_written_to_while_it_is_hashed_is_damaged(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_it = stored_files.hashed

    def during(change: Callable[[Path], None]) -> str:
        def hashing(file: BinaryIO) -> str:
            digest = hash_it(file)
            change(bundle / FROZEN)
            return digest

        monkeypatch.setattr(stored_files, "hashed", hashing)
        return damage(bundle)

    assert f"{FROZEN} is being written to" in during(lambda file: file.chmod(file.stat().st_mode ^ 0o040))
    assert f"{FROZEN} is being written to" in during(lambda file: os.utime(file, ns=(0, time.time_ns())))


class TestCopies:
    def test_are_hashed_as_they_are_made(self, bundle: Path, tmp_path: Path) -> None:
        opened, into = Bundle.open(bundle), tmp_path / "copy"
        into.mkdir()
        _exchange(bundle / FROZEN, (bundle / FROZEN).read_bytes()[::-1])
        with pytest.raises(DamagedError, match=f"{FROZEN} was changed"):
            opened.copied(into)
        assert not (into / FROZEN).exists()

    def test_are_a_bundle_that_no_longer_needs_its_source(self, bundle: Path, tmp_path: Path) -> None:
        opened, into = Bundle.open(bundle), tmp_path / "copy"
        into.mkdir()
        copy, fingerprint = opened.copied(into), opened.fingerprint
        shutil.rmtree(bundle)
        copy.check_unchanged()
        assert copy.path == into and copy.fingerprint == fingerprint
        assert sorted(path.name for path in into.iterdir()) == sorted(FILES)
        (into / TRAINABLE).write_bytes(b"other")
        with pytest.raises(DamagedError, match=f"{TRAINABLE} was changed"):
            copy.check_unchanged()

    def test_stay_where_they_are_whole_and_are_made_again_where_they_are_not(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        opened, into = Bundle.open(bundle), tmp_path / "copy"
        into.mkdir()
        opened.copied(into)
        kept = (into / EVALUATION_GRAPH).stat().st_mtime_ns
        (into / FROZEN).write_bytes(b"cut off")
        opened.copied(into).check_unchanged()
        assert (into / FROZEN).read_bytes() == (bundle / FROZEN).read_bytes()
        assert (into / EVALUATION_GRAPH).stat().st_mtime_ns == kept

    @pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
    def test_are_not_written_through_links_that_lie_there(self, bundle: Path, tmp_path: Path) -> None:
        into, precious = tmp_path / "copy", tmp_path / "precious"
        into.mkdir()
        for name in FILES:  # a link to the right content is a link, too: its target may change
            precious.write_bytes(b"mine") if name != FROZEN else None
            (into / name).symlink_to(bundle / FROZEN if name == FROZEN else precious)
        Bundle.open(bundle).copied(into)
        assert precious.read_bytes() == b"mine"
        assert not any((into / name).is_symlink() for name in FILES)

    def test_that_a_backup_has_linked_are_still_the_same(self, bundle: Path, tmp_path: Path) -> None:
        into = tmp_path / "copy"
        into.mkdir()
        copy = Bundle.open(bundle).copied(into)
        (into / FROZEN).chmod(0o600)  # changes its times, not its content
        copy.check_unchanged()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(tiers=[]), "at least one tier"),
        (lambda c: c["tiers"][0].update(graphs=[]), "each tier a training graph"),
        (lambda c: c["tiers"][0].update(components=[]), "Tier 'full' trains what the plan does not, or nothing"),
        (lambda c: c["tiers"][0].update(components=["norm"]), "Tier 'full' trains what the plan does not"),
        (lambda c: c["evaluation"].update(transient=[]), "at least one line"),
        (lambda c: c["files"][FROZEN].update(bytes=2**64), r"Expected `int` <= 9007199254740992 - at `\$.files"),
        (lambda c: c["files"][FROZEN].update(bytes=-1), "Expected `int` >= 0"),
        (lambda c: c["parameters"]["head.weight"].update(shape=[2, 10**30]), "Expected `int` <="),
        (lambda c: c["parameters"]["head.weight"].update(shape=[0]), "Expected `int` >= 1"),
        (lambda c: c["parameters"]["head.weight"].update(weight_bits=3), "32, 8 or 4 bits"),
        (lambda c: c["preprocessing"].update(image_size=[10**6, 16]), "Expected `int` <= 8192"),
        (lambda c: c["plan"]["outline"].update(components=[]), "no head"),
        (lambda c: c.update(classes=[f"{i}" * 1000 for i in range(9)] * 2), "two or more different class names"),
    ],
)
def test_values_that_cannot_be_are_named_in_few_words(
    bundle: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    edit(bundle, change)
    message = damage(bundle)
    assert re.search(reason, message) and len(message) < 1500


def test_a_manifest_of_a_hundred_megabytes_is_not_read(bundle: Path) -> None:
    with (bundle / MANIFEST).open("r+b") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    message = damage(bundle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "bundle.json has 100 MiB; a bundle manifest has 4 MiB at most, and this one was not read. Copy" in message
    assert peak < 1 << 20


@pytest.mark.parametrize("filler", ["[[],{}],", "0,", '"x",', '{"a":{}},'])
def test_what_the_largest_manifest_holds_costs_little_memory(bundle: Path, filler: str) -> None:
    """Typed fields refuse what does not belong into them before it grows to many times its size."""
    for key in ("classes", "tiers", "files", "unknown"):
        head = f'{{"format_version":2,"{key}":['.encode()
        (bundle / MANIFEST).write_bytes(head + filler.encode() * (((4 << 20) - 100) // len(filler)) + b"0]}")
        tracemalloc.start()
        damage(bundle)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20, key


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "a/" + "x" * 5000])
def test_a_name_that_no_folder_can_have_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="There is no ") as caught:
        Bundle.open(Path(name))
    assert len(str(caught.value)) < 800
