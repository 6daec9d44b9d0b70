"""Landmarks of a framed portrait: the canonical framing, the measures that the face rig uses, and their source, the
mesh.

Coordinates are -1..1 in a picture, x right, y down. Left and right are the picture's. Needs numpy and OpenCV only.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from engine.portrait.extension import extended
from engine.portrait.mesh_points import (
    CHIN,
    LEFT_BROW,
    LEFT_CHEEK,
    LOWER_LIP,
    MEASURED,
    RIGHT_BROW,
    RIGHT_CHEEK,
    UPPER_LIP,
)  # fmt: skip

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Correction = Mapping[str, npt.NDArray[np.float32]]

CROP = 256  # side of the crop on which a portrait is judged, pixels
EYE_X, EYE_Y = 67.5 / 320, 145.3 / 160 - 1  # iris centres of the canonical framing: (-EYE_X, EYE_Y), (EYE_X, EYE_Y)
SHRINK_BELOW = 0.6  # crop pixels per picture pixel; below, the picture is first shrunk by area averaging
LID_RISE = 0.008  # height of the centre of an eye's opening above its iris, in units of the canonical framing
CHIN_TO_CENTRE = 0.18  # centre of the face ellipse: cy = eyes + 0.18 x (chin - eyes)
CORNER = 0.4  # the mouth's corner lies between the outer (0) and the inner (1) contour's
POINTS = (("mx", "my"), ("exl", "eyl"), ("exr", "eyr"), ("cx", "cy"))  # fields that are positions
LENGTHS = ("rx", "ry", "mw", "curve", "mtilt", "lt", "ut", "th", "chin", "ea", "eb", "bh")

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "weights" / "embedded" / "landmarks.safetensors"
# Measures of the mesh over those of hand-checked portraits: medians over 266.
LIKE_PORTRAITS = {"lt": 0.79, "ut": 0.80, "chin": 1.13, "rx": 0.953, "eb": 1.18, "bh": 0.78}
CORRECTED = (
    "mx", "my", "mw", "curve", "mtilt", "lt", "ut", "th", "chin", "cx", "rx",
    "exl", "eyl", "exr", "eyr", "ea", "eb", "bh",
)  # fmt: skip
MOST_CORRECTION = 0.02
LIMITS = (
    ("mw", 0.1, 0.3), ("lt", 0.015, 0.1), ("ut", 0.006, 0.06), ("rx", 0.3, 0.55), ("ea", 0.06, 0.12),
    ("eb", 0.014, 0.05), ("bh", 0.05, 0.15), ("curve", -0.2, 0.08), ("mtilt", -0.04, 0.04), ("chin", 0.15, 0.6),
)  # fmt: skip
WIDE_OPEN = 0.05  # gap between the lips from which the mouth counts as open whatever shows in it
SHUT_BELOW = 0.008  # about a pixel
SEAM_REACH = 0.03  # how far from the mesh's line the seam of closed lips is looked for


def canonical_crop(image: Image, eyes: npt.NDArray[np.float64], size: int = CROP) -> tuple[Image, Floats]:
    """Crop [size, size, 3] that puts the eye centres [2, 2] (pixels) at their canonical places, and its affine [2, 3].

    The affine maps picture pixels to crop pixels. Beyond its edge the picture is continued smoothly. A picture much
    larger than the crop is first shrunk by area averaging, so that the crop does not alias.
    """
    outer = _similarity(eyes, size)
    known = _covered(outer, image.shape, size)
    scale = float(np.hypot(outer[0, 0], outer[1, 0]))
    inner = outer
    if scale < SHRINK_BELOW:
        image, shrink, corner = _shrunk(image, outer, scale / SHRINK_BELOW, size)
        inner = _similarity((eyes - corner + 0.5) * shrink - 0.5, size)
    crop = cv2.warpAffine(image, inner, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture = np.asarray(crop, np.uint8)
    return picture if known.all() or not known.any() else extended(picture, known), outer.astype(np.float32)


def _covered(affine: npt.NDArray[np.float64], shape: tuple[int, ...], size: int) -> npt.NDArray[np.bool_]:
    """Pixels of a crop [size, size] whose centres lie in the picture."""
    inverse = np.linalg.inv(affine[:, :2])
    row = np.arange(size)
    x, y = (turn[0] * (row[None] - affine[0, 2]) + turn[1] * (row[:, None] - affine[1, 2]) for turn in inverse)
    return np.asarray((x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5))


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


def measures(points: Points, crop: Image, weights: Correction | None = None) -> dict[str, float]:
    """Landmarks of a framed portrait. points [468, 2]: mesh in its units. crop: uint8 [S, S, 3], which tells a gap
    between the lips from a closed mouth. weights: of the correction, None = the shipped ones."""
    face, weights = read_mesh(points), weights or _correction()
    correction = weights["weight"] @ points[list(MEASURED)].ravel() + weights["bias"]
    for name, value in zip(CORRECTED, correction.clip(-MOST_CORRECTION, MOST_CORRECTION).tolist(), strict=True):
        face[name] += value
    if face["th"] < SHUT_BELOW or (face["th"] < WIDE_OPEN and not _gap_shows(points, crop)):
        face["th"] = 0.0
        down = _seam(face, crop)
        for name, way in (("my", 1), ("curve", -1), ("lt", -1), ("ut", 1), ("chin", -1)):
            face[name] += way * down
    for name, low, high in LIMITS:
        face[name] = min(max(face[name], low), high)
    face["cy"] = EYE_Y + CHIN_TO_CENTRE * (face["my"] + face["chin"] - EYE_Y)
    face["ry"] = face["my"] + face["chin"] - face["cy"]
    return face


def read_mesh(points: Points) -> dict[str, float]:
    """The mesh's own measures, named by CORRECTED: points [468, 2] in the units of the framing."""
    x, y = points[:, 0], points[:, 1]
    left, right = ((1 - CORNER) * points[outer] + CORNER * points[inner] for outer, inner in ((61, 78), (291, 308)))
    lids = {"l": (33, 133, 159, 145), "r": (263, 362, 386, 374)}  # outer, inner corner, upper, lower lid
    eyes = {side: (0.5 * (x[o] + x[i]), 0.5 * (y[u] + y[d])) for side, (o, i, u, d) in lids.items()}
    face = {
        "mx": 0.5 * (left[0] + right[0]), "my": y[14], "mw": 0.5 * (right[0] - left[0]),
        "curve": 0.5 * (left[1] + right[1]) - y[14], "mtilt": 0.5 * (right[1] - left[1]),
        "lt": y[17] - y[14], "ut": y[13] - y[0], "th": y[14] - y[13], "chin": y[CHIN] - y[14],
        "cx": 0.5 * (x[LEFT_CHEEK] + x[RIGHT_CHEEK]), "rx": 0.5 * (x[RIGHT_CHEEK] - x[LEFT_CHEEK]),
        "exl": eyes["l"][0], "eyl": eyes["l"][1], "exr": eyes["r"][0], "eyr": eyes["r"][1],
        "ea": 0.25 * sum(abs(x[o] - x[i]) for o, i, _, _ in lids.values()),
        "eb": 0.25 * sum(y[d] - y[u] for _, _, u, d in lids.values()),
        "bh": 0.5 * (eyes["l"][1] - y[list(LEFT_BROW)].mean() + eyes["r"][1] - y[list(RIGHT_BROW)].mean()),
    }  # fmt: skip
    return {name: float(value) * LIKE_PORTRAITS.get(name, 1.0) for name, value in face.items()}


