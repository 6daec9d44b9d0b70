"""A framed portrait as codecs take it: pixels, landmarks, and trust in the landmarks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Portrait:
    """A photograph of one face in the canonical framing, and where its features are.

    rgb: uint8 [S, S, 3]; eyes level, 0.211 of the width apart, at 0.454 of the height. landmarks: positions and sizes
    in -1..1 picture units (x right, y down). confidence: 0..1, about the chance that the mouth's corners lie within
    1.5 % of the width of where the landmarks say.
    """

    rgb: npt.NDArray[np.uint8]
    landmarks: dict[str, float]
    confidence: float = 1.0
