"""The folder of a Learner: what it starts from, where it works, and how what was learned takes its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import MANIFEST, REPORT, TRAINABLE, Bundle, Manifest
from edgeplast.errors import UsageError
from edgeplast.files import disk_errors, possible, sha256
from edgeplast.outputs import finish_folder, refuse_mount, refuse_unmovable
from edgeplast.stamps import stamp_of
from edgeplast.telemetry import TELEMETRY
from edgeplast.unknown import Unknown
from edgeplast.versions import VERSIONS, Version, history, named
from edgeplast_devices.checkpoints import checkpoint_files
from edgeplast_devices.growing import grow
from edgeplast_devices.images import ImageSet
from edgeplast_devices.linking import link
from edgeplast_devices.replaying import carry, kept_by
from edgeplast_devices.reports import report_of
from edgeplast_devices.tensors import fill_arrays
from edgeplast_devices.versioning import next_number, restore, take_down
from edgeplast_devices.workplace import unfinished, write_adapted

if TYPE_CHECKING:
    from edgeplast.trust.trusting import TrustedKeys
    from edgeplast_devices.running import Run


def output_of(source: Bundle, into: str | Path | None, *, has_adapter: bool = False) -> Path:
    """Return the folder that is written, where a link leads.

    Raises:
        UsageError: it would be the fresh bundle's own, or that of a bundle that an adapter is put on.
    """
    output = Path(os.path.realpath(source.path if into is None else possible(into)))
    if output == Path(os.path.realpath(source.path)) and source.manifest.adapted_from is None:
        raise UsageError(
            f"{source.path} is a fresh bundle, which stays as it is. Say where what is learned is kept: "
            'Learner(bundle, into="adapted/").'
        )
    if output == Path(os.path.realpath(source.path)) and has_adapter:
        raise UsageError(
            f"{source.path} stays as it is while an adapter is put on it. Say where what is learned is kept: "
            'Learner(bundle, adapter=adapter, into="adapted/").'
        )
    return output


def start_of(
    source: Bundle, output: Path, trusted: TrustedKeys | None = None, *, fresh: Bundle | None = None
) -> tuple[Bundle, str | None]:
    """Return the bundle to go on from, and the fingerprint of the one that it was adapted from.

    Args:
        source: what the caller named.
        output: the folder that is written, of which the caller is the only writer.
        trusted: public keys of which one must have signed what is there.
        fresh: the source with an adapter on it, which is where it begins as long as nothing is there.

    Raises:
        UsageError: something else is there, or what was adapted from another bundle; or it is a mount point.
        DamagedError: what was adapted there is damaged.
    """
    refuse_mount(output)
    refuse_unmovable(output)
    if output == Path(os.path.realpath(source.path)):
        # Anew: another may have written it a moment ago.
        return Bundle.open(output, trusted=trusted), source.manifest.adapted_from
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return fresh or source, source.fingerprint
    if not (output / MANIFEST).is_file():
        raise UsageError(f"{output} is there and is no adapted bundle. Choose another folder, or move it away.")
    found = Bundle.open(output, trusted=trusted)
    if found.manifest.adapted_from != source.fingerprint:
        raise UsageError(
            f"{output} was adapted from another bundle than {source.path}. Choose another folder; to go on with what "
            f"is there, open it alone: Learner({str(output)!r})."
        )
    return found, source.fingerprint


def workplace_of(output: Path) -> Path:
    """Return the folder in which a Learner works while it is open.

    Raises:
        UsageError: a run of ``adapt`` was interrupted there.
    """
    folder = unfinished(output)
    if folder.is_dir() and checkpoint_files(folder):
        raise UsageError(
            f"{folder} holds an unfinished run of edgeplast adapt. Finish it with --resume, or remove the folder."
        )
    return folder


def put_in_place(
    bundle: Bundle,
    parameters: Mapping[str, np.ndarray],
    report: Adaptation,
    output: Path,
    *,
    parent: str | None,
    seal: Callable[[Path], None] | None = None,
    version: Callable[[Path, Adaptation | None], None] = lambda folder, report: None,  # noqa: ARG005
    replay: Path | None = None,
) -> Bundle:
    """Exchange the output for a folder with these weights, as a whole; what does not change is linked, not copied.

    Args:
        bundle: the copy that the Learner works with; its weights become these.
        parameters: what trains, by name.
        report: of how they were learned.
        output: the folder.
        parent: fingerprint of the bundle that was adapted.
        seal: signs the folder, before it takes its name.
        version: notes the folder as a version in it, then.
        replay: the folder whose kept pictures are kept on; None keeps none on.

    Returns:
        the bundle that the Learner works with from now on.

    Raises:
        DivergedError: a weight is no finite number.
        DiskFullError: the output is as it was.
    """
    work = bundle.path
    with _beside(output) as temporary:
        for name in (*bundle.manifest.files, TELEMETRY):
            if name != TRAINABLE and (work / name).exists():
                link(work / name, temporary / name)
        manifest = write_adapted(
            bundle, parameters, temporary, parent=parent,
            temperature=report.temperature, unknown=report.unknown, placed=report.new_classes,
        )  # fmt: skip
        report.write(temporary / REPORT)
        if replay is not None:
            carry(replay, temporary)
        if seal is not None:
            seal(temporary)
        version(temporary, report)
        finish_folder(temporary, output, force=True)
    return _taken_back(bundle, manifest, output, [TRAINABLE])


def grown_in_place(
    bundle: Bundle,
    names: Sequence[str],
    output: Path,
    *,
    parent: str | None,
    seal: Callable[[Path], None] | None = None,
    version: Callable[[Path, Adaptation | None], None] = lambda folder, report: None,  # noqa: ARG005
    replay: Path | None = None,
) -> Bundle:
    """Exchange the output for a folder with more classes, as a whole; arguments and result as above.

    Raises:
        UsageError: see :func:`~.growing.check_new`.
        DiskFullError: the output is as it was.
    """
    return _remade(bundle, lambda copy: grow(copy, names).manifest, output, parent, seal, version, replay)


def recalibrated(
    bundle: Bundle,
    temperature: float | None,
    unknown: Unknown | None,
    output: Path,
    *,
    parent: str | None,
    seal: Callable[[Path], None] | None = None,
    version: Callable[[Path, Adaptation | None], None] = lambda folder, report: None,  # noqa: ARG005
    replay: Path | None = None,
) -> Bundle:
    """Exchange the output for a folder with another temperature and threshold; arguments and result as above.

    Raises:
        DiskFullError: the output is as it was.
    """
    made = msgspec.structs.replace(bundle.manifest, temperature=temperature, unknown=unknown)
    return _remade(bundle, lambda _: made, output, parent, seal, version, replay)


def _remade(
    bundle: Bundle,
    make: Callable[[Bundle], Manifest],
    output: Path,
    parent: str | None,
    seal: Callable[[Path], None] | None,
    version: Callable[[Path, Adaptation | None], None],
    replay: Path | None,
) -> Bundle:
    with _beside(output) as temporary:
        for name in bundle.manifest.files:
            link(bundle.path / name, temporary / name)
        for name in (REPORT, TELEMETRY):
            if (output / name).is_file():
                link(output / name, temporary / name)
        if replay is not None:
            carry(replay, temporary)
        manifest = msgspec.structs.replace(make(msgspec.structs.replace(bundle, path=temporary)), adapted_from=parent)
        manifest.write(temporary / MANIFEST)
        if seal is not None:
            seal(temporary)
        version(temporary, None)
        finish_folder(temporary, output, force=True)
    return _taken_back(bundle, manifest, output, _changed(bundle, manifest))


def rolled_back(bundle: Bundle, output: Path, version: Version) -> Bundle:
    """Exchange the output for one of its versions, as a whole; arguments and result as above.

    Raises:
        DamagedError: the version is not whole; the output is as it was.
        DiskFullError: the output is as it was.
    """
    with _beside(output) as temporary:
        manifest = restore(
            bundle, version, temporary, lambda name: (output if name == VERSIONS else bundle.path) / name
        )
        carry(output, temporary)
        finish_folder(temporary, output, force=True)
    return _taken_back(bundle, manifest, output, _changed(bundle, manifest))


def _changed(bundle: Bundle, manifest: Manifest) -> list[str]:
    return [name for name, stored in manifest.files.items() if stored != bundle.manifest.files[name]]


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Make a folder that will take the place of the output, and take away what is left of it."""
    with disk_errors(output):
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _taken_back(bundle: Bundle, manifest: Manifest, output: Path, names: Sequence[str]) -> Bundle:
    """Link files of the output into the copy that a Learner works with, and return it as it is then."""
    work, stamps = bundle.path, dict(bundle.stamps)
    with disk_errors(work):
        for name in names:
            beside = work / f".{name}"
            beside.unlink(missing_ok=True)
            link(output / name, beside)
            beside.replace(work / name)
            stamp = stamp_of(work / name)
            assert stamp is not None
            stamps[name] = stamp
    return Bundle(work, manifest, sha256(output / MANIFEST), stamps, is_copy=True)


