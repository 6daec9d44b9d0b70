"""Picture file reader: decodes a file and frames the portrait, upright, in sRGB, opaque, shrunk. Only the listed
formats are read.

Uploads and ``animate`` both use it. Runs in a process of its own for strangers' files
(server/portraits/worker.py).
"""

import io
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import AvifImagePlugin, Image

from engine.portrait.framing import FramedPortrait, frame_given, frame_portrait
from ground.errors import RequestError
from server.portraits.colour import eight_bit, to_srgb
from server.portraits.container import (
    MAX_MISSING,
    Container,
    cut_short,
    formats_of,
    mended_png,
    open_container,
    orientation,
)
from server.portraits.limits import DEFAULT_PIXELS, FORMATS, JPEG_FACTOR, check_size, too_many_pixels, unsupported

if "HEIF" in FORMATS:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread takes address space, which is limited in the picture process

KEPT_SIDE = 1280  # pixels of the longer side that are looked at, and kept for a later, finer framing
DECODED_SIDE = 3 * KEPT_SIDE // 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size while this is left
FRAMED_SIDE = 512  # of the crop that is kept, as the largest preset shows it; a codec scales it to its own
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SIDEWAYS = frozenset(turn for number, turn in _TURNS.items() if number >= 5)
# What Pillow's readers raise over damaged files, of which only the first two are meant.
_BROKEN = (
    OSError, SyntaxError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """image: RGB in sRGB, at most ``KEPT_SIDE`` on the longer side. width, height: of the file as viewers show it."""

    image: Image.Image
    width: int
    height: int


def read_portrait(data: bytes, landmarks: Mapping[str, float] | None = None) -> FramedPortrait:
    """Decode and frame. Raises RequestError for a file that is no picture, or shows no one face."""
    return frame_picture(decode_picture(data), landmarks)


def decode_picture(data: bytes, max_pixels: int = DEFAULT_PIXELS) -> Picture:
    """The first picture in the file. Of metadata, orientation and colour profile are used, each if it can be read.

    max_pixels: of the picture; a JPEG may have ``JPEG_FACTOR`` times as many. Raises RequestError
    ``unsupported_picture``, ``broken_picture``, ``picture_too_large`` or ``picture_too_small``.
    """
    formats = tuple(name for name in formats_of(data) if name in FORMATS)
    if not formats:
        raise unsupported()
    pixel_limit = max_pixels * (JPEG_FACTOR if formats == ("JPEG",) else 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: the limits below are ours
            return _decoded(open_container(data), formats, pixel_limit)
    except Image.DecompressionBombError as error:  # so far above any limit that Pillow itself gives up
        raise too_many_pixels(pixel_limit) from error
    except _BROKEN as error:
        raise RequestError("broken_picture", "the picture is damaged or cut short", param="file") from error


def frame_picture(picture: Picture, landmarks: Mapping[str, float] | None = None) -> FramedPortrait:
    """Find the face, or place it by ``landmarks``. The crop is given in the pixels of the file."""
    pixels = np.asarray(picture.image)
    if landmarks is None:
        framed = frame_portrait(pixels, size=FRAMED_SIDE)
    else:
        framed = frame_given(pixels, landmarks, size=FRAMED_SIDE)
    crop = framed.crop.copy()
    crop[:, :2] *= max(picture.image.size) / max(picture.width, picture.height)
    return replace(framed, crop=crop)


def _decoded(container: Container, formats: tuple[str, ...], pixel_limit: int) -> Picture:
    image, size = _opened(container, formats, pixel_limit)
    try:
        image.load()
    except _BROKEN:
        if image.format != "PNG":
            raise
        image, size = _opened(replace(container, data=mended_png(container.data)), formats, pixel_limit)
        image.load()
    if container.cut:
        _check_rows(image)
    turn = _TURNS.get(orientation(container.exif or image.info.get("exif") or b""))
    profile = container.profile or image.info.get("icc_profile") or b""
    small = eight_bit(image)
    small.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    if turn is not None:
        small = small.transpose(turn)
        size = size[::-1] if turn in _SIDEWAYS else size
    return Picture(to_srgb(small, profile), *size)


def _opened(container: Container, formats: tuple[str, ...], pixel_limit: int) -> tuple[Image.Image, tuple[int, int]]:
    """The picture before its pixels are decoded, and its full size."""
    image = Image.open(io.BytesIO(container.data), formats=formats)
    size = image.size
    check_size(size, pixel_limit)
    scale = max(size) // DECODED_SIDE
    if image.format == "JPEG" and scale > 1:
        image.draft(None, (size[0] // scale, size[1] // scale))
    return image, size


def _check_rows(image: Image.Image) -> None:
    """Raises RequestError ``broken_picture`` if too many of the lowest rows are as libjpeg fills what is missing."""
    rows = np.asarray(image).reshape(image.height, -1)
    present = np.flatnonzero((abs(rows.astype(np.int16) - 128) > 1).any(1))
    share = 1 - (int(present[-1]) + 1 if present.size else 0) / image.height
    if share > MAX_MISSING:
        raise cut_short(share)
