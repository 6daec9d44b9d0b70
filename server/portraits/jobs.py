"""Messages between the gateway and the picture process: one request, one reply."""

import msgspec


class FrameRequest(msgspec.Struct, frozen=True):
    picture: bytes
    max_pixels: int


class FrameReply(msgspec.Struct, frozen=True, kw_only=True):
    """Either ``code`` and ``message``, or the rest. framed: RGB bytes, height x width x 3. width, height: of the
    upload, upright. source: the upload re-encoded as JPEG, without metadata. preview: the crop as JPEG. crop: affine
    2x3 from the upload's pixels to the crop's. outlines: contours (x, y) in 0..1 of the crop."""

    code: str = ""
    message: str = ""
    status: int = 422
    width: int = 0
    height: int = 0
    framed: bytes = b""
    framed_width: int = 0
    framed_height: int = 0
    source: bytes = b""
    preview: bytes = b""
    landmarks: dict[str, float] = {}
    confidence: float = 0.0
    warnings: list[str] = []
    crop: list[list[float]] = []
    outlines: dict[str, list[tuple[float, float]]] = {}
