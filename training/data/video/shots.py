"""Shot boundary detection: frames unlike the one before and like the one after.

Compares very small copies, so heads may move; a flash of one or two frames is no cut, a jump within one scene is.
Fades are not looked for: what they do to a face is found by tracking it. Knows no faces.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

THUMB = (32, 18)  # width, height
NEAR = 3  # frames looked at on either side
CUT = 0.08  # mean difference of two small copies, 0..1, that is always a cut
JUMP, TIMES = 0.012, 8.0  # and one that is a cut where it is so many times what is usual around it
AROUND = 12  # frames on either side
CALM = 0.0012  # what is usual is never taken to be less


class ShotDetector:
    """Fed with every frame in turn; what it keeps grows by two numbers a frame."""

    def __init__(self) -> None:
        self._recent: list[Floats] = []
        self._scores: list[float] = []  # of frame 1 on, as far as the frames after it are known
        self._steps: list[float] = []

    def add(self, picture: NDArray[np.uint8]) -> bool:
        """Whether this frame at once looks like the first of another shot."""
        thumb = np.float32(1 / 255) * cv2.resize(picture, THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        self._recent.append(thumb)
        if len(self._recent) == 1:
            return False
        self._steps.append(_difference(self._recent[-2], thumb))
        if len(self._steps) >= NEAR:
            self._scores.append(self._score(len(self._recent) - NEAR))
        del self._recent[: -2 * NEAR + 1]
        return self._steps[-1] > CUT

    def shots(self) -> list[tuple[int, int]]:
        """First frame and the one after the last of every shot. Ends the feeding."""
        count = len(self._steps) + 1 if self._recent else 0
        scores = [*self._scores]
        for number in range(len(scores) + 1, count):
            scores.append(self._score(len(self._recent) - (count - number)))
        steps = np.array(self._steps)
        cuts = [0]
        for number, score in enumerate(scores, 1):
            near = np.delete(steps[max(0, number - 1 - AROUND) : number + AROUND], min(number - 1, AROUND))
            usual = max(CALM, float(np.median(near)) if len(near) else 0.0)
            if score > CUT or (score > JUMP and score > TIMES * usual):
                cuts.append(number)
        return [(a, b) for a, b in zip(cuts, [*cuts[1:], count], strict=True) if b > a]

    def _score(self, at: int) -> float:
        """How unlike the frames from `at` on are to those before it: the least difference of any pair."""
        before, after = self._recent[max(0, at - NEAR) : at], self._recent[at : at + NEAR]
        return min(_difference(a, b) for a in before for b in after)


def _difference(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).mean())
