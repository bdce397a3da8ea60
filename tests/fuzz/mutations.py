"""Damage to bytes: blind, and by what they mean (JSON, TOML, protocol buffers, safetensors, tar, npz, pictures).

Every function takes a ``random.Random`` and returns new bytes; the same generator makes the same damage.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

BOUNDARIES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63)
SIZES = (*BOUNDARIES, 2**63 - 1, 2**64 - 1, 2**64, 2**65, -1, -8, -(2**31), -(2**63), -(2**65), 10**400)
"""Beyond 64 bits, and below nothing."""

NAMES = (
    "", ".", "..", "../x", "a/b", "a\\b", "/", "a\0b", "x" * 5000, "é" * 200, "\ud800", "\x1b[2J", "\u202e", " ", "-h",
    "--", "nul", "C:", "a" * 255, "b" * 256, "%s%n", "{0}", "blocks.0.attn", "blocks.99999999.attn", "blocks.-1.fc1",
    "frozen.safetensors", "bundle.json", "head", "full", "NaN", "٣",
)  # fmt: skip
"""What somebody may call a file, a class or a component."""

_DEPTHS = (3, 100, 900, 5000, 20_000)


def blind(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Flip, overwrite, cut, repeat and splice, one to four times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        if rng.random() < 0.4:
            at = min(at, rng.randrange(64))  # headers decide the most
        end = min(len(out), at + rng.choice((1, 2, 4, 16, 64, 1024)))
        kind = rng.randrange(11)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            out[at : at + size] = (rng.choice(BOUNDARIES) % 2 ** (8 * size)).to_bytes(
                size, rng.choice(("big", "little"))
            )
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at:end]
        elif kind == 5:
            out[at:at] = out[at:end] * rng.choice((1, 2, 30))
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind == 7 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at:end] = other[start : start + rng.choice((1, 16, 256, 1 << 20))]
        elif kind == 8:
            out[at:end] = bytes(end - at)
        elif kind == 9:
            out[at:end] = rng.choice((b"9" * 400, b"-1", b"1e999", b"\xff\xfe", b"[" * 30_000, b"\0", b"NaN"))
        else:
            out += rng.choice((out[at:end], bytes(1024), b"\n"))
    return bytes(out)


def value(rng: random.Random) -> Any:
    """A value that nobody means."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, [0] * 1000, ["a", "a"]))
    if kind == 1:
        return rng.choice((0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 1e16, 0.1))
    if kind == 2:
        deep: Any = rng.choice((0, {}, "x"))
        for _ in range(rng.choice(_DEPTHS[:3])):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return rng.choice(SIZES if kind < 5 else NAMES)


def in_json(rng: random.Random, document: bytes, times: Sequence[int] = (1, 1, 2, 5)) -> bytes:
    """Change values, names and shapes in pickled JSON; see :func:`parsed`."""
    root = [pickle.loads(document)]
    for _ in range(rng.choice(times)):
        holder, key = _somewhere(rng, root)
        kind = rng.randrange(8)
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(key) if rng.random() < 0.5 else value(rng)
        elif kind == 2 and isinstance(holder, list) and holder is not root:
            holder[key:key] = [holder[key]] * (1 if isinstance(holder[key], dict | list) else rng.choice((1, 2, 300)))
        elif kind == 3:
            other, there = _somewhere(rng, root)
            holder[key], other[there] = other[there], (holder[key] if other is holder else other[there])
        elif kind == 4 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 1000, 10**9)) + rng.choice((0, 1, -1))
        else:
            holder[key] = value(rng)
    try:
        text = json.dumps(root[0]).encode()
    except (RecursionError, ValueError):  # deeper than Python writes, or in itself
        return b"[" * 50_000
    return blind(rng, text) if rng.random() < 0.1 else text


def parsed(text: bytes) -> bytes:
    """JSON in the form that :func:`in_json` copies quickly."""
    return pickle.dumps(json.loads(text))


def _somewhere(rng: random.Random, root: list[Any]) -> tuple[Any, Any]:
    holder: Any = root
    key: Any = 0
    for _ in range(40):
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.12:
            break
        holder = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
    return holder, key


def in_lines(rng: random.Random, data: bytes) -> bytes:
    """Change lines of JSON (telemetry): some by value, some blindly; drop, repeat and reorder them."""
    lines = data.splitlines()
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines[at] = blind(rng, lines[at])
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            lines[at:at] = [lines[at]] * rng.choice((1, 300))
        else:
            try:
                lines[at] = in_json(rng, parsed(lines[at]))
            except (ValueError, RecursionError):
                lines[at] = b"{}"
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"{"))


