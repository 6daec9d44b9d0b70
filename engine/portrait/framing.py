"""Portrait framing: face detection, verification, the canonical crop, and landmarks.

Candidates come from OpenCV's face cascades; if these find no face, likely places in the upper middle are tried. A
candidate counts as a face only if its eyes were found and the aligned crop is classified as a face. Uploads, the
command line and training all use this module. Needs only numpy, OpenCV and safetensors.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import cv2.data
import numpy as np
import numpy.typing as npt

from engine.portrait.landmarks import (
    CROP,
    EYE_X,
    LID_RISE,
    LandmarkEstimator,
    canonical_crop,
    carried,
    default_estimator,
)
from engine.portrait.patches import Floats, Image
from engine.portrait.portrait import Portrait
from ground.errors import RequestError

DETECT_SIDE = 480  # longer side of the picture in which faces are detected, pixels
DETECT_MIN = 26  # smallest face box in that picture, pixels
BOX_EYES = (0.503, 0.403, 0.38)  # in a face box: middle of the eyes (x, y) and their distance, in box sides
CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml")
BORDER = 0.2  # width of the border that `_bordered_boxes` adds, as a share of the longer side
TILTS = (-25.0, 25.0)  # degrees of rotation that are tried when no upright face is found

FACE_CONFIRMED = 0.5  # probability from which a candidate of a cascade is a face
PLACE_CONFIRMED = 0.9  # the same for a likely place without a cascade's box
TURNED_CONFIRMED = 0.9  # the same in a picture turned by 90, 180 or 270 degrees, tried if no upright face reaches it
SECOND_CONFIRMED = 0.9  # probability from which a further candidate is a second face
SECOND_SIZE = 0.55  # relative to the first face; a larger second face is a second person, not a bystander
MIN_EYE_DISTANCE = 20.0  # pixels of the upload; a smaller face is refused, as its portrait would be a blur
LOW_EYE_DISTANCE = 36.0  # pixels of the upload; a smaller face gets the warning low_resolution

Guesses = Callable[[Image], Iterator[npt.NDArray[np.float64]]]  # guessed eye centres [2, 2] in upload pixels
FACE_PIXELS = (slice(int(0.3 * CROP), int(0.8 * CROP)), slice(int(0.3 * CROP), int(0.7 * CROP)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedPortrait(Portrait):
    """A portrait, and how it was made of a picture.

    warnings: stable codes, the keys of ``portrait_warnings.WORDING``.
    crop: float32 [2, 3], affine map from upload pixels to portrait pixels.
    """

    warnings: tuple[str, ...]
    crop: Floats


@dataclass(frozen=True, slots=True)
class FaceCandidate:
    """A possible face. eyes: centres [2, 2] in upload pixels. probability: 0..1, that it is a face."""

    eyes: npt.NDArray[np.float64]
    probability: float

    @property
    def distance(self) -> float:
        """Distance between the eyes, in upload pixels."""
        return float(np.hypot(*(self.eyes[1] - self.eyes[0])))


def frame_portrait(rgb: Image, *, size: int = CROP) -> FramedPortrait:
    """Find the only face of a picture uint8 [H, W, 3] and frame it. size: side of the portrait in pixels.

    Raises RequestError ``no_face``, ``multiple_faces`` or ``face_too_small``.
    """
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (rgb.dtype, rgb.shape)
    estimator = default_estimator()
    face = _the_face(rgb, estimator)
    measured_crop, _ = canonical_crop(rgb, face.eyes)
    measured = estimator.measure(measured_crop)
    landmarks = measured.landmarks | tones(measured_crop, measured.landmarks)
    mouth = estimator.judge(measured_crop, "mouth", (landmarks["mx"], landmarks["my"]))
    eyes = estimator.judge(measured_crop, "eyes")
    confidence = face.probability * float(np.exp(-0.5 * (measured.doubt / 0.035) ** 2)) * min(1.0, 0.3 + mouth)
    crop, affine = canonical_crop(rgb, face.eyes, size)
    warnings = tuple(_warnings(measured_crop, face, landmarks, min(mouth, eyes), confidence))
    return FramedPortrait(crop, landmarks, round(confidence, 3), warnings=warnings, crop=affine)


def frame_given(rgb: Image, landmarks: Mapping[str, float], *, size: int = CROP) -> FramedPortrait:
    """Frame a picture uint8 [H, W, 3] by given landmarks (`engine.portrait.landmark_file`), without detection.

    landmarks: in the picture's own units: 0 in its middle, 1 is half its width. Raises RequestError
    ``invalid_landmarks`` if an eye lies outside the picture.
    """
    height, width = rgb.shape[:2]
    lids = np.array([[landmarks["exl"], landmarks["eyl"]], [landmarks["exr"], landmarks["eyr"]]])
    across = lids[1] - lids[0]
    irises = lids + np.array([-across[1], across[0]]) * (LID_RISE / (2 * EYE_X))
    eyes = irises * (width / 2) + (width / 2 - 0.5, height / 2 - 0.5)
    if not ((eyes > 0) & (eyes < (width, height))).all():
        raise RequestError(
            "invalid_landmarks", "the given landmarks place an eye outside the picture", param="portrait"
        )
    crop, affine = canonical_crop(rgb, eyes, size)
    placed = {"mtilt": 0.0} | carried(landmarks, affine.astype(np.float64), (width, height), (size, size))
    small, _ = canonical_crop(rgb, eyes)
    placed = tones(small, placed) | placed
    warnings = tuple(_warnings(small, FaceCandidate(eyes, 1.0), placed, uncovered=1.0, confidence=1.0))
    return FramedPortrait(crop, placed, warnings=warnings, crop=affine)


def _the_face(rgb: Image, estimator: LandmarkEstimator) -> FaceCandidate:
    """Find the main face of a picture. Raises RequestError ``no_face``, ``multiple_faces``, ``face_too_small``."""
    faces = find_faces(rgb, estimator)
    if not faces:
        raise RequestError(
            "no_face", "No face was found. Use a picture of one person who looks at the camera.", param="file"
        )
    main = max(faces, key=lambda face: face.distance * (0.5 + _prior(face, rgb.shape)) * face.probability)
    others = [
        face
        for face in faces
        if face is not main and face.probability > SECOND_CONFIRMED and face.distance > SECOND_SIZE * main.distance
    ]
    if others:
        raise RequestError(
            "multiple_faces", "More than one face was found. Crop the picture to one person.", param="file"
        )
    if main.distance < MIN_EYE_DISTANCE:
        raise RequestError(
            "face_too_small", "The face is too small. Use a larger picture or one taken from nearer.", param="file"
        )
    return main


def find_faces(rgb: Image, estimator: LandmarkEstimator) -> list[FaceCandidate]:
    """Find all confirmed faces, without duplicates.

    Cheap searches come first: upright faces, then tilted faces, then faces cut off above the brows, then faces in a
    picture turned by 90, 180 or 270 degrees, then likely places.
    """

    def confirmed(guesses: Guesses, enough: float) -> list[FaceCandidate]:
        candidates = [_confirm(rgb, guess, estimator) for guess in guesses(rgb)]
        return [candidate for candidate in candidates if candidate.probability >= enough]

    upright = next((found for way in UPRIGHT if (found := confirmed(way, FACE_CONFIRMED))), [])
    if any(face.probability >= TURNED_CONFIRMED for face in upright):
        return _distinct(upright)
    turned = confirmed(_turned_boxes, TURNED_CONFIRMED)
    return _distinct(turned or upright or confirmed(_likely_places, PLACE_CONFIRMED))


def _confirm(rgb: Image, guess: npt.NDArray[np.float64], estimator: LandmarkEstimator) -> FaceCandidate:
    """Refine guessed eye centres [2, 2] and classify the aligned crop. Implausible eyes get probability 0."""
    eyes = estimator.align(rgb, guess)
    distance, guessed = float(np.hypot(*(eyes[1] - eyes[0]))), float(np.hypot(*(guess[1] - guess[0])))
    inside = ((eyes > 0) & (eyes < np.array(rgb.shape[1::-1]))).all()
    if not inside or not 0.5 < distance / guessed < 2 or (eyes[1] - eyes[0]) @ (guess[1] - guess[0]) <= 0:
        return FaceCandidate(guess, 0.0)
    crop, _ = canonical_crop(rgb, eyes)
    return FaceCandidate(eyes, estimator.judge(crop, "face"))


def _distinct(found: list[FaceCandidate]) -> list[FaceCandidate]:
    """Keep the most probable of all candidates on the same face."""
    kept: list[FaceCandidate] = []
    for one in sorted(found, key=lambda candidate: -candidate.probability):
        middle = one.eyes.mean(0)
        if all(np.hypot(*(middle - other.eyes.mean(0))) > max(one.distance, other.distance) for other in kept):
            kept.append(one)
    return kept


def _prior(face: FaceCandidate, shape: tuple[int, ...]) -> float:
    """Prior for the position of a portrait's face: 1 in the upper middle, falling to 0 at the sides and the bottom."""
    x, y = face.eyes.mean(0) / np.array(shape[1::-1])
    return float(np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.4) / 0.3) ** 2))


