"""The names of builds and execution providers, and what the runtime is told about each provider.

A user's word (``cuda``) is one provider of onnxruntime or two (TensorRT leaves what it cannot do to CUDA), with
their settings; the CPU always comes last, for the nodes that no other has a kernel for.
"""

from __future__ import annotations

from typing import Any

from edgeplast.placement import Placement

CPU = "cpu"

RUNTIMES = ("auto", "ort-training", "stock")
"""What ``--runtime`` takes: ``auto`` is whatever is installed."""

EXTRAS = {"ort-training": "train", "stock": "stock"}
"""The extra of edgeplast that installs each build."""

_BUILDS = (
    "onnxruntime",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
)
"""Distributions that unpack into the folder ``onnxruntime``."""

_OF_THE_RUNTIME = {
    CPU: (),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "coreml": ("CoreMLExecutionProvider",),
    "directml": ("DmlExecutionProvider",),
    "openvino": ("OpenVINOExecutionProvider",),
}

PROVIDERS = tuple(_OF_THE_RUNTIME)
"""What ``--provider`` and the key ``provider`` of a device profile take."""

WITH_CUDA_ARENA = ("cuda", "tensorrt")
"""Providers whose memory is, but for the driver's own, an arena that takes a limit."""

_BRINGS = {
    "cuda": ("onnxruntime-gpu", "x86-64; on a Jetson NVIDIA's own wheel"),
    "tensorrt": ("onnxruntime-gpu", "x86-64; on a Jetson NVIDIA's own wheel"),
    "coreml": ("onnxruntime", "macOS"),
    "directml": ("onnxruntime-directml", "Windows"),
    "openvino": ("onnxruntime-openvino", "x86-64"),
}
"""Distribution that has a provider, and where."""

_NEEDS = {
    "cuda": "It needs NVIDIA's driver, and CUDA and cuDNN in the versions that this build was made for.",
    "tensorrt": "It needs NVIDIA's driver, CUDA, cuDNN and TensorRT in the versions that this build was made for.",
}


def installed_builds() -> list[str]:
    """Return the installed distributions that fill the folder ``onnxruntime``."""
    return [name for name in _BUILDS if is_installed(name)]


def is_installed(package: str) -> bool:
    """Whether a distribution is there, by its metadata; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def names_of(provider: str) -> tuple[str, ...]:
    """Return what onnxruntime calls a provider and those that it leans on, without the CPU."""
    return _OF_THE_RUNTIME[provider]


def where_to_get(provider: str) -> str:
    """Return a sentence with the command that brings a provider, in the place of what is installed."""
    package, where = _BRINGS[provider]
    return f"It comes with: pip uninstall -y {' '.join(installed_builds())} && pip install {package} ({where})"


def what_it_needs(provider: str) -> str:
    """Return a sentence on what to look at when a build has a provider and it does not work."""
    return _NEEDS.get(provider, "The CPU runs all of edgeplast's graphs.")


def word_for(name: str) -> str:
    """Return the short word for one of onnxruntime's provider names, e.g. ``coreml``."""
    return next(
        (word for word, names in _OF_THE_RUNTIME.items() if names[:1] == (name,)),
        name.removesuffix("ExecutionProvider").lower(),
    )


def session_providers(placement: Placement) -> list[Any]:
    """Return the ``providers`` of an InferenceSession.

    CUDA's arena grows by what is asked for instead of by powers of two, and stops at the placement's limit.
    """
    settings: dict[str, str] = {}
    if placement.memory_limit_bytes is not None:
        settings = {
            "gpu_mem_limit": str(placement.memory_limit_bytes),
            "arena_extend_strategy": "kSameAsRequested",
        }
    chosen = [(name, settings) if name.startswith("CUDA") else (name, {}) for name in names_of(placement.used)]
    return [*chosen, "CPUExecutionProvider"]
