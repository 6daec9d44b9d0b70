"""Pictures encoded and compared."""

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def colour_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean CIE76 difference of two RGB pictures in sRGB."""
    labs = [cv2.cvtColor(np.float32(picture) / 255, cv2.COLOR_RGB2LAB) for picture in (one, other)]
    return float(np.linalg.norm(labs[0] - labs[1], axis=2).mean())
