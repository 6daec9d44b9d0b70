"""Painted eyes, brows, mouth and glasses, exactly at the given landmarks."""

import numpy as np

from engine.portrait.landmarks import EYE_X, EYE_Y
from training.data.synthetic.painting.canvas import Box, Floats, bell, box, cover, lay, linear, noise, shade, strands
from training.data.synthetic.painting.looks import MARGIN_A, MARGIN_B, Look

IRIS = 0.0385  # radius: 11.7 mm where the pupils are 63 mm apart
PX = 1 / 160


def paint_eyes(picture: Floats, light: Floats, look: Look, rng: np.random.Generator) -> None:
    white = linear(236, 228, 222) * np.float32(rng.uniform(0.75, 1.0)) * np.array([1, 0.97, 0.95], np.float32)
    slant, pupil = float(rng.normal(0.004, 0.006)), float(rng.uniform(0.3, 0.5))
    glint = (float(0.012 * np.sign(look.light[0] + 1e-3)), -0.012)
    bright, lashes = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.55, 0.8) + 0.2 * look.fine)
    fold = float(rng.uniform(0.15, 0.45))
    for side, sign in (("l", -1), ("r", 1)):
        centre = (look.marks["ex" + side], look.marks["ey" + side])
        part = box(*centre, 0.17, 0.1)
        view, glow = part.of(picture), part.of(light)
        a, b = look.marks["ea"] - MARGIN_A, look.marks["eb"] - MARGIN_B
        x, y = part.x - np.float32(centre[0]), part.y - np.float32(centre[1])
        t = x / np.float32(a) * sign  # -1 at the inner corner
        y = y + np.float32(slant) * t
        p = np.clip(1 - t * t, 0, 1)
        upper, lower = -b * p**0.62 * (1 - 0.12 * t), b * p**0.85 * (1 + 0.12 * t)
        inside = cover(np.minimum(y - upper, lower - y)) * cover((1 - np.abs(t)) * np.float32(a), 2.0)
        ball = _eyeball(part, look, white, sign * EYE_X, pupil, rng)
        shadow = np.exp(-((np.clip(y - upper, 0, None) / np.float32(0.5 * b)) ** 2))  # of the upper lid
        ball *= (1 - 0.5 * shadow)[..., None] * (0.15 + 0.7 * glow) * np.float32(0.55 + 0.45 * look.pale)
        lay(view, ball, inside)
        spark = cover(1.5 * PX - np.hypot(part.x - sign * EYE_X - glint[0], part.y - EYE_Y - glint[1]), 1.5)
        lay(view, (bright,) * 3, spark * inside * np.float32(0.9))
        near = np.clip(p * 4, 0, 1)
        line = np.exp(-(((y - upper + 0.6 * PX) / np.float32(1.1 * PX)) ** 2)) * near * (0.75 + 0.25 * t)
        shade(view, np.clip(line * np.float32(lashes), 0, 0.93))
        rim = np.exp(-(((y - lower - 0.5 * PX) / np.float32(1.1 * PX)) ** 2)) * near
        shade(view, rim * np.float32(0.16 + 0.14 * look.fine))
        crease = upper - np.float32(0.5 * b + 0.012) * (0.6 + 0.4 * p)
        soft = np.exp(-(((y - crease) / np.float32(1.5 * PX)) ** 2)) * np.clip(1.25 - np.abs(t), 0, 1)
        shade(view, soft * np.float32(fold))
        corner = bell(x, y, (-sign * 0.98 * a, 0.004), (0.012, 0.007))
        lay(view, linear(190, 110, 100) * look.skin.mean() * np.float32(1.6), corner * np.float32(0.5))


def _eyeball(part: Box, look: Look, white: Floats, x: float, pupil: float, rng: np.random.Generator) -> Floats:
    """White, iris and pupil around x as they lie under the lids."""
    dx, dy = part.x - np.float32(x), part.y - np.float32(EYE_Y)
    radius = np.hypot(dx, dy)
    ball = np.tile(white, (*dx.shape, 1)).astype(np.float32)
    ball *= (1 - 0.35 * np.clip(np.abs(dx) / 0.09, 0, 1) ** 2)[..., None]
    rays = 1 + 0.22 * np.interp(np.arctan2(dy, dx), np.linspace(-np.pi, np.pi, 40), rng.normal(0, 1, 40))
    glow = 0.75 + 9 * np.clip(dy, -0.02, 0.03)  # light gathers opposite to where it enters
    iris = look.iris * (rays * glow)[..., None]
    iris *= (1 - 0.6 * np.clip((radius - 0.75 * IRIS) / (0.25 * IRIS), 0, 1))[..., None]  # the dark ring
    lay(ball, np.asarray(iris, np.float32), cover(np.float32(IRIS) - radius, 1.3))
    lay(ball, linear(14, 10, 10), cover(np.float32(pupil * IRIS) - radius, 1.3))
    return ball


