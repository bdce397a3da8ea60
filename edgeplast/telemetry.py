"""Telemetry: what a run told of itself while it ran, one JSON line an event in ``telemetry.jsonl``.

Lines have a ``kind``: ``run`` (the head, again after each resumption), ``step``, ``rung`` (a change of rung) and
``epoch``. Every line carries its time (seconds since 1970) and the optimizer steps done. A figure that the machine
does not show is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeplast.errors import InputError
from edgeplast.recomputation import Recompute

TELEMETRY = "telemetry.jsonl"
"""The file's name, beside the report of an adapted bundle and in the folder of a run that is not finished."""


class RunLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """A process of the run begins.

    Attributes:
        model: name of the model.
        runtime: which onnxruntime build runs.
        allowed_bytes: resident memory that the process may hold; None for no limit.
        predicted_peak_bytes: of the rung it begins on.
        resident_bytes: before bundle and images are opened.
        rung: in words.
    """

    time: float
    step: int
    model: str
    runtime: str
    allowed_bytes: int | None
    predicted_peak_bytes: int
    resident_bytes: int
    rung: str


class StepLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="step"):
    """One optimizer step.

    Attributes:
        epoch: from 1.
        seconds: the step took.
        loss: mean over the batch.
        gradient_norm: before clipping.
        learning_rate: of this step.
        resident_bytes: the largest resident set seen during the step (looked at twenty times a second).
        micro_batch: images that passed through the graph at once.
        tier: what trained.
        recompute: how much of the blocks was computed again.
        celsius: the hottest sensor.
        watts: of the whole module.
        clock_fraction: of the processor's highest clock.
        slowed_by: what slowed the processor down.
    """

    time: float
    step: int
    epoch: int
    seconds: float
    loss: float
    gradient_norm: float
    learning_rate: float
    resident_bytes: int
    micro_batch: int
    tier: str
    recompute: Recompute
    celsius: float | None = None
    watts: float | None = None
    clock_fraction: float | None = None
    slowed_by: tuple[str, ...] = ()


class RungLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rung"):
    """A step down the ladder, or up again."""

    time: float
    step: int
    before: str
    after: str
    reason: str


class EpochLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="epoch"):
    """An epoch's end; validation figures are None without a validation split."""

    time: float
    step: int
    epoch: int
    training_loss: float
    validation_accuracy: float | None
    validation_loss: float | None


Line = RunLine | StepLine | RungLine | EpochLine
L = TypeVar("L", RunLine, StepLine, RungLine, EpochLine)

_decode = msgspec.json.Decoder(Line).decode
encode = msgspec.json.Encoder().encode


def read_telemetry(path: Path) -> list[Line]:
    """Return the lines of a file; one that was cut off by a power cut is left out.

    Raises:
        InputError: there is no such file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read the telemetry {path}: {error.strerror}.") from error
    lines = []
    for line in text.splitlines():
        try:
            lines.append(_decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return lines


def of_kind(lines: Sequence[Line], kind: type[L]) -> list[L]:
    """Return the lines of one kind, in order."""
    return [line for line in lines if isinstance(line, kind)]
