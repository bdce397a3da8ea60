"""From the bytes of one picture to RGB, or one clear error; never more memory than allowed."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from edgeplast.errors import InputError
from edgeplast.units import format_bytes
from edgeplast_devices.images.costs import (
    OVERHEAD_BYTES,
    decode_bytes,
    fitting_bytes,
    is_progressive,
    webp_bytes,
)
from edgeplast_devices.images.depth import UnknownRangeError, is_deep, to_eight_bits, value_range
from edgeplast_devices.images.formats import FORMATS, HEAD_BYTES, foreign_format_of, format_of
from edgeplast_devices.images.metadata import essentials, orientation_of, tiff_value_bytes, webp_size
from edgeplast_devices.images.reaching import is_gone
from edgeplast_devices.images.strips import can_be_read_in_strips, read_reduced, strip_bytes

EXACT_DECODE_BYTES = 16 << 20
"""A JPEG that needs no more than this is decoded in full, so that the tensor equals timm's bit for bit.

Pillow keeps four bytes a pixel of RGB: this is a photo of 4 megapixels (12 MiB of RGB values). Larger
JPEGs are decoded at a half, a quarter or an eighth of their size, which the format offers almost for free.
"""

DECODE_LIMIT_BYTES = 256 << 20
"""What decoding one picture may take unless the image set says otherwise: a WebP of 12 megapixels takes 200 MiB.
Above it the picture is decoded smaller, by the format's own means or a strip at a time, and left out where neither can
be done."""

SMALLER_ABOVE_BYTES = 64 << 20
"""Above it a picture that can be decoded smaller is, whatever the limit; one that cannot may take up to the limit."""

_OWN_FAULT_BYTES = 4 << 20
_LARGE_READ_BYTES = 1 << 16
_FACTORS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(InputError):
    """One picture that cannot be decoded (exit code 3); a data set goes on without it.

    Attributes:
        name: the picture, as messages call it.
        reason: why, without the name.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be used: {reason}. Replace the file or remove it.")
        self.name = name
        self.reason = reason


class _MemoryRanOutError(Exception):
    def __init__(self, needed: int, pixels: str) -> None:
        self.needed, self.pixels = needed, pixels


def decode(
    stream: BinaryIO, name: str, *, at_least: tuple[int, int] | None = None, limit_bytes: int = DECODE_LIMIT_BYTES
) -> Image.Image:
    """Decode a picture to RGB as ``ImageOps.exif_transpose(Image.open(stream)).convert("RGB")`` does.

    The first frame counts. Two things differ from timm, which ignores EXIF's orientation and cuts 16-bit grey off at
    255: pictures are turned the way they are meant to be seen, and deep grey is scaled by its range.

    Args:
        stream: the encoded picture, seekable.
        name: what messages call it.
        at_least: height and width in pixels that are needed. A JPEG above :data:`EXACT_DECODE_BYTES` is then
            decoded at the smallest scale that keeps twice that, and any picture above the limit smaller, if it can be.
        limit_bytes: the most memory that decoding, and with ``at_least`` bringing to that size, may take.

    Raises:
        OSError: the place where it lies is gone; see :func:`~.reaching.is_gone`.
        UnreadableImageError: it is no picture, is damaged, or needs more memory than allowed or than there is.
        MemoryError: there is none even for a small picture, which is no fault of its own.
    """
    ran_out: _MemoryRanOutError | None = None
    while True:
        try:
            return _decode(stream, name, at_least, limit_bytes)
        except _MemoryRanOutError as error:
            if error.needed < _OWN_FAULT_BYTES:
                raise MemoryError(f"while {name} was decoded") from error
            ran_out, limit_bytes = error, error.needed - 1  # smaller, if it can be
        except UnreadableImageError as error:
            if ran_out is None:
                raise
            reason = f"memory ran out; decoding {ran_out.pixels} takes up to {format_bytes(ran_out.needed)}"
            raise UnreadableImageError(name, reason) from error
        stream.seek(0)


def needed_bytes(stream: BinaryIO, name: str, *, at_least: tuple[int, int] | None = None) -> int:
    """Return the bytes that :func:`decode` takes at most for a picture where nothing limits it, by its header alone.

    Raises:
        UnreadableImageError: the header is none of a picture.
    """
    with _opened(stream, name, 1 << 62) as (picture, _, orientation):
        return _choose(picture, name, at_least, 1 << 62, turned=orientation > 1).needed


