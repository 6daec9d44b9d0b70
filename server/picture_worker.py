"""A process of its own that opens strangers' pictures: decode, orient, find the face, crop, re-encode. Started by name.

Speaks length-prefixed msgpack on stdin and stdout. Its memory is capped, and a picture that kills it costs one upload, not the
server. Knows no ids, owners or files.
"""

import io
import resource
import struct
import sys
import warnings
from typing import BinaryIO

import msgspec
import numpy as np
from PIL import Image, ImageOps

from engine.errors import AvatarError, RequestError
from engine.framing import frame_portrait
from server.picture_messages import FrameReply, FrameRequest

FORMATS = ("JPEG", "PNG", "WEBP")
MEMORY_LIMIT = 2 * 2**30
KEPT_SIDE = 1280  # pixels of the longer side that are kept for a later, finer framing
MIN_SIDE = 64
_LENGTH = struct.Struct("<I")


def frame_picture(request: FrameRequest) -> FrameReply:
    """Do it all; what is wrong with the picture comes back as code and message."""
    try:
        return _framed(request)
    except AvatarError as error:
        return FrameReply(code=error.code, message=error.message, status=error.status)


def _framed(request: FrameRequest) -> FrameReply:
    picture = _decode(request.picture, request.max_pixels)
    width, height = picture.size
    if max(picture.size) > KEPT_SIDE:
        picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    scale = max(width, height) / max(picture.size)
    framed = frame_portrait(np.asarray(picture))
    crop = np.asarray(framed.crop, np.float64).reshape(2, 3).copy()
    crop[:, :2] /= scale  # from the upload's own pixels to the crop's
    return FrameReply(
        width=width,
        height=height,
        framed=np.ascontiguousarray(framed.rgb, np.uint8).tobytes(),
        framed_width=framed.rgb.shape[1],
        framed_height=framed.rgb.shape[0],
        source=_jpeg(picture, 92),
        preview=_jpeg(Image.fromarray(framed.rgb), 88),
        landmarks={name: float(value) for name, value in framed.landmarks.items()},
        confidence=float(framed.confidence),
        warnings=[str(warning) for warning in framed.warnings],
        crop=crop.tolist(),
    )


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """The first picture in the file, upright, RGB. Nothing but pixels is taken over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: the cap below is ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise RequestError(
                        "picture_too_large", f"the picture has more than {max_pixels // 1_000_000} megapixels", param="file"
                    )
                if min(width, height) < MIN_SIDE:
                    raise RequestError("picture_too_small", "the picture is too small to show a face", param="file")
                upright = ImageOps.exif_transpose(image)
                return _opaque(upright)
    except Image.UnidentifiedImageError as error:
        raise RequestError(
            "unsupported_picture", "send a JPEG, PNG or WebP picture", status=415, param="file"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise RequestError("broken_picture", "the picture is damaged or cut short", param="file") from error


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


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    clean = Image.frombytes("RGB", picture.size, picture.tobytes())  # a new object: no EXIF, ICC or comment can follow
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=quality, optimize=False)
    return out.getvalue()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decoder = msgspec.msgpack.Decoder(FrameRequest)
    while (body := _read(sys.stdin.buffer)) is not None:
        answer = msgspec.msgpack.encode(frame_picture(decoder.decode(body)))
        sys.stdout.buffer.write(_LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    body = stream.read(_LENGTH.unpack(head)[0])
    return body or None


if __name__ == "__main__":
    main()
