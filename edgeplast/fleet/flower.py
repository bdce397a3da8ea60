"""The door to Flower: that it is there, that it sends no word home, and its records as arrays and back.

Flower reports its use to its maker, and asks there for a newer version, unless the environment says no before its
programs start (``QUIET``). What reaches this file too late is at least ended here, for the process of the app.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeplast.errors import MissingExtraError
from edgeplast.fleet.updates import RefusedUpdateError

if TYPE_CHECKING:
    from flwr.app import ArrayRecord

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What to set before Flower's programs start: use is reported by Flower, versions asked for, use reported by ray."""

ARRAYS, METRICS, CONFIG, DEVICE = "arrays", "metrics", "config", "device"
EXAMPLES = "num-examples"

log = logging.getLogger("flwr.edgeplast")


def require_flower() -> None:
    """Raise unless Flower is installed; keep it quiet.

    Raises:
        MissingExtraError: it is not.
    """
    loud = [name for name, value in QUIET.items() if os.environ.get(name) != value and name.startswith("FLWR")]
    os.environ.update(QUIET)
    try:
        importlib.import_module("flwr.app")
    except ModuleNotFoundError as error:
        raise missing_flower(error) from error
    try:
        telemetry = importlib.import_module("flwr.supercore.telemetry")
        telemetry.FLWR_TELEMETRY_ENABLED = "0"  # type: ignore[attr-defined]
    except ModuleNotFoundError:  # another version keeps it elsewhere; the environment says it there
        pass
    if loud:
        said = " ".join(f"{name}={value}" for name, value in QUIET.items())
        log.warning("Flower's programs were started with reports to its maker switched on. Off: export %s", said)


def missing_flower(error: ModuleNotFoundError) -> MissingExtraError:
    """Return the error for an environment without Flower."""
    return MissingExtraError(
        f"{error.name} is not installed; a fleet needs Flower (Python 3.11 or newer). Install it: "
        "pip install 'edgeplast[fleet,stock]'"
    )


def record_of(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return arrays as Flower sends them, in their order."""
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def arrays_of(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what Flower brought, from anyone; nothing is unpickled.

    Raises:
        RefusedUpdateError: something in it is no array.
    """
    try:
        return {str(name): np.asarray(array.numpy()) for name, array in record.items()}
    except Exception as error:  # numpy's reader says what it likes of a stranger's bytes
        raise RefusedUpdateError(f"it cannot be read ({type(error).__name__})") from error


def bytes_of(record: Mapping[str, Any]) -> int:
    """Return the size of what travels, in bytes."""
    return sum(len(array.data) for array in record.values())
