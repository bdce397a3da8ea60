"""The Bundle: a folder with graphs, weights and a manifest, checked before any parser sees a byte of it.

``bundle.json`` lists every file with its size and SHA-256. ``frozen.safetensors`` holds what never changes,
``trainable.safetensors`` what a device may change (float32), ``*.onnx`` the graphs. An adapted bundle has the
same form, with new trainable weights and a ``report.json`` beside it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import ClassVar

import msgspec

from edgeplast.documents import Document
from edgeplast.errors import DamagedError, InputError
from edgeplast.files import sha256
from edgeplast.footprint import Footprint
from edgeplast.plans import Plan
from edgeplast.preprocessing import Preprocessing
from edgeplast.recomputation import Recompute

MANIFEST, REPORT = "bundle.json", "report.json"
FROZEN, TRAINABLE = "frozen.safetensors", "trainable.safetensors"
BLOCK_OF_4_BITS = 32
EVALUATION_GRAPH, DEPLOYMENT_GRAPH = "evaluate.onnx", "deploy.onnx"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and hash of one file of the bundle."""

    bytes: int
    sha256: str


class StoredParameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one parameter of the model lies and how.

    Attributes:
        component: the component it belongs to.
        shape: as the graphs see it: matrices (out, in), the patch kernel flattened to (D, 3·P·P).
        trainable: whether it is in ``trainable.safetensors`` (else in ``frozen.safetensors``).
        weight_bits: 32: float32 under its own name. 8: int8 under ``<name>.int8`` and one float32 scale per
            output row under ``<name>.scale``; the value is their product. 4: elements row by row, two a byte, the
            first in the lower half, under ``<name>.int4`` and a float32 scale for each ``BLOCK_OF_4_BITS`` columns
            of a row under ``<name>.scale``.
        compute_bits: 8: its product is integer arithmetic, and the matrix is stored transposed, int8 in −63..63,
            under ``<name>.int8.transposed`` with one scale a column. 32: it is computed with as float32.
    """

    component: str
    shape: tuple[int, ...]
    trainable: bool
    weight_bits: int = 32
    compute_bits: int = 32


class TrainingGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training graph of a tier.

    Attributes:
        file: its file name.
        footprint: what running it needs.
        recompute: how much of the blocks it computes again instead of keeping it.
        step_flops: floating-point operations of one image, forward and backward.
    """

    file: str
    footprint: Footprint
    recompute: Recompute
    step_flops: float


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice of what trains, inside the plan; tiers are nested, the whole plan first.

    Attributes:
        name: ``full``, ``half``, ``quarter`` … or ``head``.
        components: what trains.
        graphs: ways to compute it, the fastest first.
    """

    name: str
    components: tuple[str, ...]
    graphs: tuple[TrainingGraph, ...]


class Manifest(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a device must know of a bundle.

    Attributes:
        model: name of the model.
        classes: class names, in the order of the logits.
        preprocessing: how a picture becomes the model's input.
        plan: what trains and how the rest is stored.
        parameters: parameter name to where it lies.
        tiers: training graphs, from the whole plan down to the head alone.
        evaluation: what running the evaluation graph needs.
        files: every file but the manifest (and, in an adapted bundle, its report).
        versions: the tools that wrote the bundle.
        adapted_from: SHA-256 of the manifest of the bundle this one was adapted from; None in a fresh one.
    """

    KIND: ClassVar[str] = "bundle manifest"

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Plan
    parameters: dict[str, StoredParameter]
    tiers: tuple[Tier, ...]
    evaluation: Footprint
    files: dict[str, StoredFile]
    versions: dict[str, str]
    adapted_from: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError(f"A bundle needs two or more different class names; it has {list(self.classes)}.")


class Bundle(msgspec.Struct, frozen=True):
    """A checked bundle on disk.

    Attributes:
        path: its folder.
        manifest: what ``bundle.json`` says.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest and verify every file against it.

        Raises:
            InputError: there is no bundle, or it is of a newer format.
            DamagedError: files are missing, changed, or named outside the folder; all faults are listed.
        """
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            raise InputError(_no_bundle(path))
        try:
            manifest = Manifest.read(manifest_path)
        except InputError as error:
            if "has format" in str(error):
                raise
            raise DamagedError(f"{error} Export the bundle again, or copy it again.") from error
        faults = [fault for name, stored in manifest.files.items() if (fault := _fault(path, name, stored))]
        faults += [f"{name} is used but not listed" for name in _used_files(manifest) if name not in manifest.files]
        if faults:
            raise DamagedError(
                f"The bundle {path} is damaged: {'; '.join(faults)}. Copy it to the device again, or export it again."
            )
        return cls(path, manifest)

    @property
    def bytes(self) -> int:
        """Size of all listed files and the manifest on disk."""
        listed = sum(f.bytes for f in self.manifest.files.values())
        return listed + (self.path / MANIFEST).stat().st_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which pins every file."""
        return sha256(self.path / MANIFEST)


def _no_bundle(path: Path) -> str:
    """Say what a path is instead of a bundle, and what to do with that."""
    if not path.exists():
        return f"There is no {path}. Make a bundle with: edgeplast export MODEL … -o {path}"
    if path.is_file():
        return f"{path} is a file, and a bundle is a folder. Deployed models go to edgeplast predict and evaluate."
    if path.name.endswith(".partial"):
        finished = path.with_name(path.name.removesuffix(".partial"))
        return (
            f"{path} is an unfinished run: finish it with edgeplast adapt … -o {finished} --resume, or draw it: report."
        )
    return f"{path} is no bundle: it has no {MANIFEST}. Make one with: edgeplast export MODEL … -o bundle/"


def describe_file(path: Path) -> StoredFile:
    """Return size and hash of a file."""
    return StoredFile(bytes=path.stat().st_size, sha256=sha256(path))


def _used_files(manifest: Manifest) -> list[str]:
    graphs = [graph.file for tier in manifest.tiers for graph in tier.graphs]
    return [FROZEN, TRAINABLE, EVALUATION_GRAPH, DEPLOYMENT_GRAPH, *graphs]


def _fault(folder: Path, name: str, stored: StoredFile) -> str | None:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or ":" in name:
        return f"{name!r} lies outside the folder"
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{name!r} is a link out of the folder"
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != stored.bytes:
        return f"{name} has {size} bytes instead of {stored.bytes}"
    if sha256(path) != stored.sha256:
        return f"{name} was changed (its SHA-256 differs)"
    return None
