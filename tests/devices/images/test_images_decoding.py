"""One picture: what decodes, what is refused, and that every failure is an UnreadableImageError."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from sample_pictures import encoded, picture  # type: ignore[import-not-found]

from edgeplast_devices.images import UnreadableImageError, decoding, open_images


def decode(data: bytes, **options) -> Image.Image:
    return decoding.decode(io.BytesIO(data), "a/x.jpg", **options)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK"])
def test_any_picture_equals_what_timm_reads(kind, mode):
    try:
        data = encoded(picture(1).convert(mode), kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    expected = Image.open(io.BytesIO(data)).convert("RGB")  # timm.data.ImageDataset
    assert decode(data, at_least=(4, 4)).mode == "RGB"
    assert np.array_equal(pixels(decode(data, at_least=(4, 4))), pixels(expected))


def test_the_first_frame_counts_and_transparency_raises_no_warning(recwarn):
    frames = [picture(i).convert("P") for i in range(3)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=bytes([0, 128, 255]))
    assert decode(moving).size == (20, 16)
    seen_through = encoded(frames[0], "PNG", transparency=bytes([0, 128, 255]))
    assert np.array_equal(pixels(decode(seen_through)), pixels(frames[0].convert("RGB")))
    assert not list(recwarn)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (
            b"just some text",
            "it is not a JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, JPEG 2000 or PPM/PGM/PBM file, wh",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is not a JPEG"),
        (encoded(picture(0), "JPEG")[:-60], "it is damaged (image file is truncated"),
        (encoded(picture(0), "PNG")[:60], "it is damaged ("),
        (b"\xff\xd8\xff" + b"no header follows", "it is damaged (its header makes no sense)"),
        (encoded(picture(0), "BMP")[:20], "it is damaged ("),
        (b"BMI,weight\n19,60\n" * 9, "it is not a JPEG"),
        (b"\0\0\0\x20ftypheic\0\0\0\0mif1heic", "it is a HEIC picture; convert it to JPEG"),
    ],
)
def test_what_is_no_picture_says_so(data, reason):
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert caught.value.name == "a/x.jpg" and caught.value.reason.startswith(reason)
    assert str(caught.value).startswith(f"a/x.jpg cannot be used: {reason}")
    assert str(caught.value).endswith("Replace the file or remove it.")


def test_a_bomb_is_an_unreadable_picture(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match=r"more pixels than Pillow accepts \(0 megapixels\)"):
        decode(encoded(picture(0)))


def test_running_out_of_memory_is_a_large_pictures_own_fault_and_not_a_small_ones(monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(decoding, "read_reduced", fail)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError, match=r"while a/x\.jpg was decoded"):
        decode(encoded(picture(0)))
    with pytest.raises(UnreadableImageError, match=r"memory ran out; decoding 2500 x 2000 pixels takes up to \d+ KiB"):
        monkeypatch.setattr(decoding, "_OWN_FAULT_BYTES", 0)
        decode(BIG, at_least=(100, 100))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_where_memory_runs_out_the_same_picture_is_decoded_smaller(monkeypatch, kind):
    tried = []

    def fail_at_first(way, *arguments):
        tried.append(way)
        if len(tried) == 1:
            raise MemoryError
        return by(way, *arguments)

    by = decoding._by
    monkeypatch.setattr(decoding, "_by", fail_at_first)
    data = encoded(picture(3, (1800, 1900)), kind)
    assert min(decode(data, at_least=(100, 100)).size) >= 200
    assert tried[0].scale == tried[0].factor == 1 and tried[1].needed < tried[0].needed


def test_a_text_file_named_jpg_and_a_file_that_vanished(make_folder):
    root = make_folder({"a": 2})
    (root / "a" / "text.jpg").write_text("not a picture")
    images = open_images(root)
    (root / "a" / "001.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"a/text\.jpg cannot be used: it is not a JPEG"):
        images.open(2)
    with pytest.raises(UnreadableImageError, match=r"a/001\.png cannot be used: no such file or directory"):
        images.open(1)
    assert images.open(0).mode == "RGB"


BIG = encoded(picture(3, (2500, 2000)), "JPEG", quality=60)  # 5 MP: above EXACT_DECODE_BYTES


def test_a_large_jpeg_is_scaled_only_when_told_what_is_needed():
    assert decode(BIG).size == (2500, 2000)
    assert decode(BIG, at_least=(100, 100)).size == (313, 250)  # an eighth keeps twice 100
    assert decode(BIG, at_least=(126, 100)).size == (625, 500)  # an eighth would not
    assert decode(BIG, at_least=(900, 900)).size == (1250, 1000)  # twice 900 does not fit, half the size does
    small = encoded(picture(3, (1900, 2000)), "JPEG")
    assert decode(small, at_least=(10, 10)).size == (1900, 2000)  # 3.8 MP: exact


def test_the_limit_asks_for_smaller_scales_and_then_refuses():
    assert decode(BIG, at_least=(300, 300), limit_bytes=20 << 20).size == (1250, 1000)
    assert decode(BIG, at_least=(300, 300), limit_bytes=4 << 20).size == (625, 500)
    assert decode(BIG, at_least=(300, 300), limit_bytes=1 << 20).size == (313, 250)
    with pytest.raises(UnreadableImageError, match=r"decoding 2500 x 2000 pixels takes 690 KiB and 293 KiB are allo"):
        decode(BIG, at_least=(300, 300), limit_bytes=300_000)
    with pytest.raises(UnreadableImageError, match=r"takes 19\.4 MiB and 10 MiB are allowed; shrink the picture\. R"):
        decode(BIG, limit_bytes=10 << 20)


def test_other_formats_are_refused_above_the_limit_where_they_cannot_be_read_smaller():
    for kind, mode, options, needed in [
        ("GIF", "P", {}, 5),
        ("PNG", "RGBA", {}, 8),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 4),
        ("WEBP", "RGB", {}, 17),
        ("AVIF", "RGB", {}, 20),
    ]:
        data = encoded(picture(0, (400, 300), mode), kind, **options)
        least = 400 * 300 * needed
        with pytest.raises(UnreadableImageError, match=r"decoding 400 x 300 pixels takes .* are allowed"):
            decode(data, limit_bytes=least)
        assert decode(data, limit_bytes=least + 3 * len(data) + 400 * 300 + (400 << 10)).size == (400, 300)
        assert least < decoding.needed_bytes(io.BytesIO(data), "x") < least + 3 * len(data) + 400 * 300 + (400 << 10)


def test_a_webp_of_a_camera_is_read_where_no_budget_stands_and_a_png_of_its_size_smaller():
    size = (2592, 1944)
    webp, png = io.BytesIO(), io.BytesIO()
    Image.new("RGB", size, (90, 60, 30)).save(webp, "WEBP", method=0)
    Image.new("RGB", (5184, 3888), (90, 60, 30)).save(png, "PNG", compress_level=1)
    webp.seek(0), png.seek(0)
    assert decoding.needed_bytes(webp, "x", at_least=(224, 224)) > decoding.SMALLER_ABOVE_BYTES
    webp.seek(0)
    assert decoding.decode(webp, "x", at_least=(224, 224)).size == size
    assert decoding.decode(png, "x", at_least=(224, 224)).width < 5184


def test_a_progressive_jpeg_counts_its_coefficients():
    data = encoded(picture(3, (1600, 1200)), "JPEG", progressive=True)  # 4:2:0, three bytes a pixel
    needed = 1600 * 1200 * 3 + 200 * 150 * 4 + (384 << 10)
    assert decode(data, at_least=(10, 10), limit_bytes=needed).size == (200, 150)
    with pytest.raises(UnreadableImageError, match=r"or save it as a baseline JPEG, not a progressive one"):
        decode(data, at_least=(10, 10), limit_bytes=needed - 1)


def oriented(kind: str, orientation: int, size: tuple[int, int] = (20, 16)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(7, size), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_the_way_they_are_meant_to_be_seen(kind, orientation):
    data = oriented(kind, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(pixels(decode(data, at_least=(4, 4))), pixels(expected))


def test_a_large_turned_picture_keeps_enough_of_its_short_side():
    tall = decode(oriented("JPEG", 6, (3000, 2000)), at_least=(740, 300))
    assert tall.size == (1000, 1500)


def test_grey_of_16_bits_looks_as_in_8():
    eight = picture(2, (60, 50), "L")
    sixteen = Image.fromarray(np.asarray(eight).astype(np.uint16) * 257)
    big_endian = Image.fromarray((np.asarray(eight).astype(np.uint16) * 257).astype(">u2"))
    floats = Image.fromarray((np.asarray(eight) / np.float32(255)).astype(np.float32))
    expected = pixels(eight.convert("RGB"))
    for image, kind in [(sixteen, "PNG"), (sixteen, "TIFF"), (sixteen, "PPM"), (big_endian, "TIFF"), (floats, "TIFF")]:
        assert np.array_equal(pixels(decode(encoded(image, kind))), expected), kind


def test_deep_values_without_a_known_range_are_refused_and_stated_ranges_kept():
    counts = np.arange(3000, dtype=np.int32).reshape(50, 60)
    for values in (counts, counts.astype(np.float32)):
        data = encoded(Image.fromarray(values), "TIFF")
        with pytest.raises(UnreadableImageError, match=r"values from 0 to 2999, and nothing says which are black and"):
            decode(data)
    stated = encoded(Image.fromarray(counts.astype(np.float32)), "TIFF", tiffinfo={340: 0.0, 341: 2999.0})
    assert pixels(decode(stated)).min() == 0 and pixels(decode(stated)).max() == 255


SEEDS = [
    encoded(picture(5), kind, **options)
    for kind, options in [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("AVIF", {"quality": 30}),
        ("JPEG2000", {}),
    ]
]


@settings(max_examples=250, deadline=None)
@given(
    data=st.sampled_from(SEEDS),
    cut=st.integers(0, 2000),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
)
def test_damaged_bytes_decode_or_are_unreadable_and_nothing_else(data, cut, changes):
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        image = decode(bytes(damaged[:cut] if cut < len(damaged) else damaged), at_least=(8, 8))
    except UnreadableImageError as error:
        assert error.reason and "\n" not in error.reason
    else:
        assert image.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_in_memory_is_as_upright_as_the_same_in_a_file(tmp_path, orientation):
    from edgeplast_devices.images import open_unlabelled
    from edgeplast_devices.images.in_memory import from_memory

    exif = Image.Exif()
    exif[0x0112] = orientation
    rows = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    for suffix in ("png", "tif", "webp", "jpg"):
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(rows).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        in_file = np.asarray(open_unlabelled(path).open(0))
        with Image.open(path) as picture:
            expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
            in_memory = np.asarray(from_memory([picture]).open(0))
            upright = np.asarray(from_memory([ImageOps.exif_transpose(picture)]).open(0))
        np.testing.assert_array_equal(in_memory, expected)
        np.testing.assert_array_equal(in_memory, in_file)
        np.testing.assert_array_equal(upright, expected)  # who has turned it already is not turned again


def test_damaged_orientation_of_a_picture_in_memory_is_none(tmp_path):
    from edgeplast_devices.images.in_memory import from_memory

    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02a\0\0\0",
        b"x",
    ):
        Image.new("RGB", (4, 3)).save(tmp_path / "x.jpg", exif=exif)
        assert from_memory([Image.open(tmp_path / "x.jpg")]).open(0).size == (4, 3)