def in_toml(rng: random.Random, data: bytes) -> bytes:
    """Change keys and values, nest, repeat and damage lines."""
    lines = data.decode().splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        deep = rng.choice(_DEPTHS)
        odd: tuple[str, ...] = (
            "[" * deep, "[" * deep + "]" * deep, "{a=" * deep, "{a=" * deep + "1" + "}" * deep, "9" * 400, "-1", "nan",
            "inf", "1e400", "true", "0x" + "f" * 400, "1979-05-27T07:32:00Z", "99:99:99", '"' + "x" * 5000 + '"', "''",
            '"\\u0000"', '"\\uD800"', '"""', "[]", "{}", '"1e999GiB"', '"-1MiB"', '"' + "9" * 400 + 'GB"', '"0"',
            '"NaN GiB"',
        )  # fmt: skip
        kind = rng.randrange(6)
        if kind == 0:
            lines[at:at] = [lines[at]]
        elif kind == 1:
            lines[at] = rng.choice(("[" + "a." * deep + "b]", "[[x]]", "[" + key.strip() + "]", "a." * deep + "b = 1"))
        elif kind == 2 and len(lines) > 1:
            del lines[at]
        elif equals:
            lines[at] = f"{key}= {rng.choice(odd)}"
        else:
            lines[at] = f"x{rng.randrange(9)} = {rng.choice(odd)}"
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return blind(rng, text) if rng.random() < 0.25 else text


def in_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Lie in the header, about its length, or in the bytes."""
    length = int.from_bytes(data[:8], "little")
    header, arrays = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        return blind(rng, data)
    header = in_json(rng, parsed(header)) if kind < 3 else blind(rng, header)
    size = rng.choice(BOUNDARIES) if rng.random() < 0.1 else len(header)
    return size.to_bytes(8, "little") + header + (arrays[: rng.randrange(len(arrays) + 1)] if kind == 3 else arrays)


def in_protobuf(rng: random.Random, data: bytes) -> bytes:
    """Change, drop, repeat and move fields at any depth; lengths around them are put right, or wrong on purpose."""
    if rng.random() < 0.15:
        return blind(rng, data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _field_changed(rng, data, data, 0)
    return data


def _field_changed(rng: random.Random, data: bytes, whole: bytes, depth: int) -> bytes:
    fields = _fields(data)
    if not fields:
        return blind(rng, data)
    at = rng.randrange(len(fields))
    number, wire, content = fields[at]
    if wire == 2 and depth < 9 and rng.random() < 0.8 and _fields(bytes(content)):
        fields[at] = (number, wire, _field_changed(rng, bytes(content), whole, depth + 1))
    else:
        kind = rng.randrange(7)
        if kind == 0:
            del fields[at]
        elif kind == 1:
            fields[at:at] = [fields[at]] * rng.choice((1, 3, 50))
        elif kind == 2:
            fields[at] = (rng.choice((number + 1, 1, 7, 14, 2**28)), wire, content)
        elif kind == 3:
            other = rng.choice(fields)
            fields[at] = (number, other[1], other[2])
        elif wire == 0:
            fields[at] = (number, 0, rng.choice((*BOUNDARIES, 2**64 - 1, 2**64 - 8)))
        elif kind == 4:
            start = rng.randrange(len(whole))
            fields[at] = (number, 2, whole[start : start + rng.choice((1, 8, 200))])
        elif kind == 5:
            text = rng.choice(NAMES).encode("utf-8", "surrogatepass")
            fields[at] = (number, 2, rng.choice((text, b"", b"\xff" * 9, bytes(4096), b"MatMul", b"Reshape", b"Loop")))
        else:
            fields[at] = (number, wire, blind(rng, bytes(content)) if wire == 2 else bytes(len(content)))
    return b"".join(_field(number, wire, content) for number, wire, content in fields)


def _fields(data: bytes) -> list[tuple[int, int, Any]]:
    """Fields of a message: number, wire type and content; none where it is no message."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**20 or wire not in (0, 1, 2, 5):
            return []
        content: Any
        if wire == 0:
            content, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            if at + size > len(data):
                return []
            content, at = data[at : at + size], at + size
        found.append((number, wire, content))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
    return 0, len(data) + 1


def _field(number: int, wire: int, content: Any) -> bytes:
    head = _as_varint(number << 3 | wire)
    if wire == 0:
        return head + _as_varint(int(content) if isinstance(content, int) else len(content))
    content = content if isinstance(content, bytes) else bytes(8)
    return head + (_as_varint(len(content)) if wire == 2 else b"") + content


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def in_tar(rng: random.Random, pictures: Sequence[tuple[str, bytes]], *, packed: bool) -> bytes:
    """A tar archive of pictures whose headers lie: names, sizes, types, links, long names and records of all kinds."""
    file = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in pictures:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if rng.random() < 0.15:
                _lie(rng, entry)
            try:
                archive.addfile(entry, io.BytesIO(content.ljust(min(max(entry.size, 0), 1 << 16), b"\0")))
            except (ValueError, OSError, UnicodeError):
                file.write(_raw_header(rng, entry, content))
    data = file.getvalue()
    data = data.rstrip(b"\0") + bytes(rng.choice((0, 512, 1024, 1023)))
    if rng.random() < 0.5:
        data = _checksummed(blind(rng, data)) if rng.random() < 0.5 else blind(rng, data)
    if packed:
        import bz2
        import gzip
        import lzma

        kind = rng.randrange(3)
        data = (gzip.compress(data, 1), lzma.compress(data, preset=0), bz2.compress(data, 1))[kind]
        if rng.random() < 0.5:
            data = blind(rng, data)
    return data


