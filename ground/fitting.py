"""Letterboxing of a portrait into another aspect ratio, with bars that repeat its edge pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray


def fit_picture(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Scale a picture (uint8 RGB of any size) to fit into [height, width, 3], centred. Its edge pixels fill the
    bars."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = (min(width, max(1, round(rgb.shape[1] * scale))), min(height, max(1, round(rgb.shape[0] * scale))))
    scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    drawn_out = cv2.copyMakeBorder(
        scaled, top, height - size[1] - top, left, width - size[0] - left, cv2.BORDER_REPLICATE
    )
    return np.asarray(drawn_out, np.uint8)
