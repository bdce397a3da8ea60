"""The device's verbs take what a trusted key signed and nothing else, and sign what they make, so that it is traced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgeplast
from edgeplast.bundle import REPORT, TRAINABLE, Bundle
from edgeplast.errors import DamagedError, FallbackWarning, InputError, InterruptedRunError, UntrustedError
from edgeplast.stored_files import SIGNATURES
from edgeplast.trust.keys import PrivateKey, keygen, read_private
from edgeplast.trust.signing import Signer
from edgeplast_devices import running
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession

pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")

QUICK = TrainingOptions(epochs=1, learning_rate=3e-3, threads=1, seed=3)


class Desk:
    """A workstation's bundle that its key signed, a device's key, and keys that a device trusts."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder, self.keys = folder, folder / "keys"
        for name in ("site", "device", "stranger"):
            keygen(folder / name)
        self.keys.mkdir()
        shutil.copy(folder / "site.pub", self.keys)
        self.bundle = Path(shutil.copytree(bundle.path, folder / "bundle"))
        edgeplast.sign(self.bundle, folder / "site.key")
        self.device, self.out = folder / "device.key", folder / "out"

    def key(self, name: str) -> PrivateKey:
        return read_private(self.folder / f"{name}.key")

    def trust(self, name: str) -> None:
        shutil.copy(self.folder / f"{name}.pub", self.keys)


@pytest.fixture
def desk(bundle: Bundle, tmp_path: Path) -> Desk:
    return Desk(tmp_path, bundle)


def prints(folder: Path, keys: Path) -> list[tuple[str, str]]:
    """A chain: fingerprint and who verified it."""
    return [
        (link.fingerprint, link.verified_by.partition(" ")[0])
        for link in edgeplast.verify(folder, keys).signature.chain
    ]


VERBS: dict[str, Callable[[Desk, Path, Any], Any]] = {
    "adapt": lambda desk, blobs, trusted: edgeplast.adapt(
        desk.bundle, blobs, into=desk.out, options=QUICK, trusted=trusted
    ),
    "evaluate": lambda desk, blobs, trusted: edgeplast.evaluate(desk.bundle, blobs, trusted=trusted),
    "deploy": lambda desk, blobs, trusted: edgeplast.deploy(desk.bundle, desk.folder / "m.onnx", trusted=trusted),
    "predict": lambda desk, blobs, trusted: edgeplast.predict(desk.bundle, blobs / "test", trusted=trusted),
    "Learner": lambda desk, blobs, trusted: edgeplast.Learner(
        desk.bundle, into=desk.out, memory="none", trusted=trusted
    ).close(),
}


