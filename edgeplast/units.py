"""Bytes, seconds and counts as people write and read them."""

from __future__ import annotations

import re

from edgeplast.errors import UsageError

_FACTORS = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "kib": 1024,
    "m": 1000**2, "mb": 1000**2, "mib": 1024**2,
    "g": 1000**3, "gb": 1000**3, "gib": 1024**3,
}  # fmt: skip
_MOST = 2**63


def parse_bytes(text: str | int) -> int:
    """Turn ``"256MiB"``, ``"200 MB"``, ``"1.5GiB"`` or a plain number of bytes into bytes.

    Raises:
        UsageError: the text is no positive size in a known unit.
    """
    if isinstance(text, int):
        text = str(text)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if match and not match.group(2) and float(match.group(1)) < 1 << 20:
        raise UsageError(f"{text!r} has no unit. Give one: {text.strip()}MiB, {text.strip()}MB or {text.strip()}GiB.")
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    count = float(match.group(1)) * factor if match and factor else 0.0
    if not 1 <= count < _MOST:
        raise UsageError(
            f"Cannot read {text!r} as an amount of bytes. "
            "Give a positive number with a unit: 256MiB, 200MB, 1.5GiB (MiB = 1024², MB = 1000² bytes)."
        )
    return round(count)


def exact_bytes(count: int) -> str:
    """Write bytes as :func:`parse_bytes` reads them back, to the byte: ``"256MiB"``, else ``"268435457B"``."""
    for unit in ("GiB", "MiB"):
        size = _FACTORS[unit.lower()]
        if count % size == 0:
            return f"{count // size:.0f}{unit}"
    return f"{count}B"


def format_bytes(count: float) -> str:
    """Write bytes with three significant digits in the largest fitting unit, e.g. ``"253 MiB"``."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if abs(count) >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count:.0f} B"


def parse_seconds(text: str) -> float:
    """Turn ``"20ms"``, ``"0.5 s"`` or a plain number of seconds into seconds.

    Raises:
        UsageError: the text is no positive time in a known unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s)?\s*", text)
    seconds = float(match.group(1)) * (1e-3 if match.group(2) == "ms" else 1) if match else 0.0
    if seconds <= 0:
        raise UsageError(f"Cannot read {text!r} as a time. Give a positive number with a unit: 20ms or 0.5s.")
    return seconds


def parse_count(text: str) -> int:
    """Turn ``"800M"``, ``"1.2G"`` or a plain number into a count.

    Raises:
        UsageError: the text is no positive number with a known letter.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kMGT]?)\s*", text)
    count = float(match.group(1)) * 1000 ** " kMGT".index(match.group(2) or " ") if match else 0.0
    if count < 1:
        raise UsageError(f"Cannot read {text!r} as a number. Give a positive one, e.g. 800M or 1.2G.")
    return round(count)


def format_count(count: float) -> str:
    """Write a large number with three significant digits, e.g. ``"823 M"``."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= size:
            value = count / size
            return f"{value:.0f} {letter}" if value >= 100 else f"{value:.3g} {letter}"
    return f"{count:.0f}"


def counted(count: int, what: str) -> str:
    """Write how many there are of something that takes an s in the plural: ``"1 step"``, ``"2 steps"``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Write a duration for people: ``"12 ms"``, ``"0.55 s"``, ``"41 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
