"""Which build and which provider compute: what is asked for is checked, a fallback is stated, copies stay fresh."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeplast
from edgeplast.bundle import EVALUATION_GRAPH, Bundle
from edgeplast.cli.app import run
from edgeplast.errors import FallbackWarning, InputError, MissingExtraError, UsageError
from edgeplast.placement import ON_CPU, Placement
from edgeplast_devices import placing, runtime
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.placing import has_training_wheel, place
from edgeplast_devices.providers import PROVIDERS, installed_builds, session_providers, word_for
from edgeplast_devices.runtime import EvaluationSession, TrainingSession, runtime_name
from edgeplast_devices.weights import read_trainable

HERE = runtime_name().partition(" ")[0]
OTHER = "stock" if HERE == "ort-training" else "ort-training"
ON_CUDA = Placement(asked="cuda", used="cuda")


class TestBuilds:
    def test_the_installed_one_is_taken_by_name_or_by_auto(self) -> None:
        assert place("auto") == place(HERE) == ON_CPU

    def test_another_one_is_an_error_with_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(placing, "has_training_wheel", lambda: True)
        extra = {"stock": "stock", "ort-training": "train"}[OTHER]
        with pytest.raises(MissingExtraError, match=f"--runtime {OTHER} was asked for, and {HERE} ") as caught:
            place(OTHER)
        assert f"pip uninstall -y {installed_builds()[0]} && pip install 'edgeplast[{extra}]'" in str(caught.value)

    def test_where_the_training_build_has_no_wheel_nobody_is_sent_to_install_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(placing, "runtime_name", lambda: "stock 1.32.0")
        monkeypatch.setattr(placing, "has_training_wheel", lambda: False)
        with pytest.raises(MissingExtraError, match=r"no wheel for Python 3.* leave --runtime out") as caught:
            place("ort-training")
        assert "pip install" not in str(caught.value)

    @pytest.mark.parametrize(
        ("system", "machine", "python", "there"),
        [
            ("Linux", "x86_64", (3, 12, 1), True),
            ("Linux", "x86_64", (3, 13, 0), False),
            ("Linux", "aarch64", (3, 11, 2), False),
            ("Windows", "AMD64", (3, 10, 0), True),
        ],
    )
    def test_where_the_training_build_has_one(
        self, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, python: tuple, there: bool
    ) -> None:
        monkeypatch.setattr(placing.platform, "system", lambda: system)
        monkeypatch.setattr(placing.platform, "machine", lambda: machine)
        monkeypatch.setattr(placing.sys, "version_info", python)
        assert has_training_wheel() is there

    def test_a_slip_of_the_pen_is_a_usage_error_everywhere(self) -> None:
        for work in (lambda: place("stok"), lambda: TrainingOptions(runtime="stok")):
            with pytest.raises(UsageError, match=r"Unknown runtime 'stok'.* Did you mean 'stock'"):
                work()
        for work in (lambda: place("auto", "cudda"), lambda: TrainingOptions(provider="cudda")):
            with pytest.raises(UsageError, match=r"Unknown provider 'cudda'.* Did you mean 'cuda'"):
                work()


class TestProviders:
    def test_one_that_is_not_in_the_build_falls_back_and_says_so(self) -> None:
        for name in ("tensorrt", "coreml", "directml"):
            with pytest.warns(FallbackWarning, match=f"Computing on the CPU instead of {name}: {HERE} .* has: .*cpu"):
                found = place("auto", name)
            assert (found.asked, found.used) == (name, "cpu") and "comes without" in found.fallback_reason

    def test_one_that_is_listed_and_does_not_start_falls_back_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = runtime.import_onnxruntime()

        class Session(real.InferenceSession):  # as builds with CUDA do where no driver is: it is left out
            def __init__(self, graph: str, options: Any, providers: list, **more: Any) -> None:
                assert providers[0][0] == "CUDAExecutionProvider" and more["enable_fallback"] == 0
                super().__init__(graph, options, providers=["CPUExecutionProvider"], **more)

        class Build:
            InferenceSession = Session

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def get_available_providers(self) -> list[str]:
                return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        for module in (runtime, placing):
            monkeypatch.setattr(module, "import_onnxruntime", Build)
        with pytest.warns(FallbackWarning, match="lists cuda and cannot start it here"):
            assert place("auto", "cuda").used == "cpu"

    def test_one_that_works_is_used_within_what_the_budget_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(placing, "provider_fault", lambda *_: "")
        assert place("auto", "coreml", 1 << 30) == Placement(asked="coreml", used="coreml")
        assert place("auto", "cuda").memory_limit_bytes is None
        limit = place("auto", "cuda", 1 << 40).memory_limit_bytes
        assert limit == pytest.approx((1 << 40) - resident_bytes(), rel=1e-3)
        assert place("auto", "cuda", 1 << 20).memory_limit_bytes == 16 << 20

    def test_what_the_runtime_is_told(self) -> None:
        limited = Placement(asked="tensorrt", used="tensorrt", memory_limit_bytes=1000)
        settings = {"gpu_mem_limit": "1000", "arena_extend_strategy": "kSameAsRequested"}
        assert session_providers(limited) == [
            ("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", settings), "CPUExecutionProvider",
        ]  # fmt: skip
        assert session_providers(ON_CPU) == ["CPUExecutionProvider"]
        assert [word_for(session_providers(Placement(used=name))[0][0]) for name in PROVIDERS[1:]] == [*PROVIDERS[1:]]
        assert word_for("AzureExecutionProvider") == "azure"


class _CopyingBinding:
    """As on a device with memory of its own: inputs are copied when bound, outputs when the graph has run."""

    def __init__(self, session: Any) -> None:
        self.session, self.inputs, self.outputs = session, {}, {}

    def bind_input(self, name: str, device: str, number: int, dtype: type, shape: tuple, address: int) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.inputs[name] = np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)

    def bind_output(self, name: str, device: str, number: int, dtype: type, shape: tuple, address: int) -> None:
        self.outputs[name] = address

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()

    def run(self) -> None:
        for address, value in zip(self.outputs.values(), self.session.run([*self.outputs], self.inputs), strict=True):
            ctypes.memmove(address, np.ascontiguousarray(value).ctypes.data, value.nbytes)


class _CopyingSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> _CopyingBinding:
        return _CopyingBinding(self._session)

    def run_with_iobinding(self, binding: _CopyingBinding, how: Any = None) -> None:
        binding.run()


def _train(bundle: Bundle, placement: Placement) -> tuple[list[float], np.ndarray]:
    """Four steps of plain descent over two micro-batches each; losses, and logits of the trained model."""
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(4, 3, 32, 32)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    parameters = read_trainable(bundle)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    graph = bundle.path / bundle.manifest.tiers[0].graphs[0].file
    training = TrainingSession(graph, parameters, gradients, 1, placement)
    evaluation = EvaluationSession(bundle.path / EVALUATION_GRAPH, parameters, 1, placement)
    losses = []
    for _ in range(4):
        for gradient in gradients.values():
            gradient.fill(0)
        losses.append(sum(training.accumulate(images[i : i + 2], targets[i : i + 2])[0] for i in (0, 2)))
        for name, gradient in gradients.items():
            parameters[name] -= 0.01 * gradient
    return losses, evaluation.logits(images)


def test_a_provider_that_copies_its_inputs_sees_every_change_of_the_weights(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, logits = _train(bundle, ON_CPU)
    assert losses[-1] < losses[0] - 0.1
    real = runtime.open_session
    monkeypatch.setattr(
        runtime, "open_session", lambda graph, threads, _, **how: _CopyingSession(real(graph, threads, ON_CPU, **how))
    )
    copied_losses, copied_logits = _train(bundle, ON_CUDA)
    np.testing.assert_allclose(copied_losses, losses, atol=1e-5)
    np.testing.assert_allclose(copied_logits, logits, atol=1e-5)


class TestGraphsTheRuntimeCannotLoad:
    @pytest.fixture
    def practice(self, tmp_path: Path) -> Callable[[bytes, bytes], Path]:
        """The practice graph with some bytes changed."""

        def changed(old: bytes, new: bytes) -> Path:
            data = runtime.PRACTICE_GRAPH.read_bytes()
            assert data.count(old) >= 1 and len(old) == len(new)
            (tmp_path / "train-full.onnx").write_bytes(data.replace(old, new, 1))
            return tmp_path / "train-full.onnx"

        return changed

    @pytest.mark.parametrize(
        ("old", "new"), [(b"\x08\x08", b"\x08\x63"), (b"\x0a\x00\x10\x11", b"\x0a\x00\x10\x63")], ids=["IR", "opset"]
    )
    def test_newer_ones_name_both_ways_out(self, practice: Callable, old: bytes, new: bytes) -> None:
        with pytest.raises(InputError, match=r"train-full\.onnx is newer than onnxruntime \d") as caught:
            EvaluationSession(practice(old, new), {}, 1)
        assert "Export the bundle again" in str(caught.value) and "pip install --upgrade" in str(caught.value)
        assert re.search(r"(IR version: 99|Opset 99 is)", str(caught.value)) and len(str(caught.value)) < 400

    def test_operators_that_the_build_lacks_name_the_build_that_has_them(self, practice: Callable) -> None:
        with pytest.raises(InputError, match=r"Its build lacks an operator.*--force-reinstall 'edgeplast\[stock\]'"):
            EvaluationSession(practice(b"\x03Erf", b"\x03Erx"), {}, 1)


class TestCommands:
    QUICK = ("--epochs", "1", "--lr", "3e-3", "--threads", "1", "--augment", "none")

    def test_report_terminal_and_json_state_a_fallback(
        self, bundle: Bundle, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        into, model, data = tmp_path / "a", tmp_path / "m.onnx", str(blobs)
        words = ["adapt", str(bundle.path), "--data", data, "-o", str(into), "--provider", "coreml", *self.QUICK]
        assert run(words) == 0
        shown = capsys.readouterr()
        assert shown.err.count("note: Computing on the CPU instead of coreml: ") == 1
        assert f"{runtime_name()} on cpu (coreml was asked for)" in shown.out
        report = json.loads((into / "report.json").read_text())
        assert report["provider"]["asked"] == "coreml" and report["provider"]["used"] == "cpu"
        assert "comes without CoreML" in report["provider"]["fallback_reason"]
        assert report["options"]["provider"] == "coreml" and report["device_memory"] is None
        assert run(["evaluate", str(into), "--data", data, "--provider", "coreml", "--json"]) == 0
        shown = capsys.readouterr()
        result = json.loads(shown.out)
        assert result["provider"] == report["provider"] and result["runtime"] == report["runtime"] == runtime_name()
        assert "\nnote: Computing on the CPU" in shown.err  # after what the data set was taken for
        edgeplast.deploy(into, model)
        assert run(["predict", str(model), data + "/test/red", "--provider", "coreml", "--json"]) == 0
        shown = capsys.readouterr()
        assert len(json.loads(shown.out)["predictions"]) == 12 and shown.err.startswith("note: Computing on the CPU")

    def test_a_runtime_that_is_not_installed_ends_with_3_and_nothing_is_written(
        self, bundle: Bundle, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in (
            ["adapt", str(bundle.path), "--data", str(blobs), "-o", str(tmp_path / "a")],
            ["evaluate", str(bundle.path), "--data", str(blobs)],
        ):
            assert run([*words, "--runtime", OTHER]) == 3
            assert f"--runtime {OTHER} was asked for, and {HERE}" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_an_unknown_provider_ends_with_2(self, bundle: Bundle, blobs: Path, capsys: pytest.CaptureFixture) -> None:
        for words in (["evaluate", str(bundle.path), "--data", str(blobs)], ["doctor"]):
            assert run([*words, "--provider", "gpu"]) == 2
            assert "Unknown provider 'gpu'. Did you mean 'cpu'? Known: cpu, cuda" in capsys.readouterr().err

    def test_a_profiles_provider_is_the_default(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "mine.toml").write_text(
            'title = "mine"\nmemory = "8GB"\ncores = 1\nbudget = "1GiB"\nthreads = 1\nprovider = "coreml"\n'
            'install = "x"\nsource = "x"\n'
        )
        assert run(["doctor", "--device", str(tmp_path / "mine.toml"), "--json"]) == 0
        found = {f["check"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
        assert found["providers"]["status"] == "warn" and found["training"]["status"] == "pass"
        assert "coreml was asked for and does not work here, the CPU computes" in found["providers"]["message"]
        assert "macOS" in found["providers"]["advice"]
