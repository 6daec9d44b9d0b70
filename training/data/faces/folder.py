"""Faces that a run trains on: a folder of annotated portraits, or painted ones (training.data.synthetic) without one.

A folder holds pictures and landmarks.json; the file itself may be named as well. Some faces are always held out.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from engine.portrait.landmark_file import NEEDED
from engine.portrait.landmarks import Image
from ground.errors import MediaError, RequestError
from training.data.synthetic.portraits import landmarks_only, paint_portrait

Landmarks = dict[str, float]

PAINTED = 4000  # painted faces a motion model meets; landmarks alone, so they cost nothing
PAINTED_SEED, HELD_OUT_SEED = 77, 78
HELD_OUT, HELD_OUT_FROM = 40, 20260  # portraits held out of a folder, and the seed of their choice
LEAST = 60  # portraits in a folder, so that some are left to train on


def training_landmarks(portraits: Path | None) -> list[Landmarks]:
    """Of every face to train on. Raises RequestError for a folder without landmarks, or with too few."""
    if portraits is None:
        return _painted_landmarks(PAINTED, PAINTED_SEED)
    notes = read_notes(portraits)
    apart = set_apart(notes)
    return [notes[name] for name in sorted(notes) if name not in apart]


def held_out_landmarks(portraits: Path | None) -> list[Landmarks]:
    """Of the faces set aside for measuring. Raises as `training_landmarks` does."""
    if portraits is None:
        return _painted_landmarks(HELD_OUT, HELD_OUT_SEED)
    notes = read_notes(portraits)
    return [notes[name] for name in sorted(set_apart(notes))]


def set_apart(names: Iterable[str]) -> set[str]:
    """Which of a folder's portraits nothing is trained on. Raises RequestError if too few would be left."""
    known = sorted(names)
    if len(known) < LEAST:
        raise RequestError(
            "few_portraits",
            f"{len(known)} portraits are too few: {HELD_OUT} are held out, so name {LEAST} or more, or no folder",
        )
    chosen = np.random.default_rng(HELD_OUT_FROM).choice(len(known), HELD_OUT, replace=False)
    return {known[i] for i in chosen}


def pictures(
    portraits: Path | None, painted: int
) -> tuple[dict[str, tuple[Image, Landmarks]], dict[str, tuple[Image, Landmarks]]]:
    """RGB [320, 320, 3] and landmarks by name, of training and held-out faces; ``painted`` many where none is given."""
    if portraits is None:
        return _painted_pictures(painted, PAINTED_SEED), _painted_pictures(HELD_OUT, HELD_OUT_SEED)
    known = load(portraits)
    apart = set_apart(known)
    return {k: v for k, v in known.items() if k not in apart}, {k: v for k, v in known.items() if k in apart}


def _painted_landmarks(count: int, seed: int) -> list[Landmarks]:
    return [landmarks_only(np.random.default_rng((seed, number))) for number in range(count)]


def _painted_pictures(count: int, seed: int) -> dict[str, tuple[Image, Landmarks]]:
    found = {}
    for number in range(count):
        portrait = paint_portrait(np.random.default_rng((seed, number)))
        found[f"painted {number}"] = (portrait.rgb, portrait.landmarks)
    return found


def read_notes(portraits: Path) -> dict[str, dict[str, float]]:
    """landmarks.json of a folder, or the file itself: landmarks by the picture's name, all that are needed. Raises
    RequestError."""
    path = portraits / "landmarks.json" if portraits.is_dir() else portraits
    try:
        read = json.loads(path.read_text())
        notes = {name: {field: float(value) for field, value in one.items()} for name, one in read.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RequestError(
            "no_landmarks", f"--portraits: no landmarks can be read from {path}; leave it out for painted faces"
        ) from error
    for name, one in notes.items():
        wrong = [field for field in NEEDED if not math.isfinite(one.get(field, math.nan))]
        if wrong or not one["mw"] > 0:
            said = f"lacks {', '.join(wrong)}" if wrong else "has a mouth without width (mw)"
            raise RequestError("no_landmarks", f"--portraits: {name} in {path} {said}: mend it or take it out")
    return notes


def load(portraits: Path, names: list[str] | None = None) -> dict[str, tuple[Image, dict[str, float]]]:
    """The annotated portraits of a folder (or of its landmarks.json), all or those named: RGB [320, 320, 3] and
    landmarks. Raises RequestError, and MediaError for a picture that is missing or none."""
    notes = read_notes(portraits)
    folder, found = portraits if portraits.is_dir() else portraits.parent, {}
    for name in sorted(notes) if names is None else names:
        path = folder / name
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None  # it would warn by itself
        if picture is None:
            raise MediaError("no_picture", f"{path} is no picture that can be read")
        found[name] = (np.ascontiguousarray(picture[..., ::-1], np.uint8), notes[name])
    return found
