"""Mouth of the face rig: lips that open, close over the teeth, press, purse and smile; the chin; the mouth's inside.

Mouth coordinates: u runs from corner to corner (-1..1); v is the distance above (-) or below (+) the upper edge of the
lower lip. The upper teeth are fixed to the skull: the lips slide over them, and the jaw does not move them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ground.motion import INDEX, JAW_SPAN
from models.codecs.rig_boxes import LINE, Corner, corners, cut, patch, put

REACH_U, REACH_UP = 2.3, 0.4  # extent of the moved region: mouth half-widths sideways, picture units upwards
TEETH_FROM = 0.02  # opening in the photograph from which its own teeth are used, in picture units


@dataclass(frozen=True, slots=True)
class MouthPaint:
    """Paint for the inside of the mouth, in boxes of the frames. at: upper left corners. colour: [T, h, w, 3]. cover:
    its opacity 0..1 [T, h, w, 1]. shade: factor that darkens the seam of closed lips [T, h, w, 1]."""

    at: list[Corner]
    colour: torch.Tensor
    cover: torch.Tensor
    shade: torch.Tensor


@dataclass(frozen=True, slots=True)
class Lips:
    """The lips of a batch of frames in mouth coordinates, every field broadcastable to [T, h, w].

    p: profile of an opening, 1 in the middle and 0 at the corners. upper, lower: v of the two inner edges. top, bottom:
    v of the visible gap's edges (equal when closed). extra: [T, 1, 1], opening beyond the photograph's own. fuller:
    [T, 1, 1], added thickness of lips that close over the teeth of a smile, which had stretched them.
    """

    p: torch.Tensor
    upper: torch.Tensor
    lower: torch.Tensor
    top: torch.Tensor
    bottom: torch.Tensor
    extra: torch.Tensor
    fuller: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mouth:
    """A portrait's mouth; lengths in picture units, colours as [3] in 0..1. The two-letter fields are landmarks."""

    size: int
    mx: float
    my: float
    mw: float
    curve: float
    tilt: float
    lt: float
    ut: float
    th: float
    chin: float
    nose: float  # v at which the upper lip's movement ends
    neck: float  # v at which the chin's movement ends
    toothy: float  # from 0, lips closed in the photograph, to 1, its teeth can be used
    dark: torch.Tensor
    teeth: torch.Tensor
    tongue: torch.Tensor
    centre: torch.Tensor  # [1, 2], middle of the moved region
    box: tuple[int, int]
    gap_box: tuple[int, int]

    def warp(self, source: torch.Tensor, centres: torch.Tensor, controls: torch.Tensor) -> MouthPaint:
        """Warp source positions [T, S, S, 2] in place around the mouth, and return the paint for its inside.

        centres: [T, 2], positions of the mouth in the frames. controls: [T, 16].
        """
        at = corners(centres, self.size, *self.box)
        x, y = cut(source, at, *self.box).unbind(-1)
        knob = {name: controls[:, INDEX[name], None, None] for name in ("jaw", "pucker", "smile", "press", "upper")}
        u, y = self._lateral(x, y, knob)
        line = self.my + self.curve * (u * u).clamp(max=1.4) + self.tilt * u
        v = y - line
        lips = self._lips(u, knob)
        moved = self._vertical(u, v, lips)
        put(source, at, torch.stack([self.mx + u * self.mw, line + moved], -1))
        return self._paint(at, u, v, lips, knob)

    def paint(self, frames: torch.Tensor, layer: MouthPaint) -> None:
        """Paint the inside of the mouth onto frames [T, 3, S, S] in place."""
        pictures = frames.permute(0, 2, 3, 1)
        boxes = cut(pictures, layer.at, *layer.cover.shape[1:3])
        boxes = boxes * layer.shade
        put(pictures, layer.at, torch.lerp(boxes, layer.colour, layer.cover))

    def _lateral(
        self, x: torch.Tensor, y: torch.Tensor, knob: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Undo pursing and smiling: positions x, y [T, h, w] to u, and to y before these movements."""
        u, g = (x - self.mx) / self.mw, (y - self.my) / self.mw
        near = _bump(u, 1.75) * torch.where(g < 0, _bump(g, 1.15), _bump(g, 1.9))  # spares the nose
        extra = self._extra(knob)
        opened, relaxed = extra.clamp(min=0) / (JAW_SPAN * self.mw), self._closed(extra)
        squeeze = 0.7 * knob["pucker"] - 0.24 * knob["smile"] + 0.10 * opened + 0.09 * relaxed
        corner = 1.6 * u * u * _bump(u, 2.2) * _bump(g, 1.5)
        lift = (0.22 * self.mw) * knob["smile"] + self.curve * (0.55 * knob["pucker"].clamp(min=0) + 0.3 * relaxed)
        thicken = (0.16 * self.mw) * knob["pucker"].clamp(min=0)
        return u * (1 + near * squeeze), y + corner * lift - near * g * thicken

    def _extra(self, knob: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Opening beyond the photograph's own, in picture units; negative when the mouth closes further."""
        return JAW_SPAN * self.mw * knob["jaw"] - self.th

    def _closed(self, extra: torch.Tensor) -> torch.Tensor:
        """Degree 0..1 to which a smile that shows teeth in the photograph is closed."""
        return (-extra / max(self.th, 0.01)).clamp(0, 1) * self.toothy

    def _lips(self, u: torch.Tensor, knob: Mapping[str, torch.Tensor]) -> Lips:
        """Lips' inner edges for each u [T, h, w]."""
        s = (1 - u * u).clamp(min=0).sqrt()
        p = s * s.sqrt()  # (1 - u^2)^0.75 fits the openings of real smiles
        extra = self._extra(knob)
        opening, closing = extra.clamp(min=0), (-extra).clamp(min=0)
        raised = 0.17 * self.mw * knob["upper"]
        tuck = 0.42 * knob["press"] + 0.25 * self._closed(extra)
        upper = -self.th - 0.15 * opening + 0.35 * closing - raised + 0.6 * tuck * self.ut
        lower = 0.85 * opening - 0.65 * closing - tuck * self.lt
        middle = 0.75 * upper + 0.25 * lower  # closed lips meet here, so that more of the upper lip stays visible
        top, bottom = torch.minimum(upper, middle), torch.maximum(lower, middle)
        return Lips(p, upper * p, lower * p, top * p, bottom * p, extra, 0.2 * closing)

    def _vertical(self, u: torch.Tensor, v: torch.Tensor, lips: Lips) -> torch.Tensor:
        """Map v of the output to v of the photograph."""
        px = 2 / self.size
        p, own = lips.p, -self.th * lips.p
        down = lips.upper - own
        fuller = lips.fuller * p
        edge = lips.upper - self.ut * p - fuller
        across = ((lips.upper - v) / (lips.upper - edge + 1e-6)).clamp(0, 1)
        above = v - (down - fuller * across) * ((v - self.nose) / (edge - self.nose)).clamp(0, 1)

        wide = (1 - (u / REACH_U) ** 4).clamp(min=0) ** 2
        chin_shift = torch.where(lips.extra > 0, 0.8 * lips.extra, 0.4 * lips.extra)
        jaw = chin_shift * wide
        chin_end = self.chin + chin_shift - 0.08 * (u * u).clamp(max=1.8)  # the jaw line rises to the sides
        lip_end = lips.lower + self.lt * p + fuller
        across = ((v - lips.lower) / (lip_end - lips.lower + 1e-6)).clamp(0, 1)
        to_chin = ((v - lip_end) / (chin_end - lip_end)).clamp(0, 1)
        to_neck = ((v - chin_end) / (self.neck - chin_end)).clamp(0, 1)
        below = v - torch.lerp(lips.lower + fuller * across, jaw, to_chin) * (1 - to_neck)

        hidden = (own - lips.upper).clamp(
            0, 1.5 * px
        )  # a raised lip uncovers teeth: do not sample the lip's own pixels there
        between = torch.minimum(torch.maximum(v, own + hidden), torch.zeros_like(v))
        return torch.where(v < lips.top, above, torch.where(v > lips.bottom, below, between))

    def _paint(
        self, at: list[Corner], u: torch.Tensor, v: torch.Tensor, lips: Lips, knob: Mapping[str, torch.Tensor]
    ) -> MouthPaint:
        """Paint for the inside of the mouth, in a smaller box around the gap."""
        height, width = self.gap_box
        line = 0.5 * self.box[0] + 0.25 * self.size * (REACH_UP - self.neck)
        row, column = max(0, int(line - 0.3 * height)), (self.box[1] - width) // 2
        inner = (slice(None), slice(row, row + height), slice(column, column + width))
        u, v, p, top, bottom = u[inner], v[inner], lips.p[inner], lips.top[inner], lips.bottom[inner]
        px = 2 / self.size
        raised = 0.17 * self.mw * knob["upper"] * (1 - self.toothy)
        active = ((lips.extra.clamp(min=0) + raised) / (3 * px)).clamp(0, 1)
        start = top * (1 - self.toothy)
        tucked = 1.2 * self.toothy * active  # rows of the lower lip's edge, in pixels, that contain a rim of teeth
        cover = _ramp((v - start) / px) * _ramp((bottom - v) / px + tucked) * active * (p * 8).clamp(max=1)
        colour = self._inside(u, v, top, bottom)
        shut = (1 - (bottom - top) / px).clamp(0, 1)
        seam = _bump(v - 0.5 * (top + bottom), max(LINE, 1.4 * px)) * p * shut
        shade = 1 - seam * torch.maximum(0.3 * self._closed(lips.extra), 0.35 * knob["press"].clamp(0, 1))
        return MouthPaint([(r + row, c + column) for r, c in at], colour, cover[..., None], shade[..., None])

    def _inside(self, u: torch.Tensor, v: torch.Tensor, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
        """Colour [T, h, w, 3] of the open mouth: dark, with the tongue at the bottom, and upper teeth if the photograph
        shows none."""
        px = 2 / self.size
        depth = ((v - top) / (0.5 * self.mw)).clamp(0, 1)
        colour = self.dark * (0.55 + 0.45 * depth)[..., None]
        rise = (1 - ((bottom - v) / (0.34 * self.mw)).clamp(0, 1) ** 2) * (1 - (u / 0.8) ** 2).clamp(min=0)
        roomy = ((bottom - top) / (0.3 * self.mw) - 0.4).clamp(0, 1)
        colour = torch.lerp(colour, self.tongue.expand_as(colour), (rise * roomy)[..., None])
        if self.toothy < 1:
            edge = 0.11 * self.mw * (1 - 0.55 * u * u)
            band = _ramp((edge - v) / px) * ((0.88 - u.abs()) / 0.2).clamp(0, 1) * (1 - self.toothy)
            lit = (0.75 + (v - top) / (0.16 * self.mw)).clamp(0, 1) * (1 - 0.5 * u * u)
            between = (1 - ((u.abs() * 3.4 + 0.5) % 1 - 0.5).abs() * 9).clamp(min=0)  # gaps between the teeth
            lit = lit * (1 - 0.22 * between)
            colour = torch.lerp(colour, self.teeth * lit[..., None], band[..., None])
        return colour


def prepare_mouth(photo: torch.Tensor, landmarks: Mapping[str, float]) -> Mouth:
    """Precompute the mouth from the photograph [3, S, S] in 0..1 and its landmarks."""
    size = photo.shape[-1]
    mx, my, mw, th, chin = (float(landmarks[name]) for name in ("mx", "my", "mw", "th", "chin"))
    eyes = 0.5 * (landmarks["eyl"] + landmarks["eyr"])
    neck = max(min(1.75 * chin, 0.97 - my), chin + 0.05)
    light = float(landmarks.get("lum", 0.55))
    tint = torch.tensor([[1.0, 0.42, 0.40], [0.97, 0.94, 0.88], [1.0, 0.50, 0.48]])
    skin = patch(photo, mx, my + th + 0.6 * chin, 0.5 * mw, 0.1 * chin).mean((1, 2)).cpu()
    tint[1] *= torch.lerp(
        torch.ones(3), skin / skin.max().clamp(min=0.02), 0.45
    )  # tint the teeth by the light on the skin
    shades = torch.tensor([0.07 + 0.14 * light, 0.95 * float(landmarks.get("tl", 0.85)), 0.22 + 0.5 * light])
    colours = (tint * shades[:, None]).to(photo)
    dark, teeth, tongue = _toned(photo, colours.mean(1)) if landmarks.get("grey", 0) else colours
    low = my + neck
    centre = torch.tensor([[mx, 0.5 * (my - REACH_UP + low)]], dtype=photo.dtype, device=photo.device)
    margin = 10
    box = (int((low - my + REACH_UP) * size / 2) + 2 * margin, int(2 * REACH_U * mw * size / 2) + 2 * margin)
    return Mouth(
        size=size, mx=mx, my=my, mw=mw, curve=float(landmarks["curve"]), tilt=float(landmarks.get("mtilt", 0.0)),
        lt=float(landmarks["lt"]), ut=float(landmarks["ut"]), th=th, chin=chin,
        nose=-max(0.36 * (my - eyes), th + landmarks["ut"] + 0.06), neck=neck,
        toothy=min(1.0, th / TEETH_FROM), dark=dark, teeth=teeth, tongue=tongue, centre=centre,
        box=(min(box[0], size), min(box[1], size)),
        gap_box=(min(box[0], int(0.62 * size / 2)), min(box[1], int(2.9 * mw * size / 2))),
    )  # fmt: skip


def _toned(photo: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Colours [n, 3] of a brightness [n] in the palette of a photograph [3, S, S] of one hue, such as a sepia print."""
    pixels = photo.flatten(1).T.double().cpu()

    def terms(level: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.ones_like(level), level, level**2], 1)

    palette = torch.linalg.lstsq(terms(pixels.mean(1)), pixels).solution
    colours: torch.Tensor = terms(light.double().cpu()) @ palette
    return colours.clamp(0, 1).to(photo)


def _bump(value: torch.Tensor, radius: float) -> torch.Tensor:
    """Smooth bump: 1 at 0, and 0 from an absolute value of radius on."""
    t = (1 - (value / radius) ** 2).clamp(min=0)
    return t * t


def _ramp(pixels: torch.Tensor) -> torch.Tensor:
    """Antialiased opacity at an edge: 0 from half a pixel outside, 1 from half a pixel inside."""
    return (pixels + 0.5).clamp(0, 1)
