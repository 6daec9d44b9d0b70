"""Painted head as a lit relief: contour, forehead, brow ridge, nose, cheeks, chin and lines of age.

The relief is a height map; its slopes against the light give every soft shadow of the face. Skin colour varies over
it as skin does. Eyes, mouth and hair are laid over it by others.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import EYE_Y
from training.data.synthetic.painting.canvas import (
    SIZE,
    Floats,
    X,
    Y,
    add_bell,
    bell,
    box,
    curve,
    lay,
    noise,
    polygon,
    shade,
    soften,
    stroke,
)
from training.data.synthetic.painting.looks import Look

DEEP = 70.0  # pixels from the contour at which the head no longer bends away


@dataclass(frozen=True, slots=True)
class HeadShape:
    """cover: [320, 320], the face without ears and hair. height: relief in pixels. edge: right half of the contour,
    offsets from cx over y, [n, 2]. nose: tip and base heights, half width. top: of the skull."""

    cover: Floats
    height: Floats
    edge: NDArray[np.float64]
    tip: float
    base: float
    wing: float
    top: float

    def half_width(self, y: Floats | float) -> Floats:
        """Of the face at heights y, units; 0 above and below it."""
        return np.asarray(np.interp(y, self.edge[:, 1], self.edge[:, 0], 0.0, 0.0), np.float32)


def build_head(look: Look, rng: np.random.Generator) -> HeadShape:
    marks = look.marks
    cx, rx, chin = marks["cx"], marks["rx"], marks["my"] + marks["chin"]
    top = EYE_Y - float(rng.uniform(0.62, 0.71))
    jaw, chin_width = rng.uniform(0.9, 0.98) - 0.03 * look.fine, rng.uniform(0.11, 0.19) - 0.035 * look.fine
    low = float(rng.uniform(0.6, 0.78)) - 0.05 * look.fine
    middle = 0.5 * (0.16 + chin)
    right = [
        (0.0, top), (0.52 * rx, top + 0.06), (0.86 * rx, top + 0.23), (1.0 * rx, -0.27), (1.01 * rx, EYE_Y),
        (rx, 0.14), (jaw * rx, middle - 0.04), (low * rx, chin - 0.13), (chin_width, chin - 0.022), (0.0, chin),
    ]  # fmt: skip
    around = curve([*right, *[(-x, y) for x, y in right[-2:0:-1]]], closed=True)
    edge = around[: 12 * (len(right) - 1) + 1]
    place = around.copy()
    place[:, 0] += cx
    mask = polygon(place)
    lip = marks["my"] - marks["th"] - marks["ut"]
    base = lip - float(rng.uniform(0.065, 0.105))
    tip = base - float(rng.uniform(0.03, 0.05))
    wing = float(rng.uniform(0.088, 0.128)) - 0.018 * look.fine + 0.02 * (1 - look.pale)
    head = HeadShape(mask, _bulk(mask), edge, tip, base, wing, top)
    _features(head, look, rng)
    _lines(head, look, rng)
    return head


def _bulk(mask: Floats) -> Floats:
    """A cushion: round towards the contour, almost flat in the middle."""
    depth = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    t = np.clip(depth / DEEP, 0, 1)
    return soften(np.asarray(58 * np.sqrt(t * (2 - t)), np.float32), 6)


def _features(head: HeadShape, look: Look, rng: np.random.Generator) -> None:
    """Hills and hollows; heights in pixels."""
    marks, h, nose_x = look.marks, head.height, look.turn
    tip, base, wing, strong = head.tip, head.base, head.wing, 1.25 - 0.5 * look.fine
    for side in "lr":
        x, y = marks["ex" + side], marks["ey" + side]
        sign = 1 if side == "r" else -1
        add_bell(h, (x - 0.02 * sign, y - 0.01), (0.085, 0.05), -6.5 * strong)  # the socket
        add_bell(h, (x, y), (0.052, 0.03), 4.5)  # the eyeball
        add_bell(h, (x, y - marks["bh"]), (0.1, 0.026), 2.6 * strong, 0.12 * sign)  # the brow's ridge
        add_bell(h, (sign * 0.27 + 0.3 * nose_x, 0.15), (0.1, 0.09), 5.0 + 4 * marks["smiling"])  # the cheek
        add_bell(h, (nose_x + sign * (wing - 0.03), base - 0.02), (0.03, 0.028), 4.0)  # wing of the nose
        add_bell(h, (nose_x * 0.6 + sign * 0.02, base + 0.5 * (marks["my"] - base)), (0.012, 0.03), 0.7)  # philtrum
    length = tip - EYE_Y
    for share, width, high in ((0.0, 0.036, 2.0), (0.3, 0.038, 4.0), (0.55, 0.043, 5.5), (0.78, 0.05, 6.5)):
        add_bell(h, (share * nose_x, EYE_Y + share * length), (width, 0.26 * length), 0.62 * high * strong**0.5)
    add_bell(h, (nose_x, tip), (0.05 + 0.2 * (wing - 0.09), 0.042), 8.0)
    add_bell(h, (marks["mx"], marks["my"] - 0.5 * marks["th"]), (0.2, 0.1), 5.0)  # the teeth's arch
    chin = marks["my"] + marks["chin"]
    add_bell(h, (marks["mx"] * 0.6, chin - 0.085), (0.075, 0.05), 5.0 * strong)
    add_bell(h, (marks["mx"], marks["my"] + marks["lt"] + 0.035), (0.1, 0.02), -2.6)  # under the lower lip
    add_bell(h, (0.5 * nose_x, -0.42), (0.22, 0.14), 2.5)
    h += noise(rng, (9, 9)) * np.float32(0.35)


def _lines(head: HeadShape, look: Look, rng: np.random.Generator) -> None:
    """Folds from the nose to the mouth, wrinkles of forehead and eyes, bags: by age, and by a smile."""
    marks, age, nose_x = look.marks, look.age, look.turn
    grooves = np.zeros((SIZE, SIZE), np.float32)

    def groove(points: list[tuple[float, float]], depth: float, width: float, blur: float) -> None:
        nonlocal grooves
        if depth > 0.15:
            grooves += np.float32(1.5 * depth) * stroke(curve(points), width, blur)

    for sign in (-1, 1):
        start = (nose_x + sign * (head.wing + 0.008), head.base - 0.045)
        corner = (marks["mx"] + sign * (marks["mw"] + 0.045), marks["my"] + marks["curve"] - 0.01)
        out = 0.012 + 0.03 * marks["smiling"]
        middle = (0.5 * (start[0] + corner[0]) + sign * out, 0.5 * (start[1] + corner[1]) - 0.012)
        groove([start, middle, corner], 0.5 + 2.6 * age + 1.3 * marks["smiling"], 3, 2.6)
        if age > 0.5:
            end = (corner[0] - sign * 0.015, corner[1] + 0.13)
            groove([(corner[0] - sign * 0.02, corner[1] + 0.03), end], 2.6 * (age - 0.4), 2, 2.2)
        x, y = marks["exr" if sign > 0 else "exl"], marks["eyl"]
        bag = [(x - sign * 0.085, y + 0.05), (x - 0.01 * sign, y + 0.088), (x + sign * 0.085, y + 0.062)]
        groove(bag, 0.4 + 2.2 * age * rng.uniform(0.3, 1), 2, 2.2)
        for turn in (-0.25, 0.1, 0.45):
            reach = rng.uniform(0.05, 0.09)
            outer = (x + sign * 0.115, y + 0.05 * turn)
            groove([outer, (outer[0] + sign * reach, outer[1] + turn * reach)], 2.0 * (age - 0.35), 1, 1.1)
    for level in range(int(rng.integers(2, 5))):
        y = EYE_Y - marks["bh"] - 0.075 - 0.055 * level
        wave = [(nose_x + x, y + 0.012 * rng.normal() + 0.015 * (x / 0.25) ** 2) for x in (-0.24, -0.1, 0.04, 0.2)]
        groove(wave, 2.1 * (age - 0.45) * rng.uniform(0.5, 1.2), 2, 1.6)
    for sign in (-1, 1):
        x = 0.4 * nose_x + sign * 0.028
        groove([(x, EYE_Y - 0.12), (x + 0.006, EYE_Y - 0.05)], 2.4 * (age - 0.5) * rng.random(), 1, 1.5)
    head.height[:] -= grooves


def paint_head(picture: Floats, head: HeadShape, look: Look, rng: np.random.Generator) -> Floats:
    """Lay ears and the lit face over the picture; returns the light [320, 320, 3] that fell on the skin."""
    _ears(picture, head, look)
    colour = _complexion(head, look, rng)
    light, shine = lit(head.height, look)
    pores = noise(rng, (SIZE, SIZE)) * np.float32(0.008 + 0.012 * look.age) + noise(rng, (150, 150)) * np.float32(0.012)
    skin = colour * (light * (1 + pores)[..., None]) + (shine * (1 + 2 * pores) * np.float32(0.35))[..., None]
    _nostrils(skin, head, look)
    lay(picture, skin, head.cover)
    return light


def lit(height: Floats, look: Look) -> tuple[Floats, Floats]:
    """Light on a relief (pixels high), [h, w, 3] about 1 where it faces the light, and its shine [h, w]."""
    h = soften(height, 1.3)
    slope_x = cv2.Sobel(h, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(h, cv2.CV_32F, 0, 1, scale=0.125)
    size = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    lx, ly, lz = (float(v) for v in look.light)
    direct = np.clip((-slope_x * lx - slope_y * ly + lz) * size, 0, None)
    sky = 0.6 + 0.4 * np.clip((slope_y + 1) * size, 0, 1)  # soft light from above
    light = np.float32(look.fill * 0.62) * sky + np.float32(1.12 - 0.5 * look.fill) * direct
    hx, hy, hz = lx, ly, lz + 1
    norm = float(np.sqrt(hx * hx + hy * hy + hz * hz))
    facing = np.clip((-slope_x * hx - slope_y * hy + hz) * size / norm, 0, 1)
    shine = facing**24 * np.float32(0.10 + 0.08 * (1 - look.pale))
    dim = np.clip(1 - light, 0, 1)
    warm = np.stack([light + 0.10 * dim * light, light, light - 0.07 * dim * light], 2)  # light under the skin is red
    return np.asarray(warm, np.float32), np.asarray(shine, np.float32)


def _complexion(head: HeadShape, look: Look, rng: np.random.Generator) -> Floats:
    """The skin's own colour: redder cheeks, nose and ears, darker lids and beard shadow, freckles, spots."""
    marks, nose_x = look.marks, look.turn
    red = np.zeros((SIZE, SIZE), np.float32)
    flush = float(rng.uniform(0.3, 1.2))
    for x, y, size, amount in (
        (-0.27, 0.17, (0.11, 0.1), 1.0), (0.27, 0.17, (0.11, 0.1), 1.0), (nose_x, head.tip, (0.06, 0.05), 0.9),
        (0.0, marks["my"] + 0.8 * marks["chin"], (0.1, 0.06), 0.4), (0.0, -0.4, (0.25, 0.12), -0.25),
    ):  # fmt: skip
        add_bell(red, (x, y), size, amount * flush)
    red += noise(rng, (14, 14)) * np.float32(0.18) + noise(rng, (60, 60)) * np.float32(0.10 + 0.1 * look.age)
    colour = look.skin * np.exp(red[..., None] * np.array([0.03, -0.10, -0.09], np.float32))
    dark = np.zeros((SIZE, SIZE), np.float32)
    for side, sign in (("l", -1), ("r", 1)):
        x, y = marks["ex" + side], marks["ey" + side]
        add_bell(dark, (x, y - 0.03), (0.075, 0.026), rng.uniform(0.05, 0.22))
        add_bell(dark, (x - sign * 0.03, y + 0.045), (0.06, 0.022), rng.uniform(0.05, 0.25))
    colour *= np.exp(-dark)[..., None] ** np.array([0.8, 1.0, 0.95], np.float32)
    if rng.random() < 0.25 * look.pale:
        spots = np.clip(noise(rng, (130, 130)) - 1.5, 0, 1) * bell(X, Y, (0.0, 0.08), (0.3, 0.16))
        colour *= np.exp(-spots[..., None] * np.array([0.35, 0.7, 0.8], np.float32))
    return np.asarray(colour, np.float32)