def _lie(rng: random.Random, entry: tarfile.TarInfo) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        entry.name = rng.choice(NAMES) + rng.choice(("", ".png"))
    elif kind == 1:
        entry.type = rng.choice(
            (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"L", b"K", b"x", b"g", b"\0", b"Z", b"V", b"M")
        )
        entry.linkname = rng.choice((*NAMES, "../../etc/passwd", entry.name))
    elif kind == 2:
        entry.pax_headers = {
            rng.choice(("path", "linkpath", "size", "mtime", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size",
                        "GNU.sparse.name", "GNU.sparse.realsize", "hdrcharset", "comment", "uid")):
            str(rng.choice((*NAMES, "-1", "9" * 400, "1,2,3", "1e999", "1"))).replace("\ud800", "?")
        }  # fmt: skip
    elif kind == 3:
        entry.size = rng.choice((0, 1, entry.size - 1, entry.size + 1, entry.size * 30, 2**33, 2**62))
    else:
        entry.mtime = rng.choice((-1, 2**40, 0))


def _raw_header(rng: random.Random, entry: tarfile.TarInfo, content: bytes) -> bytes:
    name = entry.name.encode("utf-8", "surrogatepass")[:100].ljust(100, b"\0")
    size = rng.choice(
        (b"%011o\0" % len(content), b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"-0000000001\0")
    )
    head = name + b"0000644\0" * 3 + size + b"0" * 11 + b"\0" + b" " * 8 + entry.type + bytes(100) + b"ustar\00000"
    return _checksummed(head.ljust(512, b"\0")) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def _checksummed(data: bytes) -> bytes:
    """Put right the checksum of every header in a tar, so that what it says is believed."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def in_npz(rng: random.Random, arrays: Sequence[tuple[str, bytes]]) -> bytes:
    """An npz whose arrays claim other shapes and types than they have: negative ones, and sizes beyond 64 bits."""
    file = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(file, "w", how if rng.random() < 0.3 else zipfile.ZIP_STORED) as archive:
        for key, npy in arrays:
            name = key if rng.random() > 0.1 else rng.choice(NAMES).replace("\ud800", "?")
            if rng.random() < 0.05:
                continue
            archive.writestr(f"{name}.npy", _npy(rng, npy) if rng.random() < 0.4 else npy)
    return blind(rng, file.getvalue()) if rng.random() < 0.4 else file.getvalue()


def _npy(rng: random.Random, npy: bytes) -> bytes:
    length = int.from_bytes(npy[8:10], "little")
    rest = npy[10 + length :]
    shape = tuple(rng.choice((*SIZES, 36, 3)) for _ in range(rng.randrange(6)))
    odd = (
        "|u1",
        "|i1",
        "<i8",
        "<u8",
        ">i2",
        "|O",
        "<f4",
        "|b1",
        "|S9",
        "<U9",
        "|V3",
        "<M8[s]",
        "c16",
        "",
        "x",
        "[" * 200,
    )
    words = {
        "descr": rng.choice(odd) if rng.random() < 0.5 else "|u1",
        "fortran_order": rng.choice((False, False, True, 1, None)),
        "shape": shape if rng.random() < 0.8 else rng.choice((None, 3, "x", [3], ((1,), 2), (True, 2.5))),
    }
    if rng.random() < 0.1:
        words[rng.choice(NAMES)] = words.pop(rng.choice(list(words)))
    text = repr(words).encode("utf-8", "surrogatepass")
    text = text if rng.random() < 0.8 else blind(rng, text)
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return npy[:8] + (len(text) % 65536).to_bytes(2, "little") + text + rest


def in_picture(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Damage a picture; a PNG's checksums are mostly put right, so that what they guard is believed."""
    out = blind(rng, data, others)
    return _png_checksummed(out) if out[:4] == b"\x89PNG" and rng.random() < 0.7 else out


def _png_checksummed(data: bytes) -> bytes:
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        size = int.from_bytes(out[at : at + 4], "big")
        if at + 12 + size > len(out):
            break
        out[at + 8 + size : at + 12 + size] = zlib.crc32(out[at + 4 : at + 8 + size]).to_bytes(4, "big")
        at += 12 + size
    return bytes(out)
