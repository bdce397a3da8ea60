"""Files made to fill a device's memory: read in bounded pieces, and refused by name."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

from edgeplast.errors import InputError
from edgeplast_devices.images import UnreadableImageError, decoding, metadata, open_images, strips


@pytest.fixture
def peak():
    """Return by how much Python's memory has grown at most since this was last asked."""
    tracemalloc.start()
    before = [0]

    def grown() -> int:
        now, most = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        most, before[0] = most - before[0], now
        return most

    yield grown
    tracemalloc.stop()


def member(name: bytes, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_of_a_gigabyte_is_refused(tmp_path, kind, peak):
    size = 64 << 20
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(member(b"././@LongLink", kind, size))
        for _ in range(64):
            file.write(b"a" * (1 << 20))
        file.write(member(b"a/1.png", tarfile.REGTYPE, 0) + bytes(1024))
    with pytest.raises(InputError, match=r"x\.tar\.gz has a member whose name or other records take more than 1 MiB"):
        open_images(tmp_path / "x.tar.gz")
    assert peak() < 8 << 20


def test_records_that_add_up_and_records_without_end_are_refused(tmp_path, peak):
    with (tmp_path / "many.tar").open("wb") as file:
        for number in range(8):
            record = b"%d k%d=%s\n" % (300_000, number, b"v" * (300_000 - 11))
            file.write(member(b"g", tarfile.XGLTYPE, len(record)) + record.ljust(-(-len(record) // 512) * 512, b"\0"))
            file.write(member(b"a/%d.png" % number, tarfile.REGTYPE, 0))
        file.write(bytes(1024))
    with pytest.raises(InputError, match=r"name or other records take more than 1 MiB"):
        open_images(tmp_path / "many.tar")
    (tmp_path / "deep.tar").write_bytes((member(b"l", tarfile.GNUTYPE_LONGNAME, 4) + b"name".ljust(512, b"\0")) * 3000)
    with pytest.raises(InputError, match=r"name or other records take more than 1 MiB"):
        open_images(tmp_path / "deep.tar")
    assert peak() < 8 << 20


@pytest.mark.parametrize("size", [2**63, 2**80, -1, -(2**63), 2**33])
@pytest.mark.parametrize("ending", ["png", "x"])
def test_a_size_that_no_archive_has_is_refused(tmp_path, size, ending):
    info = tarfile.TarInfo(f"a/1.{ending}")
    info.size = size
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(
        InputError, match=rf"x\.tar is no archive that can be read, or is cut short \(.*{size} bytes follow"
    ):
        open_images(tmp_path / "x.tar")


def chunk(name: bytes, data: bytes) -> bytes:
    return strips._packed(name, data)


@pytest.mark.parametrize("name", [b"IDAT", b"PLTE", b"tEXt", b"abcd"])
def test_a_chunk_of_a_png_that_claims_gigabytes(peak, name):
    """Nobody makes room for what is not there: a small picture would end a run for want of memory."""
    plain = encoded(picture(1))
    at = plain.index(b"IDAT") - 4
    evil = plain[:at] + (0xFFFF0000).to_bytes(4, "big") + name + plain[at + 8 :]
    try:
        decoding.decode(io.BytesIO(evil), "x")
    except UnreadableImageError as error:
        assert "damaged" in str(error) or "truncated" in str(error)
    assert peak() < 4 << 20


def test_texts_and_profiles_of_a_png_are_never_unpacked(peak):
    plain = encoded(picture(1))
    text = zlib.compress(bytes(1 << 20), 9)
    bombs = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + text) for i in range(60))
    bombs += chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(8 << 20))) + chunk(b"tEXt", b"k\0" + b"v" * (4 << 20))
    data = plain[:33] + bombs + plain[33:-12] + bombs + plain[-12:]
    file = io.BytesIO(data)
    peak()
    image = decoding.decode(file, "x")
    assert peak() < 1 << 20
    assert np.array_equal(np.asarray(image), np.asarray(decoding.decode(io.BytesIO(plain), "x")))


def test_what_a_jpeg_or_gif_says_beside_the_picture_is_not_kept(peak):
    plain = encoded(picture(1), "JPEG")
    segments = b"".join(b"\xff" + bytes([kind]) + b"\xff\xff" + bytes(65533) for kind in (0xE1, 0xE2, 0xED, 0xFE) * 40)
    jpeg = plain[:2] + segments + plain[2:]
    gif = encoded(picture(1).convert("P"), "GIF")
    start = 13 + (3 << (gif[10] & 7) + 1)
    gif = gif[:start] + b"!\xfe" + (b"\xff" + b"c" * 255) * 40000 + b"\0" + gif[start:]
    peak()
    for data, kind in ((jpeg, "JPEG"), (gif, "GIF")):
        shown, orientation = metadata.essentials(io.BytesIO(data), kind)
        assert len(shown.read()) < 3000 and orientation == 1
        assert decoding.decode(io.BytesIO(data), "x").size == (20, 16)
    assert peak() < 1 << 20


def test_exif_that_names_the_same_bytes_thousands_of_times(peak):
    entries = 5000
    table = b"".join(struct.pack("<HHII", 0x9000 + i, 7, 60000, 8) for i in range(entries - 1))
    exif = b"II*\0" + struct.pack("<IH", 8, entries) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + table + bytes(4)
    jpeg = encoded(picture(1), "JPEG", exif=b"Exif\0\0" + exif)
    peak()
    assert decoding.decode(io.BytesIO(jpeg), "x").size == (16, 20)
    assert peak() < 1 << 20


def test_a_tiff_that_claims_a_huge_tile(peak):
    tags = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 5),
        (262, 1),
        (277, 1),
        (322, 40000),
        (323, 40000),
        (324, 150),
        (325, 9),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(13)
    with pytest.raises(UnreadableImageError, match=r"16 x 16 pixels takes 1\.49 GiB and 256 MiB are allowed"):
        decoding.decode(io.BytesIO(data), "x")
    assert peak() < 1 << 20


def test_a_tiff_whose_tags_name_the_same_bytes_over_and_over(peak):
    tags = b"".join(struct.pack("<HHII", 40000 + i, 7, 1 << 20, 0) for i in range(500))
    data = b"II*\0" + struct.pack("<IH", 8, 500) + tags + bytes(4) + bytes(1 << 20)
    peak()
    with pytest.raises(UnreadableImageError, match=r"reading its tags takes 500 MiB and 256 MiB are allowed"):
        decoding.decode(io.BytesIO(data), "x")
    assert peak() < 1 << 20


def test_a_webp_is_measured_before_it_is_opened(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("opened")

    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0" + bytes(20)}):
        data = encoded(picture(1, (300, 200)), "WEBP", **options)
        assert metadata.webp_size(io.BytesIO(data)) == (300, 200)
        with monkeypatch.context() as patched:
            patched.setattr(Image, "open", fail)
            with pytest.raises(UnreadableImageError, match=r"decoding 300 x 200 pixels takes 1\.\d+ MiB and 488 KiB"):
                decoding.decode(io.BytesIO(data), "x", limit_bytes=500_000)
