"""Contact sheets: rows of pictures under captions, with landmarks drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ground.files import replacing

Image = NDArray[np.uint8]

FORMATS = (".png", ".jpg")
BAND = 22  # height of a caption, pixels
PAPER, INK = (246, 245, 242), (40, 40, 44)
LINES = {"face": (90, 170, 255), "mouth": (255, 90, 110), "eyes": (60, 220, 160), "brows": (250, 200, 60)}


def sheet(rows: Sequence[Sequence[Image]], captions: Sequence[Sequence[str]] | Sequence[str]) -> Image:
    """Rows of RGB pictures of one size; captions one row for all, or one for each picture; short rows are filled up."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    each = bool(captions) and not isinstance(captions[0], str)
    tall = height + BAND if each else height
    top = 0 if each or not captions else BAND
    out: Image = np.full((top + tall * len(rows), width * columns, 3), PAPER, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = top + r * tall, c * width
            out[y + tall - height : y + tall, x : x + width] = picture
            if each:
                _write(out, str(captions[r][c]), x, y)
    if top:
        for c, words in enumerate(captions):
            _write(out, str(words), c * width, 0)
    return out


def _write(picture: Image, words: str, x: int, y: int) -> None:
    cv2.putText(picture, words, (x + 5, y + BAND - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


def marked(picture: Image, landmarks: Mapping[str, float], size: int = 512) -> Image:
    """A copy of a portrait, enlarged, with its landmarks as the rig understands them."""
    out = np.ascontiguousarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    mark = {"mtilt": 0.0, **landmarks}
    turn = np.linspace(0, 2 * np.pi, 73)
    ellipse = np.stack([np.cos(turn), np.sin(turn)], 1)
    _line(out, ellipse * (mark["rx"], mark["ry"]) + (mark["cx"], mark["cy"]), "face")
    u = np.linspace(-1, 1, 41)
    p = np.clip(1 - u * u, 0, 1) ** 0.75
    x, middle = mark["mx"] + u * mark["mw"], mark["my"] + mark["curve"] * u * u + mark["mtilt"] * u
    for offset in (0 * p, -mark["th"] * p, mark["lt"] * p, -(mark["th"] + mark["ut"]) * p):
        _line(out, np.stack([x, middle + offset], 1), "mouth")
    for side in "lr":
        centre = (mark["ex" + side], mark["ey" + side])
        _line(out, ellipse * (mark["ea"], mark["eb"]) + centre, "eyes")
        across = np.array([[-0.09, 0.0], [0.09, 0.0]]) + centre - (0.0, mark["bh"])
        _line(out, across, "brows")
    return out


def _line(picture: Image, points: NDArray[np.floating], what: str) -> None:
    pixels = (points + 1) * (picture.shape[0] / 2) - 0.5
    cv2.polylines(picture, [np.round(pixels * 16).astype(np.int32)], False, LINES[what], 1, cv2.LINE_AA, 4)


def encoded(picture: Image, suffix: str) -> bytes:
    """An RGB picture as a file of one of FORMATS."""
    return cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()


def write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as draft:
        draft.write_bytes(data)
