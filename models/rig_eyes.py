"""The rig's eyes: lids made of the skin above them, lash lines, gaze inside the opening, brows.

Both eyes are treated as one batch of 2T boxes, the picture's left eye first. Left on the wire is the avatar's own left,
which is the right side of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.motion import INDEX
from models.rig_boxes import Corner, corners, cut, put


@dataclass(frozen=True, slots=True)
class LidPaint:
    """Factors [2T, h, w, 3] on the frames' colours: brighter lid skin, dark lash line."""

    at: list[Corner]
    gain: torch.Tensor


@dataclass(frozen=True, slots=True)
class Eyes:
    """A portrait's eyes; lengths in picture units.

    centres: [2, 2]. skin: [2, 3], gain that makes lid skin of socket skin.
    """

    size: int
    ea: float
    eb: float
    bh: float
    centres: torch.Tensor
    skin: torch.Tensor
    box: tuple[int, int]

    def warp(self, source: torch.Tensor, centres: torch.Tensor, controls: torch.Tensor) -> LidPaint:
        """Bend source positions [T, S, S, 2] in place around the eyes; centres [T, 2, 2] say where they are."""
        count = len(controls)
        centres = centres.transpose(0, 1).reshape(2 * count, 2)
        at = corners(centres, self.size, *self.box)
        boxes = torch.cat([cut(source, at[:count], *self.box), cut(source, at[count:], *self.box)])
        middle = self.centres.repeat_interleave(count, 0)[:, None, None, :]
        x, y = (boxes - middle).unbind(-1)
        blink = torch.cat([controls[:, INDEX["blinkR"]], controls[:, INDEX["blinkL"]]])[:, None, None].clamp(0, 1)
        brow, gaze_x, gaze_y = (
            controls[:, INDEX[name]].repeat(2)[:, None, None] for name in ("brow", "gazeX", "gazeY")
        )
        y = y + brow * self._brow(x, y)
        x, y, gain = self._lids(x, y, (blink + 0.3 * (-gaze_y).clamp(0, 1)).clamp(max=1), gaze_x, gaze_y)
        boxes = torch.stack([x, y], -1) + middle
        put(source, at[:count], boxes[:count])
        put(source, at[count:], boxes[count:])
        return LidPaint(at, gain)

    def paint(self, frames: torch.Tensor, layer: LidPaint) -> None:
        """Shade the lids in frames [T, 3, S, S] in place."""
        pictures = frames.permute(0, 2, 3, 1)
        count = len(frames)
        for side in (slice(0, count), slice(count, 2 * count)):
            boxes = cut(pictures, layer.at[side], *self.box)
            put(pictures, layer.at[side], boxes * layer.gain[side])

    def _brow(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """How far a raised brow lifts each place: far up the forehead, but not the lid's edge."""
        rise = y + self.bh
        below = max(self.bh - 1.4 * self.eb, 0.4 * self.bh)
        reach = torch.where(rise < 0, 2.2 * self.bh, below)
        return (0.5 * below) * _bell(x / (2.3 * self.ea)) * _bell(rise / reach)

    def _lids(
        self, x: torch.Tensor, y: torch.Tensor, blink: torch.Tensor, gaze_x: torch.Tensor, gaze_y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Close the upper lid and turn the eye: source x, y relative to the eye, and the colour factor."""
        px = 2 / self.size
        along = x / (1.12 * self.ea)
        p = (1 - along * along).clamp(min=0)
        open_edge, low_edge = -1.1 * self.eb * p.sqrt() * p.sqrt().sqrt(), 0.95 * self.eb * p
        edge = open_edge + blink * 0.97 * (low_edge - open_edge)
        fold = -0.75 * self.bh
        lid = (y > fold) & (y < edge) & (p > 0)
        slack = px * (4 * blink).clamp(max=1)  # the photograph's own lashes stay where they are, under the lid
        stretched = fold + (y - fold) * ((open_edge - slack - fold) / (edge - fold).clamp(min=1e-4))
        turn = (1 - along**4).clamp(min=0) * _bell(y / (1.5 * self.eb))
        x_out = torch.where(lid, x, x - (0.28 * self.ea) * gaze_x * turn)
        y_out = torch.where(lid, stretched, y + (0.4 * self.eb) * gaze_y * turn)
        shown = (2.5 * blink - 0.25).clamp(0, 1)
        lash = _bell((y - edge) / (1.4 * px)) * (4 * p).clamp(max=1) * shown
        shut = ((y - 0.5 * (fold + open_edge)) / (0.5 * (edge - fold)).clamp(min=1e-4)).clamp(0, 1)
        cover = torch.where(lid, shut * (3 * p).clamp(max=1) * blink, torch.zeros_like(y))
        skin = self.skin.repeat_interleave(len(y) // 2, 0)[:, None, None, :]
        return x_out, y_out, (1 + cover[..., None] * (skin - 1)) * (1 - 0.5 * lash)[..., None]


def prepare_eyes(photo: torch.Tensor, landmarks: Mapping[str, float]) -> Eyes:
    """Everything about the eyes that depends on the photograph [3, S, S] alone."""
    size = photo.shape[-1]
    ea, eb, bh = (float(landmarks[name]) for name in ("ea", "eb", "bh"))
    centres = [[landmarks["exl"], landmarks["eyl"]], [landmarks["exr"], landmarks["eyr"]]]
    skin = []
    for x, y in centres:
        above = _patch(photo, x, y - 0.5 * (bh * 0.75 + eb), 0.5 * ea, 0.25 * (bh * 0.75 - eb))
        under = _patch(photo, x, y + 3.2 * eb, 0.5 * ea, 0.8 * eb)
        skin.append(((under / above.clamp(min=0.02)).clamp(0.9, 1.7)) ** 0.7)
    return Eyes(
        size=size, ea=ea, eb=eb, bh=bh, centres=torch.tensor(centres, dtype=photo.dtype, device=photo.device),
        skin=torch.stack(skin),
        box=(int((3.1 * bh + 2 * eb) * size), int(5.2 * ea * size / 2)),
    )  # fmt: skip


def _patch(photo: torch.Tensor, x: float, y: float, half_width: float, half_height: float) -> torch.Tensor:
    """Mean colour [3] of a rectangle given in -1..1 coordinates, at least one pixel large."""
    size = photo.shape[-1]
    left, right = (int((x + side * half_width + 1) * size / 2) for side in (-1, 1))
    top, bottom = (int((y + side * half_height + 1) * size / 2) for side in (-1, 1))
    return photo[:, max(0, top) : bottom + 1, max(0, left) : right + 1].mean((1, 2))


def _bell(value: torch.Tensor) -> torch.Tensor:
    """1 at zero, 0 from one on, smooth."""
    t = (1 - value * value).clamp(min=0)
    return t * t