def paint_brows(picture: Floats, look: Look, rng: np.random.Generator) -> None:
    thick = float(rng.uniform(0.014, 0.026)) * (1.15 - 0.4 * look.fine)
    arch, drop = float(rng.uniform(0.0, 0.022)), float(rng.normal(-0.003, 0.008))
    strong = float(rng.uniform(0.55, 0.95))
    colour = look.hair * np.float32(0.75)
    for side, sign in (("l", -1), ("r", 1)):
        x0, y0 = look.marks["ex" + side], look.marks["ey" + side] - look.marks["bh"]
        part = box(x0, y0, 0.2, 0.09)
        t = (part.x - np.float32(x0)) / np.float32(0.118) * sign
        line = y0 + drop * np.clip(t, -1, 1) + arch * (1.6 * (t - 0.25) ** 2 - 0.35)
        width = thick * np.clip(1.08 - 0.55 * np.clip(t, 0, 1.4) ** 1.5, 0.15, 2)
        grain = strands(rng, part.x * sign - 0.9 * (part.y - y0), part.y, 3.0)
        reach = np.minimum(width - np.abs(part.y - line), (1.12 - np.abs(t)) * np.float32(0.118))
        mask = cover(reach + grain * np.float32(0.0035), 3.0)
        lay(part.of(picture), colour, np.clip(mask * strong * (0.85 + 0.18 * grain), 0, 1))


def paint_mouth(picture: Floats, light: Floats, look: Look, rng: np.random.Generator) -> None:
    """Lips along the line my + curve u^2, the gap above the lower lip's edge th high in the middle."""
    marks = look.marks
    mx, my, mw, th, lt, ut = (marks[name] for name in ("mx", "my", "mw", "th", "lt", "ut"))
    part = box(mx, my - 0.5 * th, mw + 0.1, 0.16 + 0.5 * th)
    view, glow = part.of(picture), part.of(light)
    u = (part.x - np.float32(mx)) / np.float32(mw)
    v = part.y - np.float32(my) - (marks["curve"] * u * u + marks["mtilt"] * u).astype(np.float32)
    s = np.clip(1 - u * u, 0, 1)
    p = s**0.75
    bow = 1 + 0.22 * np.exp(-(((np.abs(u) - 0.28) / 0.2) ** 2)) - 0.06 * np.exp(-((u / 0.12) ** 2))
    top, bottom, gap = -th * p - ut * p * bow, lt * s**0.62, -th * p
    colour = _lip_colour(look, rng)
    round_lower = np.clip(v / np.maximum(bottom, 1e-3), 0, 1)
    round_upper = np.clip((v - gap) / np.minimum(top - gap, -1e-3), 0, 1)
    form = np.where(v > 0, 1.12 - 0.75 * (round_lower - 0.38) ** 2 * 2, 0.62 + 0.3 * round_upper)
    grain = 1 + 0.05 * noise(rng, (6, 70), u.shape)
    lips = colour * (form * grain)[..., None] * glow
    gloss = bell(u, v, (0.12 * float(look.light[0]), 0.38 * lt), (0.28, 0.2 * lt)) * np.float32(rng.uniform(0, 0.12))
    lips = np.asarray(lips + gloss[..., None], np.float32)
    inside = np.minimum(v - top, bottom - v)
    edge_soft = float(rng.uniform(1.2, 2.6))
    shade(view, bell(u, v, (0, lt + 0.022), (0.5, 0.014)) * np.float32(0.22))  # below the lower lip
    lay(view, lips, cover(inside, edge_soft) * np.clip((1 - np.abs(u)) * 14, 0, 1))
    if th > 0.004:
        inner = _interior(u, v, th, mw, p, look, rng) * np.float32(0.25 + 0.6 * float(np.median(glow)))
        lay(view, inner, cover(np.minimum(v - gap, -v), 1.2) * np.clip(p * 5, 0, 1))
    seam = np.exp(-((v / np.float32(1.25 * PX)) ** 2)) if th <= 0.004 else _edge(v, gap) * np.clip(p * 5, 0, 1)
    shade(view, np.clip(seam * np.clip((1.0 - np.abs(u)) * 10, 0, 1) * np.float32(rng.uniform(0.5, 0.75)), 0, 0.85))
    for sign in (-1, 1):
        shade(view, bell(u, v, (sign * 1.02, 0.0), (0.05, 0.012)) * np.float32(0.45))


def _edge(v: Floats, gap: Floats) -> Floats:
    """The thin shadow under the upper lip."""
    return np.asarray(0.75 * np.exp(-(((v - gap) / np.float32(1.2 * PX)) ** 2)), np.float32)


def _lip_colour(look: Look, rng: np.random.Generator) -> Floats:
    """From hardly different from the skin to painted red."""
    natural = look.skin * np.array([0.93, 0.66, 0.68], np.float32)
    strength = float(rng.uniform(0.25, 1.0))
    colour = look.skin * (1 - strength) + natural * strength
    if look.fine > 0.6 and rng.random() < 0.5:
        paint = linear(*((170, 50, 60), (150, 70, 75), (190, 90, 90), (120, 35, 50))[int(rng.integers(4))])
        colour = colour * 0.4 + 0.6 * paint * np.float32(0.5 + 0.5 * look.pale)
    return np.asarray(colour, np.float32)


