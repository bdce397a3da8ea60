"""What a fleet writes: a bundle after each round and a report, in one folder, and how a server goes on after a stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle
from edgeplast.errors import UsageError
from edgeplast.files import disk_errors
from edgeplast.fleet.report import FleetReport, RoundReport
from edgeplast.fleet.settings import Settings
from edgeplast.outputs import finish_folder
from edgeplast.trust.signing import Seal
from edgeplast_devices.memory import peak_bytes
from edgeplast_devices.weights import read_trainable
from edgeplast_devices.workplace import write_adapted

REPORT = "fleet.json"
_START = "start"
_MAY_CHANGE = ("rounds", "round-seconds", "least-devices", "trusted", "sign")


class Outcome:
    """The folder of a run.

    Args:
        folder: made if it is missing; with what an earlier server left, if it was the same run.
        bundle: that the fleet starts from.
        settings: of the run.
        seal: signs the bundle of a round.

    Attributes:
        report: so far.

    Raises:
        UsageError: something else lies there.
    """

    def __init__(self, folder: Path, bundle: Bundle, settings: Settings, seal: Seal | None = None) -> None:
        self.folder, self._settings, self._seal = folder, settings, seal
        self.report = self._found(bundle)
        with disk_errors(folder):
            (folder / _START).mkdir(parents=True, exist_ok=True)
            copy = bundle.copied(folder / _START)  # rounds are links to its files, and hers may go away
        self.bundle = copy
        self.report.write(folder / REPORT)

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        return len(self.report.rounds)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights of the last round, or those that the fleet starts from."""
        return read_trainable(Bundle.open(self.path_of(self.rounds)) if self.rounds else self.bundle)

    def path_of(self, number: int) -> Path:
        """Return the bundle of a round."""
        return self.folder / f"round-{number:03d}"

    def write_bundle(self, number: int, weights: Mapping[str, np.ndarray]) -> Path:
        """Write the bundle of a round, whole or not at all; what does not change is linked.

        Raises:
            DivergedError: a weight is no finite number.
            DiskFullError: there is no room.
        """
        with disk_errors(self.folder):
            temporary = Path(tempfile.mkdtemp(prefix=".round.", suffix=".partial", dir=self.folder))
            try:
                for name in self.bundle.manifest.files:
                    if name != TRAINABLE:
                        _link(self.folder / _START / name, temporary / name)
                parent = self.report.bundle
                write_adapted(self.bundle, weights, temporary, parent=parent, temperature=None)
                if self._seal is not None:
                    self._seal(temporary)
                finish_folder(temporary, self.path_of(number), force=True)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self.path_of(number)

    def add(self, done: RoundReport) -> None:
        """Write a round down; its bundle is written."""
        rounds = (*self.report.rounds, done)
        self.report = msgspec.structs.replace(self.report, rounds=rounds, server_peak_bytes=peak_bytes())
        self.report.write(self.folder / REPORT)

    def _found(self, bundle: Bundle) -> FleetReport:
        wanted = self._settings.config()
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return FleetReport(bundle=bundle.fingerprint, settings=wanted)
        if not (self.folder / REPORT).is_file():
            raise UsageError(f"{self.folder} is there and holds no fleet's rounds. Choose another output.")
        found = FleetReport.read(self.folder / REPORT)
        before = {**found.settings, **{key: wanted[key] for key in _MAY_CHANGE}}
        if found.bundle != bundle.fingerprint or before != wanted:
            changed = sorted(key for key in wanted if before.get(key) != wanted[key]) or ["the bundle"]
            raise UsageError(
                f"{self.folder} holds {len(found.rounds)} rounds of a fleet with other settings "
                f"({', '.join(changed)}). Choose another output; with the same settings it goes on after them."
            )
        whole = [r for r in found.rounds if (self.path_of(r.round) / MANIFEST).is_file()]
        return msgspec.structs.replace(found, settings=wanted, rounds=tuple(whole))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # FAT and some shares have no links
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(source, target)
