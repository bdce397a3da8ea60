"""TrainingArtifacts: a folder with the files of ONNX Runtime's own on-device training API, and what they are of."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from edgeplast.bundle import check_classes
from edgeplast.documents import Document
from edgeplast.plans import Plan
from edgeplast.preprocessing import Preprocessing
from edgeplast.recomputation import Recompute
from edgeplast.stored_files import StoredFile

TRAINING_MODEL, EVAL_MODEL = "training_model.onnx", "eval_model.onnx"
OPTIMIZER_MODEL, CHECKPOINT = "optimizer_model.onnx", "checkpoint"


class ArtifactsRecord(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a program must know of such a folder that its four files do not say: ``artifacts.json``.

    Attributes:
        model: name of the model.
        classes: class names; a label is an index into them.
        preprocessing: how a picture becomes a row of ``images``.
        plan: what trains and how the rest is stored.
        recompute: how much of the blocks the training model computes again in the backward pass.
        weight_decay: of every parameter that trains, in the optimizer model.
        files: every other file, with size and SHA-256.
        versions: the tools that wrote them.
    """

    KIND: ClassVar[str] = "record of training artifacts"
    MOST_BYTES: ClassVar[int] = 4 << 20

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Plan
    recompute: Recompute
    weight_decay: float
    files: dict[str, StoredFile]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        check_classes(self.classes)


class TrainingArtifacts(msgspec.Struct, frozen=True):
    """Such a folder.

    Attributes:
        path: of the folder.
        record: what ``artifacts.json`` says.
    """

    path: Path
    record: ArtifactsRecord

    @property
    def bytes(self) -> int:
        """Size of the listed files on disk."""
        return sum(file.bytes for file in self.record.files.values())
