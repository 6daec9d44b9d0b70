"""Colour conversion of decoded pictures: 8 bit, by the embedded profile to sRGB, transparency over mid grey."""

import io

import numpy as np
from PIL import Image, ImageCms

from server.portraits.container import MAX_PROFILE

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}  # what a profile must be for to fit a mode
_GROUND = (128, 128, 128)  # shown through transparent places


def eight_bit(image: Image.Image) -> Image.Image:
    """The same picture in L, LA, RGB, RGBA or CMYK. Greys of 16 bit are scaled down rather than cut."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.float64)
        peak = 65535.0 if grey.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.clip(grey * (255.0 / peak), 0, 255).astype(np.uint8))
    if "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert({"1": "L", "PA": "RGBA"}.get(image.mode, "RGB"))


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB, opaque, in sRGB. A profile that cannot be read or is for another colour space than the pixels is ignored."""
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    opaque = image if alpha is None else image.convert(image.mode.removesuffix("A"))
    colours = _converted(opaque, profile) or opaque.convert("RGB")
    if alpha is None:
        return colours
    return Image.composite(colours, Image.new("RGB", image.size, _GROUND), alpha)


def _converted(image: Image.Image, profile: bytes) -> Image.Image | None:
    if not 128 < len(profile) <= MAX_PROFILE or profile[16:20] != _SPACES.get(image.mode):
        return None
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