def _ears(picture: Floats, head: HeadShape, look: Look) -> None:
    cx = look.marks["cx"]
    for sign in (-1, 1):
        width = float(head.half_width(0.02))
        x = cx + sign * (width + 0.012)
        around = curve(
            [(x - sign * 0.03, EYE_Y - 0.06), (x + sign * 0.035, EYE_Y - 0.055), (x + sign * 0.047, EYE_Y + 0.04),
             (x + sign * 0.02, 0.11), (x - sign * 0.03, 0.13)], closed=True,
        )  # fmt: skip
        part = box(x, 0.02, 0.12, 0.22)
        mask, shell = part.of(polygon(around)), part.of(polygon(0.55 * (around - (x, 0.0)) + (x, 0.0)))
        light, _ = lit(10 * soften(mask, 3.5) - 7 * soften(shell, 2.0), look)
        lay(part.of(picture), look.skin * light * np.array([0.92, 0.8, 0.78], np.float32), mask)


def _nostrils(skin: Floats, head: HeadShape, look: Look) -> None:
    """Dark openings, and the shadow the nose throws on the lip."""
    x0 = look.turn
    part = box(x0, head.base + 0.03, 0.26, 0.12)
    view, x, y = part.of(skin), part.x, part.y
    away = -0.045 * float(look.light[0]) / float(look.light[2])
    below = bell(x, y, (x0 + away, head.base + 0.012), (0.65 * head.wing, 0.026))
    shade(view, np.float32(0.3) * below)
    for sign in (-1, 1):
        hole = bell(x, y, (x0 + sign * 0.5 * head.wing, head.base - 0.004), (0.019, 0.0085), -0.25 * sign)
        shade(view, np.clip(1.15 * hole, 0, 0.72))
        fold = bell(x, y, (x0 + sign * (head.wing + 0.006), head.base - 0.022), (0.008, 0.026), -0.2 * sign)
        shade(view, np.float32(0.14) * fold)
