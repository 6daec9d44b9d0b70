"""Eyes of the face rig: lids from the skin above the eye, lash lines, gaze, brows.

Both eyes are processed as one batch of 2T boxes, the picture's left eye first. Left in a control's name is the avatar's
own left, which is the right side of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ground.motion import INDEX
from models.codecs.rig_boxes import LINE, Corner, corners, cut, patch, put


@dataclass(frozen=True, slots=True)
class LidPaint:
    """Paint for the lids, in boxes of the frames. at: upper left corners. colour: of the lid [2T, h, w, 3]. cover: its
    opacity 0..1 [2T, h, w, 1]. shade: factor that darkens the lash line [2T, h, w, 1]."""

    at: list[Corner]
    colour: torch.Tensor
    cover: torch.Tensor
    shade: torch.Tensor


@dataclass(frozen=True, slots=True)
class Eyes:
    """A portrait's eyes; lengths in picture units.

    ea, eb: half width and half height of an eye. bh: height of the brow above the eye. centres: [2, 2]. skin: [2, 3],
    colour of a lid. plain: [2] in 0..1, share of plain skin colour in a lid; large where the photograph's skin above
    the eye is no good lid (brow hair, deep shadow). box: height and width in pixels.
    """

    size: int
    ea: float
    eb: float
    bh: float
    centres: torch.Tensor
    skin: torch.Tensor
    plain: torch.Tensor
    box: tuple[int, int]

    def warp(self, source: torch.Tensor, centres: torch.Tensor, controls: torch.Tensor) -> LidPaint:
        """Warp source positions [T, S, S, 2] in place around the eyes, and return the paint for the lids.

        centres: [T, 2, 2], positions of the eyes in the frames. controls: [T, 16].
        """
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
        shut = (blink + 0.3 * (-gaze_y).clamp(0, 1)).clamp(max=1)  # the lid follows a look down
        x, y, layer = self._lids(at, x, y, shut, blink, gaze_x, gaze_y)
        boxes = torch.stack([x, y], -1) + middle
        put(source, at[:count], boxes[:count])
        put(source, at[count:], boxes[count:])
        return layer

    def paint(self, frames: torch.Tensor, layer: LidPaint) -> None:
        """Paint the lids onto frames [T, 3, S, S] in place."""
        pictures = frames.permute(0, 2, 3, 1)
        count = len(frames)
        for side in (slice(0, count), slice(count, 2 * count)):
            boxes = cut(pictures, layer.at[side], *self.box)
            boxes = torch.lerp(boxes, layer.colour[side], layer.cover[side])
            put(pictures, layer.at[side], boxes * layer.shade[side])

    def _brow(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Lift of each position at brow = 1. It reaches far up the forehead but leaves the lid's edge in place."""
        rise = y + self.bh
        below = max(self.bh - 1.4 * self.eb, 0.4 * self.bh)
        reach = torch.where(rise < 0, 2.2 * self.bh, below)
        return (0.5 * below) * _bell(x / (2.3 * self.ea)) * _bell(rise / reach)

    def _lids(
        self,
        at: list[Corner],
        x: torch.Tensor,
        y: torch.Tensor,
        shut: torch.Tensor,
        blink: torch.Tensor,
        gaze_x: torch.Tensor,
        gaze_y: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, LidPaint]:
        """Close the upper lid, raise the lower lid in a blink and turn the eye. Returns source x and y relative to the
        eye's centre, and the paint for the lids."""
        px = 2 / self.size
        along = x / (1.12 * self.ea)
        p = (1 - along * along).clamp(min=0)
        open_edge, low_edge = -1.1 * self.eb * p.sqrt() * p.sqrt().sqrt(), 0.95 * self.eb * p
        edge = open_edge + shut * 0.97 * (low_edge - open_edge)
        fold = -0.75 * self.bh
        lid = (y > fold) & (y < edge) & (p > 0)
        slack = px * (4 * shut).clamp(max=1)  # keeps the photograph's own lashes in place, under the lid
        stretched = fold + (y - fold) * ((open_edge - slack - fold) / (edge - fold).clamp(min=1e-4))
        turn = (1 - along**4).clamp(min=0) * _bell(y / (1.5 * self.eb))
        beyond = y - low_edge
        low_lid = torch.where(beyond < 0, (y / low_edge.clamp(min=px)).clamp(0, 1), _bell(beyond / (2.2 * self.eb)))
        rise = (
            0.35 * self.eb * blink * p * low_lid
        )  # hides a rest of white below the lash line if the opening was underestimated
        x_out = torch.where(lid, x, x - (0.28 * self.ea) * gaze_x * turn)
        y_out = torch.where(lid, stretched, y + rise + (0.4 * self.eb) * gaze_y * turn)

        count = len(y) // 2
        skin = self.skin.repeat_interleave(count, 0)[:, None, None, :]
        plain = self.plain.repeat_interleave(count, 0)[:, None, None]
        crease = open_edge - 1.1 * self.eb  # plain skin fades in from here to the open lid's edge
        reach = ((y - crease) / (1.3 * self.eb)).clamp(0, 1) * (2.5 * p).clamp(max=1)
        cover = torch.where(lid, reach * plain * (1.5 * shut).clamp(max=1), torch.zeros_like(y))
        round_lid = 1 - 0.16 * ((y - crease) / (edge - crease).clamp(min=px) - 0.45) ** 2 * 4
        lash = _bell((y - edge) / max(LINE, 1.4 * px)) * (2.2 * p).clamp(max=1) * (2.5 * shut - 0.25).clamp(0, 1)
        paint = LidPaint(at, skin * round_lid.clamp(0.7, 1)[..., None], cover[..., None], (1 - 0.5 * lash)[..., None])
        return x_out, y_out, paint


def prepare_eyes(photo: torch.Tensor, landmarks: Mapping[str, float]) -> Eyes:
    """Precompute the eyes from the photograph [3, S, S] in 0..1 and its landmarks."""
    size = photo.shape[-1]
    ea, eb, bh = (float(landmarks[name]) for name in ("ea", "eb", "bh"))
    centres = [[landmarks["exl"], landmarks["eyl"]], [landmarks["exr"], landmarks["eyr"]]]
    skin, plain = [], []
    for x, y in centres:
        above = patch(photo, x, y - 0.5 * (0.75 * bh + eb), 0.6 * ea, 0.5 * (0.75 * bh - eb))
        under = patch(photo, x, y + 3.2 * eb, 0.5 * ea, 0.8 * eb).mean((1, 2))
        light = above.mean(0)
        dark = 0.9 - float(light.mean() / under.mean().clamp(min=0.02))
        rough = float(light.std() / light.mean().clamp(min=0.02)) if light.numel() > 1 else 0.0
        plain.append(min(max(0.25 + 2.2 * max(dark, 0.0) + 2.0 * (rough - 0.08), 0.2), 0.85))
        skin.append(0.94 * torch.lerp(under, above.mean((1, 2)), 0.25))
    return Eyes(
        size=size,
        ea=ea,
        eb=eb,
        bh=bh,
        centres=torch.tensor(centres, dtype=photo.dtype, device=photo.device),
        skin=torch.stack(skin),
        plain=torch.tensor(plain, dtype=photo.dtype, device=photo.device),
        box=(int((3.1 * bh + 2 * eb) * size), int(5.2 * ea * size / 2)),
    )


def _bell(value: torch.Tensor) -> torch.Tensor:
    """Smooth bump: 1 at 0, and 0 from an absolute value of 1 on."""
    t = (1 - value * value).clamp(min=0)
    return t * t
