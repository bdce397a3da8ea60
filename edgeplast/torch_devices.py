"""Which torch device ``--torch-device`` means, for every verb that computes with torch."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from edgeplast.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_device(device: str) -> None:
    """Raise unless a word names a kind of device, whether or not this machine has one; torch is not loaded.

    Raises:
        UsageError: it names none.
    """
    if not re.fullmatch(r"auto|cpu|(cuda|mps|xpu)(:\d{1,3})?", device):
        raise UsageError(f"Unknown device {device!r}. Known: auto, cpu, cuda, cuda:0, cuda:1, …")


def choose_device(device: str) -> torch.device:
    """Return the device to compute on; ``auto`` is the CUDA device of this process if there is one.

    Raises:
        UsageError: no such device.
    """
    import torch

    check_device(device)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"Unknown device {device!r}. Known: auto, cpu, cuda, cuda:0, cuda:1, …") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"Device {device!r} was asked for, but torch sees no CUDA device. Use --torch-device cpu.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"Device {device!r} was asked for, but there are {torch.cuda.device_count()}: use cuda:0.")
    return chosen
