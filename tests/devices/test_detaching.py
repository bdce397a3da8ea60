"""What was learned, taken off a bundle and put on its base again: the same model; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, blob, blob_folder, small_bundle, small_vit
from typed_commands import Typed, on_a_terminal

import edgeplast
from edgeplast.adapters import ADAPTER_FILE, PEFT_CONFIG, RECORD
from edgeplast.bundle import FROZEN, Bundle
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast_devices.detaching import attached
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.tensors import read_arrays, read_metadata, write_arrays
from edgeplast_devices.weights import read_trainable


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 2, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def adapter(learned: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("adapter") / "adapter"
    edgeplast.detach(learned, into)
    return into


@pytest.fixture(scope="module")
def five(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The same base adapted to another task of five classes: pictures, the adapted bundle and its adapter."""
    root = tmp_path_factory.mktemp("five")
    images = blob_folder(root / "data", train=6, test=4)
    for split in ("train", "test"):
        for i, name in enumerate(("ant", "bee")):
            (images / split / CLASSES[i]).rename(images / split / name)
    edgeplast.adapt(bundle, images, into=root / "adapted", options=options(new_classes="add"))
    edgeplast.detach(root / "adapted", root / "adapter")
    return images, root / "adapted", root / "adapter"


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return on_a_terminal(80, capsys, monkeypatch)


def beside(bundle: Bundle) -> set[str]:
    return {entry.name for entry in bundle.path.parent.iterdir()}


