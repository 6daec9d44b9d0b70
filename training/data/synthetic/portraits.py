"""Painted portraits of nobody, in the canonical framing, with exact landmarks.

`paint_portrait(rng)` draws who it is (looks), then paints it in layers, back to front. Everything is a function of the
generator, so a seed is a picture. numpy and OpenCV alone, some tens of milliseconds on one core.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.portrait.framing import tones
from training.data.synthetic.painting.features import paint_brows, paint_eyes, paint_glasses, paint_mouth
from training.data.synthetic.painting.hair import grow, paint_back_hair, paint_beard, paint_hair, paint_hat
from training.data.synthetic.painting.head import build_head, paint_head
from training.data.synthetic.painting.looks import Look, draw_look, draw_marks
from training.data.synthetic.painting.scene import paint_backdrop, paint_body, photograph


@dataclass(frozen=True, slots=True)
class PaintedPortrait:
    """rgb: uint8 [320, 320, 3], canonical framing. landmarks: the fields of landmarks.json, -1..1 units. look: who."""

    rgb: NDArray[np.uint8]
    landmarks: dict[str, float]
    look: Look


def paint_portrait(rng: np.random.Generator) -> PaintedPortrait:
    look = draw_look(rng)
    head = build_head(look, rng)
    hair = grow(head, look, rng)
    picture = paint_backdrop(look, rng)
    paint_back_hair(picture, head, look, hair)
    paint_body(picture, head, look, rng)
    light = paint_head(picture, head, look, rng)
    paint_mouth(picture, light, look, rng)
    paint_eyes(picture, light, look, rng)
    paint_beard(picture, head, look, rng)
    paint_brows(picture, look, rng)
    paint_hair(picture, head, look, hair, rng)
    if look.glasses:
        paint_glasses(picture, look, rng)
    paint_hat(picture, head, look, rng)
    rgb = photograph(picture, rng)
    return PaintedPortrait(rgb, look.marks | _measured(rgb, look.marks), look)


def landmarks_only(rng: np.random.Generator) -> dict[str, float]:
    """The geometry that paint_portrait would give with this generator, without painting it."""
    return draw_marks(rng)


def _measured(rgb: NDArray[np.uint8], marks: dict[str, float]) -> dict[str, float]:
    """What landmarks.json tells of the pixels."""
    return {**tones(rgb, marks), "lidq": 1.0, "pad": 0.0, "quality": 1.0}