@lru_cache(maxsize=1)
def _cascades() -> "tuple[cv2.CascadeClassifier, ...]":
    return tuple(cv2.CascadeClassifier(cv2.data.haarcascades + name) for name in CASCADES)


def _grey(rgb: Image) -> tuple[Image, float]:
    """The picture in grey, shrunk for detection, and the scale factor (at most 1)."""
    shrink = min(1.0, DETECT_SIDE / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * shrink)), max(1, round(rgb.shape[0] * shrink)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if shrink < 1 else rgb
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8), shrink


def _detect(grey: Image) -> Iterator[npt.NDArray[np.float64]]:
    """Guessed eye centres [2, 2] of every face box, in pixels of the given picture."""
    for cascade in _cascades():
        for x, y, w, h in cascade.detectMultiScale(grey, 1.1, 3, minSize=(DETECT_MIN, DETECT_MIN)):
            half = BOX_EYES[2] * w / 2
            middle = np.array([x + BOX_EYES[0] * w, y + BOX_EYES[1] * h])
            yield np.array([middle - (half, 0), middle + (half, 0)])


def _boxes(rgb: Image) -> Iterator[npt.NDArray[np.float64]]:
    grey, shrink = _grey(rgb)
    for guess in _detect(grey):
        yield guess / shrink


