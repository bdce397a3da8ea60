"""What a fleet's server holds, round by round: strategy, checks, bundles, report, over devices that answer at once.

The devices are none: each message is answered in this process with a small random update of the bundle's own shapes,
so that hundreds of devices and many rounds take minutes. What a SuperLink holds beside the server is not in it, since
Flower runs that as a process of its own. A run is one JSON line: resident bytes after each round, and the peak.

``python examples/benchmarks/fleet_server.py bundle/ --devices 200 --rounds 12 --json server.jsonl``, with Flower.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeplast.bundle import Bundle
from edgeplast.fleet.flower import ARRAYS, DEVICE, EXAMPLES, METRICS, arrays_of, record_of, require_flower
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.server import chosen
from edgeplast.fleet.settings import STRATEGIES, Settings
from edgeplast.fleet.updates import TRAVEL, packed
from edgeplast.journal import note
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.weights import read_trainable


class Answering:
    """A grid whose devices answer at once.

    Args:
        devices: how many.
        travel: what their updates are rounded to.
    """

    def __init__(self, devices: int, travel: str) -> None:
        self._devices, self._travel = list(range(1, devices + 1)), travel
        self._rng = np.random.default_rng(0)

    def get_node_ids(self) -> list[int]:
        """Return their numbers."""
        return self._devices

    def send_and_receive(self, messages: Iterable[Any], timeout: float | None = None) -> list[Any]:  # noqa: ARG002
        """Return every device's answer."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Any) -> Any:
        from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict

        name = f"device-{message.metadata.dst_node_id}"
        content = RecordDict({DEVICE: ConfigRecord({"name": name})})
        if message.metadata.message_type == MessageType.TRAIN:
            update = {
                key: self._rng.normal(scale=1e-3, size=array.shape).astype(np.float32)
                for key, array in arrays_of(message.content[ARRAYS]).items()
            }
            content[ARRAYS] = record_of(packed(update, self._travel))
            content[METRICS] = MetricRecord({EXAMPLES: 8, "loss": 1.0, "seconds": 1.0, "peak-bytes": 1e8})
        else:
            content[METRICS] = MetricRecord({EXAMPLES: 2, "accuracy": 0.5})
        return Message(content, reply_to=message)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Lead the rounds, and return what the server held."""
    from flwr.supercore.task_identity import TaskIdentity

    from edgeplast.fleet.strategy import Checked

    for name in ("_task_id", "_run_id", "_node_id"):  # messages are made by a task; Flower's programs say which
        setattr(TaskIdentity, name, 1)
    bundle = Bundle.open(options.bundle)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            bundle=str(options.bundle), output=folder, rounds=options.rounds, least_devices=options.devices,
            travel=options.travel, strategy=options.strategy,
        )  # fmt: skip
        outcome = Outcome(Path(folder) / "rounds", bundle, settings)
        strategy = Checked(chosen(settings), outcome, settings, Rates.of(bundle, settings))
        weights = read_trainable(bundle)
        gc.collect()
        before, began = resident_bytes(), time.monotonic()
        grid: Any = Answering(options.devices, options.travel)
        strategy.start(grid, record_of(weights), num_rounds=options.rounds)
        report = outcome.report
    return {
        "numbers_that_travel": sum(array.size for array in weights.values()),
        "taken": sum(device.taken for each in report.rounds for device in each.devices),
        "before_bytes": before,
        "server_bytes": [each.server_bytes for each in report.rounds],
        "server_peak_bytes": report.server_peak_bytes,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path, required=True, help="the journal: one JSON line a run")
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--travel", choices=TRAVEL, default="float32")
    parser.add_argument("--strategy", choices=STRATEGIES, default="fedavg")
    options = parser.parse_args()
    require_flower()
    key = {name: getattr(options, name) for name in ("devices", "rounds", "travel", "strategy")}
    print(note(options.json, {"bundle": options.bundle.name, **key, **measure(options)}))


if __name__ == "__main__":
    main()
