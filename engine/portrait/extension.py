"""Extension of a picture beyond its edge: its edge pixels continued outwards, the softer the further away.

Repeated pixels alone make streaks. Here they are blurred over a length that grows with the distance from the edge, so
that the backdrop goes on in its own colours and hair or shoulders that were cut off fade into it.
"""

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

SOFTNESS = 0.7  # standard deviation of the blur over the distance from the edge
LEVELS = 6  # blurred copies between which is interpolated; each is twice as soft as the one before


def extended(repeated: Image, known: npt.NDArray[np.bool_]) -> Image:
    """A picture uint8 [H, W, 3] whose unknown pixels repeat those of the edge, with a soft continuation in their place.

    known: [H, W], at least one pixel. Known pixels stay as they are.
    """
    distance = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5)
    level = np.log2(np.maximum(SOFTNESS * distance, 1.0))  # 0: as it is, n: a blur of 2^n pixels
    soft, weights = np.zeros(repeated.shape, np.float32), 0.0
    for number in range(LEVELS + 1):
        copy = repeated if number == 0 else _blurred(repeated, number)
        weight = np.clip(1 - np.abs(np.minimum(level, LEVELS) - number), 0, 1)[..., None].astype(np.float32)
        soft += weight * copy
        weights = weights + weight
    return np.where(known[..., None], repeated, np.round(soft / weights).astype(np.uint8))


def _blurred(picture: Image, level: int) -> npt.NDArray[np.float32]:
    """The picture with a blur of 2^level pixels, computed at a size where that is two pixels."""
    height, width = picture.shape[:2]
    size = (max(1, width >> (level - 1)), max(1, height >> (level - 1)))
    small = cv2.GaussianBlur(cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 2.0)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
