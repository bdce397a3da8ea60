"""Pictures in parquet files, as Hugging Face stores data sets: a column of encoded bytes, one of labels.

pyarrow reads them, a page at a time; the pictures are copied to a nameless file first and read from there like others.
Its own memory, measured with 26.0 and 2,000 pictures of 60 KB in one row group: 61 MiB in pages of 16 rows; 233 MiB in
the pages of 1,024 rows that pyarrow writes by default, whatever their size: they are read whole.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
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
_BUFFER_BYTES = 1 << 16
"""Without a size, pyarrow reads a row group's whole column at once: all pictures of most files."""


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
    files = Files(
        reading.listing,
        lambda index: data.window(offsets[index], sizes[index]),
        sizes,
        reading.left_out,
        reading.formats,
        labels_beside=reading.rows,
    )
    files.meant = lambda _: ()  # names of files are no classes
    return files


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
                with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
                    yield from self.of_file(file, (*folder, path.name), path, split)
            except MemoryError:  # pyarrow's is an ArrowException as well
                raise
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
    return known[0], label, None if label is None else _class_names(schema.metadata or {}, label)


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str] | None:
    """Return what numbers in a column stand for, as Hugging Face notes it; None of notes of any other shape."""
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


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
