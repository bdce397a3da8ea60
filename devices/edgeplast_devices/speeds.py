"""What each rung was measured to take on this machine, kept for the next run over the same graphs.

Which way of taking a step is the fastest depends on caches and cores; the ladder's constants know one machine. What was
measured stands in a small file in the user's cache folder, one for each bundle's graphs, machine, runtime and number of
threads: the next run begins where this one came out, so that the same run gives the same losses again. Nothing in it
says what pictures showed. Without such a folder nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from edgeplast.bundle import Manifest
from edgeplast.documents import Document
from edgeplast.errors import EdgeplastError, InputError
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.rungs import Rung

CLEARLY = 0.92
"""Times the seconds of the rung that the constants prefer: another one has to be below, or it stays. Two tries of the
same rung differ by less on a quiet machine, and a choice that changes from run to run would change the last bits."""

_MORE_TIME = 2.0
"""Times as long as before that tries may take, before those are made up for that there was no time for then."""


class Speeds(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds an image of forward and backward, by rung.

    Attributes:
        of: what was measured where, for people.
        seconds: an image, by rung in words.
        passed_over: rungs that there was no time or no memory to try.
        allowed_seconds: that the tries might take.
    """

    KIND: ClassVar[str] = "table of speeds"
    MOST_BYTES: ClassVar[int] = 1 << 20

    of: dict[str, str] = {}
    seconds: dict[str, float] = {}
    passed_over: tuple[str, ...] = ()
    allowed_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(found) and found > 0 for found in self.seconds.values()):
            raise InputError("Seconds an image are above 0.")

    def fastest_first(self, rungs: list[Rung]) -> list[Rung]:
        """Return rungs that fit, best first by the constants, with the fastest of the first one's tier in front.

        They stay as they are where the first was not measured, or nothing is clearly faster.
        """
        first = rungs[0]
        if str(first) not in self.seconds:
            return rungs
        known = [rung for rung in rungs if rung.tier.name == first.tier.name and str(rung) in self.seconds]
        fastest = min(known, key=lambda rung: self.seconds[str(rung)] * (CLEARLY if rung == first else 1.0))
        return [fastest, *(rung for rung in rungs if rung != fastest)]

    def is_open(self, candidates: list[Rung], allowed_seconds: float = math.inf) -> bool:
        """Say whether there is something to find out by trying candidates, in so many seconds."""
        again = allowed_seconds >= _MORE_TIME * self.allowed_seconds
        missing = [name for rung in candidates if (name := str(rung)) not in self.seconds]
        return any(again or name not in self.passed_over for name in missing)

    def with_found(self, found: Mapping[Rung, float], passed_over: list[Rung], allowed_seconds: float) -> Speeds:
        """Return these with what was measured now in the place of what was known."""
        seconds = self.seconds | {str(rung): took for rung, took in found.items()}
        names = dict.fromkeys([*self.passed_over, *map(str, passed_over)])
        over = tuple(name for name in names if name not in seconds)
        return Speeds(of=self.of, seconds=seconds, passed_over=over, allowed_seconds=allowed_seconds)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return where programs keep what they can measure anew, for this user; None where there is no such place."""
    given = environment.get("XDG_CACHE_HOME") or environment.get("LOCALAPPDATA", "")
    if given and Path(given).is_absolute():
        return Path(given) / "edgeplast"
    with contextlib.suppress(RuntimeError, OSError):  # nobody's home is known, or it may not be looked at
        if (home := Path.home()).is_dir():
            return home / ".cache" / "edgeplast"
    return None


class KeptSpeeds:
    """The file of a bundle's speeds on this machine.

    Args:
        manifest: of the bundle.
        runtime: build and version.
        provider: that computes.
        threads: of the runtime.
        folder: for such files; None keeps nothing.
    """

    def __init__(self, manifest: Manifest, runtime: str, provider: str, threads: int, folder: Path | None) -> None:
        names = sorted({graph.file for tier in manifest.tiers for graph in tier.graphs} | {PREFIX_GRAPH})
        graphs = "".join(manifest.files[name].sha256 for name in names if name in manifest.files)
        self._of = {
            "model": manifest.model,
            "graphs": hashlib.sha256(graphs.encode()).hexdigest()[:16],
            "machine": f"{platform.machine()}, {_processor()}, {usable_threads()} cores",
            "runtime": f"{runtime}, {provider}",
            "threads": str(threads),
        }
        name = hashlib.sha256(msgspec.json.encode(self._of)).hexdigest()[:16]
        self.path = None if folder is None else folder / "speeds" / f"{name}.json"

    def read(self) -> Speeds:
        """Return what is known; nothing where the file is missing, damaged or of something else."""
        if self.path is not None:
            with contextlib.suppress(EdgeplastError):
                found = Speeds.read(self.path)
                if found.of == self._of:
                    return found
        return Speeds(of=self._of)

    def write(self, speeds: Speeds) -> None:
        """Keep what is known, where that is possible."""
        if self.path is not None:
            with contextlib.suppress(EdgeplastError, OSError):
                speeds.write(self.path)


def _processor() -> str:
    """Return the processor's name, as far as the system tells."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() in ("model name", "model", "hardware", "cpu part") and value.strip()[:1].isalpha():
                return value.strip()[:100]
    return platform.processor()[:100] or "unknown"
