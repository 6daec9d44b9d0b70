"""Picture process: decodes strangers' pictures, finds the face, crops, re-encodes. Started as a module.

Speaks length-prefixed msgpack on stdin and stdout. Its memory is capped, and a picture that kills it costs one upload,
not the server. Knows no ids, owners or files.
"""

import io
import resource
import struct
import sys
from typing import BinaryIO

import msgspec
import numpy as np
from PIL import Image

from ground.errors import AvatarError
from server.portraits.jobs import FrameReply, FrameRequest
from server.portraits.reader import decode_picture, frame_picture

MEMORY_LIMIT = 2 * 2**30
_LENGTH = struct.Struct("<I")


def answer(request: FrameRequest) -> FrameReply:
    """Reply to one request. An unusable picture gives a code and a message."""
    try:
        picture = decode_picture(request.picture, request.max_pixels)
        framed = frame_picture(picture)
    except AvatarError as error:
        return FrameReply(code=error.code, message=error.message, status=error.status)
    return FrameReply(
        width=picture.width,
        height=picture.height,
        framed=np.ascontiguousarray(framed.rgb, np.uint8).tobytes(),
        framed_width=framed.rgb.shape[1],
        framed_height=framed.rgb.shape[0],
        source=_jpeg(picture.image, 92),
        preview=_jpeg(Image.fromarray(framed.rgb), 88),
        landmarks={name: float(value) for name, value in framed.landmarks.items()},
        confidence=float(framed.confidence),
        warnings=list(framed.warnings),
        crop=framed.crop.tolist(),
        outlines=framed.outlines,
    )


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    clean = Image.frombytes("RGB", picture.size, picture.tobytes())  # a new object: no EXIF, ICC or comment can follow
    out = io.BytesIO()
    clean.save(out, "JPEG", quality=quality)
    return out.getvalue()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decoder = msgspec.msgpack.Decoder(FrameRequest)
    while (body := _read(sys.stdin.buffer)) is not None:
        reply = msgspec.msgpack.encode(answer(decoder.decode(body)))
        sys.stdout.buffer.write(_LENGTH.pack(len(reply)) + reply)
        sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return stream.read(_LENGTH.unpack(head)[0]) or None


if __name__ == "__main__":
    main()