def preload(kinds: Iterable[str]) -> None:
    """Load what decoders need, once, before a limit on memory stands.

    Behind a limit a library that is loaded late, or the data of a thread that a library asks for at its first call,
    may find no memory, and the C library then ends the process. So decoders are loaded, and run on a picture of a
    few pixels, in the thread that will decode.

    Args:
        kinds: formats, as :func:`~.formats.format_of` names them.
    """
    from edgeplast_devices.images.smallest import smallest

    for kind in sorted(set(kinds) | {"JPEG", "PNG"}):
        if (encoded := smallest(kind)) is not None:
            with contextlib.suppress(UnreadableImageError):  # a Pillow that was built without it
                decode(io.BytesIO(encoded), kind)


def _decode(stream: BinaryIO, name: str, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
    needed, pixels = 0, "it"
    try:
        with _opened(stream, name, limit_bytes) as (picture, shown, orientation):
            if orientation > 4 and at_least is not None:
                at_least = at_least[::-1]
            way = _choose(picture, name, at_least, limit_bytes, turned=orientation > 1)
            needed, pixels = way.decoding, _size(picture)
            return upright(_by(way, picture, shown), orientation)
    except MemoryError as error:
        raise _MemoryRanOutError(needed, pixels) from error
    except (UnreadableImageError, _MemoryRanOutError):
        raise
    except Exception as error:
        if is_gone(error):
            raise
        # Decoders raise whatever they like on damaged files: OSError, SyntaxError, struct.error, KeyError, ...
        raise UnreadableImageError(name, _reason(error)) from error


@contextlib.contextmanager
def _opened(stream: BinaryIO, name: str, limit_bytes: int) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO, int]]:
    """Read a picture's header: yield it, the stream of what matters of it, and its orientation.

    Raises:
        UnreadableImageError: it is no picture, or its header alone needs more memory than allowed.
    """
    kind = _kind(stream, name)
    before, what, in_all = _opening_bytes(stream, kind)
    if before > limit_bytes:
        raise UnreadableImageError(
            name, f"{what} takes {format_bytes(in_all)} and {format_bytes(limit_bytes)} are allowed; save it as a JPEG"
        )
    essential, orientation = essentials(stream, kind)
    shown = cast(BinaryIO, _Bounded(essential))
    with warnings.catch_warnings(), _one_thread(kind):
        # Pillow warns about large pictures, palettes and odd metadata; what matters is checked here.
        warnings.simplefilter("ignore")
        with Image.open(shown, formats=(kind,)) as picture:
            if kind == "AVIF":
                orientation = orientation_of(picture.info.get("exif", b""))
            yield picture, shown, orientation


def _opening_bytes(stream: BinaryIO, kind: str) -> tuple[int, str, int]:
    """Return what Pillow takes before it has said how large a picture is, for what, and what that takes in all."""
    if kind == "WEBP":
        width, height = webp_size(stream)
        opening, in_all = webp_bytes((width, height), _length(stream))
        return opening, f"decoding {width} x {height} pixels", in_all
    if kind == "AVIF":
        return 2 * _length(stream), "reading the file", 2 * _length(stream)
    if kind == "TIFF":
        tags = tiff_value_bytes(stream)
        return tags, "reading its tags", tags
    return 0, "", 0


