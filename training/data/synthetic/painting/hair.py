"""Painted hair, beards and headwear: soft masks with ragged edges, filled with strands that catch the light."""

from dataclasses import dataclass

import numpy as np

from engine.portrait.landmarks import EYE_Y
from training.data.synthetic.painting.canvas import (
    SIZE,
    Floats,
    X,
    Y,
    bell,
    cover,
    lay,
    linear,
    lowered,
    noise,
    shade,
    soften,
    strands,
)
from training.data.synthetic.painting.head import HeadShape, lit
from training.data.synthetic.painting.looks import Look

LENGTHS = {  # how far down the hair at the sides reaches, y in units
    "ring": 0.1, "cropped": -0.04, "parted": 0.0, "swept": 0.02, "fringe": 0.05, "bob": 0.5, "long": 1.3,
    "curly": 0.25, "afro": 0.12, "bun": -0.02,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Strands:
    """What hair looks like everywhere, before it is cut to a shape. colour: [320, 320, 3]. grain: unit variance."""

    colour: Floats
    grain: Floats


def grow(head: HeadShape, look: Look, rng: np.random.Generator) -> Strands:
    """Strands from a parting at the crown downwards, sideways for swept hair, in all directions for curls."""
    cx, part = look.marks["cx"], float(rng.uniform(-0.2, 0.2))
    if look.style in ("curly", "afro"):
        grain = noise(rng, (48, 48)) * np.float32(0.8) + noise(rng, (110, 110)) * np.float32(0.5)
    else:
        down = Y - np.float32(head.top - 0.12)
        across = (X - np.float32(cx + part)) / (np.float32(0.5) + np.clip(down, 0, 2) * np.float32(0.5))
        if look.style in ("swept", "parted", "cropped", "bun"):
            lean = float(rng.uniform(0.6, 1.6)) * (1 if part > 0 else -1)
            across = across + np.float32(0.8) * down * np.float32(lean) * np.clip(-Y, 0, 1)
        across = across + noise(rng, (7, 7)) * np.float32(0.012)
        grain = strands(rng, across * np.float32(0.8), down * np.float32(0.4))
    wide = look.marks["rx"] + look.volume
    ring = np.sqrt(((X - cx) / wide) ** 2 + ((Y + 0.1) / np.float32(-0.1 - head.top + look.volume)) ** 2)
    offset = float(look.light[0]) * 0.35
    gloss = np.exp(-(((ring - 0.78) / 0.13) ** 2)) * np.clip(1 - np.abs((X - cx) / wide - offset), 0, 1) * (Y < 0.1)
    roundness = np.clip(1.25 - 0.5 * ring**3, 0.35, 1.2)
    value = np.clip(1 + 0.22 * grain, 0.3, 2.0) * roundness * (0.5 + 0.35 * look.fill + 0.25)
    shine = (np.clip(0.6 + 0.5 * grain, 0, 2) * gloss * np.float32(rng.uniform(0.03, 0.12)))[..., None]
    colour = look.hair * value[..., None] + shine * np.sqrt(look.hair / max(float(look.hair.max()), 0.02))
    return Strands(np.asarray(colour, np.float32), np.asarray(grain, np.float32))


def paint_back_hair(picture: Floats, head: HeadShape, look: Look, hair: Strands) -> None:
    """What hangs behind neck and face."""
    if look.style not in ("bob", "long", "curly", "afro") or look.hat == "scarf":
        return
    rough = 0.03 if look.style in ("curly", "afro") else 0.008
    inside = _outer(head, look, LENGTHS[look.style]) + hair.grain * np.float32(rough)
    lay(picture, hair.colour * np.float32(0.55), cover(inside, 3))


def paint_hair(picture: Floats, head: HeadShape, look: Look, hair: Strands, rng: np.random.Generator) -> None:
    """What lies over forehead, temples and ears, and the shadow it throws on the skin."""
    if look.style == "bald" or look.hat == "scarf":
        return
    inside = np.minimum(_outer(head, look, LENGTHS[look.style]), _front(head, look, rng))
    rough = {"curly": 0.022, "afro": 0.02, "fringe": 0.012, "cropped": 0.004}.get(look.style, 0.006)
    mask = cover(inside + hair.grain * np.float32(rough), 2.5 if look.style != "cropped" else 5.0)
    below = lowered(mask, 4)
    shade(picture, np.clip(soften(below, 5) - mask, 0, 1) * np.float32(0.5))
    thin = 0.93 if look.style in ("cropped", "ring") else 1.0
    lay(picture, hair.colour, mask * np.float32(thin))
    if look.style == "bun":
        _knot(picture, head, look, hair)


def _outer(head: HeadShape, look: Look, length: float) -> Floats:
    """How far a place lies inside the hair's outline, units."""
    marks, volume = look.marks, look.volume
    down = Y - np.float32(EYE_Y - 0.15)
    tall = (EYE_Y - 0.15) - head.top + (0.6 * volume + 0.015)
    side = 0.25 * volume if look.style in ("cropped", "parted", "swept", "bun", "ring") else volume
    wide = marks["rx"] * 1.02 + side
    u = (X - np.float32(marks["cx"])) / np.float32(wide)
    if length > 0.4:  # long hair falls outwards a little, then in
        u = u / (1 + 0.16 * np.sin(np.clip(down / max(length, 0.6), 0, 1) * np.float32(2.4)))
    v = np.where(down < 0, down / np.float32(tall), 0)
    inside = (1 - (np.abs(u) ** 2.15 + np.abs(v) ** 2.15) ** np.float32(1 / 2.15)) * np.float32(min(wide, tall))
    if look.hat:
        inside = np.minimum(inside, Y - np.float32(_hat_edge(look)))
    return np.asarray(np.minimum(inside, (np.float32(length) - Y) * np.float32(0.8)), np.float32)


def _hat_edge(look: Look) -> float:
    """How high above the brows a hat sits, y in units."""
    return EYE_Y - look.marks["bh"] - 0.08 - 0.12 * look.fine


def _front(head: HeadShape, look: Look, rng: np.random.Generator) -> Floats:
    """How far a place lies on the hair's side of the hairline, units; forehead and face are outside."""
    marks = look.marks
    u = (X - np.float32(marks["cx"])) / np.float32(marks["rx"])
    rim = np.where(Y[:, 0] > 0.15, 0.8 * marks["rx"], 0)  # below the jaw hair leaves the throat free
    beside = (
        np.abs(X - np.float32(marks["cx"])) - np.maximum(head.half_width(Y[:, 0]), rim)[:, None] + np.float32(0.012)
    )
    if look.style == "ring":
        return np.asarray(np.minimum(beside + 0.02, (Y + np.float32(0.38)) * np.float32(0.15)), np.float32)
    level = EYE_Y - look.hairline
    if look.style in ("fringe", "bob") and rng.random() < (1.0 if look.style == "fringe" else 0.4):
        level = EYE_Y - marks["bh"] + float(rng.uniform(-0.12, 0.035))  # down to the brows, or over them
        line = level + 0.05 * np.abs(u) ** 2 + 0.014 * noise(rng, (1, 18)) + 0.008 * noise(rng, (1, 60))
        fall = line - Y
        return np.asarray(np.maximum(fall, beside), np.float32)
    power, lean = float(rng.uniform(2.2, 4.5)), float(rng.normal(0, 0.05))
    temples = EYE_Y - 0.1 - level
    line = level + temples * np.abs(u) ** power + lean * u
    if look.style in ("parted", "swept", "long", "bob"):
        at, deep = float(rng.uniform(-0.35, 0.35)), float(rng.uniform(0.02, 0.09))
        line = line + deep * np.cos(np.clip((u - at) * 2.2, -np.pi, np.pi)) * -1
    recede = max(0.0, look.age - 0.4) * (1 - look.fine) * 0.28 * float(rng.random())
    line = line - recede * np.exp(-(((np.abs(u) - 0.5) / 0.22) ** 2))
    if look.style in ("long", "bob"):
        curtain = float(rng.uniform(0.01, 0.06))
        beside = beside + np.float32(curtain) * np.clip(1 - np.abs(Y - 0.05), 0, 1)
    return np.asarray(np.maximum(line - Y, beside), np.float32)


def _knot(picture: Floats, head: HeadShape, look: Look, hair: Strands) -> None:
    x, y = look.marks["cx"] * 0.5, head.top - 0.06
    inside = (1 - np.hypot((X - x) / 0.17, (Y - y) / 0.12)) * 0.12
    relief, _ = lit(60 * soften(cover(np.asarray(inside, np.float32), 6), 8), look)
    behind = cover(np.asarray(inside, np.float32) + hair.grain * np.float32(0.006), 3) * (head.top + 0.05 > Y)
    lay(picture, hair.colour * relief, np.asarray(behind, np.float32))


def paint_beard(picture: Floats, head: HeadShape, look: Look, rng: np.random.Generator) -> None:
    """Stubble, moustache, goatee, short or full beard; the lips stay free."""
    if not look.beard:
        return
    marks = look.marks
    mx, my, mw = marks["mx"], marks["my"], marks["mw"]
    u = (X - np.float32(mx)) / np.float32(mw)
    v = Y - np.float32(my) - np.float32(marks["curve"]) * np.clip(u * u, 0, 1.6)
    p = np.clip(1 - u * u, 0, 1)
    lip_top, lip_bottom = -(marks["th"] + marks["ut"]) * p**0.75, marks["lt"] * p**0.62
    free = np.maximum(lip_top - v, v - lip_bottom) - 0.008 + 0.2 * np.clip(np.abs(u) - 1, 0, 1)
    grain = strands(rng, X + 0.25 * np.sin(3 * X) * (Y - my), Y * np.float32(1.6), 1.3)
    long = {"full": float(rng.uniform(0.05, 0.2)), "short": 0.015}.get(look.beard, 0.0)
    nose = np.float32(head.base + 0.03)
    lip_hair = np.minimum(np.minimum(Y - nose - 0.05 * np.abs(u) ** 2, 1.12 - np.abs(u)), lip_top + 0.012 - v)
    cheek = my - 0.05 - (0.16 + 0.1 * float(rng.random())) * np.clip((np.abs(X - marks["cx"]) / marks["rx"]), 0, 1) ** 3
    rim = head.half_width(np.clip(Y - long, head.top, my + marks["chin"] - 0.01)[:, 0])[:, None]
    full = np.clip((Y - 0.12) * 4, 0, 1) * np.float32(0.3 * long)
    bottom = np.float32(my + marks["chin"] + long)
    within = np.minimum(rim + full - np.abs(X - marks["cx"]), bottom - 1.2 * (X - mx) ** 2 * (long > 0.03) - Y)
    jaw = np.minimum(within, Y - cheek)
    if look.beard == "moustache":
        area = lip_hair
    elif look.beard == "goatee":
        round_mouth = np.minimum(1.25 - np.abs(u) * 1.05, 1)
        area = np.maximum(lip_hair, np.minimum(np.minimum(within, round_mouth * 0.2), v + 0.06))
    else:
        area = np.maximum(lip_hair, jaw)
    area = np.asarray(np.minimum(area, free), np.float32)
    soft = {"stubble": 14.0, "short": 7.0}.get(look.beard, 4.0)
    dense = {"stubble": float(rng.uniform(0.12, 0.35)), "short": 0.7}.get(look.beard, 0.97)
    mask = cover(area + grain * np.float32(0.006), soft)
    body = soften(cover(area, 4), 4) * np.float32(12 if look.beard == "full" else 3)
    light, _ = lit(body, look)
    colour = look.hair * np.clip(0.85 + 0.3 * grain, 0.2, 2)[..., None] * light
    if look.beard == "stubble":
        speckle = np.clip(0.8 + 0.5 * noise(rng, (SIZE, SIZE)), 0, 1.6)
        mask = mask * speckle
    lay(picture, np.asarray(colour, np.float32), np.clip(mask * np.float32(dense), 0, 1))


def paint_hat(picture: Floats, head: HeadShape, look: Look, rng: np.random.Generator) -> None:
    """Beanie, cap, brimmed hat, or a scarf that leaves only the face."""
    if not look.hat:
        return
    marks = look.marks
    cx, wide = marks["cx"], marks["rx"] + 0.06
    u = (X - np.float32(cx) - np.float32(look.tilt) * (Y + 0.1)) / np.float32(wide)
    level = _hat_edge(look)
    cloth = look.dress[::-1] * np.float32(rng.uniform(0.5, 1.4))
    weave = 1 + 0.07 * noise(rng, (160, 160))
    if look.hat == "scarf":
        hole = np.hypot((X - cx) / (marks["rx"] * 0.97), (Y - 0.08) / (marks["my"] + marks["chin"] - 0.07)) - 1
        outside = 1 - np.hypot((X - cx) / (wide + 0.08), (Y - 0.1) / np.float32(0.1 - head.top + 0.09))
        sides = wide * 1.02 - np.abs(X - cx) + 0.5 * np.clip(Y - 0.5, 0, 1)
        drape = np.maximum(outside * 0.5, np.minimum(sides, Y - 0.1))
        inside = np.minimum(hole * 0.35, drape)
        folds = 5 * np.sin(9 * u + 7 * (Y - 0.3) ** 2 + rng.uniform(0, 6)) * np.clip(Y + 0.4, 0, 1)
    else:
        crown = 0.5 - 0.5 * (look.hat == "brim") * 0.2
        top = head.top - (0.1 if look.hat != "beanie" else 0.07)
        v = (Y - np.float32(level)) / np.float32(level - top)
        dome = (1 - (np.abs(u) ** 2.6 + np.abs(np.clip(v, None, 0)) ** 2.6) ** np.float32(1 / 2.6)) * np.float32(crown)
        inside = np.minimum(dome, np.float32(level) + 0.05 * u * u - Y)
        folds = 2.0 * np.sin(60 * u) if look.hat == "beanie" else 0 * u
    inside = np.asarray(inside, np.float32)
    mask = cover(inside, 1.5)
    light, _ = lit(np.asarray(34 * np.clip(soften(mask, 12), 0, 1) + folds, np.float32), look)
    shade(picture, np.clip(soften(lowered(mask, 7), 6) - mask, 0, 1) * np.float32(0.6))
    lay(picture, np.asarray(cloth * weave[..., None] * light, np.float32), mask)
    if look.hat in ("cap", "brim"):
        _brim(picture, look, level, cloth, light)
    elif look.hat == "beanie":
        fold = cover(np.minimum(inside + 0.02, 0.06 - np.abs(Y - np.float32(level - 0.04) - 0.05 * u * u)), 1.5)
        lay(picture, cloth * np.float32(0.8) * (1 + 0.12 * np.sin(90 * u))[..., None].astype(np.float32), fold)


def _brim(picture: Floats, look: Look, level: float, cloth: Floats, light: Floats) -> None:
    reach = (0.4, 0.075) if look.hat == "cap" else (0.72, 0.085)
    x = look.marks["cx"] + 0.5 * look.turn
    bow = np.float32(level) - 0.02 + 0.22 * ((X - x) / reach[0]) ** 2 * (0.12 if look.hat == "brim" else 0.35)
    ring = 1 - np.hypot((X - x) / np.float32(reach[0]), (Y - bow) / np.float32(reach[1]))
    mask = cover(np.asarray(ring * reach[1], np.float32), 1.5)
    shade(picture, np.clip(soften(lowered(mask, 12), 7) - mask, 0, 1) * np.float32(0.6))
    lay(picture, cloth * np.float32(0.6), mask)
    lay(
        picture, cloth * np.float32(0.25), mask * np.asarray(bell(X, Y, (x, level + reach[1]), (0.5, 0.02)), np.float32)
    )
    band = linear(20, 20, 22)
    if look.hat == "brim":
        strip = cover(np.float32(0.035) - np.abs(Y - (np.float32(level) - 0.1))) * cover(0.36 - np.abs(X - x))
        lay(picture, band, np.asarray(strip * (light[..., 1] > 0), np.float32) * np.float32(0.8))
