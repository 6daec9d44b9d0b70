"""Calibration of the landmark confidence: error by confidence on held-out faces.

Held-out portraits are framed as they are and made worse in six ways; for each level of confidence the table gives the
real error of the mouth's corners and the share within 1.5 % of the width, which is what the confidence promises.
Without --portraits painted faces are measured.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.framing import frame_portrait
from engine.portrait.landmarks import JUDGES, to_picture
from engine.portrait.patches import Image
from ground.errors import RequestError, one_line_errors
from training.data.faces.folder import Landmarks, pictures
from training.data.faces.landmark_samples import alter, covered

GOOD = 1.5  # errors, % of the width
LEVELS = (0.0, 0.2, 0.6, 0.8, 0.9, 0.97, 1.01)
Points = NDArray[np.float64]
Harm = Callable[[Image, Points, np.random.Generator], tuple[Image, Points]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """error: of the mouth's corners, % of the width; NaN and confidence 0 where framing refused the picture."""

    harm: str
    confidence: float
    error: float


def corners(landmarks: Landmarks) -> Points:
    """The corners of the mouth [2, 2] in the picture's -1..1 units."""
    height = landmarks["my"] + landmarks["curve"]
    return np.array(
        [[landmarks["mx"] + s * landmarks["mw"], height + s * landmarks.get("mtilt", 0.0)] for s in (-1, 1)]
    )


def _altered(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    return alter(image, rng), points


def _blurred(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(3, 6)), np.uint8), points


def _tiny(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    side = int(rng.integers(56, 90))
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[1::-1]), np.uint8), points


def _covered(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    """Something in front of the mouth, smaller or larger."""
    small = np.asarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
    worse = covered(small, JUDGES["mouth"], rng)
    return np.asarray(cv2.resize(worse, image.shape[1::-1]), np.uint8), points


def _dark(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    noisy = image * rng.uniform(0.2, 0.45) + rng.normal(0, 8, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), points


def _turned(image: Image, points: Points, rng: np.random.Generator) -> tuple[Image, Points]:
    """The picture squeezed and sheared, like a head turned away."""
    middle = (image.shape[0] - 1) / 2
    shape = np.array([[rng.uniform(0.6, 0.85), 0.0], [rng.normal(0, 0.12), 1.0]])
    affine = np.column_stack([shape, middle - shape @ (middle, middle)])
    moved = cv2.warpAffine(image, affine, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8), points @ shape.T


HARMS: dict[str, Harm] = {
    "altered": _altered, "blurred": _blurred, "tiny": _tiny, "covered": _covered, "dark": _dark, "turned": _turned,
}  # fmt: skip


def outcomes(faces: dict[str, tuple[Image, Landmarks]], seed: int = 7) -> Iterator[Outcome]:
    """Every face as it is and with every harm done to it."""
    rng = np.random.default_rng(seed)
    for image, landmarks in faces.values():
        yield _frame("clean", image, corners(landmarks))
        for harm, do in HARMS.items():
            yield _frame(harm, *do(image, corners(landmarks), rng))


def _frame(harm: str, image: Image, truth: Points) -> Outcome:
    try:
        framed = frame_portrait(np.ascontiguousarray(image))
    except RequestError:
        return Outcome(harm, 0.0, float("nan"))
    found = to_picture(corners(framed.landmarks), framed.crop)
    size = image.shape[0]
    off = found - ((truth + 1) * (size / 2) - 0.5)
    return Outcome(harm, framed.confidence, 100 * float(np.hypot(*off.T).mean()) / size)


def table(found: list[Outcome]) -> str:
    """Error by level of confidence, then by harm."""
    framed = [one for one in found if np.isfinite(one.error)]
    lines = ["confidence     n   corners' error % (median, 90 %)   within 1.5 %   mean confidence"]
    for low, high in zip(LEVELS, LEVELS[1:], strict=False):
        level = [one for one in framed if low <= one.confidence < high]
        if level:
            lines.append(f"{low:.2f} - {min(high, 1):.2f} {len(level):5} {_errors(level)}")
    lines.append(f"rank correlation of confidence and error: {_spearman(framed):.2f}")
    for harm in ("clean", *HARMS):
        kind = [one for one in framed if one.harm == harm]
        if kind:
            refused = sum(one.harm == harm for one in found) - len(kind)
            lines.append(f"{harm:11} {len(kind):5} {_errors(kind)}   refused {refused}")
    return "\n".join(lines)


def _errors(some: list[Outcome]) -> str:
    errors = np.array([one.error for one in some])
    sure = float(np.mean([one.confidence for one in some]))
    median, tail = np.percentile(errors, (50, 90))
    return f"{median:18.2f} {tail:6.2f} {np.mean(errors < GOOD):20.2f} {sure:14.2f}"


def _spearman(some: list[Outcome]) -> float:
    """Rank correlation of confidence and error, equal values sharing the mean of their ranks."""
    ranks = []
    for values in ([one.confidence for one in some], [one.error for one in some]):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - 0.5 * count)[place])
    return float(np.corrcoef(ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, help="folder of annotated portraits; none: painted ones")
    args = parser.parse_args()
    with one_line_errors("training.data.faces.confidence"):
        print(table(list(outcomes(pictures(args.portraits, 0)[1]))))


if __name__ == "__main__":
    main()