def weights_into(parameters: Mapping[str, np.ndarray], bundle: Bundle) -> None:
    """Read a bundle's weights into arrays that are there."""
    fill_arrays(bundle.path / TRAINABLE, parameters)


class Kept:
    """What is on disk of a Learner: the copy that it works with, and the output that is exchanged.

    Attributes:
        bundle: the copy; its weights are those that were written last.
        writing: held while the output, the examples or a deployed file are written or read.
    """

    def __init__(
        self,
        bundle: Bundle,
        output: Path,
        parent: str | None,
        seal: Callable[[Path], None] | None = None,
        *,
        origin: Path,
        versions: int,
        replay: bool,
    ) -> None:
        self.bundle, self.writing = bundle, threading.Lock()
        self._output, self._parent, self._seal, self._versions = output, parent, seal, versions
        self._replay = replay  # whether pictures that adapt kept are learned from too, and kept on
        self._origin = origin  # of the copy; where its manifest lies, until there is an output
        self.begin()

    def begin(self) -> None:
        """Let what is kept from now on be one version, however often it is kept."""
        self._start, self._number = self.bundle, next_number(self.folder)  # after those that it takes along

    def _version(self, by: str) -> Callable[[Path, Adaptation | None], None]:
        before = self.folder
        return lambda folder, report: take_down(
            folder, before=before, start=self._start, by=by, keep=self._versions, number=self._number, report=report,
            is_replaced=before == self._output,
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where the model lies: the output, or before there is one what it begins with."""
        return self._output if (self._output / MANIFEST).is_file() else self._origin

    @property
    def _replayed_from(self) -> Path | None:
        """The folder whose kept pictures are learned from too, and kept on; None where none are."""
        return self.folder if self._replay else None

    def replayed(self) -> ImageSet | None:
        """Return the pictures of what was learned elsewhere that are to be learned from too; None for none."""
        folder = self._replayed_from
        found = None if folder is None else kept_by(folder, self.bundle.manifest.classes)
        return found.learned if found and not found.held_back.all() else None

    def keep(self, run: Run) -> None:
        """Put what a run has learned so far in the place of what the output holds."""
        run.look()
        with self.writing:
            self.bundle = put_in_place(
                self.bundle, run.parameters, report_of(run), self._output,
                parent=self._parent, seal=self._seal, version=self._version("learn"),
                replay=self._replayed_from,
            )  # fmt: skip

    def grow(self, names: Sequence[str]) -> Bundle:
        """Give the output and the copy more classes; return the copy as it is then, or as it was if that fails."""
        with self.writing:
            self.begin()
            self.bundle = grown_in_place(
                self.bundle, names, self._output,
                parent=self._parent, seal=self._seal, version=self._version("add class"),
                replay=self._replayed_from,
            )  # fmt: skip
        return self.bundle

    def calibrate(self, temperature: float | None, unknown: Unknown | None) -> None:
        """Let the output and the copy have another temperature and another threshold."""
        with self.writing:
            self.begin()
            self.bundle = recalibrated(
                self.bundle, temperature, unknown, self._output,
                parent=self._parent, seal=self._seal, version=self._version("calibrate"),
                replay=self._replayed_from,
            )  # fmt: skip

    def versions(self) -> list[Version]:
        """Return the versions of the output, the oldest first; none before there is one."""
        with self.writing:
            return history(self._output) if (self._output / MANIFEST).is_file() else []

    def roll_back(self, name: str) -> Bundle:
        """Give the output and the copy the weights of a version; return the copy as it is then."""
        chosen = named(name, self.versions())
        with self.writing:
            self.bundle = rolled_back(self.bundle, self._output, chosen)
        return self.bundle
