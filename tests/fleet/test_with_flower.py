"""What needs Flower's own records: checks around its strategies, mods, the door. Skipped where it is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr.app")

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from test_settings_and_outcome import settings

from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError
from edgeplast.fleet.client import client_app, device_of
from edgeplast.fleet.flower import ARRAYS, DEVICE, EXAMPLES, METRICS, arrays_of, record_of
from edgeplast.fleet.mods import packing, private
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.server import chosen
from edgeplast.fleet.strategy import Checked
from edgeplast.fleet.updates import TRAVEL, packed
from edgeplast_devices.weights import read_trainable


@pytest.fixture(autouse=True)
def _a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are made by a task; Flower's programs say which."""
    from flwr.supercore.task_identity import TaskIdentity

    for name, value in (("_task_id", 3), ("_run_id", 7), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


class Grid:
    """A network of so many nodes."""

    def __init__(self, nodes: int) -> None:
        self.nodes = list(range(100, 100 + nodes))

    def get_node_ids(self) -> list[int]:
        return self.nodes


class Round:
    """A strategy with checks, asked once; replies are made of updates."""

    def __init__(self, bundle: Bundle, folder: Path, nodes: int = 4, **changed: Any) -> None:
        self.settings = settings(least_devices=nodes, **changed)
        self.outcome = Outcome(folder, bundle, self.settings)
        self.strategy = Checked(chosen(self.settings), self.outcome, self.settings, Rates.of(bundle, self.settings))
        self.weights, self.grid, self.config = read_trainable(bundle), Grid(nodes), ConfigRecord()
        self.asked = self.ask(record_of(self.weights))

    def ask(self, arrays: ArrayRecord) -> list[Message]:
        return list(self.strategy.configure_train(1, arrays, self.config, self.grid))  # type: ignore[arg-type]

    def reply(self, number: int, update: dict[str, np.ndarray], examples: Any = 10) -> Message:
        content = RecordDict({
            ARRAYS: record_of(packed(update, self.settings.travel)),
            METRICS: MetricRecord({EXAMPLES: examples, "loss": 1.0, "peak-bytes": 1e8}),
            DEVICE: ConfigRecord({"name": f"device-{number}"}),
        })  # fmt: skip
        return self.answer(number, content)

    def answer(self, number: int, content: RecordDict | Error) -> Message:
        asked = next(m for m in self.asked if m.metadata.dst_node_id == 100 + number)
        return Message(content, reply_to=asked)

    def update(self, size: float) -> dict[str, np.ndarray]:
        return {name: np.full_like(array, size) for name, array in self.weights.items()}

    def finish(self, arrays: ArrayRecord | None) -> dict[str, Any]:
        record = record_of(self.weights) if arrays is None else arrays
        self.strategy.configure_evaluate(1, record, ConfigRecord(), self.grid)  # type: ignore[arg-type]
        self.strategy.aggregate_evaluate(1, [])
        return {device.device: device for device in self.outcome.report.rounds[-1].devices}


@pytest.mark.parametrize("travel", TRAVEL)
def test_the_mean_is_weighted_by_pictures(bundle: Bundle, tmp_path: Path, travel: str) -> None:
    one = Round(bundle, tmp_path / "r", 2, travel=travel)
    replies = [one.reply(0, one.update(0.1), 30), one.reply(1, one.update(0.3), 10)]
    arrays, _ = one.strategy.aggregate_train(1, replies)
    assert arrays is not None
    for name, array in arrays_of(arrays).items():
        assert array.dtype == np.float32
        assert np.allclose(array, one.weights[name] + 0.15, atol=2e-3 if travel != "float32" else 1e-6)


def test_who_fails_is_left_out_by_name_and_the_rest_is_the_mean(bundle: Bundle, tmp_path: Path) -> None:
    one = Round(bundle, tmp_path / "r", 9)
    broken = one.update(0.1)
    broken["head.bias"][0] = np.nan
    short = {name: array for name, array in one.update(0.1).items() if name != "head.bias"}
    other = {**one.update(0.1), "head.bias": np.zeros(7, np.float32)}
    no_arrays = RecordDict({METRICS: MetricRecord({EXAMPLES: 5})})
    replies = [
        one.reply(0, one.update(0.1)), one.reply(1, one.update(0.1)), one.reply(2, one.update(0.1)),
        one.reply(3, broken), one.reply(4, short), one.reply(5, other), one.reply(6, one.update(50.0)),
        one.answer(7, no_arrays),
    ]  # fmt: skip
    arrays, _ = one.strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert np.allclose(arrays_of(arrays)["head.bias"], one.weights["head.bias"] + 0.1, atol=1e-6)
    found = one.finish(arrays)
    assert [found[f"device-{n}"].taken for n in range(7)] == [True] * 3 + [False] * 4
    for number, said in ((3, "no finite number"), (4, "are missing"), (5, "has shape"), (6, "more than 10 ×")):
        assert said in found[f"device-{number}"].reason
    assert "no arrays" in found["node 107"].reason and "did not answer" in found["node 108"].reason
    assert Bundle.open(tmp_path / "r" / "round-001").manifest.adapted_from == bundle.fingerprint


def test_a_rounds_updates_are_let_go_once_they_are_in_the_mean(bundle: Bundle, tmp_path: Path) -> None:
    one = Round(bundle, tmp_path / "r", 4)
    replies = [one.reply(n, one.update(0.1 if n < 3 else 50.0)) for n in range(4)]
    one.strategy.aggregate_train(1, replies)
    assert not any(len(reply.content.array_records) for reply in replies)


@pytest.mark.parametrize("examples", [0, -5, float("nan")])
def test_a_count_that_cannot_be_weighs_nothing(bundle: Bundle, tmp_path: Path, examples: float) -> None:
    one = Round(bundle, tmp_path / "r", 2)
    arrays, _ = one.strategy.aggregate_train(
        1, [one.reply(0, one.update(0.1)), one.reply(1, one.update(0.4), examples)]
    )
    assert arrays is not None
    assert np.allclose(arrays_of(arrays)["head.bias"], one.weights["head.bias"] + 0.1, atol=1e-6)


def test_where_nothing_passes_the_weights_stay_and_the_round_is_written(bundle: Bundle, tmp_path: Path) -> None:
    one = Round(bundle, tmp_path / "r", 2)
    gone = [one.answer(n, Error(code=0, reason="the device says BudgetError")) for n in range(2)]
    assert one.strategy.aggregate_train(1, gone) == (None, None)
    found = one.finish(None)
    assert {device.reason for device in found.values()} == {"the device says BudgetError"}
    written = read_trainable(Bundle.open(tmp_path / "r" / "round-001"))
    assert all(np.array_equal(written[name], one.weights[name]) for name in written)


@pytest.mark.parametrize("changed", [{"strategy": "fedadam"}, {"strategy": "fedprox"}, {"privacy": "central"},
                                     {"privacy": "central-on-device"}])  # fmt: skip
def test_flowers_own_strategies_get_what_they_expect(bundle: Bundle, tmp_path: Path, changed: dict[str, str]) -> None:
    one = Round(bundle, tmp_path / "r", 2, **changed)
    arrays, _ = one.strategy.aggregate_train(1, [one.reply(n, one.update(1e-3)) for n in range(2)])
    assert arrays is not None and list(arrays) == list(one.weights)
    assert {array.dtype for array in arrays_of(arrays).values()} == {np.dtype(np.float32)}
    assert any(not np.array_equal(array, one.weights[name]) for name, array in arrays_of(arrays).items())
    if changed.get("strategy") == "fedprox":
        assert one.config["proximal-mu"] == 0.1


def test_down_it_travels_in_half_the_bytes_where_it_is_rounded(bundle: Bundle, tmp_path: Path) -> None:
    sizes = {}
    for travel in ("float32", "int8"):
        one = Round(bundle, tmp_path / travel, 2, travel=travel)
        sizes[travel] = {str(a.dtype) for m in one.asked for a in arrays_of(m.content[ARRAYS]).values()}
    assert sizes == {"float32": {"float32"}, "int8": {"float16"}}


def _context(node: dict[str, Any], **changed: Any) -> Context:
    return Context(
        run_id=7,
        node_id=1,
        node_config=node,
        state=RecordDict(),
        run_config=settings(**changed).config(),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("travel", TRAVEL)
@pytest.mark.parametrize("privacy", ["none", "local", "central-on-device"])
def test_the_mods_send_an_update_that_was_hidden_first_and_rounded_last(
    tmp_path: Path, travel: str, privacy: str
) -> None:
    weights = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    config = ConfigRecord({"clipping_norm": 0.5})
    message = Message(RecordDict({ARRAYS: record_of(weights), "config": config}), dst_node_id=1, message_type="train")
    context = _context({"folder": str(tmp_path)}, travel=travel, privacy=privacy, clipping_norm=0.5, epsilon=1e6)

    def learned(message: Message, context: Context) -> Message:
        arrays = {name: array + 1 for name, array in arrays_of(message.content[ARRAYS]).items()}
        return Message(RecordDict({ARRAYS: record_of(arrays), METRICS: MetricRecord({EXAMPLES: 1})}), reply_to=message)

    answer = packing(message, context, lambda m, c: private(m, c, learned))
    from edgeplast.fleet.updates import norm, unpacked

    sent = arrays_of(answer.content[ARRAYS])
    assert {str(array.dtype) for name, array in sent.items() if ":" not in name} == {travel}
    arrived = norm(unpacked(sent, {"a": (2, 3), "b": (4,)}))
    assert arrived == pytest.approx(np.sqrt(10) if privacy == "none" else 0.5, rel=0.02)
    assert (tmp_path / "left_over.safetensors").exists() == (travel != "float32")


def test_a_node_that_lacks_a_folder_or_has_a_typing_mistake_is_told() -> None:
    with pytest.raises(UsageError, match=r"--node-config lacks data, folder\. Start the SuperNode with"):
        device_of({"bundle": "/b"}, settings(), 1, {})
    with pytest.raises(UsageError, match=r"--node-config has 'memry'\. Known: bundle, data, folder, memory"):
        device_of({"memry": "1GiB"}, settings(), 1, {})


def test_another_bundle_than_the_servers_is_told(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    from edgeplast.errors import InputError

    node = {"bundle": str(bundle.path), "data": str(blobs), "folder": str(tmp_path)}
    with pytest.raises(InputError, match="The fleet started from another bundle"):
        device_of(node, settings(), 1, {"bundle": "0" * 64})


def test_what_goes_wrong_on_a_device_is_told_by_its_kind_alone(bundle: Bundle, tmp_path: Path) -> None:
    app = client_app()
    message = Message(
        RecordDict({ARRAYS: record_of(read_trainable(bundle)), "config": ConfigRecord({"server-round": 1})}),
        dst_node_id=1, message_type="train",
    )  # fmt: skip
    context = _context({"bundle": str(bundle.path), "data": "/home/ann/secret", "folder": str(tmp_path)})
    answer = app(message, context)
    assert answer.has_error() and answer.error.reason == "the device says InputError"


def test_flower_sends_no_word_home_from_our_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    import flwr.supercore.telemetry as telemetry

    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    sent: list[Any] = []
    monkeypatch.setattr(telemetry, "Request", lambda **how: sent.append(how), raising=False)
    client_app()
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    telemetry.event(telemetry.EventType.PING).result(timeout=10)
    assert sent == []


def test_records_that_are_no_arrays_are_refused() -> None:
    from edgeplast.fleet.updates import RefusedUpdateError

    for broken in (SimpleNamespace(numpy=lambda: 1 / 0), SimpleNamespace(), np.float32(1)):
        with pytest.raises(RefusedUpdateError, match="it cannot be read"):
            arrays_of({"w": broken})
