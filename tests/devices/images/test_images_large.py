"""Large pictures in little memory: strips equal the whole, and no decoder takes more than was said."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

from edgeplast_devices.images import UnreadableImageError, decoding, strips

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def in_strips(data: bytes, factor: int) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        assert strips.can_be_read_in_strips(opened)
        return strips.read_reduced(opened, io.BytesIO(data), factor, decoding._RGB(opened))


def depth(image: Image.Image, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits."""
    return encoded(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=1 << bits), "PNG", bits=bits)


KINDS = ["RGB", "L", "LA", "RGBA", "P", "1", "I;16", "bits4", "bits2", "BMP", "PPM", "TIFF", "BMP1", "BMPP", "TIFFP"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 90), st.integers(2, 9), st.integers(20, 3000),
    st.sampled_from(KINDS),
)  # fmt: skip
def test_a_picture_read_in_strips_equals_the_whole_one_reduced(width, height, factor, strip_pixels, mode):
    image = noise(width, height)
    if mode == "I;16":
        data = encoded(Image.fromarray(RNG.integers(0, 1 << 16, (height, width), dtype=np.uint16)), "PNG")
    elif mode.startswith("bits"):
        data = depth(image, int(mode[-1]))
    elif mode in ("BMP", "PPM", "TIFF"):
        data = encoded(image, mode)
    elif mode in ("BMP1", "BMPP", "TIFFP"):
        data = encoded(image.convert({"1": "1", "P": "P"}[mode[-1]]), mode[:-1])
    else:
        data = encoded(image.convert(mode), "PNG")
    before, strips.STRIP_PIXELS = strips.STRIP_PIXELS, strip_pixels
    try:
        small = in_strips(data, factor)
    finally:
        strips.STRIP_PIXELS = before
    whole = decoding.decode(io.BytesIO(data), "x").reduce(factor)
    assert np.array_equal(np.asarray(small), np.asarray(whole))


@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_of_16_bits_a_channel_in_strips(channels, monkeypatch):
    import zlib

    width, height = 37, 29
    values = RNG.integers(0, 256, (height, width * channels * 2), dtype=np.uint8)
    rows = []
    for y in range(height):  # each row with another filter; Paeth of the first row is Sub
        bpp, row, up = channels * 2, values[y].astype(int), values[y - 1].astype(int) * (y > 0)
        left = np.concatenate([np.zeros(bpp, int), row[:-bpp]])
        upper_left = np.concatenate([np.zeros(bpp, int), up[:-bpp]])
        p = left + up - upper_left
        near = np.stack([abs(p - left), abs(p - up), abs(p - upper_left)]).argmin(0)
        guess = [0, left, up, (left + up) // 2, np.choose(near, [left, up, upper_left])][y % 5]
        rows.append(bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, {3: 2, 4: 6}[channels], 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(strips._packed(*part) for part in parts)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 100)
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(whole)[:, :, 0], values.reshape(height, width, channels, 2)[:, :, 0, 0])
    assert np.array_equal(np.asarray(in_strips(data, 3)), np.asarray(whole.reduce(3)))


def test_a_png_too_large_for_the_limit_is_read_smaller_and_keeps_what_is_needed():
    data = encoded(noise(1300, 900), "PNG", compress_level=1)
    assert decoding.decode(io.BytesIO(data), "x", at_least=(100, 100), limit_bytes=4 << 20).size == (325, 225)
    assert decoding.decode(io.BytesIO(data), "x", at_least=(440, 440), limit_bytes=4 << 20).size == (650, 450)
    assert decoding.decode(io.BytesIO(data), "x", at_least=(100, 100), limit_bytes=6 << 20).size == (1300, 900)
    with pytest.raises(UnreadableImageError, match=r"1300 x 900 pixels takes 4\.8\d MiB and 4 MiB are allowed"):
        decoding.decode(io.BytesIO(data), "x", limit_bytes=4 << 20)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "BMP", "TIFF"]), st.integers(0, 9000), st.integers(0, 255), st.integers(1, 9000))
def test_damaged_pictures_in_strips_are_read_or_unreadable(kind, at, value, cut):
    data = bytearray(encoded(picture(1, (70, 40)), kind))
    data[at % len(data)] = value
    try:
        image = decoding.decode(
            io.BytesIO(bytes(data[:cut])), "x", at_least=(4, 4), limit_bytes=(384 << 10) + 70 * 40 * 4 - 1
        )
    except UnreadableImageError:
        return
    assert image.mode == "RGB"


PEAK = f"""
import io, json, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "devices")!r}]
from edgeplast_devices.images import decoding, formats
path = sys.argv[1]
def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
decoding.preload([formats.format_of(open(path, "rb").read(64))])
with open(path, "rb") as file:
    needed = decoding.needed_bytes(file, "x")
    file.seek(0)
    before = status("VmRSS"), status("VmSize")
    decoding.decode(file, "x", limit_bytes=needed)
print(json.dumps([needed, status("VmHWM") - before[0], status("VmPeak") - before[1]]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM from /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}), ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}), ("PNG", "P", {}), ("WEBP", "RGBA", {"method": 0}), ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {}), ("BMP", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "F", {}),
    ],
)  # fmt: skip
def test_no_decoder_takes_more_than_is_said(tmp_path, kind, mode, options):
    small = noise(150, 120).resize((1500, 1200), Image.Resampling.NEAREST)
    image = Image.fromarray(np.asarray(small.convert("L")) / np.float32(255)) if mode == "F" else small.convert(mode)
    (tmp_path / "x").write_bytes(encoded(image, kind, **options))
    run = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    needed, resident, mapped = json.loads(run.stdout)
    assert max(resident, mapped) < needed + (1 << 20)
    assert resident > needed / 3  # it says what is needed, not anything that is safe
