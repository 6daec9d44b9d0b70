"""Limits on pictures: size of the file, pixels, formats. The numbers are those of the settings."""

from importlib.util import find_spec

from ground.errors import RequestError
from server.settings import Settings

FORMATS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "AVIF": "AVIF"}  # by Pillow's name
if find_spec("pillow_heif") is not None:
    FORMATS["HEIF"] = "HEIC"
MEDIA_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS.values())
JPEG_FACTOR = 6  # a JPEG is decoded at a reduced size, so it may have this many times the pixels
MIN_SIDE = 64
DEFAULT_PIXELS: int = Settings.model_fields["max_portrait_pixels"].default


def check_bytes(size: int, settings: Settings) -> None:
    """Raises RequestError ``picture_too_large`` for a file of too many bytes."""
    if size > settings.max_portrait_bytes:
        limit = f"{settings.max_portrait_bytes / 2**20:.3g} MiB"
        raise RequestError(
            "picture_too_large",
            f"the file is larger than {limit}: send the picture smaller, 2000 pixels a side are plenty",
            status=413,
            param="file",
        )


def check_size(size: tuple[int, int], pixel_limit: int) -> None:
    """size: width and height. Raises RequestError ``picture_too_large`` or ``picture_too_small``."""
    if size[0] * size[1] > pixel_limit:
        raise too_many_pixels(pixel_limit)
    if min(size) < MIN_SIDE:
        raise RequestError("picture_too_small", "the picture is too small to show a face", param="file")


def too_many_pixels(pixel_limit: int) -> RequestError:
    """The refusal of a picture with more pixels than that."""
    limit = f"{pixel_limit / 1e6:.3g} megapixels"
    return RequestError(
        "picture_too_large",
        f"the picture has more than {limit}: send it smaller, 2000 pixels a side are plenty",
        param="file",
    )


def unsupported() -> RequestError:
    """The refusal of a file in another format."""
    *most, last = FORMATS.values()
    formats = f"{', '.join(most)} or {last}"
    return RequestError("unsupported_picture", f"send a {formats} picture", status=415, param="file")
