"""One run of a contest, in a process of its own as on a device: adapt inside the budget, then name held-out pictures.

``python -m edgeplast.comparing.trial ORDER`` reads an order and answers on standard output, a JSON line each: progress,
then one result or one error. Whoever reads it is gone when a line cannot be written; then it ends at once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, as the command line does

import numpy as np

from edgeplast.budget import Budget
from edgeplast.comparing.pace import MEASURED
from edgeplast.comparing.pool import VALIDATION, open_pool
from edgeplast.errors import EdgeplastError, InputError
from edgeplast.progress import Bytes

_MORE_OFTEN_SECONDS = 0.2


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a run shall do.

    Attributes:
        data: path of the pictures.
        pool_seed: of their parts.
        fingerprint: of the pictures that the contest began with.
        bundle: to adapt.
        into: folder for the adapted bundle.
        memory_bytes: of the process; None: no limit.
        pictures: to learn from, from the beginning of the pool's.
        held_out: to look at in the end, likewise.
        epochs: passes over them.
        seed: of the run.
        validate: hold some back to choose the epoch by, as ``adapt`` does.
        also: paths of other sets, measured before and after.
    """

    data: str
    pool_seed: int
    fingerprint: str
    bundle: str
    into: str
    memory_bytes: int | None
    pictures: int
    held_out: int
    epochs: int
    seed: int
    validate: bool
    also: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that a run writes: progress, its result, or what went wrong."""

    progress: tuple[str, int, int] | None = None
    in_bytes: bool = False
    result: dict[str, Any] | None = None
    error: str | None = None
    exit_code: int = 0


class _Telling:
    """Writes answers; progress not too often."""

    def __init__(self) -> None:
        # Whatever a library prints must not pass for an answer.
        self._handle = os.dup(1)
        os.dup2(2, 1)
        self._last = 0.0

    def __call__(self, answer: Answer) -> None:
        try:
            os.write(self._handle, msgspec.json.encode(answer) + b"\n")
        except OSError:  # nobody waits for the result any more
            os._exit(130)

    def progress(self, activity: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last > _MORE_OFTEN_SECONDS or done >= total:
            self._last = now
            self(Answer(progress=(activity, int(done), int(total)), in_bytes=isinstance(total, Bytes)))


def carry_out(order: Order, telling: _Telling) -> dict[str, Any]:
    """Adapt and measure; return what the journal keeps of it, without what only the contest knows."""
    from edgeplast import verbs
    from edgeplast.bundle import Bundle
    from edgeplast_devices.evaluating import evaluate
    from edgeplast_devices.images import Splits, Unreadable, stratified_split
    from edgeplast_devices.options import TrainingOptions

    pool = open_pool(Path(order.data), order.pool_seed)
    if pool.fingerprint != order.fingerprint:
        raise InputError(f"The pictures of {order.data} are others than when the contest began.")
    learning = pool.learning.subset(np.arange(order.pictures))
    train, val = stratified_split(learning, VALIDATION, order.seed) if order.validate else (learning, None)
    report = verbs.adapt(
        order.bundle,
        # Before and after are measured on what is called test, which nobody asks for here: two pictures will do.
        Splits(train, val if val is not None and len(val) else None, learning.subset(np.arange(MEASURED))),
        into=order.into,
        also=order.also,
        budget=Budget(memory_bytes=order.memory_bytes),
        options=TrainingOptions(epochs=order.epochs, seed=order.seed, probe=False),
        progress=telling.progress,
    )
    correct = np.full(order.held_out, "-")
    unreadable, start = Unreadable(), time.perf_counter()

    def look(indices: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        correct[indices] = np.where(logits.argmax(axis=1) == labels, "1", "0")

    found = evaluate(
        Bundle.open(order.into),
        pool.held_out.subset(np.arange(order.held_out)),
        unreadable=unreadable,
        progress=telling.progress,
        each=look,
    )
    return {
        "correct": "".join(correct),
        "accuracy": found.accuracy,
        "calibration_error": found.expected_calibration_error,
        "peak_bytes": report.memory.measured_peak_bytes,
        "step_seconds": report.seconds.step_median,
        "picture_seconds": (time.perf_counter() - start) / order.held_out,
        "tier": report.tier,
        "runtime": report.runtime,
        "also": {name: (other.accuracy.before, other.accuracy.after) for name, other in report.also.items()},
    }


def main() -> None:
    """Carry out the order that the first argument names; what goes wrong is an answer too."""
    telling = _Telling()
    try:
        order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
        telling(Answer(result=carry_out(order, telling)))
    except EdgeplastError as error:
        telling(Answer(error=str(error), exit_code=error.exit_code))
    except MemoryError as error:
        telling(Answer(error=f"Memory ran out ({error or 'no more could be had'}).", exit_code=4))
    except Exception as error:  # a message that can be read, never a traceback
        telling(Answer(error=f"Unexpected {type(error).__name__}: {error}", exit_code=3))


if __name__ == "__main__":
    main()
