"""Pictures in parquet files, as Hugging Face stores data sets: a column of encoded bytes, one of labels.

pyarrow reads them, which takes 84 MB of memory of its own, measured with a file of 9 MB; the pictures are copied to a
nameless file first, a few at a time, and read from there like others.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeplast.errors import InputError, MissingExtraError
from edgeplast.progress import Progress
from edgeplast_devices.images.files import Files, format_or_reason
from edgeplast_devices.images.formats import FORMAT_NAMES, HEAD_BYTES
from edgeplast_devices.images.listing import LeftOut, Listing
from edgeplast_devices.images.shards import split_of
from edgeplast_devices.images.storage import spool
from edgeplast_devices.images.tables import Rows, label_column

_IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values", "jpg", "png")
_ROWS_AT_ONCE = 16


def from_parquet(tables: Sequence[tuple[tuple[str, ...], Path]], progress: Progress) -> Files:
    """Copy the pictures out of parquet files and note what they show.

    Args:
        tables: folder within the data set, and path, of each.
        progress: told of each picture.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: a file cannot be read, has no column of pictures, or several that may be the label.
    """
    reading = _Reading(tables, progress)
    data = spool(reading.pictures(), str(tables[0][1]))
    offsets, sizes = reading.offsets, reading.sizes
    return Files(
        reading.listing,
        lambda index: data.window(offsets[index], sizes[index]),
        sizes,
        reading.left_out,
        reading.formats,
        labels_beside=reading.rows,
    )


class _Reading:
    """What is known of the pictures as they pass by."""

    def __init__(self, tables: Sequence[tuple[tuple[str, ...], Path]], progress: Progress) -> None:
        self.tables, self.progress = tables, progress
        self.listing, self.left_out, self.rows = Listing(), LeftOut(), Rows()
        self.offsets, self.sizes, self.formats = array("q"), array("q"), set[str]()
        self.written = 0

    def pictures(self) -> Iterator[bytes]:
        """Yield the bytes of each picture that can be read."""
        pyarrow, parquet = _import_pyarrow()
        for folder, path in self.tables:
            split = split_of(folder, path.name)
            try:
                with parquet.ParquetFile(path, pre_buffer=False) as file:
                    yield from self.of_file(file, (*folder, path.name), path, split)
            except (OSError, pyarrow.ArrowException) as error:
                raise InputError(f"{path} is no parquet file that can be read ({str(error)[:200]}).") from error

    def of_file(self, file: Any, lead: tuple[str, ...], path: Path, split: str | None) -> Iterator[bytes]:
        """Yield those of one file."""
        picture, label, names = _columns(file.schema_arrow, path)
        row, total = 0, file.metadata.num_rows
        columns = [picture] if label is None else [picture, label]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False):
            self.progress(f"reading {path.name}", row, total)
            for entry in batch.to_pylist():
                said = "" if label is None else _said(entry[label], names, label, path)
                data = entry[picture]
                data = data.get("bytes") if isinstance(data, dict) else data
                yield from self.taken(data, lead, f"{row:06d}", said, split)
                row += 1
        self.progress(f"reading {path.name}", total, total)

    def taken(
        self, data: bytes | None, lead: tuple[str, ...], key: str, said: str, split: str | None
    ) -> Iterator[bytes]:
        """Note one picture and yield it."""
        kind = format_or_reason((data or b"")[:HEAD_BYTES])
        if data is None or kind not in FORMAT_NAMES:
            self.left_out.add(lead, key, kind)
            return
        self.listing.add(lead, key)
        self.rows.add("/".join((*lead, key)), said, split)
        self.offsets.append(self.written)
        self.sizes.append(len(data))
        self.formats.add(kind)
        self.written += len(data)
        yield data


def _columns(schema: Any, path: Path) -> tuple[str, str | None, list[str] | None]:
    """Return the columns of pictures and labels, and the names of labels that are numbers."""
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    pictures = [field.name for field in schema if holds_bytes(field.type)]
    known = [name for name in pictures if name.lower() in _IMAGE_COLUMNS] or pictures
    if len(known) != 1:
        raise InputError(
            f"{path} has {'no column' if not known else 'several columns'} with the bytes of pictures "
            f"({', '.join(map(repr, known or schema.names))}). A data set has one, called image."
        )
    others = [name for name in schema.names if name not in pictures]
    label = label_column(others, str(path))
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(label, {}).get("names") if label else None
    return known[0], label, names


def _said(value: Any, names: list[str] | None, label: str, path: Path) -> str:
    """Return a label as text; -1 and nothing stand for none."""
    if isinstance(value, list | dict):
        raise InputError(f"{path}: {label} holds several values. A model here learns one label a picture.")
    if value is None or value == -1:
        return ""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return str(value).strip()


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            "Parquet files are read with pyarrow, which is not installed: pip install 'edgeplast[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
