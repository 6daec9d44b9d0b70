"""Painting primitives: pixel grid in picture units, soft-edged masks, bumps, strokes, noise.

Units are those of the landmarks: -1..1, x right, y down, 160 pixels. Colours are linear light (the square of what is
stored). Knows no faces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIZE = 320
UNIT = SIZE / 2  # pixels a unit
_CENTRES = ((np.arange(SIZE, dtype=np.float32) + 0.5) / np.float32(UNIT) - 1).astype(np.float32)
X: Floats = np.tile(_CENTRES[None, :], (SIZE, 1))
Y: Floats = np.tile(_CENTRES[:, None], (1, SIZE))
_SHIFT = 4  # fractional bits of OpenCV's polygons


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the picture: its slices and its part of the grid."""

    rows: slice
    columns: slice

    @property
    def x(self) -> Floats:
        return X[self.rows, self.columns]

    @property
    def y(self) -> Floats:
        return Y[self.rows, self.columns]

    def of(self, picture: Floats) -> Floats:
        """The view of a picture [320, 320, ...] this box shows."""
        return picture[self.rows, self.columns]


def box(x: float, y: float, half_width: float, half_height: float) -> Box:
    """The box around a place; parts beyond the picture are left out."""

    def span(centre: float, half: float) -> slice:
        low, high = int((centre - half + 1) * UNIT), int((centre + half + 1) * UNIT) + 1
        return slice(min(max(low, 0), SIZE - 1), max(min(high, SIZE), 1))

    return Box(span(y, half_height), span(x, half_width))


def cover(inside: Floats, soft: float = 1.0) -> Floats:
    """Cover 0..1 of a pixel that lies ``inside`` units within an edge; ``soft`` is the edge's width in pixels."""
    return np.asarray(np.clip(inside * np.float32(UNIT / soft) + np.float32(0.5), 0, 1), np.float32)


def lay(picture: Floats, colour: Floats | Sequence[float], amount: Floats) -> None:
    """Lay a colour ([3] or a picture) over a picture [h, w, 3] in place; amount [h, w] is 0..1."""
    where = _touched(amount)
    colour = np.asarray(colour, np.float32)
    if colour.ndim == 3:
        colour = colour[where]
    picture[where] += (colour - picture[where]) * amount[where][..., None]


def shade(picture: Floats, amount: Floats) -> None:
    """Darken a picture in place: 0 leaves it, 1 makes it black."""
    where = _touched(amount)
    picture[where] *= (1 - amount[where])[..., None]


def _touched(amount: Floats) -> tuple[slice, slice]:
    """The smallest rectangle that holds all of a mask: most masks are small."""
    rows, columns = np.flatnonzero(amount.max(1) > 0.002), np.flatnonzero(amount.max(0) > 0.002)
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def lowered(mask: Floats, down: int, right: int = 0) -> Floats:
    """A mask shifted by whole pixels, its edge repeated: where it throws a shadow."""
    shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return np.asarray(cv2.warpAffine(mask, shift, mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE), np.float32)


def polygon(points: NDArray[np.floating]) -> Floats:
    """Cover [320, 320] of a closed shape through points [n, 2] in units."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [_fixed(points)], 255, cv2.LINE_AA, _SHIFT)
    return mask.astype(np.float32) / np.float32(255)


def stroke(points: NDArray[np.floating], width: float = 1.0, blur: float = 1.0) -> Floats:
    """Cover [320, 320] of a line through points [n, 2]; width and blur in pixels; 1 in its middle when wide."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, [_fixed(points)], False, 255, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    return soften(mask.astype(np.float32) / np.float32(255), blur)


def _fixed(points: NDArray[np.floating]) -> NDArray[np.int32]:
    return np.asarray(np.round(((points + 1) * UNIT - 0.5) * 2**_SHIFT), np.int32)


def soften(mask: Floats, pixels: float) -> Floats:
    """A Gaussian blur; wide ones on a smaller picture, where they cost little."""
    if pixels <= 0.3:
        return mask
    if pixels < 5:
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), pixels), np.float32)
    small = cv2.resize(mask, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), pixels / 4)
    return np.asarray(cv2.resize(small, mask.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def bell(x: Floats, y: Floats, at: tuple[float, float], size: tuple[float, float], turn: float = 0.0) -> Floats:
    """A Gaussian hill of height 1: ``size`` holds its two standard deviations, ``turn`` its angle in radians."""
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    if turn:
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    return np.exp(-0.5 * ((dx / np.float32(size[0])) ** 2 + (dy / np.float32(size[1])) ** 2), dtype=np.float32)


def add_bell(
    height: Floats, at: tuple[float, float], size: tuple[float, float], amount: float, turn: float = 0.0
) -> None:
    """Add a hill to a map in place, only where it is felt."""
    reach = 3.2 * max(size) if turn else 0.0
    part = box(*at, reach or 3.2 * size[0], reach or 3.2 * size[1])
    part.of(height)[:] += np.float32(amount) * bell(part.x, part.y, at, size, turn)


def curve(points: Sequence[tuple[float, float]], count: int = 12, closed: bool = False) -> NDArray[np.float64]:
    """A smooth line (Catmull-Rom) through points: ``count`` places for each of its pieces."""
    given = np.asarray(points, np.float64)
    if closed:
        padded = np.concatenate([given[-1:], given, given[:2]])
    else:
        padded = np.concatenate([2 * given[:1] - given[1:2], given, 2 * given[-1:] - given[-2:-1]])
    t = np.linspace(0, 1, count, endpoint=False)[:, None, None]
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    places = line.transpose(1, 0, 2).reshape(-1, 2)
    return places if closed else np.concatenate([places, given[-1:]])


def noise(rng: np.random.Generator, cells: tuple[int, int], shape: tuple[int, int] = (SIZE, SIZE)) -> Floats:
    """Smooth noise of unit variance with so many cells (down, across)."""
    grains = rng.standard_normal(cells, dtype=np.float32)
    return np.asarray(cv2.resize(grains, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def strands(rng: np.random.Generator, across: Floats, along: Floats, fine: float = 1.0) -> Floats:
    """Hair: noise of about unit variance that changes fast ``across`` and slowly ``along`` (both in units)."""
    sheet = noise(rng, (12, 640), (96, 640)) + 1.2 * noise(rng, (8, 130), (96, 640)) + noise(rng, (4, 40), (96, 640))
    columns = np.asarray((across * np.float32(150 * fine)) % 639, np.float32)
    rows = np.asarray((along * 22) % 95, np.float32)
    return np.asarray(cv2.remap(sheet, columns, rows, cv2.INTER_LINEAR), np.float32) / np.float32(1.8)


def linear(*stored: float) -> Floats:
    """A colour as one names it, 0..255, in linear light."""
    return np.square(np.asarray(stored, np.float32) / 255)
