"""The Adapter: what a bundle has learned, apart from it, as one small file that its base can be given again.

``adapter_model.safetensors`` holds every parameter that trained, float32, under PEFT's names
(``base_model.model.blocks.0.attn.qkv.lora_A.weight``), and in its header this record. Beside it lies
``adapter_config.json`` where PEFT can read the whole: low-rank factors, and whole layers (head, norms) beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from edgeplast.bundle import FROZEN, Manifest, check_classes, check_temperature
from edgeplast.contract import is_low_rank, low_rank_names
from edgeplast.documents import Count, Document
from edgeplast.errors import InputError
from edgeplast.stamps import kind_at, shortened
from edgeplast.unknown import Unknown

ADAPTER_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
RECORD = "edgeplast.adapter"
"""Where in the file's header the record stands."""

PREFIX = "base_model.model."
"""What PEFT puts before the name of a parameter."""


class Adapter(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one task made of a base, without the base.

    Attributes:
        model: name of the model.
        base: of what it can be put on, see :func:`base_of`.
        content: SHA-256 over names and values of its arrays, in their order.
        classes: of the task, in the order of the logits.
        parameters: how many numbers it holds.
        temperature: that its logits are divided by; None for none.
        unknown: when it does not know what a picture shows; None where nothing tells.
        waiting: classes of which no picture was seen yet.
    """

    KIND: ClassVar[str] = "adapter"
    MOST_BYTES: ClassVar[int] = 4 << 20

    model: str
    base: str
    content: str
    classes: tuple[str, ...]
    parameters: Count
    temperature: float | None = None
    unknown: Unknown | None = None
    waiting: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes)
        check_temperature(self.temperature)
        if not {*self.waiting} <= {*self.classes}:
            raise InputError("An adapter has classes that wait for their first picture and are none of its classes.")


def base_of(manifest: Manifest) -> str:
    """Return what two bundles share between which what was learned may move: SHA-256 of all that it builds on.

    That is everything that does not train, how pictures are prepared, and the names and shapes of what trains, rows of
    the head aside. An adapted bundle has the base of the bundle that it was adapted from.
    """
    heads = manifest.plan.outline.head
    learned = {
        name: stored.shape[1:] if stored.component in heads else stored.shape
        for name, stored in sorted(manifest.parameters.items())
        if stored.trainable
    }
    facts = {
        "model": manifest.model,
        "frozen": manifest.files[FROZEN].sha256,
        "preprocessing": msgspec.to_builtins(manifest.preprocessing),
        "learned": learned,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def names_in(manifest: Manifest) -> tuple[str, ...]:
    """Return the parameters that an adapter of a bundle holds: what trains, and factors A that stand beside a B."""
    parameters = manifest.parameters
    beside = {
        a for name in parameters for a, b in [low_rank_names(name)] if b in parameters and parameters[b].trainable
    }
    return tuple(name for name, stored in parameters.items() if stored.trainable or name in beside)


def peft_config(manifest: Manifest) -> dict[str, Any] | None:
    """Return what PEFT's ``LoraConfig`` needs to load an adapter of a bundle; None where it has no words for it.

    It has them where low-rank factors trained, and beside them whole layers alone: ``modules_to_save``. The factors'
    product is added as it is, which is ``lora_alpha`` = ``r``.
    """
    names, shapes = names_in(manifest), {name: stored.shape for name, stored in manifest.parameters.items()}
    factors = [low_rank_names(name)[1] for name in shapes if low_rank_names(name)[1] in names]
    whole = {name.rpartition(".")[0] for name in names if not is_low_rank(name)}
    left = {name for name in shapes if name not in names and name.rpartition(".")[0] in whole}
    if not factors or left:
        return None
    ranks = {b.removesuffix(".lora_B.weight"): shapes[b][1] for b in factors}
    most = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": manifest.model,
        "task_type": None,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(ranks),
        "modules_to_save": sorted(whole),
    }


def content_of(arrays: Iterable[tuple[str, Any]]) -> str:
    """Return the SHA-256 over names and values of arrays, float32, in their order."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()


def adapter_file(given: Path) -> Path:
    """Return the file of an adapter, of which its folder may be given.

    Raises:
        InputError: there is none.
    """
    kind = kind_at(given)
    file = given / ADAPTER_FILE if kind not in ("", "file") else given
    if kind_at(file) != "file":
        missing = f"There is no {shortened(given)}." if not kind else f"{shortened(given)} has no {ADAPTER_FILE}."
        raise InputError(f"{missing} Make an adapter of an adapted bundle: edgeplast detach adapted/ -o adapter/")
    return file