def _interior(u: Floats, v: Floats, th: float, mw: float, p: Floats, look: Look, rng: np.random.Generator) -> Floats:
    """Teeth, dark, tongue; u along the mouth, v above the lower lip's edge."""
    dark = linear(58, 22, 22) * np.float32(0.5 + 0.5 * look.pale)
    colour = np.tile(dark, (*u.shape, 1)).astype(np.float32)
    down = v + th * p  # from the upper lip
    if th > 0.07:
        tongue = bell(u, v, (0, 0.0), (0.42, 0.32 * th))
        lay(colour, linear(165, 84, 84) * np.float32(0.8), np.clip(1.3 * tongue, 0, 0.9))
        if rng.random() < 0.5:
            _teeth(colour, u, mw, cover(v + 0.028 * p, 1.5) * np.float32(0.75), 0.0, look, rng, 0.036)
    length = float(rng.uniform(0.062, 0.082))
    shown = min(length, th) if rng.random() < 0.9 else 0.45 * min(length, th)
    scallop = 0.006 * np.abs(np.sin(np.pi * u * mw / 0.052))
    band = cover(np.float32(shown) * (0.35 + 0.65 * p) - down - scallop * (shown < 0.9 * th), 1.6)
    _teeth(colour, u, mw, band, float(rng.uniform(0.3, 0.6)), look, rng, 0.052)
    colour *= (0.62 + 0.38 * np.clip(down / 0.028, 0, 1))[..., None]  # the upper lip's shadow
    return colour


def _teeth(
    colour: Floats, u: Floats, mw: float, band: Floats, fade: float, look: Look, rng: np.random.Generator, width: float
) -> None:
    white = linear(*((238, 232, 220), (226, 214, 192), (246, 244, 240))[int(rng.integers(3))]) * (0.8 + 0.2 * look.pale)
    bend = np.arcsin(np.clip(u * mw / 0.235, -0.98, 0.98)) * 0.235  # teeth stand on an arch
    phase = np.abs(((bend / width + 0.5) % 1) - 0.5)
    between = np.exp(-(((0.5 - phase) / 0.07) ** 2)) * 0.3
    form = (1 - between) * (1 - 0.25 * (phase / 0.5) ** 4)
    light = (1 - fade * np.clip(np.abs(u), 0, 1) ** 2) * (0.8 + 0.3 * look.fill)
    side = 1 - np.clip((np.abs(u) - 0.8) / 0.2, 0, 1) * 0.8  # dark corners
    lay(colour, np.asarray(white * (form * light * side)[..., None], np.float32), band)


def paint_glasses(picture: Floats, look: Look, rng: np.random.Generator) -> None:
    marks = look.marks
    wide, high = float(rng.uniform(0.135, 0.165)), float(rng.uniform(0.09, 0.125))
    power = {"round": 2.0}.get(look.glasses, float(rng.uniform(2.6, 4.5)))
    if look.glasses == "round":
        wide = high = float(rng.uniform(0.125, 0.145))
    thick = {"thin": 0.9, "rimless": 0.35, "round": 1.1}.get(look.glasses, float(rng.uniform(2.0, 3.4))) * PX
    colour = linear(*((20, 18, 18), (60, 40, 28), (130, 110, 80), (150, 150, 155))[int(rng.integers(4))])
    y0 = EYE_Y + 0.012
    part = box(0.0, y0, 0.62, 0.2)
    view, x, y = part.of(picture), part.x, part.y
    glare = float(rng.uniform(0, 0.12)) if rng.random() < 0.4 else 0.0
    middle = wide - 0.006 + 0.05
    for sign in (-1, 1):
        dx, dy = (x - sign * middle - 0.012 * sign) / np.float32(wide), (y - y0) / np.float32(high)
        ring = (np.abs(dx) ** power + np.abs(dy) ** power) ** np.float32(1 / power)
        inside = (1 - ring) * np.float32(min(wide, high))
        lay(view, linear(255, 255, 255), cover(inside) * np.float32(0.03))
        band = np.exp(-(((dx * 0.8 + dy - 0.1) / 0.22) ** 2)) * cover(inside)
        lay(view, linear(235, 240, 250), band * np.float32(glare))
        shade(view, np.exp(-(((inside + 0.012) / 0.012) ** 2)) * np.float32(0.12))
        lay(view, colour, cover(np.float32(thick) - np.abs(inside)) * np.float32(0.95))
        outer = marks["cx"] + sign * (marks["rx"] + 0.03)
        inner = sign * (middle + wide)
        arm = np.minimum((x * sign - inner * sign + 0.01), outer * sign - x * sign)
        lay(view, colour, cover(np.minimum(arm, np.float32(max(thick, PX)) - np.abs(y - y0 + 0.03))))
    gap = middle - wide
    nose = y0 - 0.03 + 1.2 * x * x
    lay(view, colour, cover(np.minimum(gap + 0.012 - np.abs(x), np.float32(max(thick, 0.8 * PX)) - np.abs(y - nose))))
