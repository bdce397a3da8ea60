"""Telemetry: what a run told of itself while it ran, one JSON line an event in ``telemetry.jsonl``.

Lines have a ``kind``: ``run`` (the head, again after each resumption), ``step``, ``rung`` (a change of rung),
``epoch``, ``also`` (another set was measured), and ``scores`` (components were scored). After 10,000 steps there is a
line of every tenth, after 100,000 of every hundredth, and so on. Every line carries its time (seconds since 1970) and
the optimizer steps done. A figure that the machine does not show is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeplast.documents import Count
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
    step: Count
    model: str
    runtime: str
    allowed_bytes: Count | None
    predicted_peak_bytes: Count
    resident_bytes: Count
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
    step: Count
    epoch: Count
    seconds: float
    loss: float
    gradient_norm: float
    learning_rate: float
    resident_bytes: Count
    micro_batch: Count
    tier: str
    recompute: Recompute
    celsius: float | None = None
    watts: float | None = None
    clock_fraction: float | None = None
    slowed_by: tuple[str, ...] = ()


class RungLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rung"):
    """A step down the ladder, or up again."""

    time: float
    step: Count
    before: str
    after: str
    reason: str


class EpochLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="epoch"):
    """An epoch's end; figures as in :class:`edgeplast.adaptation.EpochReport`."""

    time: float
    step: Count
    epoch: Count
    training_loss: float
    validation_accuracy: float | None
    validation_loss: float | None
    also: dict[str, float] = {}


class AlsoLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="also"):
    """Another set was measured: ``before`` the first step, or ``after``, with the weights that are kept."""

    time: float
    step: Count
    name: str
    when: str
    images: Count
    accuracy: float


class ScoresLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="scores"):
    """Scores were measured before an epoch; figures as in :class:`edgeplast.adaptation.Scored`."""

    time: float
    step: Count
    epoch: Count
    tier: str
    kinds: dict[str, float] = {}
    errors: dict[str, float] = {}
    pairs: Count = 0
    seconds: float = 0.0
    why_none: str = ""


Line = RunLine | StepLine | RungLine | EpochLine | AlsoLine | ScoresLine
_LONGEST_LINE = 1 << 16
L = TypeVar("L", RunLine, StepLine, RungLine, EpochLine, AlsoLine, ScoresLine)

_decode = msgspec.json.Decoder(Line).decode
encode = msgspec.json.Encoder().encode


def steps_per_line(step: int) -> int:
    """Return how many optimizer steps there are to a line: 1 up to step 10,000, 10 up to 100,000, and so on.

    So a file has at most 9,000 lines of steps for each further factor of ten.
    """
    return int(10 ** max(len(str(step - 1)) - 4, 0))


def telemetry_lines(path: Path) -> Iterator[tuple[bytes, Line | None]]:
    """Go through a file in little memory: each line's bytes, and what it says.

    Yields:
        None for what is no line: cut off by a power cut, or damaged (a piece of 64 KiB at most).

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while text := file.readline(_LONGEST_LINE):
                yield text, _line(text)
    except OSError as error:
        raise InputError(f"Cannot read the telemetry {path}: {error.strerror}.") from error


def read_telemetry(path: Path) -> list[Line]:
    """Return the lines of a file; one that was cut off by a power cut is left out.

    Raises:
        InputError: there is no such file.
    """
    return [line for _, line in telemetry_lines(path) if line is not None]


def _line(text: bytes) -> Line | None:
    if not text.endswith(b"\n"):
        return None
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def of_kind(lines: Sequence[Line], kind: type[L]) -> list[L]:
    """Return the lines of one kind, in order."""
    return [line for line in lines if isinstance(line, kind)]
