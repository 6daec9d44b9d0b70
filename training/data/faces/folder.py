"""Faces that a run trains on: a folder of annotated portraits, or painted ones (training.data.synthetic) without one.

A folder holds pictures and landmarks.json; the file itself may be named as well. Some faces are always held out.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.portrait.patches import Image
from ground.errors import RequestError
from training.data.faces.landmark_samples import HELD_OUT, held_out, load, read_notes
from training.data.synthetic.portraits import landmarks_only, paint_portrait

Landmarks = dict[str, float]

PAINTED = 4000  # painted faces a motion model meets; landmarks alone, so they cost nothing
PAINTED_SEED, HELD_OUT_SEED = 77, 78
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
    return held_out(known)


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
