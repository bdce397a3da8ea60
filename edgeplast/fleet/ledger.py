"""What is known so far of each device in a round, until the round is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from edgeplast.fleet.report import DeviceReport, RoundReport
from edgeplast_devices.memory import resident_bytes

SILENT = "it did not answer in time, or is gone"


class Ledger:
    """Notes of one round.

    Args:
        asked: the name of each device that was asked to learn, by its number in the network.
        bytes_each: of what each was sent.
    """

    def __init__(self, asked: Mapping[int, str] | None = None, bytes_each: int = 0) -> None:
        self._devices = {node: DeviceReport(device=name) for node, name in (asked or {}).items()}
        self._received, self._heard = bytes_each * len(self._devices), set[int]()

    def note(self, node: int, name: str | None = None, **known: Any) -> None:
        """Note something of a device; what is no finite number is not noted."""
        before = self._devices.get(node) or DeviceReport(device=f"node {node}")
        kept = {k: v for k, v in known.items() if not isinstance(v, float) or math.isfinite(v)}
        self._devices[node] = msgspec.structs.replace(before, device=name or before.device, **kept)
        self._heard.add(node)

    def silent(self) -> dict[int, str]:
        """Return who was asked and never heard of, with what to say of that."""
        return {node: SILENT for node in self._devices if node not in self._heard}

    def report(self, number: int, seconds: float, test_accuracy: float | None) -> RoundReport:
        """Return the round as it is written down, devices by name."""
        devices = sorted(self._devices.values(), key=lambda each: (len(each.device), each.device))
        measured = [d for d in devices if d.accuracy is not None and d.measured_on]
        pictures = sum(d.measured_on for d in measured)
        right = sum((d.accuracy or 0.0) * d.measured_on for d in measured)
        return RoundReport(
            round=number,
            seconds=round(seconds, 3),
            accuracy=right / pictures if pictures else None,
            test_accuracy=test_accuracy,
            received_bytes=self._received,
            sent_bytes=sum(d.sent_bytes for d in devices),
            server_bytes=resident_bytes(),
            devices=tuple(devices),
        )
