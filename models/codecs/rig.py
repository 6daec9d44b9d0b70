"""Face rig: renders pictures from a photograph, its landmarks and sixteen controls a frame, without learned parts.

Every pixel except the inside of an opened mouth and the lash lines is sampled from the photograph, so the pictures keep
its likeness and sharpness. Controls equal to the photograph's own state reproduce the photograph. All maps are
backward: they give the source position of each output pixel. Coordinates are -1..1, x right, y down. Independent of
latents and time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ground.motion import INDEX, JAW_SPAN, NAMES
from models.codecs.rig_eyes import Eyes, prepare_eyes
from models.codecs.rig_mouth import Mouth, prepare_mouth

BREATH_LIFT = 0.012  # rise of the chest at breath = 1, in picture units


def own_state(landmarks: Mapping[str, float]) -> torch.Tensor:
    """Controls [16] that reproduce the photograph: the jaw at the photograph's own opening, all others 0."""
    state = torch.zeros(len(NAMES))
    state[INDEX["jaw"]] = landmarks["th"] / (JAW_SPAN * landmarks["mw"])
    return state


@dataclass(frozen=True, slots=True)
class Rig:
    """Rig of one portrait, with everything precomputed that does not depend on the controls.

    photo: [1, 3, S, S] in 0..1. grid: [S, S, 2], pixel centres. basis: [5, S, S], see `head_basis`. pivot: distance of
    the neck joint below the face's centre, in picture units.
    """

    photo: torch.Tensor
    grid: torch.Tensor
    basis: torch.Tensor
    pivot: float
    mouth: Mouth
    eyes: Eyes

    def render(self, controls: torch.Tensor) -> torch.Tensor:
        """Render absolute controls [T, 16] (see `ground.motion`) to frames [T, 3, S, S] in 0..1."""
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
        """Source positions [T, S, S, 2] of the coefficients [T, 2, 5].

        Uses one matrix product per frame, so that a frame's rounding does not depend on the size of the batch.
        """
        count, size = len(moves), self.grid.shape[0]
        shift = torch.bmm(moves, self.basis.reshape(1, 5, -1).expand(count, -1, -1)).reshape(count, 2, size, size)
        return shift.permute(0, 2, 3, 1) + self.grid

    def _locate(self, moves: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Positions [T, P, 2], on the CPU, of the photograph's points [P, 2] in each frame, by fixed-point
        iteration."""
        size = self.grid.shape[0]
        place = points.expand(len(moves), *points.shape)
        for _ in range(3):  # converges fast, as the backward map is smooth and close to a shift
            cell = ((place + 1) * (size / 2)).long().clamp(0, size - 1)
            value = self.basis[:, cell[..., 1], cell[..., 0]]
            place = points - torch.einsum("tck,ktp->tpc", moves, value)
        return place.cpu()


def head_moves(controls: torch.Tensor, pivot: float) -> torch.Tensor:
    """Coefficients [T, 2, 5] of the head's backward displacement (x, y) in the five maps of `head_basis`.

    The head rotates like a ball (yaw, pitch), tilts about the neck joint (roll) and shifts. The source position is the
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
    """Build the rig of a photograph [3, S, S] in 0..1 and its landmarks, on the photograph's device."""
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
    """Render a photograph [3, S, S] with landmarks and absolute controls [T, 16] to frames [T, 3, S, S] in 0..1."""
    return prepare_rig(photo, landmarks).render(controls)


def head_basis(x: torch.Tensor, y: torch.Tensor, landmarks: Mapping[str, float]) -> torch.Tensor:
    """Basis maps [5, S, S] of the head's movement: w*X, w*Y, w*Z, w and the chest.

    The weight w fades to 0 towards the border of the picture. Its ramps are as long as the picture allows, because a
    shift across a short ramp would fold the background.
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
    """Smooth step: 1 up to start, 0 from end on."""
    t = ((end - value) / max(end - start, 1e-3)).clamp(0, 1)
    return t * t * (3 - 2 * t)
