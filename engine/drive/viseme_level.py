"""Gain of a call's lip motion, which undoes the shrinkage of a regression on voices that it is unsure of.

The level follows what the call itself has said so far, so it needs no look-ahead; with a new worker it begins anew. One
number of it belongs to the shipped transformer, `PASSED_ON`. Knows no clock.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ground.motion import INDEX, SCALES
from models.encoders.visemes import LEVELLED

_JAW = SCALES[INDEX["jaw"]]
# Of the jaw over its scale, in frames where it is open. The corpus's sessions, whose lips are known, have a root mean
# square of 0.318 and differ by 8 %; a call's lips go with those that move furthest, since in a picture a small opening
# is lost beside the head's motion.
USUAL = 0.34 / _JAW
OPEN = 0.05 / _JAW
PASSED_ON = 0.6  # of a level's logarithm that the shipped transformer's lips take over, of a voice that lacks most
LIMIT = 1.6  # what is passed on grows beyond the 1.3 that clips are trained with (training.dataset.ClipConfig)
PRIOR = 50  # frames of the usual that a call begins with, two seconds
MEMORY = 1500  # frames, a minute of open jaws


class VisemeLevel:
    """One call's. Louder lips than the usual stay as they are."""

    def __init__(self) -> None:
        self._frames, self._squares = float(PRIOR), PRIOR * USUAL**2

    def __call__(self, visemes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next frames' visemes [T, VISEMES], each by the level that its call has reached with it."""
        return visemes * np.array([self._after(float(jaw)) for jaw in visemes[:, 0]], np.float32)[:, None] ** LEVELLED

    def _after(self, jaw: float) -> float:
        if jaw > OPEN:
            kept = 1 - 1 / MEMORY
            self._frames, self._squares = kept * self._frames + 1, kept * self._squares + jaw**2
        lacking = USUAL * math.sqrt(self._frames / self._squares)
        return min(max(1.0, math.pow(lacking, 1 / PASSED_ON)), LIMIT)
