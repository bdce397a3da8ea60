"""The energy of logits, and whether a model knows what a picture shows."""

from __future__ import annotations

import numpy as np

from edgeplast.unknown import Unknown


def energies(logits: np.ndarray) -> np.ndarray:
    """Return the energy of each row of logits (n, classes), as they are before a temperature; float64 (n,)."""
    wide = logits.astype(np.float64)
    most = wide.max(1)
    found: np.ndarray = most + np.log(np.exp(wide - most[:, None]).sum(1))
    return found


def is_known(logits: np.ndarray, unknown: Unknown | None) -> bool | None:
    """Say whether a model knows what one picture shows, by its logits (classes,); None where nothing tells."""
    return None if unknown is None else bool(energies(logits[None])[0] >= unknown.energy)
