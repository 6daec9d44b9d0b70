"""Face track through a video, with its readings in every frame.

Faces are searched for once a second (to find newcomers) and where the face was lost; between, the eyes are followed by
the last stages of the landmark cascade. Framing is the one of engine.landmarks. Decides nothing.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.framing import FACE_CONFIRMED, FACE_PIXELS, SECOND_CONFIRMED, FaceCandidate, find_faces, sharpness
from engine.portrait.landmarks import CROP, EYE_X, EYE_Y, LandmarkEstimator, canonical_crop, default_estimator
from engine.portrait.patches import Image
from training.data.video.turn import TurnEstimator, default_turn_estimator

Doubles = NDArray[np.float64]

SEARCH_EVERY = 25  # frames between two searches of the whole picture
FOLLOW_FROM = 2  # stage of the cascade from which the eyes of the frame before are improved
FAR = 0.12  # eye distances the eyes may move in one frame before the crop is cut anew
CANONICAL = (np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]]) + 1) * (CROP / 2) - 0.5  # eye places in a crop, pixels
FACE_BOX = (-0.45, -0.62, 0.45, 0.68)  # left, top, right, bottom of a usual head's face, -1..1


@dataclass(frozen=True, slots=True)
class Reading:
    """One frame. eyes: centres [2, 2], pixels of the picture, NaN without a face. face: probability that this is one.
    second: size of the largest other face relative to this one. yaw, pitch: training.data.video.turn. opening: of the
    lips, -1..1 units, from the lower lip's lower edge to the upper teeth. sharpness: of engine.framing. light: what 5 %
    of the face exceed in brightness; glare: share of it that is burnt out, 0..1. change: mean difference from the frame
    before about the face, grey levels. outside: share of the face's box beyond the picture's edge."""

    eyes: Doubles
    face: float
    second: float
    yaw: float
    pitch: float
    opening: float
    sharpness: float
    light: float
    glare: float
    change: float
    outside: float


def table(readings: list[Reading]) -> dict[str, Doubles]:
    """Readings by name: eyes [n, 2, 2], everything else [n]."""
    return {f.name: np.array([getattr(r, f.name) for r in readings], np.float64) for f in fields(Reading)}


class FaceTracker:
    """Fed with every frame in turn."""

    def __init__(self) -> None:
        self._landmarks: LandmarkEstimator = default_estimator()
        self._turn: TurnEstimator = default_turn_estimator()
        self._eyes: Doubles | None = None
        self._second = 0.0
        self._since_search = SEARCH_EVERY
        self._patience = 1  # frames until the next search while there is no face; doubles
        self._before: Image | None = None

    def add(self, picture: Image, *, jumped: bool = False) -> Reading:
        """jumped: this frame looks like the first of another shot, so the face is searched for anew."""
        self._since_search += 1
        if jumped or self._since_search >= (SEARCH_EVERY if self._eyes is not None else self._patience):
            self._search(picture, jumped)
        reading = self._follow(picture)
        if reading.face < FACE_CONFIRMED and self._since_search and self._eyes is not None:
            self._search(picture, lost=True)
            reading = self._follow(picture)
        if reading.face < FACE_CONFIRMED:
            self._eyes = None
        self._before = picture
        return reading

    def _search(self, picture: Image, lost: bool) -> None:
        """Find all faces; follow the one that was followed, or the largest."""
        self._since_search = 0
        faces = find_faces(picture, self._landmarks)
        if not faces:
            if lost:
                self._eyes = None
            self._second = 0.0
            self._patience = min(2 * self._patience, SEARCH_EVERY)
            return
        self._patience = 1
        before = None if lost else self._eyes
        main = max(faces, key=lambda face: face.distance * face.probability)
        if before is not None:
            near = min(faces, key=lambda face: _apart(face, before))
            main = near if _apart(near, before) < near.distance else main
        others = [face for face in faces if face is not main and face.probability > SECOND_CONFIRMED]
        self._second = max((face.distance / main.distance for face in others), default=0.0)
        if before is None or _apart(main, before) > 0.5 * main.distance:
            self._eyes = main.eyes

    def _follow(self, picture: Image) -> Reading:
        if self._eyes is None:
            return _missing(self._second)
        crop, eyes, seen = self._aligned(picture, self._eyes)
        if np.abs(seen - CANONICAL).max() > FAR * 2 * EYE_X * CROP / 2:
            crop, eyes, seen = self._aligned(picture, eyes)
        distance, before = (float(np.hypot(*(e[1] - e[0]))) for e in (eyes, self._eyes))
        if not 0.7 < distance / before < 1.4:
            return _missing(self._second)
        self._eyes = eyes
        return self._read(picture, crop, eyes)

    def _aligned(self, picture: Image, near: Doubles) -> tuple[Image, Doubles, Doubles]:
        """Crop about rough eyes, the eyes in the picture, and in that crop."""
        crop, affine = canonical_crop(picture, near)
        seen = self._landmarks.align(crop, CANONICAL, FOLLOW_FROM)
        linear = affine[:, :2].astype(np.float64)
        return crop, np.asarray((seen - affine[:, 2]) @ np.linalg.inv(linear).T), seen

    def _read(self, picture: Image, crop: Image, eyes: Doubles) -> Reading:
        marks = self._landmarks.read(crop)
        yaw, pitch = self._turn.read(crop)
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[FACE_PIXELS]
        return Reading(
            eyes=eyes,
            face=self._landmarks.judge(crop, "face"),
            second=self._second,
            yaw=yaw,
            pitch=pitch,
            opening=marks["th"] + marks["lt"],
            sharpness=sharpness(crop),
            light=float(np.percentile(grey, 95)) / 255,
            glare=float((grey >= 250).mean()),
            change=_change(picture, self._before, eyes),
            outside=outside(picture.shape, eyes, FACE_BOX),
        )


def outside(shape: tuple[int, ...], eyes: Doubles, box: tuple[float, float, float, float]) -> float:
    """Share of a box, given in -1..1 units of the canonical framing, that lies beyond the picture's edge."""
    across = (eyes[1] - eyes[0]) / (2 * EYE_X)
    down = np.array([-across[1], across[0]])
    x, y = np.meshgrid(np.linspace(box[0], box[2], 24), np.linspace(box[1], box[3], 24))
    points = eyes.mean(0) + x[..., None] * across + (y - EYE_Y)[..., None] * down
    inside = ((points > -1) & (points < np.array(shape[1::-1]))).all(-1)
    return 1 - float(inside.mean())


def _change(picture: Image, before: Image | None, eyes: Doubles) -> float:
    """Mean difference of the same pixels about the face from the frame before, grey levels; 255 without one."""
    middle, reach = eyes.mean(0), float(np.hypot(*(eyes[1] - eyes[0])))
    left, top = np.maximum(middle - (reach, 0.8 * reach), 0).astype(int)
    right, bottom = (middle + (reach, 1.8 * reach)).astype(int)
    part = picture[top:bottom, left:right]
    if before is None or before.shape != picture.shape or not part.size:
        return 255.0
    return float(cv2.absdiff(part, before[top:bottom, left:right]).mean())


def _apart(face: FaceCandidate, eyes: Doubles) -> float:
    return float(np.hypot(*(face.eyes.mean(0) - eyes.mean(0))))


def _missing(second: float) -> Reading:
    nan = float("nan")
    return Reading(
        eyes=np.full((2, 2), nan), face=0.0, second=second, yaw=nan, pitch=nan, opening=nan, sharpness=nan, light=nan,
        glare=nan, change=nan, outside=nan,
    )  # fmt: skip
