"""What a file is, by its first bytes: one picture, a zip archive, or the arrays of an ``.npz``."""

from __future__ import annotations

from pathlib import Path

from edgeplast.errors import InputError
from edgeplast_devices.images.files import read_head
from edgeplast_devices.images.formats import FORMATS, foreign_format_of, format_of, promised_format

PARQUET = ".parquet"
"""Tables with pictures in them, as Hugging Face stores data sets."""


def is_picture(path: Path) -> bool:
    """Tell whether a file is one picture, by its contents, or by its name where the contents say nothing.

    Raises:
        InputError: it is a picture of a format that cannot be read, or it cannot be opened.
    """
    head = _head(path)
    with path.open("rb") as file:
        file.seek(257)
        if file.read(5) == b"ustar":  # a tar begins with a name, which may look like anything
            return False
    if (foreign := foreign_format_of(head)) is not None:
        raise InputError(f"{path} is a {foreign} picture; readable are {FORMATS}. Convert it.")
    return (format_of(head) or promised_format(path.name)) is not None


def _head(path: Path) -> bytes:
    try:
        return read_head(path)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip, by its first bytes.

    Raises:
        InputError: it cannot be opened.
    """
    return _head(path)[:4] in (b"PK\3\4", b"PK\5\6")


def is_arrays(path: Path) -> bool:
    """Tell whether a file is an ``.npz``, whatever it is called."""
    if not is_zip(path):
        return False
    from edgeplast_devices.images.zips import is_array_archive

    return is_array_archive(path)
