"""The pruned model: what was taken out of which model, and what it costs before and after.

A pruned model is a folder of two files: ``pruned.json``, this record, and ``weights.safetensors``, float32 under
timm's names. It is given to ``score``, ``export`` and ``prune`` in the place of a model's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from edgeplast.documents import AtLeastOne, Count, Document, Whole
from edgeplast.errors import InputError
from edgeplast.stamps import kind_at
from edgeplast.stored_files import StoredFile

RECORD, WEIGHTS = "pruned.json", "weights.safetensors"


class ModelCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model costs.

    Attributes:
        parameters: of the whole model, head included.
        macs: multiply–accumulates of one image in the forward graph that devices run.
        latency_seconds: one image through that graph on the machine that pruned, batch 1; None: not measured.
    """

    parameters: AtLeastOne
    macs: AtLeastOne
    latency_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None


class PrunedBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One block.

    Attributes:
        heads: attention heads kept.
        hidden: hidden units of the MLP kept.
        heads_before: heads of the source model.
        hidden_before: hidden units of the source model.
    """

    heads: Whole
    hidden: Whole
    heads_before: Whole
    hidden_before: Whole

    def __post_init__(self) -> None:
        if not (1 <= self.heads <= self.heads_before and 1 <= self.hidden <= self.hidden_before):
            raise InputError(f"A pruned block keeps 1 head and 1 hidden unit or more, and no more than it had: {self}.")


class PrunedRecord(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pruning did.

    Attributes:
        model: timm's name of the source model.
        options: options of timm's model that it was created with, e.g. ``{"img_size": [224, 224]}``.
        classes: outputs of its head.
        blocks: sizes of every block.
        kept_fraction: component to its parameters over those in the source model.
        before: what the source model costs.
        after: what the pruned model costs.
        target: what was asked for, e.g. ``"keep 0.7 of the multiply–accumulates"``.
        method: the score that decided how much each component gives; empty if none did.
        steps: rounds of pruning.
        distill_steps: optimizer steps of distillation from the source model.
        distill_loss: its loss, mean of the first and of the last tenth of the steps; empty without distillation.
        pictures: how its pictures are prepared, in timm's words; empty: as timm's source model says.
        weights: size and SHA-256 of the weights' file; None before it is written.
        notes: what a reader should know (overridden ratios, stated fallbacks).
    """

    KIND: ClassVar[str] = "pruned model"

    model: str
    options: dict[str, Any]
    classes: Count
    blocks: tuple[PrunedBlock, ...]
    kept_fraction: dict[str, float]
    before: ModelCost
    after: ModelCost
    target: str
    method: str = ""
    steps: Count = 1
    distill_steps: Count = 0
    distill_loss: tuple[float, ...] = ()
    pictures: dict[str, Any] = {}
    weights: StoredFile | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.distill_loss) not in (0, 2):
            raise InputError(f"The loss of distillation has two entries, or none; here {len(self.distill_loss)}.")


def is_pruned(path: str | Path) -> bool:
    """Whether this is the folder of a pruned model."""
    return kind_at(Path(path) / RECORD) == "file"
