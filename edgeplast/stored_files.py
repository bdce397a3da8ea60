"""One file of a bundle: what it may be called, its size and hash, and a copy that was hashed as it was made."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeplast.documents import Count
from edgeplast.errors import InputError
from edgeplast.external_data import external_files_in
from edgeplast.files import sha256
from edgeplast.stamps import Stamp, Told, hashed, opened, stamp_of
from edgeplast.units import format_bytes

FROZEN, TRAINABLE = "frozen.safetensors", "trainable.safetensors"

MOST_GRAPH_BYTES = 64 << 20
"""Graphs have no weights in them and are some hundred kilobytes; one is read whole."""

SIGNATURES = "signatures.jsonl"
"""Who signed a bundle, in its folder; of a deployed model beside it, with the model's name before it."""

_GRAPH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.onnx")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and hash of one file of the bundle."""

    bytes: Count
    sha256: str


def describe_file(path: Path) -> StoredFile:
    """Return size and hash of a file."""
    return StoredFile(bytes=path.stat().st_size, sha256=sha256(path))


def signatures_beside(path: Path) -> Path:
    """Return where the signatures of a bundle's folder, or of a deployed file, lie."""
    return path / SIGNATURES if path.is_dir() else path.with_name(f"{path.name}.{SIGNATURES}")


def fault_of_name(name: str) -> str | None:
    """Say why no file of a bundle is called that, if so."""
    if name in (FROZEN, TRAINABLE) or is_graph(name):
        return None
    if name in ("", ".", "..") or re.search(r"[/\\:\0]", name):
        return f"{shown_name(name)} lies outside the folder"
    return f"{shown_name(name)} is no file of a bundle ({FROZEN}, {TRAINABLE} and graphs, *.onnx)"


def is_graph(name: str) -> bool:
    """Whether a file of a bundle may have this name if it is a graph."""
    return _GRAPH_NAME.fullmatch(name) is not None


def shown_name(name: str) -> str:
    """Return a name as it may be printed: its own if it is a possible one, else quoted, with escapes, and cut."""
    return name if name in (FROZEN, TRAINABLE) or is_graph(name) else repr(name if len(name) <= 80 else f"{name[:80]}…")


def fault_of(
    path: Path,
    stored: StoredFile,
    stamps: dict[str, Stamp],
    *,
    told: Callable[[int], None] | None = None,
    looks: int = 10,
) -> str | None:
    """Say what is wrong with a file, or note the stamp of the one that was hashed; ``told`` of bytes as they are."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            before = stamp_of(file)
            if size != stored.bytes:
                return f"{path.name} has {size} bytes instead of {stored.bytes}"
            if is_graph(path.name) and size > MOST_GRAPH_BYTES:
                return f"{path.name} has {format_bytes(size)}; a graph has {format_bytes(MOST_GRAPH_BYTES)} at most"
            if hashed(Told(file, told) if told else file) != stored.sha256:
                return f"{path.name} was changed (its SHA-256 differs)"
            foreign = external_files_in(file, path.name).difference({FROZEN}) if is_graph(path.name) else ()
            after = stamp_of(file)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, InputError) as error:
        return f"{path.name} cannot be used ({getattr(error, 'strerror', None) or error})"
    if foreign:
        listed = ", ".join(map(shown_name, sorted(foreign)[:3]))
        return f"{path.name} reads weights from {listed}, and a bundle's graphs read {FROZEN} alone"
    if after is None or before is None or after != before:
        # A device that makes or removes a version of its folder makes or removes links, and does not write.
        if looks > 1 and after and before and after.may_be_as(before):
            return fault_of(path, stored, stamps, looks=looks - 1)
        return f"{path.name} is being written to"
    stamps[path.name] = after
    return None


def copy_of(
    source: Path,
    target: Path,
    stored: StoredFile,
    stamps: dict[str, Stamp],
    told: Callable[[int], None] | None = None,
) -> str | None:
    """Copy a file, and hash what is written; what is wrong with it, or the copy's stamp."""
    target.unlink(missing_ok=True)
    with contextlib.ExitStack() as files:
        try:
            file = files.enter_context(opened(source))
        except OSError as error:
            return f"{source.name} cannot be read ({error.strerror})"
        copy = files.enter_context(target.open("xb"))
        digest = hashed(Told(file, told) if told else file, copy)
        copy.flush()
        os.fsync(copy.fileno())  # its times are now those that it keeps
        found = stamp_of(copy)
    if digest != stored.sha256 or found is None:
        target.unlink()
        return f"{source.name} was changed (its SHA-256 differs)"
    stamps[source.name] = found
    return None
