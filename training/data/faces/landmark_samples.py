"""Samples for the landmark cascade: portraits altered as cameras alter them, and crops without a face.

Knows the annotated folder's layout and the canonical framing; fits nothing.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.portrait.landmark_file import NEEDED
from engine.portrait.landmarks import CROP, EYE_X, EYE_Y, JUDGES, LandmarkEstimator, canonical_crop, mirrored
from engine.portrait.patches import Image, Patch
from ground.errors import MediaError, RequestError

HELD_OUT, HELD_OUT_SEED = 40, 20260
EYES = np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]])
MOUTH_HEIGHT = 0.36  # where the judges' training looks for a mouth


@dataclass(frozen=True, slots=True)
class Sample:
    """face: whose it is. image: uint8 [320, 320, 3], altered. truth: landmarks plus chin_y. eyes: true eye centres
    [2, 2] in pixels."""

    face: str
    image: Image
    truth: dict[str, float]
    eyes: npt.NDArray[np.float64]


def held_out(names: list[str]) -> set[str]:
    """The portraits nothing is trained on."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return {sorted(names)[i] for i in rng.choice(len(names), HELD_OUT, replace=False)}


def eye_pixels(size: int) -> npt.NDArray[np.float64]:
    """Canonical eye centres [2, 2] in pixels of a picture of this size."""
    return (EYES + 1) * (size / 2) - 0.5


def alter(image: Image, rng: np.random.Generator) -> Image:
    """Tone, colour, sharpness and noise as other cameras have them."""
    out = np.asarray(cv2.pow(image.astype(np.float32) / 255, float(np.exp(rng.normal(0, 0.25)))), np.float32)
    out = out * float(np.exp(rng.normal(0, 0.12))) + float(rng.normal(0, 0.03))
    out = out * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    slope = np.linspace(-1, 1, out.shape[1], dtype=np.float32)
    across, down = (1 + float(rng.normal(0, spread)) * slope for spread in (0.12, 0.08))
    out = out * across[None, :, None] * down[:, None, None]
    if rng.random() < 0.15:
        out = out.mean(2, keepdims=True).repeat(3, 2)
    if rng.random() < 0.5:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 2.2)))
    if rng.random() < 0.3:
        small = int(rng.integers(96, 220))
        out = cv2.resize(cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA), image.shape[1::-1])
    out = out + float(rng.uniform(0, 0.03)) * rng.standard_normal(out.shape, np.float32)
    picture: Image = (np.clip(out, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return picture


def jitter(eyes: npt.NDArray[np.float64], rng: np.random.Generator, strength: float = 1.0) -> npt.NDArray[np.float64]:
    """Eye centres as a face box guesses them: turned, scaled and shifted (box statistics with a margin)."""
    middle, half = eyes.mean(0), (eyes[1] - eyes[0]) / 2
    angle = strength * rng.uniform(-0.38, 0.38)
    turn = np.exp(strength * rng.normal(0, 0.11)) * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    distance = float(np.hypot(*(2 * half)))
    middle = middle + strength * rng.normal(0, 0.075, 2) * distance
    return np.stack([middle - turn @ half, middle + turn @ half]) + strength * rng.normal(0, 0.02, (2, 2)) * distance


def make_samples(
    portraits: dict[str, tuple[Image, dict[str, float]]], count: int, rng: np.random.Generator, altered: bool = True
) -> list[Sample]:
    """count altered copies of every portrait, half of them mirrored."""
    samples = []
    for face, (image, truth) in portraits.items():
        for copy in range(count):
            picture = alter(image, rng) if altered and copy else image
            known = dict(truth)
            if copy % 2:
                picture, known = np.ascontiguousarray(picture[:, ::-1]), mirrored(truth)
            known["chin_y"] = known["my"] + known["chin"]
            samples.append(Sample(face, picture, known, eye_pixels(picture.shape[0])))
    return samples


def wrong_crops(
    samples: list[Sample], estimator: LandmarkEstimator, rng: np.random.Generator, count: int
) -> list[Image]:
    """Crops that are not an aligned face, after the eye stages did their best on them."""
    crops: list[Image] = []
    while len(crops) < count:
        sample = samples[int(rng.integers(len(samples)))]
        image, true = sample.image, sample.eyes
        kind = rng.random()
        if kind < 0.12:
            image = _texture(rng)
        elif kind < 0.26:
            image = np.ascontiguousarray(image[::-1])
        middle = rng.uniform(20, 300, 2)
        half = np.exp(rng.uniform(np.log(10), np.log(110))) / 2 * np.array([1.0, rng.normal(0, 0.2)])
        guess = np.stack([middle - half, middle + half])
        if rng.random() < 0.85:
            guess = estimator.align(image, guess)
        distance = float(np.hypot(*(guess[1] - guess[0])))
        if not 6 < distance < 400 or not np.isfinite(guess).all():
            continue
        if image is sample.image and np.abs(guess - true).max() < 0.25 * 67.5:
            continue  # it found the face
        crops.append(canonical_crop(image, guess)[0])
    return crops


def _texture(rng: np.random.Generator) -> Image:
    """Noise of a random grain, stripes, blobs: what is no face."""
    image = np.zeros((320, 320, 3), np.float32)
    for grain in (3, 8, 20, 60, 160, 320):
        noise = rng.normal(0, rng.random() ** 2, (grain, grain, 3)).astype(np.float32)
        image += cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 12))):
        centre = tuple(int(v) for v in rng.integers(0, 320, 2))
        axes = tuple(int(v) for v in rng.integers(4, 90, 2))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, rng.normal(0, 1, 3).tolist(), -1)
    return np.asarray(255 / (1 + np.exp(-1.5 * image)), np.uint8)


