"""Landmark files: manual landmarks of a picture, `me.landmarks.json` beside `me.jpg`.

The file is one JSON object with the fields of a training folder's landmarks.json (the README explains each), in the
picture's own units: 0 in its middle, 1 is half its width, x right, y down. It replaces the estimator's landmarks. Only
the operator can provide such a file; an upload consists of the picture alone.
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
# Each is 0..1. tl, lum and grey are measured if missing.
_SHARES = ("tl", "lum", "grey", "lidq", "smiling", "glasses", "pad", "quality")
OPTIONAL = ("mtilt", *_SHARES)

# Plausible ranges in canonical units (2 x EYE_X between the eyes), with wide margins to catch mistakes only.
_SIZES: dict[str, tuple[float, float]] = {
    "rx": (0.25, 0.8), "ry": (0.35, 1.0), "mw": (0.07, 0.45), "curve": (-0.3, 0.15), "mtilt": (-0.15, 0.15),
    "lt": (0.005, 0.2), "ut": (0.002, 0.15), "th": (0.0, 0.4), "chin": (0.08, 0.7), "ea": (0.03, 0.2),
    "eb": (0.008, 0.06), "bh": (0.04, 0.25),
}  # fmt: skip


def file_beside(picture: Path) -> Path:
    """Path of the landmark file that belongs to a picture."""
    return picture.with_suffix(SUFFIX)


def landmarks_beside(picture: Path) -> dict[str, float] | None:
    """Read the landmark file beside a picture; None if there is none. Raises RequestError ``invalid_landmarks``."""
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
    """Parse and check a landmark file. name: its name in messages. Raises RequestError ``invalid_landmarks``."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "is not JSON") from error
    if not isinstance(given, Mapping):
        raise _invalid(name, "must be a JSON object of names and numbers")
    if strange := [str(field)[:40] for field in given if field not in NEEDED + OPTIONAL]:
        raise _invalid(name, f"has the unknown field {strange[0]!r}; the fields are {', '.join(NEEDED + OPTIONAL)}")
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
    """Check that the landmarks describe a plausible face: sizes relative to the distance between the eyes, mouth and
    face centre below the eyes. Raises RequestError ``invalid_landmarks``."""
    across = landmarks["exr"] - landmarks["exl"]
    distance = math.hypot(across, landmarks["eyr"] - landmarks["eyl"])
    if across <= 0 or not 0.01 < distance < 2:
        raise _invalid(name, "exl, eyl must be the eye at the picture's left and exr, eyr the one at its right")
    unit = distance / (2 * EYE_X)
    for field, (low, high) in _SIZES.items():
        value = landmarks.get(field, 0.0) / unit
        if not low <= value <= high:
            raise _invalid(
                name, f"{field} is {landmarks[field]:g}, but must lie in {_span(low, high, unit)} for this face"
            )
    along = np.array([across, landmarks["eyr"] - landmarks["eyl"]]) / distance
    middle = 0.5 * np.array([landmarks["exl"] + landmarks["exr"], landmarks["eyl"] + landmarks["eyr"]])
    for x, y, low, high in (("mx", "my", 0.2, 0.9), ("cx", "cy", 0.0, 0.4)):
        away = (np.array([landmarks[x], landmarks[y]]) - middle) / unit
        beside, below = float(away @ along), float(away @ (-along[1], along[0]))
        if abs(beside) > 0.25 or not low <= below <= high:
            raise _invalid(name, f"{x}, {y} must lie below the middle between the eyes")


def _span(low: float, high: float, unit: float) -> str:
    return f"{low * unit:.3g} to {high * unit:.3g}"


def _invalid(name: str, what: str) -> RequestError:
    return RequestError("invalid_landmarks", f"{name}: {what}", param="portrait")
