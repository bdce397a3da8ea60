"""The door to onnxruntime: what it refuses before the runtime sees a pointer, and what it makes of its errors."""

from __future__ import annotations

import builtins
import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeplast.bundle import EVALUATION_GRAPH, Bundle
from edgeplast.errors import BudgetError, InputError, MissingExtraError
from edgeplast_devices import runtime
from edgeplast_devices.runtime import (
    EvaluationSession,
    OutOfMemoryError,
    TrainingSession,
    import_onnxruntime,
    runtime_name,
)
from edgeplast_devices.spinning import spinning
from edgeplast_devices.weights import read_trainable


def _images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def session(bundle: Bundle) -> EvaluationSession:
    return EvaluationSession(bundle.path / EVALUATION_GRAPH, read_trainable(bundle), 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.float16),
        lambda a: a.transpose(0, 1, 3, 2),
        lambda a: a[:, :, ::2],
        lambda a: a.astype(">f4"),
        lambda a: a.astype(np.int32),
    ],
    ids=["float64", "float16", "transposed", "strided", "big-endian", "int32"],
)
def test_arrays_the_runtime_would_misread_are_refused(
    session: EvaluationSession, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="images must be C-contiguous float32"):
        session.logits(spoil(_images()))


def test_parameters_and_gradients_are_checked_as_well(bundle: Bundle) -> None:
    parameters = read_trainable(bundle)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    wrong = {name: array.astype(np.float64) for name, array in gradients.items()}
    graph = bundle.path / bundle.manifest.tiers[0].graphs[0].file
    with pytest.raises(ValueError, match=r"gradient must be C-contiguous float32"):
        TrainingSession(graph, parameters, wrong, 1)
    with pytest.raises(ValueError, match="targets must be"):
        TrainingSession(graph, parameters, gradients, 1).accumulate(_images(), np.zeros((2, 3)))


def test_gradients_add_up_and_logits_follow_the_parameters(bundle: Bundle) -> None:
    parameters = read_trainable(bundle)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    training = TrainingSession(bundle.path / bundle.manifest.tiers[0].graphs[0].file, parameters, gradients, 1)
    evaluation = EvaluationSession(bundle.path / EVALUATION_GRAPH, parameters, 1)
    targets = np.eye(3, dtype=np.float32)[:2]
    loss, logits = training.accumulate(_images(), targets)
    once = {name: array.copy() for name, array in gradients.items()}
    assert training.accumulate(_images(), targets)[0] == loss
    for name, array in gradients.items():
        np.testing.assert_allclose(array, 2 * once[name], rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(evaluation.logits(_images()), logits, atol=1e-5)
    for array in parameters.values():
        array += 0.05
    assert np.abs(evaluation.logits(_images()) - logits).max() > 1e-3


def test_threads_of_a_session_sleep_between_two_runs(bundle: Bundle) -> None:
    session = EvaluationSession(bundle.path / EVALUATION_GRAPH, read_trainable(bundle), 4)
    settings = session._session.get_session_options()
    ((name, value),) = spinning(import_onnxruntime().__version__).items()
    assert settings.get_session_config_entry(name) == value


@pytest.mark.parametrize("version", ["1.19.2", "1.25.1", "1.26.0", "1.32.0", "2.0.0.dev1"])
def test_only_a_runtime_that_can_be_told_how_long_lets_its_threads_wait_awake(version: str) -> None:
    told = {"session.intra_op.spin_duration_us": "100"}
    assert spinning(version) == ({"session.intra_op.allow_spinning": "0"} if version < "1.26" else told)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 99"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_running_out_of_memory_is_one_error_of_the_budgets_kind(
    session: EvaluationSession, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Full:
        def run_with_iobinding(self, binding: Any, how: Any) -> None:
            raise error

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    real = session._session
    monkeypatch.setattr(session, "_session", Full())
    with pytest.raises(OutOfMemoryError, match=r"Memory ran out: .+\. Allow more memory") as caught:
        session.logits(_images())
    assert isinstance(caught.value, BudgetError) and "\n" not in caught.value.reason


def test_a_file_that_is_no_graph_is_an_input_error(tmp_path: Any) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"bad\.onnx is no ONNX model: .*Export or deploy it again"):
        EvaluationSession(tmp_path / "bad.onnx", {}, 1)


def _pretend(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    def distribution(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


def test_two_builds_in_one_environment_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, {"onnxruntime", "onnxruntime-training-cpu"})
    with pytest.raises(InputError, match="onnxruntime and onnxruntime-training-cpu are installed together") as caught:
        runtime.import_onnxruntime()
    assert "pip uninstall -y onnxruntime onnxruntime-training-cpu && pip install 'edgeplast[stock]'" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'"), r"pip install 'edgeplast\[stock\]'.*edgeplast\[train\]"),
        (ImportError("libcudart.so.12: cannot open"), "libcudart.*pip install --force-reinstall onnxruntime"),
    ],
)
def test_no_build_or_a_broken_one_names_the_command(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, advice: str
) -> None:
    _pretend(monkeypatch, set())
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise failure
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=advice):
        runtime.import_onnxruntime()


def test_the_runtime_says_its_build_and_version() -> None:
    build, _, version = runtime_name().partition(" ")
    assert build in ("ort-training", "stock") and version[0].isdigit()
