"""Painted surroundings (backdrop, neck, clothes) and camera effects (tone, blur, noise, compression)."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.painting.canvas import (
    SIZE,
    Floats,
    X,
    Y,
    box,
    cover,
    curve,
    lay,
    linear,
    lowered,
    noise,
    polygon,
    shade,
    soften,
)
from training.data.synthetic.painting.head import HeadShape, lit
from training.data.synthetic.painting.looks import Look

Placed = Callable[[list[tuple[float, float]], bool], NDArray[np.float64]]


def paint_backdrop(look: Look, rng: np.random.Generator) -> Floats:
    """A new picture [320, 320, 3] of what is behind."""
    ground = np.tile(look.ground, (SIZE, SIZE, 1)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * X + np.sin(angle) * Y).astype(np.float32)
    if look.backdrop in ("gradient", "plain"):
        ground *= np.exp(np.float32(0.5 if look.backdrop == "gradient" else 0.12) * slope)[..., None]
        ground *= (1 + 0.06 * noise(rng, (6, 6)))[..., None]
    elif look.backdrop == "blurred":
        blobs = np.stack([noise(rng, (int(rng.integers(3, 9)),) * 2) for _ in range(3)], 2)
        ground *= np.exp(np.float32(0.3) * blobs + np.float32(0.35) * noise(rng, (5, 5))[..., None])
    elif look.backdrop == "window":
        for _ in range(int(rng.integers(2, 6))):
            x, wide = rng.uniform(-1, 1), rng.uniform(0.08, 0.4)
            colour = look.ground * np.float32(np.exp(rng.normal(0, 0.9)))
            lay(ground, np.clip(colour, 0, 1.1), soften(cover(np.float32(wide) - np.abs(X - np.float32(x))), 6))
    else:
        ground *= (1 + 0.18 * np.sin(slope * np.float32(rng.uniform(15, 60))))[..., None]
    return np.asarray(np.clip(ground, 0, 1.2), np.float32)


def paint_body(picture: Floats, head: HeadShape, look: Look, rng: np.random.Generator) -> None:
    """Neck and shoulders, turned against the level head by the look's tilt."""
    marks = look.marks
    chin = marks["my"] + marks["chin"]
    wide = marks["rx"] * (float(rng.uniform(0.62, 0.8)) - 0.08 * look.fine)
    pivot = np.array([marks["cx"], 0.5 * chin])
    cos, sin = np.cos(look.tilt), np.sin(look.tilt)
    turn = np.array([[cos, -sin], [sin, cos]])

    def placed(points: list[tuple[float, float]], sharp: bool = False) -> NDArray[np.float64]:
        line = np.asarray(points) if sharp else curve(points, closed=True)
        return np.asarray((line - pivot) @ turn.T + pivot)

    base = chin + float(rng.uniform(0.1, 0.2))
    sides = [(wide, 0.2), (0.95 * wide, base), (1.35 * wide, 1.5)]
    neck = placed([(x + marks["cx"], y) for x, y in [*sides, *[(-x, y) for x, y in sides[::-1]]]])
    mask = polygon(neck)
    low = box(0, 1.1, 1, 1)  # nothing of the body shows above
    light, _ = lit(low.of(26 * soften(mask, 14) + 2 * noise(rng, (8, 8))), look)
    lay(low.of(picture), look.skin * light * np.array([0.8, 0.74, 0.72], np.float32), low.of(mask))
    thrown = soften(lowered(head.cover, 26, -int(14 * look.light[0])), 9)
    shade(picture, mask * np.clip(thrown * 0.72, 0, 0.62))
    shoulder, slope = base + float(rng.uniform(0.02, 0.08)), float(rng.uniform(0.1, 0.26))
    depth = float(rng.uniform(0.05, 0.5)) if not look.collar else 0.22
    half = [
        (0.5 * wide, shoulder + 0.5 * depth), (1.25 * wide, shoulder - 0.04), (0.85, shoulder + slope),
        (1.6, shoulder + slope + 0.18), (1.6, 2.2),
    ]  # fmt: skip
    cloth = placed([(0.0, shoulder + depth), *half, *[(-x, y) for x, y in half[::-1]]])
    dressed = polygon(cloth)
    weave = 1 + 0.06 * noise(rng, (160, 160)) + 0.08 * noise(rng, (10, 14))
    folds, _ = lit(low.of(20 * soften(dressed, 12) + np.float32(3.5) * noise(rng, (4, 7))), look)
    lay(low.of(picture), look.dress * low.of(weave)[..., None] * folds, low.of(dressed))
    if look.collar:
        _collar(picture, placed, wide, shoulder, rng)
    edge = np.clip(soften(dressed, 3) - dressed, 0, 1)
    shade(picture, edge * 0.5 * mask)


