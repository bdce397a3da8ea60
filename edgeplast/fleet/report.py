"""The report of a fleet: what each device did in each round, what it sent, and who was left out or dropped out."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from edgeplast.documents import Document


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device in one round.

    Attributes:
        device: the name that it gave itself, or its number in the network.
        taken: whether its update is in the mean.
        reason: why not; empty if it is.
        examples: training pictures.
        loss: mean training loss over its steps.
        accuracy: of the round's model on its held-out pictures, of which there are ``measured_on``.
        seconds: that it trained.
        peak_bytes: of its process.
        sent_bytes: of arrays, as they travelled.
        norm: of its update.
    """

    device: str
    taken: bool = False
    reason: str = ""
    examples: int = 0
    loss: float | None = None
    accuracy: float | None = None
    measured_on: int = 0
    seconds: float | None = None
    peak_bytes: int | None = None
    sent_bytes: int = 0
    norm: float | None = None


class RoundReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round.

    Attributes:
        round: its number, from 1.
        seconds: from the first message to the written bundle, evaluation included.
        accuracy: of the round's model on all devices' held-out pictures.
        test_accuracy: on the server's pictures.
        received_bytes: of arrays, by the devices together, to learn from.
        sent_bytes: by them.
        server_bytes: resident, of the server's process when the round was done.
        devices: each that was asked.
    """

    round: int
    seconds: float
    accuracy: float | None = None
    test_accuracy: float | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    server_bytes: int = 0
    devices: tuple[DeviceReport, ...] = ()


class FleetReport(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fleet did, written after each round.

    Attributes:
        bundle: SHA-256 of the manifest that it started from.
        settings: of the app, by name.
        rounds: in order.
        server_peak_bytes: resident, of the server's process.
    """

    KIND: ClassVar[str] = "fleet report"
    MOST_BYTES: ClassVar[int] = 256 << 20
    format_version: int = 1

    bundle: str
    settings: dict[str, bool | int | float | str]
    rounds: tuple[RoundReport, ...] = ()
    server_peak_bytes: int = 0
