"""Flower's mods around a device: what an update is rounded to, and what hides it.

``packing`` is the outermost: it turns what came into float32, and what goes into what travels. ``private`` hands over
to Flower's own mods for differential privacy and secure aggregation, as the settings say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeplast.fleet.flower import ARRAYS, arrays_of, record_of
from edgeplast.fleet.settings import Settings
from edgeplast.fleet.updates import LeftOver, packed

if TYPE_CHECKING:
    from flwr.app import Context, Message

Next = Callable[["Message", "Context"], "Message"]


def packing(message: Message, context: Context, go_on: Next) -> Message:
    """Turn weights that came into float32, and those that go into an update as it travels."""
    from flwr.app import MessageType

    from edgeplast.fleet.client import folder_of

    settings = Settings.of(context.run_config)
    if settings.secure:
        return go_on(message, context)
    weights = {name: array.astype(np.float32) for name, array in arrays_of(message.content[ARRAYS]).items()}
    message.content[ARRAYS] = record_of(weights)
    answer = go_on(message, context)
    if answer.has_error() or message.metadata.message_type != MessageType.TRAIN:
        return answer
    learned = arrays_of(answer.content[ARRAYS])
    update = {name: learned[name] - weights[name] for name in weights}
    if settings.travel == "float32":
        answer.content[ARRAYS] = record_of(update)
        return answer
    left = LeftOver(folder_of(context.node_config, context.run_id) / "left_over.safetensors", str(context.run_id))
    update = left.added(update)
    sent = packed(update, settings.travel)
    left.keep(update, sent)
    answer.content[ARRAYS] = record_of(sent)
    return answer


def private(message: Message, context: Context, go_on: Next) -> Message:
    """Hand over to the mod of Flower's that the settings ask for."""
    from flwr.app import MessageType

    settings = Settings.of(context.run_config)
    if settings.secure:
        from edgeplast.fleet.secure import secured

        return secured(message, context, go_on)
    if message.metadata.message_type != MessageType.TRAIN or settings.privacy in ("none", "central"):
        return go_on(message, context)
    from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

    if settings.privacy == "central-on-device":
        return fixedclipping_mod(message, context, go_on)
    norm = settings.clipping_norm
    return LocalDpMod(norm, norm, settings.epsilon, settings.delta)(message, context, go_on)
