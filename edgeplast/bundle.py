"""The Bundle: a folder with graphs, weights and a manifest, checked before any parser sees a byte of it.

``bundle.json`` lists every file with its size and SHA-256. ``frozen.safetensors`` holds what never changes,
``trainable.safetensors`` what a device may change (float32), ``*.onnx`` the graphs. An adapted bundle has the
same form, with new trainable weights and a ``report.json`` beside it.

A manifest names its two files of weights and graphs, plainly and in its own folder, and nothing else: neither what a
run writes into a copy of the folder, nor a link. Graphs read weights from ``frozen.safetensors`` alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from edgeplast.documents import AtLeastOne, Document
from edgeplast.errors import DamagedError, InputError
from edgeplast.files import sha256
from edgeplast.footprint import Footprint
from edgeplast.plans import Plan
from edgeplast.prefixes import PREFIX_GRAPH, Prefix
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Counting, Progress, silent
from edgeplast.recomputation import Recompute
from edgeplast.score_taps import SCORE_GRAPH
from edgeplast.stamps import Stamp, kind_at, shortened, stamp_of
from edgeplast.stored_files import FROZEN as FROZEN
from edgeplast.stored_files import MOST_GRAPH_BYTES as MOST_GRAPH_BYTES
from edgeplast.stored_files import TRAINABLE as TRAINABLE
from edgeplast.stored_files import StoredFile as StoredFile
from edgeplast.stored_files import copy_of, fault_of, fault_of_name, shown_name
from edgeplast.stored_files import describe_file as describe_file
from edgeplast.stored_files import is_graph as is_graph
from edgeplast.unknown import Unknown

if TYPE_CHECKING:
    from edgeplast.trust.trusting import Signature, TrustedKeys
else:  # where nobody asks who signed, its room is not loaded; a name is there all the same, for help() to show
    Signature = Any

MANIFEST, REPORT = "bundle.json", "report.json"
BLOCK_OF_4_BITS = 32
EVALUATION_GRAPH, DEPLOYMENT_GRAPH = "evaluate.onnx", "deploy.onnx"

_SHOWN_FAULTS = 20
_LONGEST_CLASS = 1000
_COLDEST, _HOTTEST = 1e-3, 1e3


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
    shape: tuple[AtLeastOne, ...]
    trainable: bool
    weight_bits: int = 32
    compute_bits: int = 32

    def __post_init__(self) -> None:
        if self.weight_bits not in (32, 8, 4) or self.compute_bits not in (32, 8):
            raise InputError(
                f"A parameter is stored in 32, 8 or 4 bits and computed in 32 or 8, not {self.weight_bits} and "
                f"{self.compute_bits}."
            )


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


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One choice of what trains: inside the plan, where tiers are nested, the whole plan first; or beside it.

    Attributes:
        name: ``full``, ``half``, ``quarter`` … or ``head``; of alternatives ``all-KIND``, ``late``, ``high``, ``low``.
        components: what trains.
        graphs: ways to compute it, the fastest first.
        alternative: whether it stands beside the plan, and no lack of memory leads to it.
    """

    name: str
    components: tuple[str, ...]
    graphs: tuple[TrainingGraph, ...]
    alternative: bool = False


