"""Face rig: a photograph, its landmarks and sixteen controls a frame become pictures. Nothing in it is learned.

Every pixel but the inside of an opened mouth and the lash lines is fetched from the photograph, so likeness and
sharpness are the photograph's own, and controls equal to the photograph's own state give the photograph back. All maps
are backward: for an output pixel, where in the photograph it comes from. Coordinates are -1..1, x right, y down.
Knows no latents and no time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ground.motion import INDEX, JAW_SPAN, NAMES
from models.codecs.rig_eyes import Eyes, prepare_eyes
from models.codecs.rig_mouth import Mouth, prepare_mouth

BREATH_LIFT = 0.012  # picture units the chest rises at breath = 1


def own_state(landmarks: Mapping[str, float]) -> torch.Tensor:
    """The controls [16] at which the rig gives back the photograph: its own opening of the mouth, all else at rest."""
    state = torch.zeros(len(NAMES))
    state[INDEX["jaw"]] = landmarks["th"] / (JAW_SPAN * landmarks["mw"])
    return state


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything that depends on the portrait alone, computed once.

    photo: [1, 3, S, S] in 0..1. grid: [S, S, 2] pixel centres. basis: [5, S, S], the maps the head's movement is a
    linear combination of: w*X, w*Y, w*Z, w and the chest, where w fades to zero towards the border of the picture.
    pivot: height of the neck joint below the face's centre.
    """

    photo: torch.Tensor
    grid: torch.Tensor
    basis: torch.Tensor
    pivot: float
    mouth: Mouth
    eyes: Eyes

    def render(self, controls: torch.Tensor) -> torch.Tensor:
        """Absolute controls [T, 16] (see ground.motion) to frames [T, 3, S, S] in 0..1."""
        size = self.photo.shape[-1]
        controls = controls.to(self.photo)
        moves = head_moves(controls, self.pivot)
        source = self._head_warp(moves)
        centres = self._locate(moves, torch.cat([self.mouth.centre, self.eyes.centres]))
        inside = self.mouth.warp(source, centres[:, 0], controls)
        lids = self.eyes.warp(source, centres[:, 1:], controls)
        frames = F.grid_sample(
            self.photo.expand(len(controls), 3, size, size), source, padding_mode="border", align_corners=False
        )
        self.mouth.paint(frames, inside)
        self.eyes.paint(frames, lids)
        return frames.clamp_(0, 1)

    def _head_warp(self, moves: torch.Tensor) -> torch.Tensor:
        """[T, 2, 5] coefficients to source positions [T, S, S, 2].

        One product a frame, so that a frame's rounding does not depend on how many are rendered with it.
        """
        count, size = len(moves), self.grid.shape[0]
        shift = torch.bmm(moves, self.basis.reshape(1, 5, -1).expand(count, -1, -1)).reshape(count, 2, size, size)
        return shift.permute(0, 2, 3, 1) + self.grid

    def _locate(self, moves: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Where points [P, 2] of the photograph appear in each frame, [T, P, 2], on the CPU."""
        size = self.grid.shape[0]
        place = points.expand(len(moves), *points.shape)
        for _ in range(3):  # the backward map is smooth and close to a shift: it converges fast
            cell = ((place + 1) * (size / 2)).long().clamp(0, size - 1)
            value = self.basis[:, cell[..., 1], cell[..., 0]]
            place = points - torch.einsum("tck,ktp->tpc", moves, value)
        return place.cpu()


def head_moves(controls: torch.Tensor, pivot: float) -> torch.Tensor:
    """Coefficients [T, 2, 5] of the head's backward displacement in the five basis maps.

    The head turns as a ball (yaw, pitch), tilts about the neck joint (roll) and shifts. Source positions are the
    inverse rotation of the output position, with the depth Z taken at the output position.
    """
    yaw, pitch, roll, tx, ty, breath = (
        controls[:, INDEX[name]] for name in ("yaw", "pitch", "roll", "tx", "ty", "breath")
    )
    cos, sin = roll.cos(), roll.sin()
    across, along = yaw.cos(), pitch.cos()
    none = torch.zeros_like(yaw)
    x = [across * cos - 1, across * sin, -yaw.sin(), across * (sin * (ty - pivot) - cos * tx), none]
    down = along * (sin * tx + cos * (ty - pivot) + pivot)
    y = [-along * sin, along * cos - 1, pitch.sin(), down, BREATH_LIFT * breath]
    return torch.stack([torch.stack(x, -1), torch.stack(y, -1)], 1)


def prepare_rig(photo: torch.Tensor, landmarks: Mapping[str, float]) -> Rig:
    """Photograph [3, S, S] in 0..1 and its landmarks to a rig on the photograph's device."""
    size = photo.shape[-1]
    centre = (torch.arange(size, device=photo.device, dtype=photo.dtype) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return Rig(
        photo=photo[None].contiguous(),
        grid=torch.stack([x, y], -1),
        basis=head_basis(x, y, landmarks),
        pivot=0.45 * landmarks["ry"],
        mouth=prepare_mouth(photo, landmarks),
        eyes=prepare_eyes(photo, landmarks),
    )


def render(photo: torch.Tensor, landmarks: Mapping[str, float], controls: torch.Tensor) -> torch.Tensor:
    """Photograph [3, S, S], landmarks and absolute controls [T, 16] to frames [T, 3, S, S] in 0..1."""
    return prepare_rig(photo, landmarks).render(controls)


def head_basis(x: torch.Tensor, y: torch.Tensor, landmarks: Mapping[str, float]) -> torch.Tensor:
    """The five maps [5, S, S] of head_moves.

    The weight's ramps are as long as the picture allows: a shift across a short ramp would fold the background.
    """
    cx, cy, rx, ry = (landmarks[name] for name in ("cx", "cy", "rx", "ry"))
    dx, dy = x - cx, y - cy
    side = torch.where(dx > 0, _fade(dx, 1.05 * rx, 0.94 - cx), _fade(-dx, 1.05 * rx, 0.94 + cx))
    top = _fade(-dy, min(1.05 * ry, cy + 0.66), cy + 0.97)
    neck = _fade(dy, 0.95 * ry, min(1.75 * ry, 1 - cy))
    weight = side * top * neck
    rho2 = (dx / rx) ** 2 + (dy / ry) ** 2
    depth = rx * (0.2 + 0.85 * torch.exp(-0.9 * rho2**1.5))  # flat enough that brows stay level under pitch
    chest = (1 - _fade(dy, 0.95 * ry, 1.5 * ry)) * _fade(dx.abs(), 0.4, 1 - abs(cx)) * _fade(y, 0.75, 1.0)
    return torch.stack([weight * dx, weight * dy, weight * depth, weight, chest])


def _fade(value: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """1 up to start, 0 from end on, smooth between."""
    t = ((end - value) / max(end - start, 1e-3)).clamp(0, 1)
    return t * t * (3 - 2 * t)