@pytest.mark.parametrize("verb", VERBS)
class TestEveryVerb:
    def test_takes_what_is_signed(self, desk: Desk, blobs: Path, verb: str) -> None:
        VERBS[verb](desk, blobs, desk.keys)

    @pytest.mark.parametrize("how", ["unsigned", "stranger", "changed"])
    def test_refuses_the_rest_before_a_graph_is_opened(
        self, desk: Desk, blobs: Path, verb: str, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if how == "unsigned":
            (desk.bundle / SIGNATURES).unlink()
        elif how == "stranger":
            edgeplast.sign(desk.bundle, desk.folder / "stranger.key", force=True)
        else:
            with (desk.bundle / TRAINABLE).open("r+b") as f:
                f.seek(-1, os.SEEK_END)
                f.write(b"\x7f")
        monkeypatch.setattr("edgeplast_devices.runtime.import_onnxruntime", lambda: pytest.fail("a graph was opened"))
        before = sorted(path.name for path in desk.folder.iterdir())
        with pytest.raises(DamagedError if how == "changed" else UntrustedError):
            VERBS[verb](desk, blobs, desk.keys)
        assert sorted(path.name for path in desk.folder.iterdir()) == before

    def test_an_opened_bundle_is_asked_too(self, desk: Desk, blobs: Path, verb: str) -> None:
        edgeplast.sign(desk.bundle, desk.folder / "stranger.key", force=True)
        desk.bundle = Bundle.open(desk.bundle)  # type: ignore[assignment]
        with pytest.raises(UntrustedError, match="not trusted"):
            VERBS[verb](desk, blobs, desk.keys)


class TestChain:
    def test_from_the_workstation_over_two_adaptations_to_a_deployed_model(self, desk: Desk, blobs: Path) -> None:
        how: dict[str, Any] = {"options": QUICK, "trusted": desk.keys, "sign": desk.device}
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, **how)
        edgeplast.adapt(desk.out, blobs, into=desk.folder / "second", **how)  # its own key is trusted without a word
        model = edgeplast.deploy(desk.folder / "second", desk.folder / "m.onnx", trusted=desk.keys, sign=desk.device)
        desk.trust("device")
        first, second = (Bundle.open(desk.folder / name).fingerprint for name in ("out", "second"))
        expected = [(second, "device.pub"), (first, "device.pub"), (Bundle.open(desk.bundle).fingerprint, "site.pub")]
        assert prints(desk.folder / "second", desk.keys) == expected
        assert prints(model, desk.keys)[1:] == expected
        edgeplast.predict(model, blobs / "test", trusted=desk.keys)
        edgeplast.evaluate(model, blobs, trusted=desk.keys)

    def test_an_ancestor_whose_key_is_not_trusted_is_named_by_its_hash(self, desk: Desk, blobs: Path) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        (desk.keys / "site.pub").unlink()
        desk.trust("device")
        own, parent = edgeplast.verify(desk.out, desk.keys).signature.chain
        assert own.verified_by and not parent.verified_by
        assert parent.fingerprint == Bundle.open(desk.bundle).fingerprint

    def test_what_was_made_from_a_revoked_bundle_is_refused(self, desk: Desk, blobs: Path) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        desk.trust("device")
        (desk.keys / "revoked.txt").write_text(f"{Bundle.open(desk.bundle).fingerprint} backdoored")
        with pytest.raises(UntrustedError, match=r"was made from [0-9a-f]{16}…, which was revoked \(backdoored\)"):
            edgeplast.evaluate(desk.out, blobs, trusted=desk.keys)

    def test_also_where_it_was_not_signed_itself(self, desk: Desk, blobs: Path) -> None:
        (desk.bundle / SIGNATURES).unlink()
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        desk.trust("device")
        found = edgeplast.verify(desk.out, desk.keys).signature
        assert len(found.chain) == 1 and found.beyond == Bundle.open(desk.bundle).fingerprint
        (desk.keys / "revoked.txt").write_text(found.beyond)
        with pytest.raises(UntrustedError, match="which was revoked"):
            edgeplast.evaluate(desk.out, blobs, trusted=desk.keys)

    def test_a_chain_with_another_parent_is_no_chain(self, desk: Desk, blobs: Path, int8_bundle: Bundle) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        other = shutil.copytree(int8_bundle.path, desk.folder / "other")
        edgeplast.sign(other, desk.folder / "site.key")
        own, _ = (desk.out / SIGNATURES).read_bytes().splitlines(keepends=True)
        (desk.out / SIGNATURES).write_bytes(own + (other / SIGNATURES).read_bytes())
        desk.trust("device")
        with pytest.raises(DamagedError, match="a chain that is broken: line 2 is not its parent's"):
            Bundle.open(desk.out, trusted=desk.keys)

    def test_nothing_is_signed_over_a_chain_that_is_broken(self, desk: Desk, blobs: Path, int8_bundle: Bundle) -> None:
        edgeplast.sign(shutil.copytree(int8_bundle.path, desk.folder / "other"), desk.folder / "site.key")
        shutil.copy(desk.folder / "other" / SIGNATURES, desk.bundle)
        with pytest.raises(DamagedError, match="is not the signature of that bundle"):
            edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        assert not desk.out.exists()

    def test_the_report_is_signed_with_it(self, desk: Desk, blobs: Path) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        desk.trust("device")
        assert edgeplast.verify(desk.out, desk.keys).report is True
        report = (desk.out / REPORT).read_bytes()
        (desk.out / REPORT).write_bytes(report.replace(b'"steps"', b'"step5"'))
        with pytest.raises(UntrustedError, match=r"report\.json is not the one that was signed"):
            edgeplast.verify(desk.out, desk.keys)

    def test_an_unsigned_adaptation_of_a_signed_bundle_bears_no_signature(self, desk: Desk, blobs: Path) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, trusted=desk.keys)
        assert not (desk.out / SIGNATURES).exists()

    def test_signing_again_keeps_who_came_before(self, desk: Desk, blobs: Path) -> None:
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.device)
        edgeplast.sign(desk.out, desk.folder / "site.key", valid_days=3, force=True)
        assert [by for _, by in prints(desk.out, desk.keys)] == ["site.pub", "site.pub"]