def test_a_base_with_an_adapter_is_the_adapted_bundle(
    bundle: Bundle, learned: Bundle, adapter: Path, blobs: Path, tmp_path: Path
) -> None:
    there, before = beside(bundle), bundle.fingerprint
    assert edgeplast.evaluate(bundle, blobs, adapter=adapter) == edgeplast.evaluate(learned, blobs)
    edgeplast.deploy(bundle, tmp_path / "a.onnx", adapter=adapter / ADAPTER_FILE)
    edgeplast.deploy(learned, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    edgeplast.adapt(bundle, blobs, into=tmp_path / "a", adapter=adapter, options=options())
    edgeplast.adapt(learned, blobs, into=tmp_path / "b", options=options())
    mine, theirs = read_trainable(Bundle.open(tmp_path / "a")), read_trainable(Bundle.open(tmp_path / "b"))
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    assert beside(bundle) == there and Bundle.open(bundle.path).fingerprint == before  # nothing is left of it


def test_one_base_serves_tasks_with_classes_of_their_own(
    bundle: Bundle, adapter: Path, learned: Bundle, five: tuple[Path, Path, Path], blobs: Path, tmp_path: Path
) -> None:
    images, adapted, other = five
    want = Bundle.open(adapted).manifest
    assert want.classes == (*CLASSES, "ant", "bee") and want.temperature is not None
    with attached(bundle, other) as found:
        assert found.manifest.classes == want.classes and found.manifest.temperature == want.temperature
        assert found.manifest.unknown == want.unknown and found.manifest.tiers == want.tiers
        assert found.manifest.files == want.files  # graphs bit for bit
    assert edgeplast.evaluate(bundle, images, adapter=other) == edgeplast.evaluate(adapted, images)
    # what was adapted from the base is as good as the base, with fewer classes too
    assert edgeplast.evaluate(adapted, blobs, adapter=adapter) == edgeplast.evaluate(learned, blobs)
    edgeplast.deploy(adapted, tmp_path / "a.onnx", adapter=adapter)
    edgeplast.deploy(learned, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_an_interrupted_run_over_an_adapter_goes_on(bundle: Bundle, adapter: Path, blobs: Path, tmp_path: Path) -> None:
    how = options(checkpoint_every="1steps")
    edgeplast.adapt(bundle, blobs, into=tmp_path / "whole", adapter=adapter, options=how)

    def stop(epoch: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(edgeplast.EdgeplastError, match="go on with the same command"):
        edgeplast.adapt(bundle, blobs, into=tmp_path / "cut", adapter=adapter, options=how, epoch_done=stop)
    report = edgeplast.adapt(bundle, blobs, into=tmp_path / "cut", adapter=adapter, resume=True)
    assert report.resumed_at
    mine, theirs = (read_trainable(Bundle.open(tmp_path / name)) for name in ("cut", "whole"))
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_the_file_holds_what_trained_and_no_more(learned: Bundle, adapter: Path) -> None:
    arrays, trained = read_arrays(adapter / ADAPTER_FILE), read_trainable(learned)
    assert {*arrays} == {f"base_model.model.{name}" for name in trained}
    assert all(np.array_equal(arrays[f"base_model.model.{name}"], trained[name]) for name in trained)
    assert {file.name for file in adapter.iterdir()} == {ADAPTER_FILE}  # PEFT has no words for whole matrices


@pytest.mark.parametrize("word", ["lora:2", "lora-fa:2", "lora:2@attn:1,norm"])
def test_low_rank_factors_come_with_pefts_configuration(word: str, blobs: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = small_vit()
    scores = edgeplast.score(model, blobs / "train", pairs=2)
    plan = edgeplast.plan(scores, train=word, classes=CLASSES, weight_bits=32)
    bundle = edgeplast.export(model, plan, into=tmp_path / "base")
    edgeplast.adapt(bundle, blobs, into=tmp_path / "adapted", options=options())
    edgeplast.detach(tmp_path / "adapted", tmp_path / "adapter")
    arrays = read_arrays(tmp_path / "adapter" / ADAPTER_FILE)
    config = json.loads((tmp_path / "adapter" / PEFT_CONFIG).read_text())
    assert (tmp_path / "adapter" / ADAPTER_FILE).stat().st_size < (tmp_path / "base" / FROZEN).stat().st_size / 2
    # as PEFT reads it: a factor pair beside each named layer, whole modules in the place of the model's own
    changed = {name: value.clone() for name, value in model.state_dict().items()}
    assert config["lora_alpha"] == config["r"] == 2 and config["peft_type"] == "LORA"
    for layer in config["target_modules"]:
        a, b = (torch.from_numpy(arrays.pop(f"base_model.model.{layer}.lora_{x}.weight")) for x in "AB")
        assert isinstance(model.get_submodule(layer), torch.nn.Linear) and len(a) == 2
        changed[f"{layer}.weight"] += b @ a
    for whole in config["modules_to_save"]:
        for name, _ in model.get_submodule(whole).named_parameters():
            changed[f"{whole}.{name}"] = torch.from_numpy(arrays.pop(f"base_model.model.{whole}.{name}"))
    assert not arrays and "head" in config["modules_to_save"]
    model.load_state_dict(changed)
    merged = dict(deployed(tmp_path / "base", tmp_path / "adapter"))
    for name, value in changed.items():
        np.testing.assert_allclose(merged[name].reshape(value.shape), value.numpy(), atol=1e-6, err_msg=name)


def deployed(base: Path, adapter: Path) -> list[tuple[str, np.ndarray]]:
    from edgeplast_devices.weights import all_parameters

    with attached(Bundle.open(base), adapter) as found:
        return list(all_parameters(found))


def test_what_is_no_adapter_of_this_base_is_refused(
    bundle: Bundle, learned: Bundle, adapter: Path, blobs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"has learned nothing yet: it is a fresh bundle\. Adapt it first"):
        edgeplast.detach(bundle, tmp_path / "a")
    other = small_bundle(tmp_path / "other", "blocks:1,norm")
    with pytest.raises(InputError, match=r"belongs to another base: .*Give the bundle that it was adapted from\."):
        edgeplast.evaluate(other, blobs, adapter=adapter)
    with pytest.raises(InputError, match=r"There is no .*nothing\. Make an adapter .*edgeplast detach adapted/"):
        edgeplast.evaluate(bundle, blobs, adapter=tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        edgeplast.evaluate(bundle, blobs, adapter=learned.path)
    with pytest.raises(InputError, match=r"is no adapter of edgeplast's: its header has no 'edgeplast\.adapter'"):
        edgeplast.evaluate(bundle, blobs, adapter=learned.path / "trainable.safetensors")
    with pytest.raises(UsageError, match=r"adapter is of the kind int\. Allowed: the folder or file of an adapter"):
        edgeplast.evaluate(bundle, blobs, adapter=3)  # type: ignore[arg-type]
    edgeplast.deploy(learned, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="is a deployed model, and an adapter belongs on a bundle"):
        edgeplast.evaluate(tmp_path / "model.onnx", blobs, adapter=adapter)
    with pytest.raises(UsageError, match="exists already"):
        edgeplast.detach(learned, adapter)


@pytest.mark.parametrize("change", ["value", "short", "record", "nan"])
def test_a_damaged_adapter_is_told_from_a_whole_one(
    bundle: Bundle, adapter: Path, blobs: Path, tmp_path: Path, change: str
) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    file = tmp_path / "a" / ADAPTER_FILE
    arrays, header = read_arrays(file), read_metadata(file)
    if change == "short":
        file.write_bytes(file.read_bytes()[:-10])
    elif change == "record":
        header[RECORD] = header[RECORD].replace('"classes"', '"casses"')
        write_arrays(file, arrays, header)
    else:
        next(iter(arrays.values())).flat[0] = np.nan if change == "nan" else 7
        write_arrays(file, arrays, header)
    with pytest.raises((DamagedError, InputError), match=r"damaged|cannot be read|casses"):
        edgeplast.evaluate(bundle, blobs, adapter=tmp_path / "a")


def test_only_what_is_signed_is_put_on_where_keys_are_asked(
    bundle: Bundle, learned: Bundle, blobs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nacl")
    key = edgeplast.keygen(tmp_path / "me")
    shutil.copytree(bundle.path, tmp_path / "base")
    edgeplast.sign(tmp_path / "base", tmp_path / "me.key")
    edgeplast.detach(learned, tmp_path / "bare")
    shutil.copytree(learned.path, tmp_path / "learned")
    edgeplast.sign(tmp_path / "learned", tmp_path / "me.key")
    edgeplast.detach(tmp_path / "learned", tmp_path / "signed", sign=tmp_path / "me.key", trusted=tmp_path / "me.pub")
    trusted = tmp_path / "me.pub"
    assert key is not None
    with pytest.raises(edgeplast.EdgeplastError, match="is not signed"):
        edgeplast.evaluate(tmp_path / "base", blobs, adapter=tmp_path / "bare", trusted=trusted)
    found = edgeplast.evaluate(tmp_path / "base", blobs, adapter=tmp_path / "signed", trusted=trusted)
    assert found == edgeplast.evaluate(learned, blobs)


def test_what_a_signed_run_over_an_adapter_made_is_trusted_and_names_the_base(
    bundle: Bundle, learned: Bundle, blobs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nacl")
    edgeplast.keygen(tmp_path / "me")
    shutil.copytree(bundle.path, tmp_path / "base")
    edgeplast.sign(tmp_path / "base", tmp_path / "me.key")
    edgeplast.detach(learned, tmp_path / "a", sign=tmp_path / "me.key")
    how = {"trusted": tmp_path / "me.pub", "adapter": tmp_path / "a"}
    quick = TrainingOptions(epochs=1, threads=1, augment="none")
    edgeplast.adapt(tmp_path / "base", blobs, into=tmp_path / "out", sign=tmp_path / "me.key", options=quick, **how)
    made = Bundle.open(tmp_path / "out", trusted=tmp_path / "me.pub")
    assert made.manifest.adapted_from == Bundle.open(tmp_path / "base").fingerprint


def test_as_typed(typed: Typed, bundle: Bundle, learned: Bundle, blobs: Path, tmp_path: Path) -> None:
    code, out, _ = typed("detach", learned.path, "-o", tmp_path / "a")
    said = " ".join(out.split())
    assert code == 0 and "parameters, 3 classes; base" in said and "no configuration for PEFT" in said
    code, out, _ = typed("detach", learned.path, "-o", tmp_path / "a", "--force", "--json")
    found = json.loads(out)
    assert code == 0 and found["kind"] == "adapter" and found["bytes"] > 4 * found["parameters"] and not found["peft"]
    code, out, _ = typed("evaluate", bundle.path, "--adapter", tmp_path / "a", "--data", blobs, "--json")
    assert code == 0 and json.loads(out)["accuracy"] > 0.8
    code, out, _ = typed("deploy", bundle.path, "--adapter", tmp_path / "a", "-o", tmp_path / "m.onnx", "--json")
    assert code == 0 and json.loads(out)["bytes"] == (tmp_path / "m.onnx").stat().st_size
    how = ["--data", blobs, "--epochs", "1", "--threads", "1", "-o", tmp_path / "again"]
    code, out, _ = typed("adapt", bundle.path, "--adapter", tmp_path / "a", *how, "--json")
    report = json.loads(out)
    assert code == 0 and report["accuracy"]["before"] > 0.8 and f'adapter = "{tmp_path / "a"}"' in report["run_file"]
    code, _, err = typed("evaluate", bundle.path, "--adapter", tmp_path / "b", "--data", blobs)
    assert code == 3 and "Make an adapter of an adapted bundle" in " ".join(err.split())


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_what_is_in_use_is_not(
    learned: Bundle, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(learned.path, tmp_path / "base")
    shutil.copytree(adapter, tmp_path / "adapter")
    code = (
        "import os, signal, sys\n"
        "from edgeplast.bundle import Bundle\n"
        "from edgeplast_devices.detaching import attached\n"
        "from pathlib import Path\n"
        "with attached(Bundle.open(sys.argv[1]), Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "base"), str(tmp_path / "adapter")])
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".base.*.attached")
    (tmp_path / ".base.mine.attached").mkdir()  # nobody ever held it: who knows whose it is
    with attached(Bundle.open(tmp_path / "base"), tmp_path / "adapter") as first:
        assert not left.exists() and first.path.is_dir()
        with attached(Bundle.open(tmp_path / "base"), tmp_path / "adapter") as second:
            assert first.path.is_dir() and second.path.is_dir() and first.path != second.path
    assert {entry.name for entry in tmp_path.iterdir()} == {"base", "adapter", ".base.mine.attached"}


def test_over_a_signed_base_no_verb_disturbs_another(learned: Bundle, tmp_path: Path) -> None:
    """A link would change when its files were last changed, which is what tells of whoever writes and undoes it."""
    pytest.importorskip("nacl")
    from edgeplast.trust.trusting import trusted_keys

    shutil.copytree(learned.path, tmp_path / "base")
    edgeplast.keygen(tmp_path / "site")
    edgeplast.sign(tmp_path / "base", tmp_path / "site.key")
    edgeplast.detach(tmp_path / "base", tmp_path / "adapter", sign=tmp_path / "site.key")
    keys = trusted_keys(tmp_path / "site.pub")
    base = Bundle.open(tmp_path / "base", trusted=keys)
    with attached(base, tmp_path / "adapter", keys) as first:
        base.check_unchanged()
        with attached(base, tmp_path / "adapter", keys):
            first.check_unchanged()
        base.check_unchanged()
        with attached(Bundle.open(tmp_path / "base"), tmp_path / "adapter"):  # another who asks for no signature
            base.check_unchanged()
            first.check_unchanged()
    base.check_unchanged()


def test_a_learner_begins_with_an_adapter_and_goes_on_with_what_it_learned(
    bundle: Bundle, adapter: Path, learned: Bundle, tmp_path: Path
) -> None:
    there, frame = beside(bundle), np.asarray(blob("green", 3))
    (expected,) = edgeplast.predict(learned, [frame])
    how: dict = {"into": tmp_path / "a", "adapter": adapter, "memory": "none", "options": options()}
    with edgeplast.Learner(bundle, **how) as learner:
        assert learner.predict(frame).probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        for label in CLASSES:
            learner.add([blob(label, i) for i in range(6)], label)
        learner.learn(steps=3)
        after = learner.predict(frame)
        assert learner.versions() and learner.deploy(tmp_path / "m.onnx").is_file()
    assert after.probabilities != pytest.approx(expected.probabilities, abs=1e-6)
    assert Bundle.open(tmp_path / "a").manifest.adapted_from == bundle.fingerprint and beside(bundle) == there
    with edgeplast.Learner(bundle, **how) as learner:
        assert learner.predict(frame).probabilities == pytest.approx(after.probabilities, abs=1e-6)
        learner.roll_back(learner.versions()[0].name)
        assert learner.predict(frame).probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    with pytest.raises(UsageError, match=r"stays as it is while an adapter is put on it\. Say where what is learned"):
        edgeplast.Learner(tmp_path / "a", adapter=adapter)
    with pytest.raises(InputError, match=r"There is no .*nothing\. Make an adapter"):
        edgeplast.Learner(bundle, **(how | {"into": tmp_path / "b", "adapter": tmp_path / "nothing"}))
    assert beside(bundle) == there and not (tmp_path / "b").exists()