def covered(crop: Image, patch: Patch, rng: np.random.Generator) -> Image:
    """Something in front of the patch: a bar, a hand's blob, dark glasses, a mask."""
    out = crop.copy()
    side = CROP / 2
    x, y = (patch.x + 1) * side, (patch.y + (MOUTH_HEIGHT if patch is JUDGES["mouth"] else 0.0) + 1) * side
    colour = crop[int(rng.integers(CROP)), int(rng.integers(CROP))].astype(float) * rng.uniform(0.2, 1.2)
    if rng.random() < 0.4:
        colour = rng.uniform(0, 255, 3)
    size = (patch.half_width * side * rng.uniform(0.55, 1.1), patch.half_height * side * rng.uniform(0.5, 1.2))
    centre = (int(x + rng.normal(0, 6)), int(y + rng.normal(0, 4)))
    layer: Image = out.copy()
    if patch is JUDGES["eyes"] and rng.random() < 0.5:
        for eye in (-EYE_X, EYE_X):
            spot = (int((eye + 1) * side), int((EYE_Y + 1) * side + rng.normal(2, 2)))
            axes = (int(rng.uniform(17, 26)), int(rng.uniform(12, 20)))
            cv2.ellipse(layer, spot, axes, 0, 0, 360, (colour * 0.3).tolist(), -1)
    elif rng.random() < 0.5:
        corner = (int(centre[0] - size[0]), int(centre[1] - size[1]))
        cv2.rectangle(layer, corner, (int(centre[0] + size[0]), int(centre[1] + size[1])), colour.tolist(), -1)
    else:
        axes = (int(size[0]), int(size[1]))
        cv2.ellipse(layer, centre, axes, float(rng.uniform(-25, 25)), 0, 360, colour.tolist(), -1)
    soft = cv2.GaussianBlur(layer, (0, 0), 0.8)
    strength = rng.uniform(0.85, 1.0)
    mixed = strength * soft + (1 - strength) * out + rng.normal(0, 4, out.shape)
    return np.clip(mixed, 0, 255).astype(np.uint8)


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