def _collar(picture: Floats, placed: Placed, wide: float, shoulder: float, rng: np.random.Generator) -> None:
    """A shirt's collar in the opening of a jacket, and perhaps a tie."""
    shirt = linear(*((238, 238, 240), (170, 190, 220), (225, 205, 205))[int(rng.integers(3))]) * np.float32(0.85)
    top, knot = shoulder - 0.09, shoulder + float(rng.uniform(0.1, 0.2))
    chest = [(0.0, knot), (1.02 * wide, top), (1.15 * wide, top + 0.1), (0.0, knot + 0.8), (-1.15 * wide, top + 0.1)]
    chest.append((-1.02 * wide, top))
    lay(picture, shirt * np.float32(0.9), soften(polygon(placed(chest, True)), 0.6))
    if rng.random() < 0.6:
        tie = linear(*(int(v) for v in rng.integers(15, 170, 3)))
        right = [(0.06, knot - 0.01), (0.035, knot + 0.08), (0.09, knot + 0.9)]
        strip = [*right, *[(-x, y) for x, y in right[::-1]]]
        lay(picture, tie, soften(polygon(placed(strip, True)), 0.6))
    for sign in (-1, 1):
        flap = [(1.0 * wide, top - 0.02), (0.02, knot), (0.2, knot + 0.13), (1.12 * wide, top + 0.12)]
        flap = [(sign * x, y) for x, y in flap]
        mask = soften(polygon(placed(flap, True)), 0.6)
        shade(picture, np.clip(soften(lowered(mask, 3), 3) - mask, 0, 1) * np.float32(0.4))
        lay(picture, shirt, mask)


def photograph(light: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear light [320, 320, 3] to a stored RGB picture, as one of many cameras would take it."""
    angle, fall = rng.uniform(0, 2 * np.pi), float(rng.normal(0, 0.16))
    light = light * np.exp(np.float32(fall) * (np.cos(angle) * X + np.sin(angle) * Y).astype(np.float32))[..., None]
    exposure = float(np.exp(rng.normal(-0.05, 0.16)))
    balance = np.exp(rng.normal(0, 0.03, 3)).astype(np.float32)
    stored = np.sqrt(np.clip(light * exposure * balance, 0, 1.0))
    stored = stored + np.float32(rng.normal(0, 0.25)) * stored * (1 - stored) * (stored - 0.5)
    if rng.random() < 0.07:
        stored = stored.mean(2, keepdims=True).repeat(3, 2)
    blur = float(rng.choice((0.35, 0.6, 0.9, 1.4), p=(0.35, 0.4, 0.18, 0.07)))
    stored = cv2.GaussianBlur(stored, (0, 0), blur)
    stored = stored + rng.standard_normal(stored.shape, dtype=np.float32) * np.float32(rng.uniform(0.002, 0.02))
    picture = np.clip(stored * 255 + 0.5, 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 97))]
    coded = cv2.imencode(".jpg", picture[..., ::-1], quality)[1]
    back = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert back is not None
    return np.ascontiguousarray(back[..., ::-1], np.uint8)
