"""Which format a picture has, told by its first bytes: names and suffixes promise, contents decide."""

from __future__ import annotations

HEAD_BYTES = 32
"""How many bytes from the start :func:`format_of` and :func:`foreign_format_of` look at."""

FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, JPEG 2000 or PPM/PGM/PBM"
"""What can be read, for messages."""

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMAT_NAMES = frozenset(_SUFFIXES)
"""Pillow's names of what can be read."""

_FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
# Two letters are no proof (a table may begin with "BMI"): the size of the header must be one that there is.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM_KINDS = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def format_of(head: bytes) -> str | None:
    """Return Pillow's name of the format that a file starts as; None if it is none that is read here."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:2] in _PPM_KINDS and head[2:].lstrip()[:1] in b"#0123456789" and not head[2:3].isalnum():
        return "PPM"
    if head[4:8] == b"ftyp" and any(brand in head[8:] for brand in _AVIF_BRANDS):
        return "AVIF"
    return None


def foreign_format_of(head: bytes) -> str | None:
    """Return the name of a picture format that cannot be read here, as HEIC; None for anything else."""
    if head[4:8] == b"ftyp" and any(brand in head[8:] for brand in _HEIC_BRANDS) and format_of(head) is None:
        return "HEIC"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if head.startswith(b"8BPS"):
        return "Photoshop"
    if head[:16].lstrip().startswith((b"<svg", b"<?xml version=")) and b"<svg" in head:
        return "SVG"
    return None


def promised_format(name: str) -> str | None:
    """Return the format that a file's name promises; None for a name that promises no picture.

    Files whose names promise one are listed without a look at them; all others are looked into.
    """
    return _FORMAT_OF_SUFFIX.get(name[name.rfind(".") :].lower()) if "." in name else None