def _tilted_boxes(rgb: Image) -> Iterator[npt.NDArray[np.float64]]:
    grey, shrink = _grey(rgb)
    height, width = grey.shape
    for angle in TILTS:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        turned = cv2.warpAffine(grey, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        for guess in _detect(np.asarray(turned, np.uint8)):
            yield (guess - turn[:, 2]) @ np.linalg.inv(turn[:, :2]).T / shrink


def _bordered_boxes(rgb: Image) -> Iterator[npt.NDArray[np.float64]]:
    """Detect in the picture with a border of repeated edge pixels: the cascades miss faces without a forehead."""
    grey, shrink = _grey(rgb)
    border = round(BORDER * max(grey.shape))
    bordered = cv2.copyMakeBorder(grey, border, border, border, border, cv2.BORDER_REPLICATE)
    for guess in _detect(np.asarray(bordered, np.uint8)):
        yield (guess - border) / shrink


def _turned_boxes(rgb: Image) -> Iterator[npt.NDArray[np.float64]]:
    """Detect in the picture turned by 90, 180 and 270 degrees."""
    grey, shrink = _grey(rgb)
    turned, middle = grey, (np.array(grey.shape[::-1]) - 1) / 2
    for quarters in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(turned))
        back = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), quarters)
        for guess in _detect(turned):
            yield ((guess - (np.array(turned.shape[::-1]) - 1) / 2) @ back.T + middle) / shrink


UPRIGHT = (_boxes, _tilted_boxes, _bordered_boxes)


def _likely_places(rgb: Image) -> Iterator[npt.NDArray[np.float64]]:
    """Usual eye positions of portraits, for faces that the cascades miss (hats, dark pictures, strong light)."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    for share in (0.12, 0.17, 0.24, 0.33):
        half = np.array([share * side / 2, 0.0])
        for x in (0.4, 0.5, 0.6):
            for y in (0.3, 0.4, 0.5):
                middle = np.array([x * width, y * height])
                yield np.stack([middle - half, middle + half])


def tones(crop: Image, landmarks: dict[str, float]) -> dict[str, float]:
    """Brightness of the face (lum) and of the teeth (tl), 0..1, and whether the picture is grey (0 or 1)."""
    face = crop[FACE_PIXELS].astype(np.float32)
    light = float(np.median(face.mean(2))) / 255
    colourful = float(np.abs(face - face.mean(2, keepdims=True)).mean())
    teeth = min(1.0, 0.5 + 0.5 * light)
    if landmarks["th"] > 0.025:
        half = CROP / 2
        bottom = (landmarks["my"] + 1) * half
        top = bottom - landmarks["th"] * half
        left, right = ((landmarks["mx"] + side * 0.45 * landmarks["mw"] + 1) * half for side in (-1, 1))
        strip = crop[int(top) : int(bottom) + 1, int(left) : int(right) + 1].max(2)
        if strip.size:
            teeth = float(np.percentile(strip, 80)) / 255
    return {"lum": light, "tl": min(max(teeth, 0.3), 1.0), "grey": float(colourful < 2.5)}


def sharpness(crop: Image) -> float:
    """Deviation of the face's Laplacian relative to its contrast; at least 0.2 for a sharp portrait."""
    face = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[FACE_PIXELS].astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).std() / (face.std() + 4))


def _warnings(
    crop: Image, face: FaceCandidate, landmarks: dict[str, float], uncovered: float, confidence: float
) -> Iterator[str]:
    """Warning codes for properties of the portrait that may degrade the result."""
    if face.distance < LOW_EYE_DISTANCE:
        yield "low_resolution"
    if sharpness(crop) < 0.1:
        yield "blurred"
    if landmarks["lum"] < 0.16:
        yield "dark"
    if abs(landmarks["cx"]) > 0.085 or abs(landmarks["mx"]) > 0.055:
        yield "profile"
    if uncovered < 0.5:
        yield "occluded"
    if confidence < 0.6:
        yield "low_confidence"