class TestVersions:
    def test_history_says_who_signed_each_and_a_version_put_back_is_trusted(
        self, desk: Desk, blobs: Path, capsys: pytest.CaptureFixture
    ) -> None:
        from edgeplast.cli.app import run

        how: dict[str, Any] = {"options": QUICK, "trusted": desk.keys, "sign": desk.device}
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, **how)
        second = desk.folder / "second"
        edgeplast.adapt(desk.out, blobs, into=second, **how)
        desk.trust("device")
        assert run(["history", str(second), "--trusted", str(desk.keys), "--json"]) == 0
        versions = json.loads(capsys.readouterr().out)["versions"]
        assert [v["signed_by"].partition(" ")[0] for v in versions] == ["site.pub", "device.pub", "device.pub"]
        assert run(["history", str(second), "--trusted", str(desk.folder / "site.pub"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["versions"][1]["signed_by"].startswith("not trusted: ")
        assert run(["history", str(second)]) == 0 and "signed by" in capsys.readouterr().out
        assert run(["roll-back", str(second), "v1"]) == 0
        assert prints(second, desk.keys) == prints(desk.out, desk.keys)


class TestResuming:
    def test_a_resumed_run_is_signed_in_the_end(self, desk: Desk, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = msgspec.structs.replace(QUICK, checkpoint_every="1steps")

        def interrupt(run: Any, *_: Any) -> None:
            if run.state.steps >= 2:
                raise InterruptedRunError("Stopped.")

        how: dict[str, Any] = {"options": options, "trusted": desk.keys, "sign": desk.device}
        with monkeypatch.context() as patch:
            patch.setattr(running.Run, "between", interrupt)
            with pytest.raises(InterruptedRunError):
                edgeplast.adapt(desk.bundle, blobs, into=desk.out, **how)
        (desk.folder / "out.partial" / SIGNATURES).write_text("cut off")  # as by a kill
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, resume=True, **how)
        desk.trust("device")
        assert len(prints(desk.out, desk.keys)) == 2


class TestWhatIsVerifiedIsWhatIsLoaded:
    @pytest.mark.parametrize("verb", ["evaluate", "deploy"])
    def test_of_a_bundle(self, desk: Desk, blobs: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exchanged once the signature was verified, with manifest and hashes that fit one another."""
        evil = Path(shutil.copytree(desk.bundle, desk.folder / "evil"))
        with (evil / TRAINABLE).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        real = Bundle.open.__func__  # type: ignore[attr-defined]

        def opening(cls: type[Bundle], *arguments: Any, **more: Any) -> Bundle:
            opened = real(cls, *arguments, **more)
            shutil.rmtree(desk.bundle)
            shutil.copytree(evil, desk.bundle)
            return opened

        monkeypatch.setattr(Bundle, "open", classmethod(opening))
        with pytest.raises(DamagedError, match=r"was changed|cannot be read"):
            VERBS[verb](desk, blobs, desk.keys)

    @pytest.mark.parametrize("verb", ["predict", "evaluate"])
    def test_of_a_deployed_model(self, desk: Desk, blobs: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = edgeplast.deploy(desk.bundle, desk.folder / "m.onnx", sign=desk.folder / "site.key")
        content, real = model.read_bytes(), EvaluationSession.__init__

        def opening(session: Any, *arguments: Any, **more: Any) -> None:
            other = model.with_name("other")
            other.write_bytes(content)
            other.replace(model)
            real(session, *arguments, **more)

        monkeypatch.setattr(EvaluationSession, "__init__", opening)
        with pytest.raises(InputError, match=r"m\.onnx changed while it was opened"):
            getattr(edgeplast, verb)(model, blobs / "test", trusted=desk.keys)


class TestDeployedModels:
    @pytest.mark.parametrize("how", ["unsigned", "changed", "stranger"])
    def test_are_refused_before_they_are_opened(
        self, desk: Desk, blobs: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = "stranger" if how == "stranger" else "site"
        model = edgeplast.deploy(desk.bundle, desk.folder / "m.onnx", sign=desk.folder / f"{key}.key")
        if how == "unsigned":
            (desk.folder / f"m.onnx.{SIGNATURES}").unlink()
        elif how == "changed":
            model.write_bytes(model.read_bytes()[:-1] + b"\x7f")
        monkeypatch.setattr("edgeplast_devices.predicting.check_external_files", lambda _: pytest.fail("it was parsed"))
        message = {
            "unsigned": "is not signed",
            "changed": "it was changed. It was not opened",
            "stranger": "not trusted",
        }
        with pytest.raises(UntrustedError, match=message[how]):
            edgeplast.predict(model, blobs / "test", trusted=desk.keys)

    def test_a_new_one_under_an_old_name_does_not_bear_its_signature(self, desk: Desk) -> None:
        model = edgeplast.deploy(desk.bundle, desk.folder / "m.onnx", sign=desk.device)
        edgeplast.deploy(desk.bundle, model, force=True)
        assert not (desk.folder / f"m.onnx.{SIGNATURES}").exists()

    def test_can_be_signed_later(self, desk: Desk, blobs: Path) -> None:
        model = edgeplast.deploy(desk.bundle, desk.folder / "m.onnx")
        edgeplast.sign(model, desk.folder / "site.key")
        assert edgeplast.verify(model, desk.keys).files == 1
        assert edgeplast.predict(model, blobs / "test", trusted=desk.keys)


class TestLearner:
    def teach(self, learner: edgeplast.Learner) -> None:
        rng = np.random.default_rng(0)
        for label in learner.classes[:2]:
            pictures = [Image.fromarray(rng.integers(0, 255, (36, 36, 3), dtype=np.uint8)) for _ in range(4)]
            learner.add(pictures, label)
        learner.learn(steps=1)

    def test_signs_each_version_and_takes_its_own_up_again(self, desk: Desk, blobs: Path) -> None:
        how: dict[str, Any] = {"memory": "none", "trusted": desk.keys, "sign": desk.device, "options": QUICK}
        with edgeplast.Learner(desk.bundle, into=desk.out, **how) as learner:
            self.teach(learner)
            learner.deploy(desk.folder / "m.onnx")
        with edgeplast.Learner(desk.bundle, into=desk.out, **how) as learner:
            learner.learn(steps=1)
        with edgeplast.Learner(desk.out, **how) as learner:
            learner.learn(steps=1)
        desk.trust("device")
        root = (Bundle.open(desk.bundle).fingerprint, "site.pub")
        own, parent = prints(desk.out, desk.keys)
        assert own == (Bundle.open(desk.out).fingerprint, "device.pub") and parent == root
        deployed, version, parent = prints(desk.folder / "m.onnx", desk.keys)
        assert deployed[1] == version[1] == "device.pub" and parent == root

    def test_does_not_take_up_what_a_stranger_put_there(self, desk: Desk, blobs: Path) -> None:
        how: dict[str, Any] = {"memory": "none", "trusted": desk.keys, "sign": desk.device, "options": QUICK}
        edgeplast.adapt(desk.bundle, blobs, into=desk.out, options=QUICK, sign=desk.folder / "stranger.key")
        with pytest.raises(UntrustedError, match="not trusted"):
            edgeplast.Learner(desk.bundle, into=desk.out, **how)


def test_a_device_whose_clock_stands_in_1970_learns_and_says_so(
    desk: Desk, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 100.0)
    keys = edgeplast.TrustedKeys.read(desk.keys)
    trusted = type(keys)(keys.keys, keys.source, clock=lambda: 100.0)
    with pytest.warns(FallbackWarning, match="clock says 1970-01-01"):
        edgeplast.adapt(
            desk.bundle, blobs, into=desk.out, options=QUICK, trusted=trusted,
            sign=Signer(desk.key("device"), clock=lambda: 100.0),
        )  # fmt: skip
    desk.trust("device")
    own, parent = edgeplast.verify(desk.out, desk.keys).signature.chain
    assert own.signed_at == parent.signed_at


class TestProfile:
    def test_says_whom_to_trust_and_who_signs(self, desk: Desk, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read from its own folder on, wherever the command is typed."""
        from edgeplast.cli.app import run

        profile = desk.folder / "camera.toml"
        profile.write_text(
            'title = "a camera"\nmemory = "8GB"\ncores = 2\nbudget = "1GiB"\nthreads = 1\nprovider = "cpu"\n'
            'install = "x"\nsource = "y"\ntrusted = "keys"\nsign = "device.key"\n'
        )
        (desk.folder / "elsewhere").mkdir()
        monkeypatch.chdir(desk.folder / "elsewhere")
        assert run(["deploy", str(desk.bundle), "-o", "m.onnx", "--device", str(profile)]) == 0
        assert run(["predict", "m.onnx", str(blobs / "test"), "--device", str(profile)]) == 5  # keys/ lacks device.pub
        desk.trust("device")
        assert run(["predict", "m.onnx", str(blobs / "test"), "--device", str(profile)]) == 0
        (desk.bundle / SIGNATURES).unlink()
        for words in (
            ["evaluate", str(desk.bundle), "--data", str(blobs)],
            ["deploy", str(desk.bundle), "-o", "n.onnx"],
        ):
            assert run([*words, "--device", str(profile)]) == 5
        assert (
            run(["evaluate", str(desk.bundle), "--data", str(blobs), "--device", str(profile), "--trusted", "x"]) == 3
        )


def test_the_doctor_asks_too(desk: Desk, capsys: pytest.CaptureFixture) -> None:
    from edgeplast.cli.app import run

    (desk.bundle / SIGNATURES).unlink()
    assert run(["doctor", str(desk.bundle), "--trusted", str(desk.keys), "--json"]) == 5
    assert "is not signed" in capsys.readouterr().out


MEASURE = """
import sys
import edgeplast.verbs, edgeplast_devices.adapting
from edgeplast.bundle import Bundle
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
Bundle.open(sys.argv[1])
before = resident()
Bundle.open(sys.argv[1], trusted=sys.argv[2])
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is resident")
def test_verifying_leaves_less_than_four_megabytes_behind(desk: Desk) -> None:
    """2.7 where it was measured; a library of another size would show."""
    command = [sys.executable, "-c", MEASURE, str(desk.bundle), str(desk.keys)]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings)
    assert int(done.stdout) < 4 << 20
