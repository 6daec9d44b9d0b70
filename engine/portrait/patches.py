"""Patch descriptors of a face: histograms of gradients and a small tone map of a window.

Coordinates are -1..1 in the crop, x right, y down. Needs numpy and OpenCV; independent of landmarks.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Patch:
    """A window on the crop: centre and half sizes in -1..1 units, size in pixels (multiples of 8)."""

    x: float
    y: float
    half_width: float
    half_height: float
    width: int
    height: int
    thumbnail: tuple[int, int] = (0, 0)  # width, height of the tone map added to the gradients

    def scaled(self, scale: float) -> "Patch":
        """The patch with the same pixels, and its window and offset multiplied by a factor."""
        width, height = scale * self.half_width, scale * self.half_height
        return replace(self, x=scale * self.x, y=scale * self.y, half_width=width, half_height=height)


def describe(crop: Image, patch: Patch, at: tuple[float, float] = (0.0, 0.0), angle: float = 0.0) -> Floats:
    """Descriptor [d] of a patch of a crop [S, S, 3]: gradient histograms and a small tone map.

    at: offset added to the patch's centre, in -1..1 units. angle: rotation of the patch about its middle, in radians,
    clockwise in the picture.
    """
    side = crop.shape[0] / 2
    across, down = 2 * patch.half_width * side / patch.width, 2 * patch.half_height * side / patch.height
    source = cv2.blur(crop, (2, 2)) if across > 1 / 0.7 else crop
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos * across, -sin * down], [sin * across, cos * down]])
    middle = np.array([at[0] + patch.x + 1, at[1] + patch.y + 1]) * side - 0.5
    place = np.column_stack([turn, middle - turn @ ((patch.width - 1) / 2, (patch.height - 1) / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(source, place, (patch.width, patch.height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    gradients = np.asarray(_hog(patch.width, patch.height).compute(view), np.float32).ravel()
    if not patch.thumbnail[0]:
        return gradients
    small = cv2.resize(view, patch.thumbnail, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small.mean(2)
    tone = (grey - grey.mean()) / (grey.std() + 8)
    red = (small[..., 0] - small[..., 1]) / (small[..., 0] + small[..., 1] + 16)
    return np.concatenate([gradients, 0.15 * tone.ravel(), 1.5 * (red - red.mean()).ravel()]).astype(np.float32)


@lru_cache(maxsize=8)
def _hog(width: int, height: int) -> "cv2.HOGDescriptor":
    return cv2.HOGDescriptor((width, height), (16, 16), (8, 8), (8, 8), 9)
