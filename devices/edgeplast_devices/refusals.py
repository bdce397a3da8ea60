"""What onnxruntime's refusals mean, told from their texts: it raises a dozen types without a common base."""

from __future__ import annotations

import re
from pathlib import Path

_TOO_NEW = re.compile(
    r"Unsupported model IR version: \d+, max supported IR version: \d+|Opset \d+ is under development"
)
_SOURCE = re.compile(r"/\S+\.(?:cc|cpp|h):\d+ ")
_NO_OPERATOR = re.compile(
    r"Could not find an implementation for \S+|\S+ is not a registered function/op|No Op registered for \S+"
)


def why_not_loaded(version: str, graph: Path, said: str) -> str:
    """Put the runtime's refusal to load a graph into words that say what to do; its source lines are left out."""
    if found := _NO_OPERATOR.search(said):
        return (
            f"onnxruntime {version} cannot run {graph}: {found[0]}. Its build lacks an operator that edgeplast's "
            "graphs need; install a complete one: pip install --force-reinstall 'edgeplast[stock]'"
        )
    if found := _TOO_NEW.search(said):
        return (
            f"{graph} is newer than onnxruntime {version} can read: {found[0]}. Export the bundle again with the "
            "edgeplast of this device, or bring a newer runtime: pip install --upgrade 'edgeplast[stock]'"
        )
    return f"onnxruntime {version} cannot load {graph}: {_in_plain_words(said)}"


def _in_plain_words(said: str) -> str:
    """Return the first line; where it names places in the runtime's source, what stands after the last of them."""
    line = (said.strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return re.split(r"(?<=[)\]]) (?=[A-Z])", line)[-1] if _SOURCE.search(line) else line


def why_stopped(said: str) -> str:
    """Put what the runtime says of a graph that it cannot run to its end into words."""
    line = (said.strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"onnxruntime stopped in the middle of a graph: {line}. Make the model again."


def is_memory(error: Exception) -> bool:
    """Say whether an error is want of memory, the processor's or (the last one) a CUDA device's."""
    signs = (
        "Failed to allocate memory",
        "Cannot allocate memory",  # pthread_create's, at a session's opening
        "bad_alloc",
        "bad allocation",
        "Available memory",
        "out of memory",
    )
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
