"""The scalars of a run for TensorBoard, written from its telemetry after or during the run.

Written here and not on the device: the package ``tensorboard`` alone would cost the device 40 MB of its budget.
"""

from __future__ import annotations

from pathlib import Path

from edgeplast.errors import MissingExtraError
from edgeplast.reporting.adaptations import read_run
from edgeplast.telemetry import EpochLine, StepLine

_STEP_SCALARS = {
    "loss/training": "loss",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "memory/resident_bytes": "resident_bytes",
    "ladder/micro_batch": "micro_batch",
    "seconds_per_step": "seconds",
    "device/celsius": "celsius",
    "device/watts": "watts",
}
_EPOCH_SCALARS = {"loss/validation": "validation_loss", "accuracy/validation": "validation_accuracy"}


def write_tensorboard(folder: Path, into: Path) -> int:
    """Write the scalars of a run as TensorBoard's event file; return how many were written.

    Args:
        folder: of an adapted bundle or an unfinished run.
        into: the log folder to give to ``tensorboard --logdir``.

    Raises:
        MissingExtraError: tensorboard is not installed.
        InputError: the folder has no telemetry.
    """
    lines, _ = read_run(folder)
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "tensorboard is not installed. Install it: pip install 'edgeplast[tensorboard]'"
        ) from error
    into.mkdir(parents=True, exist_ok=True)
    writer, written = EventFileWriter(str(into)), 0
    for line in lines:
        scalars = _STEP_SCALARS if isinstance(line, StepLine) else _EPOCH_SCALARS if isinstance(line, EpochLine) else {}
        values = [(tag, getattr(line, field)) for tag, field in scalars.items()]
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values if v is not None])
        if summary.value:
            writer.add_event(Event(wall_time=line.time, step=line.step, summary=summary))
            written += len(summary.value)
    writer.close()
    return written
