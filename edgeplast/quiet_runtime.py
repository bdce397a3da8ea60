"""The one import of onnxruntime in all rooms: with its reports to its maker switched off."""

from __future__ import annotations

import importlib
import os
import sys
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
