"""Lines of telemetry that nobody wrote: left out like one that a power cut cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeplast.telemetry import EpochLine, encode, read_telemetry


@pytest.mark.parametrize("field", ["step", "epoch"])
@pytest.mark.parametrize("value", [2**65, -(2**65), 10**400, -1])
def test_a_count_that_nothing_counts_is_no_line(tmp_path: Path, field: str, value: int) -> None:
    line = EpochLine(time=1.0, step=3, epoch=1, training_loss=0.5, validation_accuracy=None, validation_loss=None)
    text = encode(line).decode()
    old = {"step": '"step":3', "epoch": '"epoch":1'}[field]
    assert old in text
    (tmp_path / "telemetry.jsonl").write_text(f"{text}\n{text.replace(old, f'{chr(34)}{field}{chr(34)}:{value}')}\n")
    assert read_telemetry(tmp_path / "telemetry.jsonl") == [line]
