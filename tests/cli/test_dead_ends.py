"""Values that nobody means, typed or in files: one error that says what is wrong, with its exit code, everywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeplast
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle
from edgeplast.cli.app import run
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast.files import possible
from edgeplast.plans import Plan
from edgeplast.progress import LOADING
from edgeplast_devices.device_profiles import read_profile
from edgeplast_devices.options import Interval
from edgeplast_devices.predicting import Classifier

LONG = "x" * 5000


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    def run_it(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = run([str(word) for word in words])
        shown = capsys.readouterr()
        assert "Unexpected" not in shown.err and "Traceback" not in shown.err
        return code, shown.err

    return run_it


@pytest.mark.parametrize("name", [LONG, f"a/{LONG}", "a\0b"], ids=["long", "long part", "zero byte"])
def test_a_name_that_no_file_can_have(
    said: Callable, bundle: Bundle, blobs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = edgeplast.deploy(bundle, tmp_path / "m.onnx"), tmp_path / "out"
    monkeypatch.chdir(tmp_path)  # where a folder for such a file would be made
    for words in (
        ("inspect", name),
        ("evaluate", name, "--data", blobs),
        ("evaluate", bundle.path, "--data", name),
        ("deploy", name, "-o", out),
        ("deploy", bundle.path, "-o", name),
        ("predict", name, blobs),
        ("predict", model, name),
        ("adapt", name, "--data", blobs, "-o", out),
        ("adapt", bundle.path, "--data", name, "-o", out),
        ("adapt", bundle.path, "--data", blobs, "-o", name),
        ("adapt", bundle.path, "--data", blobs, "-o", name, "--resume"),
        ("adapt", bundle.path, "--data", blobs, "-o", out, "--device", f"{name}.toml"),
        ("report", name, "-o", out),
        ("plan", name, "-o", out),
    ):
        code, message = said(*words)
        assert code in (2, 3) and 0 < len(message) < 1500, words[0]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("name", "reason"), [(LONG, "is longer than a name of a file may be"), ("a\0b", "there is a zero byte in it")]
)
def test_the_same_from_python(bundle: Bundle, blobs: Path, tmp_path: Path, name: str, reason: str) -> None:
    for verb in (
        lambda: edgeplast.adapt(bundle, name, into=tmp_path / "out"),
        lambda: edgeplast.adapt(bundle, blobs, into=name),
        lambda: edgeplast.adapt(name, blobs, into=tmp_path / "out"),
        lambda: edgeplast.evaluate(bundle, name),
        lambda: edgeplast.predict(tmp_path / "m.onnx", name),
        lambda: edgeplast.deploy(bundle, name),
        lambda: possible(name),
    ):
        with pytest.raises(UsageError, match=reason):
            verb()


@pytest.mark.parametrize(
    "words", [("plan", "--\udcff"), ("\udcff",), ("inspect", "a", "\udcff"), ("inspect", "\udcff")]
)
def test_words_that_are_no_text(said: Callable, words: tuple[str, ...]) -> None:
    """What a shell passes on from a file name in another encoding."""
    for more in ((), ("--json",)):
        code, message = said(*words, *more)
        assert code in (2, 3) and "\\udcff" in message


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "h", "9" * 30, "1e999", "nan", "0", "0" * 400, "1.5", "٣", ""])
def test_an_interval_that_is_none(said: Callable, bundle: Bundle, blobs: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"is no interval; give for example 20steps, 30s, 5min or 1h") as caught:
        Interval.parse(text)
    assert len(str(caught.value)) < 200
    assert said("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "out", "--checkpoint-every", text)[0] == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a = " + "[" * 8000, "nested too deep"),
        ("a = " + "{b=" * 2500, "nested too deep"),
        ("[" + "a." * 4000 + "b]", "Unknown key|nested too deep"),
        ("cores = " + "9" * 5000, "is not a valid device profile"),
        ("a." * 20_000 + "b = 1", "is larger than 8 KiB, which no profile is"),  # minutes for a parser
        (b"title = '\xff'", "Cannot read the device profile"),
    ],
)
def test_a_device_profile_that_is_none(tmp_path: Path, content: str | bytes, reason: str) -> None:
    (tmp_path / "my.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=reason):
        read_profile(tmp_path / "my.toml")


def _field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("classes", b"\xff\xfe", "make no sense: 'utf-8' codec"),
        ("classes", b'["\xff","b","c"]', "make no sense: 'utf-8' codec"),
        ("classes", b"[" * 100_000, "make no sense"),
        ("classes", b'["a","a","b"]', "two or more different class names"),
        ("classes", b'["' + b"x" * 2000 + b'","b","c"]', "A class name has 2,000 characters; 1000 are the most"),
        (
            "preprocessing",
            b'{"image_size":[64,64],"mean":[0,0,0],"std":[1,1,1]}',
            r"takes pictures of shape \[3, 32, 32\], and its preprocessing makes them \[3, 64, 64\]",
        ),
        ("preprocessing", b'{"image_size":[32,32],"mean":[1e308,0,0],"std":[1,1,1]}', "Preprocessing out of range"),
        ("preprocessing", b'{"image_size":[32,32],"mean":[0,0,0],"std":[1e-308,1,1]}', "Preprocessing out of range"),
    ],
)
def test_metadata_of_a_model_that_cannot_be(
    bundle: Bundle, tmp_path: Path, key: str, value: bytes, reason: str
) -> None:
    model = edgeplast.deploy(bundle, tmp_path / "m.onnx")
    entry = _field(14, _field(1, f"edgeplast.{key}".encode()) + _field(2, value))
    model.write_bytes(model.read_bytes() + entry)
    with pytest.raises(InputError, match=reason) as caught:
        Classifier(model)
    assert len(str(caught.value)) < 800


def test_a_score_table_without_a_component(bundle: Bundle, tmp_path: Path, said: Callable) -> None:
    outline = json.loads((bundle.path / MANIFEST).read_text())["plan"]["outline"]
    outline["components"] = [c for c in outline["components"] if c["name"] != "blocks.1.attn"]
    score = {"score": 1.0, "parameters": 1}
    table = {
        "format_version": 2,
        "method": "plasticity",
        "components": {"blocks.0.attn": score},
        "outline": outline,
    }
    (tmp_path / "scores.json").write_text(json.dumps(table))
    code, message = said("plan", tmp_path / "scores.json", "-o", tmp_path / "plan.json")
    assert code == 3 and "components that the model has not: blocks.1.attn" in message


def test_records_of_the_old_format_say_how_to_make_new_ones(tmp_path: Path, said: Callable) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"format_version": 1, "architecture": {"model": "x"}, "components": {}}')
    code, message = said("plan", old)
    assert code == 3 and "has format 1; this edgeplast reads 2" in message and "edgeplast score MODEL" in message
    with pytest.raises(
        InputError, match=r"has format 1; this edgeplast reads 2\. Make it again: edgeplast score MODEL"
    ):
        Plan.read(old)


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit")
@pytest.mark.parametrize("verb", ["deploy", "adapt"])
def test_a_file_larger_than_the_file_system_takes(
    said: Callable, bundle: Bundle, blobs: Path, tmp_path: Path, verb: str
) -> None:
    import resource

    words = (verb, bundle.path, "-o", tmp_path / "out", *(("--data", blobs) if verb == "adapt" else ()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bundle.manifest.files[TRAINABLE].bytes // 2, before[1]))
    try:
        code, message = said(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 3 and "a file is larger than the file system or a limit (ulimit -f) allows" in message
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_deleted_while_it_is_used(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """A run has its own copy and ends well; others say so, as does a run whose own folder is deleted."""
    import shutil

    options = edgeplast.TrainingOptions(epochs=1, threads=1)

    def deleting(copy: Path, gone: Path) -> dict[str, Any]:
        shutil.copytree(bundle.path, copy)

        def told(activity: str, *_: int) -> None:
            if not activity.startswith(("verifying", "copying", LOADING)):  # the graphs are open
                shutil.rmtree(gone, ignore_errors=True)

        return {"progress": told}

    a, b, c, d = (tmp_path / name for name in "abcd")
    report = edgeplast.adapt(a, blobs, into=tmp_path / "out", options=options, **deleting(a, a))
    assert report.steps and Bundle.open(tmp_path / "out").manifest.adapted_from == bundle.fingerprint
    with pytest.raises(DamagedError, match=r"changed while it was used: .*evaluate.onnx was changed"):
        edgeplast.evaluate(b, blobs, **deleting(b, b))
    with pytest.raises(DamagedError, match=r"changed while it was used: .*trainable.safetensors was changed"):
        edgeplast.deploy(c, tmp_path / "m.onnx", **deleting(c, c))
    with pytest.raises(DamagedError, match=r"o.partial changed while it was used"):
        edgeplast.adapt(d, blobs, into=tmp_path / "o", options=options, **deleting(d, tmp_path / "o.partial"))
    assert not (tmp_path / "m.onnx").exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize("graphs", [None, []], ids=["none", "without graphs"])
def test_a_bundle_of_empty_tiers(
    said: Callable, bundle: Bundle, blobs: Path, tmp_path: Path, graphs: list | None
) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    content = json.loads((copy / MANIFEST).read_text())
    content["tiers"] = [] if graphs is None else [{**tier, "graphs": graphs} for tier in content["tiers"]]
    (copy / MANIFEST).write_text(json.dumps(content))
    for words in (("inspect", copy), ("adapt", copy, "--data", blobs, "-o", tmp_path / "out")):
        code, message = said(*words)
        assert code == 5 and "A bundle needs at least one tier, and each tier a training graph" in message


SHOWING: list[Callable[[Any], tuple]] = [
    lambda t: ("inspect", t["bundle"]),
    lambda t: ("evaluate", t["bundle"], "--data", t["data"]),
    lambda t: ("evaluate", t["model"], "--data", t["data"]),
    lambda t: ("predict", t["model"], t["data"] / "test"),
    lambda t: ("adapt", t["bundle"], "--data", t["data"], "-o", t["out"], "--epochs", "1", "--threads", "1"),
    lambda t: ("adapt", t["bundle"], "--data", t["elsewhere"], "-o", t["out"]),
]


@pytest.mark.parametrize("words", SHOWING)
def test_names_in_files_cannot_steer_a_terminal(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture, words: Callable[[Any], tuple]
) -> None:
    """Class names, model and folder of a bundle are texts of whoever made it."""
    import shutil

    from small_models import CLASSES, blob_folder

    evil = {name: f"{name}\x1b[2J\x1b]0;owned\x07\u202e" for name in CLASSES}
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    content = json.loads((copy / MANIFEST).read_text())
    content["classes"], content["model"] = [evil[name] for name in content["classes"]], "vit\x1b[31m"
    (copy / MANIFEST).write_text(json.dumps(content))
    data = blob_folder(tmp_path / "data", 4, 3)
    for split in ("train", "test"):
        for name in CLASSES:
            (data / split / name).rename(data / split / evil[name])
    elsewhere = blob_folder(tmp_path / "elsewhere", 4, 0)
    (elsewhere / "red").rename(elsewhere / "\x1b[2Jred")
    there = {"bundle": copy, "data": data, "model": tmp_path / "m.onnx", "elsewhere": elsewhere, "out": tmp_path / "o"}
    edgeplast.deploy(copy, there["model"])
    capsys.readouterr()
    run([str(word) for word in words(there)])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "\\x1b[2J" in shown.out + shown.err  # every one of them names a class


@pytest.mark.parametrize("operator", [b"No\x1b[31mSuch", b"Gather", b"Add"])
def test_nor_can_names_in_a_graph_by_way_of_the_runtime(
    tmp_path: Path, blobs: Path, capfd: pytest.CaptureFixture, operator: bytes
) -> None:
    """Its own log writes to the terminal from native code, past everything that makes names printable."""

    def tensor(number: int, name: bytes, *sizes: int) -> bytes:
        shape = b"".join(_field(1, bytes([8, size])) for size in sizes)
        return _field(number, _field(1, name) + _field(2, _field(1, b"\x08\x01" + _field(2, shape))))

    inputs = _field(1, b"images") + _field(1, b"evil\x1b[2J")
    node = _field(1, inputs + _field(2, b"logits") + _field(3, b"\x1b]0;owned\x07") + _field(4, operator))
    graph = node + _field(2, b"g\x1b[2J") + tensor(11, b"images", 1, 3, 32, 32) + tensor(12, b"logits", 1, 3)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + _field(7, graph) + _field(8, b"\x10\x11"))
    assert run(["predict", str(tmp_path / "m.onnx"), str(blobs)]) == 3
    shown = capfd.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\\x1b[" in shown.err
