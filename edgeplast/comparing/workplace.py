"""Where a contest lies: its arguments, the folder beside the output that keeps it while it is not finished, its result.

The folder holds the arguments, so that a contest goes on only with what it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.budget import Budget
from edgeplast.comparison import COMPARISON, JOURNAL, PAGE, PLAN, Comparison
from edgeplast.documents import Document
from edgeplast.errors import InputError, UsageError
from edgeplast.files import possible
from edgeplast.outputs import building_folder, only_writer, refuse_existing, refuse_mount

if TYPE_CHECKING:
    import torch

SETTINGS = "settings.json"


class Settings(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides a contest; the minutes do not: given more, it goes on."""

    KIND = "record of an unfinished contest"

    model: str
    preprocessing: str
    data: str
    budget: Budget
    candidates: tuple[str, ...]
    epochs: int
    classes: tuple[str, ...] | None
    keep_head: bool
    method: str
    pairs: int
    optimizer: str
    batch_size: int
    weight_bits: int
    frozen_compute: str
    alternatives: bool = False
    merge_tokens: int = 0
    seed: int
    pictures: str = ""
    also: tuple[str, ...] = ()


def check_also(also: Sequence[str | Path], *, keep_head: bool) -> None:
    """Raise unless something can be forgotten of other sets.

    Raises:
        UsageError: one is given twice, or the head is new.
        InputError: one does not exist.
    """
    if also and not keep_head:
        raise UsageError(
            "--also measures what a model forgets, and a new head knows nothing yet. Add --keep-head (keep_head=True), "
            "or leave --also out."
        )
    for each in also:
        if not Path(each).exists():
            raise InputError(f"--also {each} does not exist. Give a folder, an archive or an npz of labelled pictures.")
        if list(map(str, also)).count(str(each)) > 1:
            raise UsageError(f"--also {each} is given twice. Once is enough.")


@contextlib.contextmanager
def workplace(into: str | Path | None, settings: Settings, *, force: bool) -> Iterator[Path]:
    """Give the folder of a contest, that of an unfinished one where its settings are these; removed when it is done.

    Raises:
        UsageError: the output exists, or an unfinished contest of other settings does.
    """
    if into is None:
        with tempfile.TemporaryDirectory(prefix="edgeplast-comparison-") as scratch:
            settings.write(Path(scratch) / SETTINGS)
            yield Path(scratch)
        return
    output = Path(os.path.realpath(possible(into)))
    refuse_mount(output)
    refuse_existing(output, force=force)
    work = unfinished(output)
    with only_writer(output):
        if work.exists() and not (work / SETTINGS).exists():
            raise UsageError(f"{work} is in the way: remove or rename it, or choose another output.")
        other = _first_difference(work, settings) if work.exists() else None
        if other and force:
            shutil.rmtree(work)
        elif other:
            raise UsageError(
                f"{work} holds an unfinished contest with {other}. Give the same to go on with it, --force to begin "
                "anew, or another output."
            )
        if not work.exists():
            settings.write(work / SETTINGS)
        for left in work.glob("run-*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield work
        shutil.rmtree(work, ignore_errors=True)


def unfinished(output: Path) -> Path:
    """Return where a contest keeps what is not finished."""
    return output.with_name(f"{output.name}.partial")


def _first_difference(work: Path, given: Settings) -> str | None:
    """Say in what a contest that was begun differs from the one that is asked for; None: in nothing."""
    known = Settings.read(work / SETTINGS)
    for name in given.__struct_fields__:
        before = getattr(known, name)
        if name not in ("pictures", "format_version") and before != getattr(given, name):
            words = name.replace("_", " ")
            return "other weights of the model" if name == "model" else f"another {words} ({before})"
    return None


def digest_of(model: torch.nn.Module) -> str:
    """Return what tells a model with its weights from another."""
    import torch

    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_result(found: Comparison, work: Path, into: Path, *, force: bool) -> None:
    """Write the folder of a comparison, whole or not at all."""
    from edgeplast.reporting.comparisons import comparison_report

    with building_folder(into, force=force) as folder:
        found.write(folder / COMPARISON)
        found.plan.write(folder / PLAN)
        shutil.copyfile(work / JOURNAL, folder / JOURNAL)
        comparison_report(found, folder / PAGE)
