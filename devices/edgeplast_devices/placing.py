"""Where a run computes, settled before it begins: the build of onnxruntime, and the provider by trying it.

A build that is asked for and not installed is an error, because the user has to act. A provider that is asked for
and does not work is none: the CPU computes the same, and the placement says so.
"""

from __future__ import annotations

import platform
import sys
import warnings
from pathlib import Path

from edgeplast.errors import EdgeplastError, FallbackWarning, MissingExtraError, one_of
from edgeplast.placement import Placement
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.providers import (
    CPU,
    EXTRAS,
    PROVIDERS,
    RUNTIMES,
    WITH_CUDA_ARENA,
    installed_builds,
    names_of,
    what_it_needs,
    where_to_get,
    word_for,
)
from edgeplast_devices.runtime import PRACTICE_GRAPH, import_onnxruntime, open_session, runtime_name

NEWEST_TRAINING_PYTHON = (3, 12)
"""The last Python that onnxruntime-training-cpu 1.19.2, its last release, has wheels for."""

_LEAST_ARENA_BYTES = 16 << 20


def place(
    runtime: str = "auto", provider: str = CPU, budget_bytes: int | None = None, *, trial: Path = PRACTICE_GRAPH
) -> Placement:
    """Load the runtime, check that it is the one asked for, and try the provider.

    Args:
        runtime: one of ``RUNTIMES``.
        provider: one of ``PROVIDERS``.
        budget_bytes: of the process; what is not resident yet is the limit of a provider's arena.
        trial: the graph that a provider is tried on: the one that will run, where it is known by now.

    Returns:
        the placement; where the provider does not work it is the CPU, and a ``FallbackWarning`` says why.

    Raises:
        UsageError: there is no such runtime or provider.
        MissingExtraError: no build is installed, or another one than ``runtime``.
    """
    if runtime not in RUNTIMES:
        raise one_of("runtime", runtime, RUNTIMES)
    if provider not in PROVIDERS:
        raise one_of("provider", provider, PROVIDERS)
    _require(runtime)
    if provider == CPU or not trial.exists():  # a missing graph is told of by who opens it
        return Placement()
    reason = provider_fault(provider, trial)
    if reason:
        warnings.warn(f"Computing on the CPU instead of {provider}: {reason}", FallbackWarning, stacklevel=2)
        return Placement(asked=provider, used=CPU, fallback_reason=reason)
    limit = None
    if budget_bytes is not None and provider in WITH_CUDA_ARENA:
        limit = max(budget_bytes - resident_bytes(), _LEAST_ARENA_BYTES)
    return Placement(asked=provider, used=provider, memory_limit_bytes=limit)


def provider_fault(provider: str, graph: Path = PRACTICE_GRAPH) -> str:
    """Try a provider on a graph; return why it does not work and what to do, empty if it does.

    Being listed proves little: a wheel with CUDA lists it on machines without a GPU, and the runtime then leaves it
    out with no more than a line in its log.
    """
    ort = import_onnxruntime()
    listed = ort.get_available_providers()
    missing = [name for name in names_of(provider) if name not in listed]
    if missing:
        has = ", ".join(map(word_for, listed))
        return f"{runtime_name()} comes without {missing[0]} (it has: {has}). {where_to_get(provider)}"
    try:
        # Outside the arena, whose size is not known yet.
        open_session(graph, 1, Placement(asked=provider, used=provider), in_arena=False)
    except EdgeplastError as error:
        return f"{str(error).rstrip('.')}. {what_it_needs(provider)}"
    return ""


def _require(runtime: str) -> None:
    name = runtime_name()
    if runtime in ("auto", name.partition(" ")[0]):
        return
    if runtime == "ort-training" and not has_training_wheel():
        raise MissingExtraError(
            f"--runtime ort-training was asked for, and {name} is installed. onnxruntime-training-cpu has no wheel for "
            f"Python {platform.python_version()} on {platform.system()} {platform.machine()}: leave --runtime out"
        )
    raise MissingExtraError(
        f"--runtime {runtime} was asked for, and {name} is installed. One environment holds one build; change it with: "
        f"pip uninstall -y {' '.join(installed_builds())} && pip install 'edgeplast[{EXTRAS[runtime]}]'"
    )


def has_training_wheel() -> bool:
    """Say whether onnxruntime-training-cpu can be installed here: Python ≤ 3.12, and on Linux only x86-64."""
    known = platform.system() != "Linux" or platform.machine() in ("x86_64", "AMD64")
    return known and sys.version_info[:2] <= NEWEST_TRAINING_PYTHON
