"""What a bundle has learned, taken off it as a small file, and put on its base again: another task, the same base."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeplast.adapters import (
    ADAPTER_FILE,
    PEFT_CONFIG,
    PREFIX,
    RECORD,
    Adapter,
    adapter_file,
    base_of,
    content_of,
    names_in,
    peft_config,
)
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle, Manifest
from edgeplast.contract import LIKENESS, MEANS
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast.files import disk_errors, write_bytes
from edgeplast.locking import give_back, is_abandoned, take
from edgeplast.outputs import building_folder
from edgeplast.stamps import shortened
from edgeplast.stored_files import SIGNATURES
from edgeplast_devices.growing import head_of, rehashed, resize_graphs, resized
from edgeplast_devices.linking import link
from edgeplast_devices.tensors import open_arrays, read_metadata, write_arrays
from edgeplast_devices.weights import parameters_of

if TYPE_CHECKING:
    from edgeplast.trust.trusting import TrustedKeys

_ATTACHED, _HELD = ".attached", ".held"
"""How the name of a folder ends that holds a base with an adapter on it, and the lock in it of who uses it."""


def detach(bundle: Bundle, into: Path, *, force: bool = False, seal: Callable[[Path], None] | None = None) -> Adapter:
    """Write what an adapted bundle has learned as a folder: ``adapter_model.safetensors``, and PEFT's configuration.

    Args:
        bundle: adapted.
        into: the folder to write.
        force: replace what is there.
        seal: signs the file.

    Raises:
        UsageError: the bundle has learned nothing; or ``into`` exists and ``force`` is not given.
        DamagedError: the bundle's weights are not what its manifest says.
        DiskFullError: there is no room.
    """
    manifest = bundle.manifest
    if manifest.adapted_from is None:
        raise UsageError(
            f"{shortened(bundle.path)} has learned nothing yet: it is a fresh bundle. Adapt it first: edgeplast adapt "
            f"{shortened(bundle.path)} --data images/ -o adapted/"
        )
    arrays = dict(parameters_of(bundle, names_in(manifest)))
    record = Adapter(
        model=manifest.model,
        base=base_of(manifest),
        content=content_of(arrays.items()),
        classes=manifest.classes,
        parameters=sum(array.size for array in arrays.values()),
        temperature=manifest.temperature,
        unknown=manifest.unknown,
        waiting=manifest.waiting,
    )
    header = {name: text for name, text in read_metadata(bundle.path / TRAINABLE).items() if name in (MEANS, LIKENESS)}
    with building_folder(into, force=force) as folder:
        named = {f"{PREFIX}{name}": array for name, array in arrays.items()}
        write_arrays(folder / ADAPTER_FILE, named, {**header, "format": "pt", RECORD: record.to_json().decode()})
        if (config := peft_config(manifest)) is not None:
            write_bytes(folder / PEFT_CONFIG, json.dumps(config, indent=2).encode() + b"\n")
        if seal is not None:
            seal(folder / ADAPTER_FILE)
    return record


@contextlib.contextmanager
def attached(bundle: Bundle, adapter: Path | None, trusted: TrustedKeys | None = None) -> Iterator[Bundle]:
    """Give a bundle with an adapter on it, in a folder of its own as long as the block runs; the base stays as it is.

    What does not change is linked where the file system has links, and copied from a signed base: a link changes the
    time at which a file was last changed, by which others who use the base see that nobody has touched it. A folder of
    a process that was killed is removed by the next one that puts an adapter on the same base.

    Args:
        bundle: the base, or any bundle adapted from it.
        adapter: its file or folder; None: the bundle itself is given.
        trusted: public keys of which one must have signed the adapter's file.

    Raises:
        InputError: there is no adapter, or it belongs to another base.
        UntrustedError: nobody who is trusted signed it.
        DamagedError: it is damaged.
        DiskFullError: there is no room.
    """
    if adapter is None:
        yield bundle
        return
    record, arrays, header = read_adapter(adapter_file(adapter), bundle.manifest, trusted)
    folder = _beside(bundle.path)
    held: int | None = None
    try:
        with disk_errors(folder):
            held = take(folder / _HELD)
            found = _put_on(bundle, record, arrays, header, folder)
        del arrays
        yield found
    finally:
        if held is not None:
            give_back(held, folder / _HELD)
        shutil.rmtree(folder, ignore_errors=True)


def read_adapter(
    file: Path, manifest: Manifest, trusted: TrustedKeys | None = None
) -> tuple[Adapter, dict[str, np.ndarray], dict[str, str]]:
    """Return the record of an adapter, what it holds for a bundle's parameters, and the landmarks of its header.

    Args:
        file: of the adapter.
        manifest: of the bundle that it is for.
        trusted: see :func:`attached`.

    Raises:
        InputError: it is none of edgeplast's, or of another base.
        UntrustedError: see :func:`attached`.
        DamagedError: it is not what it was when it was written.
    """
    signed = "" if trusted is None else trusted.check_model(file)[0].statement.file.sha256
    with open_arrays(file, checksum=signed) as opened:
        header = opened.metadata()
        if RECORD not in header:
            raise InputError(
                f"{shortened(file)} is no adapter of edgeplast's: its header has no {RECORD!r}, which says what it can "
                "be put on. Make one of an adapted bundle: edgeplast detach adapted/ -o adapter/"
            )
        record = Adapter.from_json(header.pop(RECORD).encode(), where=str(file))
        if record.base != base_of(manifest):
            raise InputError(_of_another_base(file, record, manifest))
        arrays = {name: opened.read(f"{PREFIX}{name}") for name in names_in(manifest)}
    if content_of(arrays.items()) != record.content or not all(np.isfinite(a).all() for a in arrays.values()):
        raise DamagedError(
            f"The adapter {shortened(file)} is damaged: it does not hold what was written. Copy it again."
        )
    header.pop("format", None)
    return record, {n: a for n, a in arrays.items() if manifest.parameters[n].trainable}, header


def _of_another_base(file: Path, record: Adapter, manifest: Manifest) -> str:
    if record.model != manifest.model:
        return (
            f"The adapter {shortened(file)} was learned on {record.model}, and this bundle is {manifest.model}. Give "
            "the bundle that it was adapted from."
        )
    return (
        f"The adapter {shortened(file)} belongs to another base: it was learned beside other frozen weights of "
        f"{record.model}, on pictures prepared otherwise, or by a plan that trains something else (base "
        f"{record.base[:12]}; this bundle's is {base_of(manifest)[:12]}). Give the bundle that it was adapted from."
    )


def _put_on(
    bundle: Bundle, record: Adapter, arrays: dict[str, np.ndarray], header: dict[str, str], folder: Path
) -> Bundle:
    old = bundle.manifest
    brought = shutil.copyfile if (bundle.path / SIGNATURES).exists() else link
    for name in old.files:
        if name != TRAINABLE:
            brought(bundle.path / name, folder / name)
    copy = Bundle(folder, old, bundle.fingerprint, {}, is_copy=True)
    written: list[str] = []
    if len(record.classes) != len(old.classes):
        head = head_of(old)
        manifest = resized(old, record.classes, record.waiting)
        written = resize_graphs(copy, head, len(record.classes))
    else:
        plan = msgspec.structs.replace(old.plan, classes=record.classes if old.plan.classes else ())
        manifest = msgspec.structs.replace(old, classes=record.classes, waiting=record.waiting, plan=plan)
    write_arrays(folder / TRAINABLE, arrays, header)
    manifest = rehashed(copy, manifest, (TRAINABLE, *written)).manifest
    manifest = msgspec.structs.replace(
        manifest, adapted_from=bundle.fingerprint, temperature=record.temperature, unknown=record.unknown
    )
    manifest.write(folder / MANIFEST)
    whole = Bundle.open(folder)  # verifies what was linked, too
    return msgspec.structs.replace(whole, signature=bundle.signature, origin=bundle.fingerprint)


def _beside(path: Path) -> Path:
    """Make a folder for a while: where links can lead to the base, or, where nobody may write there, elsewhere."""
    for prefix, place in ((f".{path.name}.", path.resolve().parent), ("edgeplast-", Path(tempfile.gettempdir()))):
        _remove_abandoned(prefix, place)
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=prefix, suffix=_ATTACHED, dir=place))
    return Path(tempfile.mkdtemp(prefix="edgeplast-", suffix=_ATTACHED))  # says what is wrong there


def _remove_abandoned(prefix: str, place: Path) -> None:
    """Remove folders of processes that were killed, by the lock in each that nobody holds."""
    mine = re.compile(rf"{re.escape(prefix)}[a-z0-9_]+{re.escape(_ATTACHED)}")
    with contextlib.suppress(OSError):
        for left in place.iterdir():
            if mine.fullmatch(left.name) and not left.is_symlink() and is_abandoned(left / _HELD):
                shutil.rmtree(left, ignore_errors=True)
