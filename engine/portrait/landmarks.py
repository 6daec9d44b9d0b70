"""Facial landmark estimator: a short cascade of ridge regressions on histograms of gradients.

The first stages refine the eye centres; after each stage the picture is cropped again around the eyes (the canonical
framing). The next stages estimate contour, mouth and lids from the crop. The last one refines the mouth from close-ups
of its corners and its middle. `python -m training.data.faces.landmarks` trains the weights. Needs only numpy, OpenCV
and safetensors; independent of detection, uploads and models. Coordinates are -1..1, x right, y down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import atan2, cos, sin
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from engine.portrait.patches import Floats, Image, Patch, describe

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "weights" / "embedded" / "landmarks.safetensors"

CROP = 256  # side of the crop on which landmarks are estimated, pixels
EYE_X, EYE_Y = 67.5 / 320, 145.3 / 160 - 1  # iris centres of the canonical framing: (-EYE_X, EYE_Y), (EYE_X, EYE_Y)
SHRINK_BELOW = 0.6  # crop pixels per picture pixel; below, the picture is first shrunk by area averaging
LID_RISE = 0.008  # height of the centre of an eye's opening above its iris, in units of the canonical framing
CHIN_TO_CENTRE = 0.18  # centre of the face ellipse: cy = eyes + 0.18 x (chin - eyes)


@dataclass(frozen=True, slots=True)
class CascadeStage:
    """One regression. patch: the window that it sees. targets: names of its outputs."""

    patch: Patch
    targets: tuple[str, ...]


FACE = Patch(0.0, 0.12, 0.8, 0.8, 96, 96)
EYES = Patch(0.0, -0.11, 0.44, 0.165, 128, 48)
MOUTH = Patch(0.0, 0.03, 0.35, 0.2, 112, 64, thumbnail=(28, 16))
LOWER = Patch(0.0, 0.12, 0.62, 0.42, 96, 64)
CORNER = Patch(0.0, 0.0, 0.08, 0.08, 32, 32, thumbnail=(8, 8))  # CORNER and LIPS fit a mouth of USUAL_HALF_WIDTH
LIPS = Patch(0.0, 0.0, 0.09, 0.14, 32, 48, thumbnail=(8, 12))
SHUT_FROM = 0.5  # output "shut" (1: no gap, 0: a gap) from which the lips count as closed at any estimated opening
USUAL_HALF_WIDTH = 0.2

EYE_POINTS = ("left_x", "left_y", "right_x", "right_y")
MOUTH_FIELDS = ("mx", "my", "mw", "curve", "mtilt", "lt", "ut", "th")
CLOSE_FIELDS = (*MOUTH_FIELDS, "shut")
LID_FIELDS = ("exl", "eyl", "exr", "eyr", "ea", "eb", "bh")
CONTOUR_FIELDS = ("cx", "rx", "chin_y")
POINTS = (("mx", "my"), ("exl", "eyl"), ("exr", "eyr"), ("cx", "cy"))  # fields that are positions
LENGTHS = ("rx", "ry", "mw", "curve", "mtilt", "lt", "ut", "th", "chin", "ea", "eb", "bh")

ALIGN = (
    CascadeStage(FACE, EYE_POINTS),
    CascadeStage(FACE, EYE_POINTS),
    CascadeStage(EYES, EYE_POINTS),
    CascadeStage(EYES, EYE_POINTS),
)
ROUGH = CascadeStage(FACE, (*MOUTH_FIELDS, *CONTOUR_FIELDS))
FINE = CascadeStage(MOUTH, MOUTH_FIELDS)
LIDS = CascadeStage(EYES, LID_FIELDS)
CONTOUR = CascadeStage(LOWER, CONTOUR_FIELDS)
LIMITS = (
    ("mw", 0.12, 0.3), ("lt", 0.015, 0.1), ("ut", 0.006, 0.06), ("rx", 0.34, 0.55), ("ea", 0.07, 0.12),
    ("eb", 0.014, 0.05), ("bh", 0.05, 0.15), ("curve", -0.2, 0.08), ("mtilt", -0.04, 0.04),
)  # fmt: skip
JUDGES = {"face": FACE, "eyes": EYES, "mouth": MOUTH}  # classifiers: visible and uncovered?


def canonical_crop(image: Image, eyes: npt.NDArray[np.float64], size: int = CROP) -> tuple[Image, Floats]:
    """Crop [size, size, 3] that puts the eye centres [2, 2] (pixels) at their canonical places, and its affine [2, 3].

    The affine maps picture pixels to crop pixels. Edge pixels are repeated outside the picture. A picture much larger
    than the crop is first shrunk by area averaging, so that the crop does not alias.
    """
    outer = _similarity(eyes, size)
    scale = float(np.hypot(outer[0, 0], outer[1, 0]))
    inner = outer
    if scale < SHRINK_BELOW:
        image, shrink, corner = _shrunk(image, outer, scale / SHRINK_BELOW, size)
        inner = _similarity((eyes - corner + 0.5) * shrink - 0.5, size)
    crop = cv2.warpAffine(image, inner, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8), outer.astype(np.float32)


def _shrunk(
    image: Image, affine: npt.NDArray[np.float64], shrink: float, size: int
) -> tuple[Image, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shrink the part of the picture that a crop needs. Returns the shrunk part, its exact scale factors (x, y), and
    the part's upper left corner (x, y) in the picture."""
    limits = np.array(image.shape[1::-1])
    ends = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - affine[:, 2]
    ends = ends @ np.linalg.inv(affine[:, :2]).T
    low = np.clip(np.floor(ends.min(0)) - 4 / shrink, 0, limits - 2).astype(int)
    high = np.clip(np.ceil(ends.max(0)) + 4 / shrink, low + 2, limits).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    width, height = (max(1, round(n * shrink)) for n in (high - low).tolist())
    small = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.array([width, height]) / (high - low), low.astype(np.float64)