class Manifest(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a device must know of a bundle.

    Attributes:
        model: name of the model.
        classes: class names, in the order of the logits.
        preprocessing: how a picture becomes the model's input.
        plan: what trains and how the rest is stored.
        parameters: parameter name to where it lies.
        tiers: training graphs, from the whole plan down to the head alone, and then those of alternatives.
        evaluation: what running the evaluation graph needs.
        prefix: what comes before everything that trains, where it is a graph of its own.
        files: every file but the manifest (and, in an adapted bundle, its report).
        versions: the tools that wrote the bundle.
        adapted_from: SHA-256 of the manifest of the bundle this one was adapted from; None in a fresh one.
        temperature: that logits are divided by before they become probabilities; None for none.
        unknown: when the model says that it does not know what a picture shows; None where nothing tells.
        scoring: what running the graph takes that scores components, for one pair of pictures as one image; None where
            there is none.
        waiting: classes that were added and of which no picture was seen yet.
    """

    KIND: ClassVar[str] = "bundle manifest"
    FORMAT: ClassVar[int] = 2
    OLD: ClassVar[str] = "Export the bundle again: edgeplast export MODEL --data images/ -o bundle/"
    MOST_BYTES: ClassVar[int] = 4 << 20
    format_version: int = 2

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
    temperature: float | None = None
    unknown: Unknown | None = None
    waiting: tuple[str, ...] = ()
    prefix: Prefix | None = None
    scoring: Footprint | None = None

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if not {*self.waiting} <= {*self.classes}:
            raise InputError("A bundle has classes that wait for their first picture and are none of its classes.")
        check_temperature(self.temperature)
        if not self.tiers or not all(tier.graphs for tier in self.tiers):
            raise InputError("A bundle needs at least one tier, and each tier a training graph; here one is empty.")
        trained = {stored.component for stored in self.parameters.values() if stored.trainable}
        for tier in self.tiers:
            allowed = trained if tier.alternative else set(self.plan.trainable)
            if not trained.intersection(tier.components) or not allowed.issuperset(tier.components):
                raise InputError(f"Tier {tier.name!r} trains what the plan does not, or nothing: {tier.components}.")
        if self.tiers[0].alternative:
            raise InputError("The first tier of a bundle is its whole plan; here it is an alternative.")

    @property
    def ladder(self) -> tuple[Tier, ...]:
        """The tiers of the plan, the largest first."""
        return tuple(tier for tier in self.tiers if not tier.alternative)

    @property
    def alternatives(self) -> tuple[Tier, ...]:
        """Tiers that stand beside the plan."""
        return tuple(tier for tier in self.tiers if tier.alternative)


def check_classes(classes: tuple[str, ...]) -> None:
    """Raise unless these can be the names of a model's outputs.

    Raises:
        InputError: fewer than two, two of the same name, or one that is no name but a text.
    """
    if len(set(classes)) != len(classes) or len(classes) < 2:
        shown = ", ".join(map(repr, classes[:10])) + (", …" if len(classes) > 10 else "")
        raise InputError(f"A model needs two or more different class names; it has {len(classes)}: {shown[:400]}.")
    if (longest := max(map(len, classes))) > _LONGEST_CLASS:
        raise InputError(f"A class name has {longest:,} characters; {_LONGEST_CLASS} are the most.")


def check_temperature(temperature: float | None) -> None:
    """Raise unless logits can be divided by it.

    Raises:
        InputError: it is not above 0, or beyond what any fit gives.
    """
    if temperature is not None and not _COLDEST <= temperature <= _HOTTEST:
        raise InputError(f"A temperature lies between {_COLDEST:g} and {_HOTTEST:g}; this is {temperature:g}.")


class Bundle(msgspec.Struct, frozen=True):
    """A checked bundle on disk.

    Attributes:
        path: its folder.
        manifest: what ``bundle.json`` says.
        digest: SHA-256 of ``bundle.json`` as it was read; empty where the bundle was not opened from a folder.
        stamps: of each file as it was verified.
        is_copy: whether it is a copy that a run made for itself.
        signature: who signed it; None where nobody was asked.
        origin: of one that lies there for a while only, an adapter put on a base: the base's fingerprint.
    """

    path: Path
    manifest: Manifest
    digest: str = ""
    stamps: dict[str, Stamp] = {}
    is_copy: bool = False
    signature: Signature | None = None
    origin: str = ""

    @classmethod
    def open(
        cls, path: str | Path, *, trusted: TrustedKeys | str | Path | None = None, progress: Progress = silent
    ) -> Bundle:
        """Read the manifest and verify every file against it.

        Args:
            path: of the folder.
            trusted: public keys (opened, a file, or a folder of them) of which one must have signed the manifest, which
                is not parsed otherwise.
            progress: told of bytes that are verified.

        Raises:
            UntrustedError: none of them has.
            InputError: there is no bundle, or it is of a newer format.
            DamagedError: files are missing, changed, links, or named outside the folder, or graphs read weights from
                files that are not the bundle's; all faults are listed.
        """
        path = Path(path)
        manifest_path = path / MANIFEST
        if kind_at(manifest_path) != "file":
            raise InputError(_no_bundle(path))
        if manifest_path.is_symlink():
            raise DamagedError(_damaged(path, [f"{MANIFEST} is a link"]))
        try:
            data = Manifest.read_bytes(manifest_path)
        except InputError as error:
            raise DamagedError(str(error)) from error
        signature = None if trusted is None else _signature(path, data, trusted)
        try:
            manifest = Manifest.from_json(data, where=str(manifest_path))
        except InputError as error:
            if "has format" in str(error):
                raise
            raise DamagedError(f"{error} Export the bundle again, or copy it again.") from error
        stamps: dict[str, Stamp] = {}
        told = Counting(progress, f"verifying {path}", sum(stored.bytes for stored in manifest.files.values()))
        faults = _faults_of_names(manifest)
        faults += [
            fault
            for name, stored in manifest.files.items()
            if fault_of_name(name) is None and (fault := fault_of(path / name, stored, stamps, told=told))
        ]
        if faults:
            raise DamagedError(_damaged(path, faults))
        if signature is not None and signature.statement.parent != manifest.adapted_from:
            raise DamagedError(_damaged(path, ["its signature names another parent than its manifest"]))
        return cls(path, manifest, hashlib.sha256(data).hexdigest(), stamps, signature=signature)

    def check_unchanged(self, *names: str) -> None:
        """Raise unless files are still those whose hashes were verified; to be called once they are open.

        Args:
            names: of files; all that were verified by default.

        Raises:
            DamagedError: one was exchanged or written to.
        """
        seen = {name: self.stamps[name] for name in names or self.stamps if name in self.stamps}
        if changed := [f"{name} was changed" for name, stamp in seen.items() if not self._is_as_before(name, stamp)]:
            raise DamagedError(
                f"The bundle {self.path} changed while it was used: {', '.join(changed)}. Nothing was made of it. "
                "Find out what writes there, and start again."
            )

    def _is_as_before(self, name: str, stamp: Stamp) -> bool:
        now = stamp_of(self.path / name)
        if now == stamp:
            return True
        # Some file systems number a file anew when it was forgotten for a while, and a backup or a version that makes
        # links changes the times of what nobody has written: the content decides then. Not where a signature is asked
        # for: whoever writes and undoes it can set the time of writing back, and that of changing not.
        is_renamed = now is not None and self.signature is None and now.may_be_as(stamp)
        if now is not None and (self.is_copy or is_renamed or now[2:] == stamp[2:]):
            return fault_of(self.path / name, self.manifest.files[name], {}) is None
        return False

    def copied(self, folder: Path, progress: Progress = silent) -> Bundle:
        """Copy every file, hashed as it is copied, and return the bundle that those copies are (without manifest).

        Copies that are there and whole stay. Whatever else has the name of a file, a link for example, is replaced.

        Args:
            folder: is there.
            progress: told of bytes that are copied.

        Raises:
            DamagedError: a file is not, or no longer, what the manifest says.
            OSError: the disk is full, or the folder cannot be written.
        """
        stamps: dict[str, Stamp] = {}
        total = sum(stored.bytes for stored in self.manifest.files.values())
        told = Counting(progress, "copying the bundle", total)
        for name, stored in self.manifest.files.items():
            if fault_of(folder / name, stored, stamps) is None:
                told(stored.bytes)
            elif fault := copy_of(self.path / name, folder / name, stored, stamps, told):
                raise DamagedError(_damaged(self.path, [fault]))
        return Bundle(folder, self.manifest, self.fingerprint, stamps, is_copy=True)

    @property
    def bytes(self) -> int:
        """Size of all listed files and the manifest on disk."""
        listed = sum(f.bytes for f in self.manifest.files.values())
        return listed + (self.path / MANIFEST).stat().st_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which pins every file."""
        return self.digest or sha256(self.path / MANIFEST)

    @property
    def as_parent(self) -> str:
        """Fingerprint by which what is made from it names its parent: of a bundle that stays."""
        return self.origin or self.fingerprint


def _signature(path: Path, manifest: bytes, trusted: TrustedKeys | str | Path) -> Signature:
    from edgeplast.trust.trusting import TrustedKeys  # where nobody asks, it costs nothing

    keys = trusted if isinstance(trusted, TrustedKeys) else TrustedKeys.read(trusted)
    return keys.check_bundle(path, manifest)


def _no_bundle(path: Path) -> str:
    """Say what a path is instead of a bundle, and what to do with that."""
    kind = kind_at(path)
    if not kind:
        shown = shortened(path)
        return f"There is no {shown}. Make a bundle with: edgeplast export MODEL … -o {shown}"
    if kind == "file":
        return f"{path} is a file, and a bundle is a folder. Deployed models go to edgeplast predict and evaluate."
    if path.name.endswith(".partial"):
        finished = path.with_name(path.name.removesuffix(".partial"))
        return (
            f"{path} is an unfinished run: finish it with edgeplast adapt … -o {finished} --resume, or draw it: report."
        )
    return f"{path} is no bundle: it has no {MANIFEST}. Make one with: edgeplast export MODEL … -o bundle/"


def _damaged(path: Path, faults: list[str]) -> str:
    more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
    said = "; ".join([*faults[:_SHOWN_FAULTS], *more])
    return f"The bundle {path} is damaged: {said}. Copy it to the device again, or export it again."


def _faults_of_names(manifest: Manifest) -> list[str]:
    """What is wrong with the names of files, before any of them is looked at."""
    used = [FROZEN, TRAINABLE, EVALUATION_GRAPH, DEPLOYMENT_GRAPH]
    used += [PREFIX_GRAPH] if manifest.prefix else []
    used += [SCORE_GRAPH] if manifest.scoring else []
    used += [graph.file for tier in manifest.tiers for graph in tier.graphs]
    faults = [fault for name in manifest.files if (fault := fault_of_name(name))]
    faults += [
        f"{shown_name(name)} is used but not listed" for name in dict.fromkeys(used) if name not in manifest.files
    ]
    named = {graph.file for tier in manifest.tiers for graph in tier.graphs}
    faults += [f"{shown_name(name)} is no graph" for name in sorted(named) if not is_graph(name)]
    same = [name for name, count in Counter(name.casefold() for name in manifest.files).items() if count > 1]
    return faults + [f"{name} is listed twice, in capitals and in small letters" for name in same]
