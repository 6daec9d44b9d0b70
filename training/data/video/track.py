"""Face track through a video, with its readings in every frame.

Faces are searched for once a second (to find newcomers) and where the face was lost; in between the mesh of one frame
says where the next frame's is read. Framing is the one of engine.portrait. Decides nothing.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.face_nets import Detection
from engine.portrait.face_reading import LOOKS, followed, read_face
from engine.portrait.framing import CONFIRMED, FACE_PIXELS, eye_centres, find_faces, presence, sharpness
from engine.portrait.landmarks import EYE_X, EYE_Y, Image, canonical_crop, measures, to_crop
from training.data.video.clips import LANDMARKS

Doubles = NDArray[np.float64]

SEARCH_EVERY = 25  # frames between two searches of the whole picture
SECOND_CONFIRMED = 0.9  # presence from which another face counts
FACE_BOX = (-0.45, -0.62, 0.45, 0.68)  # left, top, right, bottom of a usual head's face, -1..1


@dataclass(frozen=True, slots=True)
class Reading:
    """One frame. eyes: centres [2, 2], pixels of the picture, NaN without a face. face: probability that this is one.
    second: size of the largest other face relative to this one. yaw, pitch: of the head, radians. opening: of the
    lips, -1..1 units, from the lower lip's lower edge to the upper teeth. landmarks [20]: by clips.LANDMARKS, in the
    canonical framing, NaN without a face. sharpness: of engine.portrait.framing. light: what 5 %
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
    landmarks: Doubles


def table(readings: list[Reading]) -> dict[str, Doubles]:
    """Readings by name: eyes [n, 2, 2], landmarks [n, 20], everything else [n]."""
    return {f.name: np.array([getattr(r, f.name) for r in readings], np.float64) for f in fields(Reading)}


class FaceTracker:
    """Fed with every frame in turn."""

    def __init__(self) -> None:
        self._face: Detection | None = None
        self._second = 0.0
        self._since_search = SEARCH_EVERY
        self._patience = 1  # frames until the next search while there is no face; doubles
        self._before: Image | None = None

    def add(self, picture: Image, *, jumped: bool = False) -> Reading:
        """jumped: this frame looks like the first of another shot, so the face is searched for anew."""
        self._since_search += 1
        if jumped or self._since_search >= (SEARCH_EVERY if self._face is not None else self._patience):
            self._search(picture, jumped)
        reading = self._follow(picture)
        if reading.face < CONFIRMED and self._since_search and self._face is not None:
            self._search(picture, lost=True)
            reading = self._follow(picture)
        if reading.face < CONFIRMED:
            self._face = None
        self._before = picture
        return reading

    def _search(self, picture: Image, lost: bool) -> None:
        """Find all faces; follow the one that was followed, or the largest."""
        self._since_search = 0
        faces = [(face, presence(picture, face)) for face in find_faces(picture)]
        faces = [(face, sure) for face, sure in faces if sure >= CONFIRMED]
        if not faces:
            if lost:
                self._face = None
            self._second = 0.0
            self._patience = min(2 * self._patience, SEARCH_EVERY)
            return
        self._patience = 1
        before = None if lost else self._face
        main = max((face for face, _ in faces), key=lambda face: face.size * face.score)
        if before is not None:
            near = min((face for face, _ in faces), key=lambda face: _apart(face, before))
            main = near if _apart(near, before) < 0.5 * near.size else main
        others = [face for face, sure in faces if face is not main and sure > SECOND_CONFIRMED]
        self._second = max((face.size / main.size for face in others), default=0.0)
        if before is None or _apart(main, before) > 0.25 * main.size:
            self._face = main

    def _follow(self, picture: Image) -> Reading:
        if self._face is None:
            return _missing(self._second)
        face = read_face(picture, self._face, LOOKS[:2])
        found = followed(face)
        if face.presence < CONFIRMED or not 0.5 < found.size / self._face.size < 2:
            return _missing(self._second)
        self._face = found
        eyes = eye_centres(face)
        crop, affine = canonical_crop(picture, eyes)
        marks = measures(to_crop(face.points[:, :2], affine), crop)
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[FACE_PIXELS]
        return Reading(
            eyes=eyes,
            face=face.presence,
            second=self._second,
            yaw=face.yaw,
            pitch=face.pitch,
            opening=marks["th"] + marks["lt"],
            sharpness=sharpness(crop),
            light=float(np.percentile(grey, 95)) / 255,
            glare=float((grey >= 250).mean()),
            change=_change(picture, self._before, eyes),
            outside=outside(picture.shape, eyes, FACE_BOX),
            landmarks=np.array([marks[name] for name in LANDMARKS]),
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


def _apart(one: Detection, other: Detection) -> float:
    return float(np.hypot(*(one.centre - other.centre)))


def _missing(second: float) -> Reading:
    nan = float("nan")
    return Reading(
        eyes=np.full((2, 2), nan), face=0.0, second=second, yaw=nan, pitch=nan, opening=nan, sharpness=nan, light=nan,
        glare=nan, change=nan, outside=nan, landmarks=np.full(len(LANDMARKS), nan),
    )  # fmt: skip