def _similarity(eyes: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Similarity transform [2, 3] that maps two eye centres to their canonical places in a crop."""
    across = eyes[1] - eyes[0]
    turn = complex(EYE_X * size, 0) / complex(across[0], across[1])
    middle = turn * complex(*(eyes[0] + eyes[1])) / 2
    shift = complex(size / 2, (EYE_Y + 1) * size / 2) - middle - complex(0.5, 0.5)  # pixel centres are at whole numbers
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def look_close(crop: Image, mouth: Mapping[str, float]) -> Floats:
    """Descriptor [d] of close-ups at the estimated mouth: corners, middle of the lips, and the whole mouth, each scaled
    and rotated with the mouth."""
    face = dict(mouth) | {
        name: min(max(mouth[name], low), high) for name, low, high in LIMITS if name in ("mw", "mtilt")
    }
    angle, scale = atan2(face["mtilt"], face["mw"]), face["mw"] / USUAL_HALF_WIDTH
    across, down = face["mw"] * cos(angle), face["mw"] * sin(angle)
    height = face["my"] + face["curve"]
    whole, corner, lips = MOUTH.scaled(scale), CORNER.scaled(scale), LIPS.scaled(scale)
    views = [describe(crop, corner, (face["mx"] + s * across, height + s * down), angle) for s in (-1, 1)]
    middle = (face["mx"], face["my"] - 0.5 * max(face["th"], 0.0))
    views += [describe(crop, lips, middle, angle), describe(crop, whole, (face["mx"], face["my"]), angle)]
    return np.concatenate(views)


def mirrored(landmarks: Mapping[str, float]) -> dict[str, float]:
    """Landmarks of the horizontally mirrored picture."""
    flipped = dict(landmarks)
    for name in ("cx", "mx", "mtilt"):
        flipped[name] = -landmarks[name]
    flipped |= {"exl": -landmarks["exr"], "exr": -landmarks["exl"], "eyl": landmarks["eyr"], "eyr": landmarks["eyl"]}
    return flipped


def carried(
    landmarks: Mapping[str, float],
    affine: npt.NDArray[np.float64],
    source: tuple[int, int],
    target: tuple[int, int],
) -> dict[str, float]:
    """Map landmarks from a picture to another one, by the similarity [2, 3] between their pixels.

    source, target: (width, height) of the pictures. Landmarks are in a picture's own units: 0 in its middle, 1 is half
    its width.
    """
    moved = dict(landmarks)
    (width, height), (wide, high) = source, target
    scale = float(np.hypot(affine[0, 0], affine[1, 0])) * width / wide
    for x, y in POINTS:
        pixel = np.array([landmarks[x], landmarks[y]]) * (width / 2) + (width / 2 - 0.5, height / 2 - 0.5)
        place = affine[:, :2] @ pixel + affine[:, 2]
        moved[x], moved[y] = ((place - (wide / 2 - 0.5, high / 2 - 0.5)) / (wide / 2)).tolist()
    for name in LENGTHS:
        if name in moved:
            moved[name] *= scale
    if "mtilt" in moved:
        moved["mtilt"] += moved["mw"] * float(np.arctan2(affine[1, 0], affine[0, 0]))
    return moved


@dataclass(frozen=True, slots=True)
class Measured:
    """Estimated landmarks of a crop. doubt: largest difference between the estimates for the crop and for its mirror
    image, in -1..1 units."""

    landmarks: dict[str, float]
    doubt: float


class LandmarkEstimator:
    """The trained cascade of regressions. tensors: ``NAME.weight`` and ``NAME.bias`` of each."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._tensors = {name: value.astype(np.float32) for name, value in tensors.items()}

    def apply(self, name: str, features: Floats) -> Floats:
        """Outputs [k] of the regression ``name`` for features [d]."""
        return features @ self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]

    def align(self, image: Image, eyes: npt.NDArray[np.float64], first: int = 0) -> npt.NDArray[np.float64]:
        """Refine rough eye centres [2, 2] (pixels, the picture's left eye first). first: number of the first stage."""
        for number, stage in enumerate(ALIGN[first:], first):
            crop, affine = canonical_crop(image, eyes)
            places = self.apply(f"align{number}", describe(crop, stage.patch)).reshape(2, 2).astype(np.float64)
            eyes = to_picture(places, affine)
        return eyes

    def judge(self, crop: Image, name: str, at: tuple[float, float] = (0.0, 0.0)) -> float:
        """Probability 0..1 that an aligned crop shows an uncovered face, eyes or mouth."""
        value = float(self.apply(f"judge_{name}", describe(crop, JUDGES[name], at))[0])
        return 1 / (1 + float(np.exp(-np.clip(value, -30, 30))))

    def measure(self, crop: Image) -> Measured:
        """Landmarks of an aligned crop: the mean of the estimates for the crop and for its mirror image."""
        one = self.read(crop)
        other = mirrored(self.read(np.ascontiguousarray(crop[:, ::-1])))
        doubt = float(np.hypot(one["mx"] - other["mx"], one["my"] - other["my"]))
        doubt = max(doubt, abs(one["th"] - other["th"]), abs(one["mw"] - other["mw"]))
        mean = {name: 0.5 * (one[name] + other[name]) for name in one}
        return Measured(finish(mean), doubt)

    def read(self, crop: Image) -> dict[str, float]:
        """Estimate the raw landmarks of an aligned crop once, without its mirror image."""
        rough = dict(zip(ROUGH.targets, self.apply("rough", describe(crop, ROUGH.patch)).tolist(), strict=True))
        at = (rough["mx"], rough["my"])
        rough |= self._changed("fine", rough, FINE.targets, describe(crop, FINE.patch, at))
        rough |= self._changed("close", rough | {"shut": 0.0}, CLOSE_FIELDS, look_close(crop, rough))
        lids = dict(zip(LIDS.targets, self.apply("lids", describe(crop, LIDS.patch)).tolist(), strict=True))
        at = (rough["mx"], rough["my"])
        contour = self._changed("contour", rough, CONTOUR.targets, describe(crop, CONTOUR.patch, at))
        return rough | lids | contour

    def _changed(
        self, name: str, before: Mapping[str, float], fields: tuple[str, ...], seen: Floats
    ) -> dict[str, float]:
        """The given fields plus the corrections that regression ``name`` predicts from the features ``seen``."""
        return {field: before[field] + float(d) for field, d in zip(fields, self.apply(name, seen), strict=True)}


