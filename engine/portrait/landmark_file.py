"""Landmark files: positions given by hand for a picture, `me.landmarks.json` beside `me.jpg`.

One JSON object with the fields of a training folder's landmarks.json (the README tells what each means), in the
picture's own units: half its width, 0 in its middle, x right, y down. Such a file wins over the estimator. Only who
runs the program can give one; an upload is a picture and nothing else.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.portrait.landmarks import EYE_X, LENGTHS, POINTS
from ground.errors import RequestError

SUFFIX = ".landmarks.json"
MAX_BYTES = 65_536
NEEDED = tuple(name for point in POINTS for name in point) + tuple(name for name in LENGTHS if name != "mtilt")
_SHARES = ("tl", "lum", "grey", "lidq", "smiling", "glasses", "pad", "quality")  # 0..1; measured where not given
OPTIONAL = ("mtilt", *_SHARES)

# What a face can be, in canonical units (2 x EYE_X between the eyes), with wide margins: beyond lies a slip of the pen.
_SIZES: dict[str, tuple[float, float]] = {
    "rx": (0.25, 0.8), "ry": (0.35, 1.0), "mw": (0.07, 0.45), "curve": (-0.3, 0.15), "mtilt": (-0.15, 0.15),
    "lt": (0.005, 0.2), "ut": (0.002, 0.15), "th": (0.0, 0.4), "chin": (0.08, 0.7), "ea": (0.03, 0.2),
    "eb": (0.008, 0.06), "bh": (0.04, 0.25),
}  # fmt: skip


def file_beside(picture: Path) -> Path:
    """Where the landmarks of a picture are looked for."""
    return picture.with_suffix(SUFFIX)


def landmarks_beside(picture: Path) -> dict[str, float] | None:
    """What the file beside a picture says; None if there is none. Raises RequestError ``invalid_landmarks``."""
    path = file_beside(picture)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _invalid(path.name, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _invalid(path.name, f"is larger than {MAX_BYTES // 1024} KiB")
    return parse_landmarks(data, path.name)


def parse_landmarks(data: bytes, name: str) -> dict[str, float]:
    """The file's landmarks, checked; ``name`` is what errors call it. Raises RequestError ``invalid_landmarks``."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "is not JSON") from error
    if not isinstance(given, Mapping):
        raise _invalid(name, "must be one object of names and numbers")
    if strange := [str(field)[:40] for field in given if field not in NEEDED + OPTIONAL]:
        raise _invalid(name, f"has a field {strange[0]!r} that is none of {', '.join(NEEDED + OPTIONAL)}")
    if missing := [field for field in NEEDED if field not in given]:
        raise _invalid(name, f"lacks {', '.join(missing)}")
    for field, value in given.items():
        if not isinstance(value, int | float) or not abs(value) < 1e6:
            raise _invalid(name, f"{field} must be a finite number")
        if field in _SHARES and not 0 <= value <= 1:
            raise _invalid(name, f"{field} is {value:g}, but must lie in 0 to 1")
    landmarks = {field: float(value) for field, value in given.items()}
    _check_face(landmarks, name)
    return landmarks


def _check_face(landmarks: Mapping[str, float], name: str) -> None:
    """Whether it can be a face: sizes against the distance of the eyes, the mouth below them."""
    across = landmarks["exr"] - landmarks["exl"]
    distance = math.hypot(across, landmarks["eyr"] - landmarks["eyl"])
    if across <= 0 or not 0.01 < distance < 2:
        raise _invalid(name, "exl, eyl must be the eye at the picture's left and exr, eyr the one at its right")
    unit = distance / (2 * EYE_X)
    for field, (low, high) in _SIZES.items():
        value = landmarks.get(field, 0.0) / unit
        if not low <= value <= high:
            raise _invalid(
                name, f"{field} is {landmarks[field]:g}, but this face's must lie in {_span(low, high, unit)}"
            )
    along = np.array([across, landmarks["eyr"] - landmarks["eyl"]]) / distance
    middle = 0.5 * np.array([landmarks["exl"] + landmarks["exr"], landmarks["eyl"] + landmarks["eyr"]])
    for x, y, low, high in (("mx", "my", 0.2, 0.9), ("cx", "cy", 0.0, 0.4)):
        away = (np.array([landmarks[x], landmarks[y]]) - middle) / unit
        beside, below = float(away @ along), float(away @ (-along[1], along[0]))
        if abs(beside) > 0.25 or not low <= below <= high:
            raise _invalid(name, f"{x}, {y} do not lie below the eyes' middle, where they belong")


def _span(low: float, high: float, unit: float) -> str:
    return f"{low * unit:.3g} to {high * unit:.3g}"


def _invalid(name: str, what: str) -> RequestError:
    return RequestError("invalid_landmarks", f"{name}: {what}", param="portrait")