@lru_cache(maxsize=1)
def _correction() -> Correction:
    """weight [18, 2 x points], bias [18]."""
    return load_file(WEIGHTS)


def _gap_shows(points: Points, crop: Image) -> bool:
    """Whether teeth or a dark gap show between the lips: what lies there is brighter than the lips, or hardly lit."""
    between = inside(crop, points[[81, 82, 13, 312, 311, 402, 317, 14, 87, 178], :2])
    lips = np.concatenate([inside(crop, points[list(lip), :2]) for lip in (UPPER_LIP, LOWER_LIP)])
    if not between.size or not lips.size:
        return False
    return float(np.percentile(between, 80)) > 1.05 * float(lips.mean())


def _seam(face: Mapping[str, float], crop: Image) -> float:
    """How far below the estimated line closed lips meet: where the picture is darkest along the line, [-1..1 units]."""
    u, down = np.linspace(-0.6, 0.6, 25), np.linspace(-SEAM_REACH, SEAM_REACH, 31)
    line = face["my"] + face["curve"] * u * u + face["mtilt"] * u
    x, y = np.broadcast_to(face["mx"] + face["mw"] * u, (31, 25)), line + down[:, None]
    half = crop.shape[0] / 2
    grey = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    places = [((axis + 1) * half - 0.5).astype(np.float32) for axis in (x, y)]
    light = np.asarray(cv2.remap(grey, places[0], places[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)).mean(1)
    return float(down[np.argmin(light / max(float(light.mean()), 1.0) + 0.01 * (down / 0.01) ** 2)])


def inside(crop: Image, outline: Points) -> npt.NDArray[np.float32]:
    """Brightness 0..255 of a crop's pixels in a polygon [n, 2]."""
    size = crop.shape[0]
    mask = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(16 * ((outline + 1) * (size / 2) - 0.5)).astype(np.int32)], 1, shift=4)
    return np.asarray(crop[mask > 0].mean(-1), np.float32)


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


def to_picture(places: Points, affine: Floats, size: int = CROP) -> Points:
    """Map points [n, 2] from a crop's -1..1 units to pixels of the picture that it was cut from."""
    pixels = (places + 1) * (size / 2) - 0.5
    return np.asarray((pixels - affine[:, 2]) @ np.linalg.inv(affine[:, :2].astype(np.float64)).T)


def to_crop(points: Points, affine: Floats, size: int = CROP) -> Points:
    """Map points [n, 2] from pixels of a picture to a crop's -1..1 units; the inverse of `to_picture`."""
    pixels = points @ affine[:, :2].astype(np.float64).T + affine[:, 2]
    return np.asarray((pixels + 0.5) / (size / 2) - 1)