def to_picture(places: npt.NDArray[np.float64], affine: Floats, size: int = CROP) -> npt.NDArray[np.float64]:
    """Map points [n, 2] from a crop's -1..1 units to pixels of the picture that it was cut from."""
    pixels = (places + 1) * (size / 2) - 0.5
    return np.asarray((pixels - affine[:, 2]) @ np.linalg.inv(affine[:, :2].astype(np.float64)).T)


def finish(raw: Mapping[str, float]) -> dict[str, float]:
    """Turn raw estimates into consistent landmarks within plausible limits, with the fields of landmarks.json that the
    rig uses."""
    face = dict(raw)
    chin_y = face.pop("chin_y")
    face["chin"] = max(chin_y - face["my"], 0.15)
    face["cy"] = EYE_Y + CHIN_TO_CENTRE * (face["my"] + face["chin"] - EYE_Y)
    face["ry"] = face["my"] + face["chin"] - face["cy"]
    for name, low, high in LIMITS:
        face[name] = min(max(face[name], low), high)
    closed = face.pop("shut", 0.0) > SHUT_FROM or face["th"] < 0.008  # 0.008 is about a pixel
    face["th"] = 0.0 if closed else min(face["th"], 0.2)
    return face


@lru_cache(maxsize=1)
def default_estimator() -> LandmarkEstimator:
    """The shipped estimator, loaded once and cached."""
    return LandmarkEstimator(load_file(WEIGHTS))
