"""The one import of onnxruntime in all rooms: with its reports to its maker switched off."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

SWITCH = "ORT_DISABLE_TELEMETRY"
"""Read by onnxruntime when it is imported. Without it stock builds (seen in 1.32) give the machine an identity
(``~/.cache/Microsoft/DeveloperTools/.onnxruntime``) and send what sessions do to an event collector."""


def import_quietly(part: str = "") -> Any:
    """Import onnxruntime, or a part of it such as ``"quantization"``, and let it report to nobody.

    The switch stays in the environment, so that processes started later are quiet as well.

    Raises:
        ImportError: it is not installed, or does not load.
    """
    os.environ[SWITCH] = "1"
    loaded_before = "onnxruntime" in sys.modules
    import onnxruntime

    if loaded_before and hasattr(onnxruntime, "disable_telemetry_events"):
        # Too late for the switch: whoever imported it first did without. What follows is not reported.
        onnxruntime.disable_telemetry_events()
    return importlib.import_module(f"onnxruntime.{part}") if part else onnxruntime


@contextlib.contextmanager
def without_training_package() -> Iterator[None]:
    """Keep ``import onnxruntime`` of the training build (1.19) from importing onnx, and torch where it is there.

    It looks for its own ORTModule in ``onnxruntime.training``, whose ``__init__`` imports both: 80 MB and seconds.
    A module that is None in ``sys.modules`` counts as absent.
    """
    name = "onnxruntime.training"
    if name in sys.modules or "onnxruntime" in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(name, None)
