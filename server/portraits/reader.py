"""A picture file to a framed portrait: JPEG, PNG or WebP and nothing else, upright, opaque, pixels only.

The one way in for an upload and for ``animate``. Runs in a process of its own for strangers' files
(server/portraits/worker.py).
"""

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.portrait.framing import FramedPortrait, frame_given, frame_portrait
from ground.errors import RequestError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 25_000_000
KEPT_SIDE = 1280  # pixels of the longer side that are looked at, and kept for a later, finer framing
MIN_SIDE = 64
FRAMED_SIDE = 512  # of the crop that is kept, as the largest preset shows it; a codec scales it to its own


def read_portrait(data: bytes, landmarks: Mapping[str, float] | None = None) -> FramedPortrait:
    """Decode and frame. Raises RequestError for a file that is no picture, or shows no one face."""
    return frame_picture(decode_picture(data), landmarks)


def decode_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first picture in the file, upright, RGB. Nothing but pixels is taken over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: the cap below is ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, max_pixels)
                return _opaque(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise RequestError(
            "unsupported_picture", "send a JPEG, PNG or WebP picture", status=415, param="file"
        ) from error
    except Image.DecompressionBombError as error:  # so far above any cap that Pillow itself gives up
        raise _too_large(max_pixels) from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise RequestError("broken_picture", "the picture is damaged or cut short", param="file") from error


def shrunk(picture: Image.Image) -> Image.Image:
    """At most ``KEPT_SIDE`` on the longer side."""
    small = picture.copy()
    small.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    return small


def frame_picture(picture: Image.Image, landmarks: Mapping[str, float] | None = None) -> FramedPortrait:
    """Find the face on a picture that is shrunk first, or place it by ``landmarks``; the crop is given in the picture's
    own pixels."""
    small = shrunk(picture)
    pixels = np.asarray(small)
    if landmarks is None:
        framed = frame_portrait(pixels, size=FRAMED_SIDE)
    else:
        framed = frame_given(pixels, landmarks, size=FRAMED_SIDE)
    crop = framed.crop.copy()
    crop[:, :2] *= max(small.size) / max(picture.size)
    return replace(framed, crop=crop)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise _too_large(max_pixels)
    if min(size) < MIN_SIDE:
        raise RequestError("picture_too_small", "the picture is too small to show a face", param="file")


def _too_large(max_pixels: int) -> RequestError:
    megapixels = max_pixels // 1_000_000
    return RequestError("picture_too_large", f"the picture has more than {megapixels} megapixels", param="file")


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, transparency over mid grey, 16 bit greys scaled down rather than cut."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.float64)
        peak = 65535.0 if grey.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(grey * (255.0 / peak), 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (128, 128, 128, 255))
        image = Image.alpha_composite(ground, layer)
    return image.convert("RGB")
