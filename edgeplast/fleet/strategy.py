"""A strategy around one of Flower's: it looks at what comes in before that takes it, and writes down what became of it.

What Flower's strategy gets is what it expects, weights as float32 of devices that passed; whoever sent something else,
or nothing, is left out by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from edgeplast.fleet.checking import examples_of, largest_median, too_large
from edgeplast.fleet.flower import ARRAYS, DEVICE, EXAMPLES, METRICS, arrays_of, bytes_of, log, record_of
from edgeplast.fleet.ledger import Ledger
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.settings import Settings
from edgeplast.fleet.updates import norm, unpacked

if TYPE_CHECKING:
    from flwr.serverapp import Grid


class Checked(Strategy):
    """Checks updates, hands those that pass to another strategy, and writes bundle and report after each round.

    Args:
        inner: Flower's.
        outcome: where it is written.
        settings: of the app.
        rates: learning rates by round.
    """

    def __init__(self, inner: Any, outcome: Outcome, settings: Settings, rates: Rates) -> None:
        self._inner, self._outcome, self._settings, self._rates = inner, outcome, settings, rates
        self._before = outcome.rounds  # of an earlier server
        self._names: dict[int, str] = {}
        self._weights: dict[str, np.ndarray] = {}
        self._began = 0.0
        self._asked: list[Message] = []
        self._ledger = Ledger()

    def take_over(self, ledger: Ledger, began: float) -> None:
        """Go on with a round that another way of summing has brought as far as new weights."""
        self._ledger, self._began = ledger, began

    def summary(self) -> None:
        """Say what the strategy inside is."""
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask devices to learn from these weights."""
        number = self._before + server_round
        rate, head = self._rates.at(number)
        config["learning-rate"], config["head-learning-rate"] = rate, head
        config["bundle"] = self._outcome.report.bundle
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        config["server-round"] = number
        self._began = time.monotonic()
        self._weights, sent = self._narrowed(arrays, messages)
        asked = {m.metadata.dst_node_id: self._name(m.metadata.dst_node_id) for m in messages}
        self._ledger, self._asked = Ledger(asked, sent), messages
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take what passes, and let Flower's strategy make the next weights of it."""
        passed: dict[int, Message] = {}
        norms: dict[int, float] = {}
        came = list(replies)
        for reply in came:
            node = self._sender(reply)
            try:
                update = self._checked(node, reply)
            except ValueError as error:
                self._leave_out(node, str(error))
                continue
            norms[node] = norm(update)
            self._ledger.note(node, norm=norms[node])
            # what Flower's strategies average are weights
            reply.content[ARRAYS] = record_of({name: self._weights[name] + update[name] for name in self._weights})
            passed[node] = reply
        so_far = largest_median(
            [device.norm for device in each.devices if device.taken and device.norm is not None]
            for each in self._outcome.report.rounds
        )
        named = {str(node): value for node, value in norms.items()}
        for number, why in too_large(named, self._settings.largest_norm, so_far).items():
            del passed[int(number)]
            self._leave_out(int(number), why)
        for node, why in self._ledger.silent().items():
            self._leave_out(node, why)
        for node in passed:
            self._ledger.note(node, taken=True)
        if not passed:
            log.warning("No update was taken in round %d; the weights stay as they were.", self._before + server_round)
            arrays, metrics = None, None
        else:
            arrays, metrics = self._inner.aggregate_train(server_round, list(passed.values()))
        for reply in came:  # Flower keeps them until the next round's are all there
            if reply.has_content():
                reply.content = RecordDict()
        if arrays is not None:  # FedAdam's come in float64
            arrays = record_of({name: array.astype(np.float32) for name, array in arrays_of(arrays).items()})
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write the round's bundle, and ask devices to measure it."""
        self._weights = arrays_of(arrays)
        self._outcome.write_bundle(self._before + server_round, self._weights)
        config["bundle"] = self._outcome.report.bundle
        there = set(grid.get_node_ids())
        if not there:
            return []
        messages = list(self._inner.configure_evaluate(server_round, arrays, config, grid))
        self._narrowed(arrays, messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note what devices measured, and write the report."""
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                continue
            metrics = _metrics(reply)
            self._note_name(node, reply)
            accuracy = metrics.get("accuracy")
            try:
                count = examples_of(metrics, EXAMPLES)
            except ValueError:
                continue
            if isinstance(accuracy, float) and 0 <= accuracy <= 1:
                self._ledger.note(node, self._name(node), accuracy=accuracy, measured_on=count)
        number = self._before + server_round
        tested = measured_here(self._outcome, number, self._settings)
        done = self._ledger.report(number, time.monotonic() - self._began, tested)
        self._outcome.add(done)
        return None if done.accuracy is None else MetricRecord({"accuracy": done.accuracy})

    def _checked(self, node: int, reply: Message) -> dict[str, np.ndarray]:
        """Return an update that passed what can be looked at alone, and leave in the message what Flower expects.

        Raises:
            ValueError: it did not; the text says why.
        """
        if reply.has_error():
            raise ValueError(str(reply.error.reason)[:200] or "it failed")
        self._note_name(node, reply)
        records, metrics = reply.content.array_records, _metrics(reply)
        if set(records) != {ARRAYS}:
            raise ValueError("it sent no arrays, or more than one set of them")
        self._ledger.note(node, self._name(node), sent_bytes=bytes_of(records[ARRAYS]))
        examples = examples_of(metrics, EXAMPLES)
        weight = examples if self._settings.privacy in ("none", "local") else 1  # noise is reckoned for equal weights
        update = unpacked(arrays_of(records[ARRAYS]), {name: w.shape for name, w in self._weights.items()})
        known = {key: metrics[key] for key in ("loss", "seconds") if isinstance(metrics.get(key), float)}
        peak = metrics.get("peak-bytes")
        memory: dict[str, Any] = {"peak_bytes": int(peak)} if isinstance(peak, float) and 0 <= peak < 1e15 else {}
        self._ledger.note(node, examples=examples, **known, **memory)
        reply.content = RecordDict({
            ARRAYS: ArrayRecord(), METRICS: MetricRecord({EXAMPLES: weight, "loss": known.get("loss", 0.0)})
        })  # fmt: skip
        return update

    def _sender(self, reply: Message) -> int:
        """Return whose answer it is; where a device is gone, the network answers in its place."""
        node = reply.metadata.src_node_id
        if any(message.metadata.dst_node_id == node for message in self._asked):
            return node
        asked = {message.metadata.message_id: message.metadata.dst_node_id for message in self._asked}
        return asked.get(reply.metadata.reply_to_message_id, node)

    def _leave_out(self, node: int, why: str) -> None:
        self._ledger.note(node, self._name(node), taken=False, reason=why)
        log.warning("Left out: %s, %s", self._name(node), why)

    def _narrowed(self, arrays: ArrayRecord, messages: list[Message]) -> tuple[dict[str, np.ndarray], int]:
        """Let what is sent travel in half the bytes where updates are rounded too; what arrives is the base."""
        weights = arrays_of(arrays)
        if self._settings.travel == "float32":
            return weights, bytes_of(arrays)
        halves = {name: np.clip(array, -65504, 65504).astype(np.float16) for name, array in weights.items()}
        record = record_of(halves)
        for message in messages:
            message.content = RecordDict({**message.content, ARRAYS: record})
        return weights, bytes_of(record)

    def _note_name(self, node: int, reply: Message) -> None:
        given = reply.content.config_records.get(DEVICE, {}).get("name")
        if isinstance(given, str) and given:
            self._names[node] = given[:100]

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node {node}")


def _metrics(reply: Message) -> dict[str, Any]:
    return dict(reply.content.metric_records.get(METRICS, {}))


def measured_here(outcome: Outcome, number: int, settings: Settings) -> float | None:
    """Return the accuracy of a round's bundle on the server's own pictures; None where it has none."""
    from pathlib import Path

    from edgeplast.bundle import Bundle
    from edgeplast_devices.evaluating import evaluate
    from edgeplast_devices.images import open_images

    if not settings.test:
        return None
    images = open_images(Path(settings.test), None, prefer=("test", "val"))
    return evaluate(Bundle.open(outcome.path_of(number)), images).accuracy
