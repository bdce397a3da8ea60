"""Secure aggregation: the server learns the sum of the updates and none of them, by Flower's SecAgg+.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (ACM CCS 2020). Flower's workflow and
mod speak its older messages; this file translates. Updates travel rather than weights: they are small, so the range in
which they are rounded to integers can be small too. What a sum hides cannot be looked at: the mean alone is checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgeplast.fleet.flower import ARRAYS, CONFIG, DEVICE, EXAMPLES, METRICS, arrays_of, log, record_of
from edgeplast.fleet.ledger import Ledger
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.updates import RefusedUpdateError, norm, unpacked

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

MOST_EXAMPLES = 1000
"""That count of one device's: the weights of the mean are rounded too."""

_RANGE = 0.25
"""Largest change of one weight in a round; larger ones are cut."""

_THRESHOLD = 0.6
"""Share of the devices that must stay until the sum can be unmasked."""


def secured(message: Message, context: Context, go_on: Callable[[Message, Context], Message]) -> Message:
    """Take part in SecAgg+ on a device; what is to be learned comes in the third of its four messages."""
    from flwr.app import MessageType
    from flwr.client.mod import secaggplus_mod

    if message.metadata.message_type != MessageType.TRAIN:
        return go_on(message, context)
    return secaggplus_mod(message, context, lambda inside, where: _translated(inside, where, go_on))


def _translated(message: Message, context: Context, go_on: Callable[[Message, Context], Message]) -> Message:
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.compat.common import recorddict_compat as compat

    asked = compat.recorddict_to_fitins(message.content, keep_input=True)
    names = str(asked.config.pop("names")).split("\n")
    weights = dict(zip(names, parameters_to_ndarrays(asked.parameters), strict=True))
    message.content = RecordDict({ARRAYS: record_of(weights), CONFIG: ConfigRecord(dict(asked.config))})
    answer = go_on(message, context)
    if answer.has_error():  # the mod looks into what it is given; an exception is what Flower makes an error of
        raise RuntimeError(answer.error.reason)
    learned, metrics = arrays_of(answer.content[ARRAYS]), dict(answer.content[METRICS])
    known = {key: metrics[key] for key in ("loss", "seconds", "peak-bytes")}
    result = FitRes(
        status=Status(Code.OK, ""),
        parameters=ndarrays_to_parameters([learned[name] - weights[name] for name in names]),
        num_examples=min(int(metrics[EXAMPLES]), MOST_EXAMPLES),
        metrics={**known, "name": str(answer.content[DEVICE]["name"])},
    )
    return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def lead_secured(
    grid: Grid, context: Context, outcome: Outcome, rates: Rates, weights: Mapping[str, np.ndarray]
) -> None:
    """Lead the rounds that are left, by Flower's workflow for SecAgg+, with bundle and report after each."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    from edgeplast.fleet.server import chosen
    from edgeplast.fleet.settings import Settings
    from edgeplast.fleet.strategy import Checked

    settings = Settings.of(context.run_config)
    measuring = Checked(chosen(settings), outcome, settings, rates)
    workflow = SecAggPlusWorkflow(
        1.0,
        _THRESHOLD,
        max_weight=float(MOST_EXAMPLES),
        clipping_range=_RANGE,
        timeout=settings.round_seconds,
    )
    before = outcome.rounds
    for number in range(before + 1, settings.rounds + 1):
        began = time.monotonic()
        summing = _Summing(grid, settings, rates, outcome, number, dict(weights))
        legacy = LegacyContext(context, strategy=summing, client_manager=summing)
        legacy.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number})
        legacy.state.array_records[MAIN_PARAMS_RECORD] = ArrayRecord()
        workflow(grid, legacy)
        summing.end()
        weights = summing.weights
        measuring.take_over(summing.ledger, began)
        record = record_of(weights)
        asked = measuring.configure_evaluate(number - before, record, ConfigRecord(), grid)
        measuring.aggregate_evaluate(number - before, grid.send_and_receive(asked, timeout=settings.round_seconds))


class _Node(msgspec.Struct, frozen=True):
    node_id: int


class _Summing:
    """What Flower's workflow asks of a strategy and of a list of clients, for one round."""

    def __init__(
        self,
        grid: Grid,
        settings: Any,
        rates: Rates,
        outcome: Outcome,
        number: int,
        weights: dict[str, np.ndarray],
    ) -> None:
        self._grid, self._settings, self._rates, self._outcome = grid, settings, rates, outcome
        self._number, self.weights, self._nodes = number, weights, list[int]()
        self.ledger = Ledger()

    def num_available(self) -> int:
        return len(self._nodes)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[tuple[_Node, Any]]:  # noqa: ARG002
        from flwr.common import FitIns, ndarrays_to_parameters
        from flwr.serverapp.strategy.strategy_utils import sample_nodes

        least = self._settings.least_devices
        there = list(self._grid.get_node_ids())
        self._nodes, _ = sample_nodes(self._grid, least, max(int(len(there) * self._settings.share), least))
        rate, head = self._rates.at(self._number)
        config: dict[str, Any] = {
            "names": "\n".join(self.weights),
            "learning-rate": rate,
            "head-learning-rate": head,
            "server-round": self._number,
            "bundle": self._outcome.report.bundle,
        }
        if self._settings.strategy == "fedprox":
            config["proximal-mu"] = self._settings.proximal
        size = sum(array.nbytes for array in self.weights.values())
        self.ledger = Ledger({node: f"node {node}" for node in self._nodes}, size)
        asked = FitIns(ndarrays_to_parameters(list(self.weights.values())), config)
        return [(_Node(node), asked) for node in self._nodes]

    def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> tuple[None, dict[str, Any]]:  # noqa: ARG002
        from flwr.common import parameters_to_ndarrays

        size = sum(4 * array.size for array in self.weights.values())  # masked integers of 32 bits
        for proxy, result in results:
            metrics = {key: result.metrics.get(key) for key in ("loss", "seconds") if key in result.metrics}
            name = str(result.metrics.get("name") or f"node {proxy.node_id}")[:100]
            peak = result.metrics.get("peak-bytes")
            self.ledger.note(
                proxy.node_id, name, taken=True, examples=int(result.num_examples), sent_bytes=size, **metrics,
                **({"peak_bytes": int(peak)} if peak else {}),
            )  # fmt: skip
        if results:
            mean = dict(zip(self.weights, parameters_to_ndarrays(results[0][1].parameters), strict=True))
            self._add({name: np.asarray(array, np.float32) for name, array in mean.items()})
        return None, {}

    def _add(self, mean: dict[str, np.ndarray]) -> None:
        try:
            checked = unpacked(mean, {name: array.shape for name, array in self.weights.items()})
        except RefusedUpdateError as error:
            log.warning("The sum of round %d was left out: %s", self._number, error)
            return
        log.info("Round %d: the mean update has norm %.3g.", self._number, norm(checked))
        self.weights = {name: array + checked[name] for name, array in self.weights.items()}

    def end(self) -> None:
        """Note who was asked and is not in the sum."""
        for node, why in self.ledger.silent().items():
            self.ledger.note(node, taken=False, reason=why)
