"""Flower's ClientApp over a device: messages in, a part of a round done in this process, messages out.

A real device says in its SuperNode's ``--node-config`` where bundle, pictures and folder are and what the process may
hold; nothing of that comes from the server. A simulated one takes them from the app's settings and is dealt its
pictures. What goes wrong is told to the server by its kind alone: texts may quote names of pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import EdgeplastError, InputError, UsageError
from edgeplast.fleet.dealing import dealt
from edgeplast.fleet.device import Device, Task
from edgeplast.fleet.flower import ARRAYS, CONFIG, DEVICE, EXAMPLES, METRICS, arrays_of, log, record_of, require_flower
from edgeplast.fleet.settings import Settings
from edgeplast.fleet.updates import RefusedUpdateError
from edgeplast.units import parse_bytes
from edgeplast_devices.images import Splits, open_splits
from edgeplast_devices.images.splitting import stratified_split

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

_NODE_KEYS = ("bundle", "data", "folder", "memory", "threads", "name", "trusted")
_HELD_BACK = 0.15


def client_app(mods: tuple[Any, ...] | list[Any] = ()) -> ClientApp:
    """Return the app of a device.

    Args:
        mods: of Flower's, around everything that edgeplast does; the first is the outermost.
    """
    require_flower()
    from flwr.clientapp import ClientApp

    from edgeplast.fleet.mods import packing, private

    app = ClientApp(mods=[*mods, packing, private])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answered(message, context, _train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answered(message, context, _evaluate)

    return app


def answered(message: Message, context: Context, work: Any) -> Message:
    """Do work and return the answer; what fails is told in this device's log, and by its kind to the server."""
    from flwr.app import Error, Message

    try:
        return Message(work(message, context), reply_to=message)
    except (EdgeplastError, RefusedUpdateError, MemoryError, OSError) as error:
        log.error("This device takes no part in this round: %s", error)
        return Message(Error(code=0, reason=f"the device says {type(error).__name__}"), reply_to=message)


def _train(message: Message, context: Context) -> Any:
    from flwr.app import ConfigRecord, MetricRecord, RecordDict

    settings, given = Settings.of(context.run_config), message.content[CONFIG]
    device = device_of(context.node_config, settings, context.run_id, given)
    task = Task(
        round=int(given["server-round"]),
        steps=settings.local_steps,
        learning_rate=float(given["learning-rate"]),
        head_learning_rate=float(given["head-learning-rate"]),
        batch=settings.batch,
        proximal=float(given.get("proximal-mu", 0.0)),
        seed=settings.seed,
    )
    weights = arrays_of(message.content[ARRAYS])
    learned = device.learn(weights, task)
    metrics = {
        EXAMPLES: learned.examples,
        "loss": learned.loss,
        "seconds": learned.seconds,
        "peak-bytes": float(learned.peak_bytes),
    }
    return RecordDict({
        ARRAYS: record_of({name: learned.weights[name] for name in weights}),  # Flower's mods look at the order
        METRICS: MetricRecord(metrics),
        DEVICE: ConfigRecord({"name": name_of(context.node_config)}),
    })  # fmt: skip


def _evaluate(message: Message, context: Context) -> Any:
    from flwr.app import ConfigRecord, MetricRecord, RecordDict

    settings, given = Settings.of(context.run_config), message.content[CONFIG]
    found = device_of(context.node_config, settings, context.run_id, given).measure(arrays_of(message.content[ARRAYS]))
    metrics = {EXAMPLES: 0} if found is None else {EXAMPLES: found.images, "accuracy": found.accuracy}
    name = ConfigRecord({"name": name_of(context.node_config)})
    return RecordDict({METRICS: MetricRecord(metrics), DEVICE: name})


def device_of(node: Mapping[str, Any], settings: Settings, run: int, asked: Mapping[str, Any]) -> Device:
    """Return the device that this node is.

    Args:
        node: its own configuration.
        settings: of the app.
        run: number of the run; a simulated device's folder is named by it.
        asked: what came with the message.

    Raises:
        UsageError: the node's configuration lacks something, or has what nobody knows.
        InputError: bundle or pictures cannot be used, or the server's bundle is another one.
    """
    if "partition-id" in node:
        images, bundle = _dealt(node, settings), settings.bundle
        memory, threads, trusted = settings.memory or "none", 1, settings.trusted
    else:
        if unknown := [key for key in node if key not in _NODE_KEYS]:
            raise UsageError(f"--node-config has {unknown[0]!r}. Known: {', '.join(_NODE_KEYS)}.")
        if missing := [key for key in ("bundle", "data", "folder") if not node.get(key)]:
            raise UsageError(
                f"--node-config lacks {', '.join(missing)}. Start the SuperNode with: --node-config "
                '\'bundle="/srv/bundle" data="/srv/pictures" folder="/var/lib/fleet" memory="256MiB"\''
            )
        images = open_splits(Path(str(node["data"])), seed=0, val_fraction=_HELD_BACK)
        bundle = str(node["bundle"])
        memory, threads, trusted = (
            str(node.get("memory", "")),
            int(node.get("threads", 0)),
            str(node.get("trusted", "")),
        )
    opened = Bundle.open(Path(bundle), trusted=trusted or None)
    if asked.get("bundle") not in (None, opened.fingerprint):
        raise InputError(f"The fleet started from another bundle than {bundle}. Copy the server's to this device.")
    return Device(
        opened, images, folder_of(node, run), budget=budget_of(memory), threads=threads or None, notice=log.info
    )


def budget_of(memory: str) -> Budget | None:
    """Return the budget that a text names: ``none`` for no limit, nothing for the bundle's own."""
    if not memory:
        return None
    return Budget() if memory == "none" else Budget(memory_bytes=parse_bytes(memory))


def name_of(node: Mapping[str, Any]) -> str:
    """Return what a node calls itself; empty where it says nothing."""
    return f"device-{node['partition-id']}" if "partition-id" in node else str(node.get("name", ""))


def _dealt(node: Mapping[str, Any], settings: Settings) -> Splits:
    if not settings.data:
        raise UsageError(
            "Simulated devices need pictures to be dealt: edgeplast fleet init bundle/ -o fleet/ --data pictures/, or "
            "flwr run fleet/ local --run-config 'data=\"/srv/pictures\"'"
        )
    whole = open_splits(Path(settings.data), seed=settings.seed, val_fraction=0).train
    hands = dealt(whole.labels, int(node["num-partitions"]), settings.spread, settings.seed)
    mine = whole.subset(hands[int(node["partition-id"])])
    train, held = stratified_split(mine, _HELD_BACK, settings.seed)
    return Splits(train, held if len(held) else None, None)


def folder_of(node: Mapping[str, Any], run: int) -> Path:
    """Return where a node works: its own folder, or one of this run for a simulated one."""
    if "partition-id" not in node:
        return Path(str(node["folder"]))
    return simulated_folder(run) / f"device-{node['partition-id']}"


def simulated_folder(run: int) -> Path:
    """Return where the simulated devices of a run work; the server removes it in the end."""
    return Path(tempfile.gettempdir()) / f"edgeplast-fleet-{run}"