def _kind(stream: BinaryIO, name: str) -> str:
    """Tell the format by the first bytes: Pillow's own guess would import all of its 50 plugins (5 MB)."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not head:
        raise UnreadableImageError(name, "the file is empty")
    kind = format_of(head)
    if kind is None:
        foreign = foreign_format_of(head)
        what = f"it is a {foreign} picture; convert it to JPEG" if foreign else f"it is not a {FORMATS} file"
        raise UnreadableImageError(name, what + ("" if foreign else ", whatever its name says"))
    _import_plugin(kind)
    return kind


def _import_plugin(kind: str) -> None:
    if kind == "WEBP":
        import PIL.WebPImagePlugin
    elif kind == "TIFF":
        import PIL.TiffImagePlugin
    elif kind == "JPEG2000":
        import PIL.Jpeg2KImagePlugin
    elif kind == "AVIF":
        with contextlib.suppress(ImportError):  # Pillow before 11.3 has none, and says so when it is to open one
            import PIL.AvifImagePlugin  # noqa: F401
    else:
        Image.preinit()


@contextlib.contextmanager
def _one_thread(kind: str) -> Iterator[None]:
    """Keep libavif from starting a thread for each core, whose stacks nobody has counted."""
    if kind != "AVIF":
        yield
        return
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        yield
        return
    before, AvifImagePlugin.DEFAULT_MAX_THREADS = AvifImagePlugin.DEFAULT_MAX_THREADS, 1
    try:
        yield
    finally:
        AvifImagePlugin.DEFAULT_MAX_THREADS = before


@dataclass(frozen=True)
class _Way:
    """How a picture is decoded: at ``1/scale`` by its format, or in strips that are averaged by ``factor``.

    Attributes:
        needed: bytes, at most, until it has the size that the model asks for.
        decoding: bytes until it is RGB.
    """

    needed: int
    decoding: int
    scale: int = 1
    factor: int = 1


def _choose(
    picture: ImageFile.ImageFile, name: str, at_least: tuple[int, int] | None, limit_bytes: int, *, turned: bool
) -> _Way:
    """Choose a way that fits the limit.

    Raises:
        UnreadableImageError: there is none.
    """
    width, height = picture.size

    def way(scale: int = 1, factor: int = 1) -> _Way:
        small = -(-width // (scale * factor)), -(-height // (scale * factor))
        if factor > 1:
            decoding = 4 * small[0] * small[1] * (1 + turned) + strip_bytes(picture, factor) + OVERHEAD_BYTES
        else:
            decoding = decode_bytes(picture, scale, turned=turned)
        fitting = 4 * small[0] * small[1] + fitting_bytes(small, at_least) if at_least is not None else 0
        return _Way(max(decoding, fitting), decoding, scale, factor)

    def keeps_twice(by: int) -> bool:
        assert at_least is not None
        return height // by >= 2 * at_least[0] and width // by >= 2 * at_least[1]

    best = way()
    is_jpeg, ways = picture.format in ("JPEG", "MPO"), []
    if at_least is not None:
        if is_jpeg:
            ways = [way(scale) for scale in (2, 4, 8)]
            if best.needed > limit_bytes or best.decoding > EXACT_DECODE_BYTES:
                best = max((w for w in ways if keeps_twice(w.scale)), key=lambda w: w.scale, default=best)
            fit = [w for w in (best, *ways) if w.scale >= best.scale and w.needed <= limit_bytes]
            best = next((w for w in fit if w.decoding <= EXACT_DECODE_BYTES), fit[-1] if fit else best)
        elif best.needed > (most := min(limit_bytes, SMALLER_ABOVE_BYTES)):
            if picture.format == "JPEG2000":
                ways = [way(scale) for scale in (2, 4, 8, 16)]
            elif can_be_read_in_strips(picture):
                ways = [way(factor=factor) for factor in _FACTORS if factor <= min(width, height)]
                ways = [w for w in ways if keeps_twice(w.factor)][-1:] + ways
            best = next((w for w in ways if w.needed <= most), best)
    if best.needed <= limit_bytes:
        return best
    least = min([best, *ways], key=lambda w: w.needed)
    if least.decoding <= limit_bytes:  # what the model's size asks for is no fault of the picture
        return least
    hint = " or save it as a JPEG"
    if is_jpeg:
        hint = " or save it as a baseline JPEG, not a progressive one" if is_progressive(picture) else ""
    raise UnreadableImageError(
        name,
        f"decoding {_size(picture)} takes {format_bytes(least.decoding)} and {format_bytes(limit_bytes)} "
        f"are allowed; shrink the picture{hint}",
    )


def _by(way: _Way, picture: ImageFile.ImageFile, stream: BinaryIO) -> Image.Image:
    """Decode a picture in one of the ways that it has."""
    to_rgb = _RGB(picture)
    if way.factor > 1:
        return read_reduced(picture, stream, way.factor, to_rgb)
    if way.scale > 1:
        if picture.format == "JPEG2000":
            picture.reduce = way.scale.bit_length() - 1  # type: ignore[method-assign, assignment]
        else:
            # draft() takes the size that is wanted and finds the scale by whole division.
            picture.draft("RGB", (max(1, picture.width // way.scale), max(1, picture.height // way.scale)))
    picture.load()
    return to_rgb(picture)


class _RGB:
    """Makes RGB of a picture or of strips of it; deep grey by the range that the header states."""

    def __init__(self, picture: ImageFile.ImageFile) -> None:
        self._range = value_range(picture) if is_deep(picture) else (0.0, 1.0)

    def __call__(self, picture: Image.Image) -> Image.Image:
        if is_deep(picture):
            picture = to_eight_bits(picture, *self._range)
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn and mirror a picture as EXIF's orientation asks for (1 to 8; anything else is upright already)."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


class _Bounded:
    """A stream of which no more is asked than it has.

    Pillow asks for as many bytes as a damaged chunk claims, and Python makes room for them before it reads.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._length = stream, _length(stream)

    def read(self, size: int = -1) -> bytes:
        if size > _LARGE_READ_BYTES:
            size = max(0, min(size, self._length - self._stream.tell()))
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _size(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height} pixels"


def _length(stream: BinaryIO) -> int:
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return length


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than Pillow accepts ({2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels)"
    if isinstance(error, UnknownRangeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged (its header makes no sense)"
    text = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
    return f"it is damaged ({text[:200]})"
