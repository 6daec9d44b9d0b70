"""Deblocking filter of the motion latent: smooths the steps between latents, as a video decoder smooths block edges.

A latent is four frames at once. Made from noise of its own, it meets its neighbour with a small step (a few hundredths
of a channel's spread), which 6.25 times a second shows as a head that stutters. The first frame of a latent is taken
towards where the frames on both sides point, and the correction fades over its four frames. Eyes and brows jump: their
larger steps are meant and stay. A head has mass: its larger steps are smoothed as well, but towards the slower of the
two sides, for a jump within a latent says nothing of where it came from. Lips and lids keep every frame: they must be
fast.
"""

import torch
from torch import Tensor

from ground.motion import FRAMES_PER_LATENT, INDEX, NAMES

EDGE = 0.3  # scaled units; a larger step is meant. 99.5 % of those that nobody meant are below 0.25
STRENGTH = 0.75  # of the step: what is left of it then is as large as the data's own, from one frame to the next

HEAD = ("yaw", "pitch", "roll", "tx", "ty")
SMOOTHED = ("brow", "gazeX", "gazeY", "breath", *HEAD)

_FADE = torch.zeros(FRAMES_PER_LATENT, len(INDEX))  # share of the step that each frame of a latent is moved by
_FADE[:, [INDEX[name] for name in SMOOTHED]] = torch.linspace(STRENGTH, 0, FRAMES_PER_LATENT + 1)[:-1, None]
_IS_HEAD = torch.tensor([name in HEAD for name in NAMES])


def deblock(controls: Tensor, before: Tensor | None) -> Tensor:
    """Scaled controls [..., 4F, 16] of whole latents, smoothed. before: the last two frames of what this made of the
    latents before [..., 2, 16], None at a call's begin. Block by block equals all at once."""
    fade, is_head, out = _FADE.to(controls.device), _IS_HEAD.to(controls.device), []
    for block in controls.split(FRAMES_PER_LATENT, dim=-2):
        if before is not None:
            behind, ahead = before[..., 1, :] - before[..., 0, :], block[..., 1, :] - block[..., 0, :]
            gap = block[..., 0, :] - before[..., 1, :]
            step = gap - (behind + ahead) / 2
            slower = torch.where(behind * ahead > 0, torch.where(behind.abs() < ahead.abs(), behind, ahead), 0.0)
            meant = torch.where(is_head, gap - slower, 0.0)
            block = block - fade * torch.where(step.abs() < EDGE, step, meant)[..., None, :]
        before = block[..., -2:, :]
        out.append(block)
    return torch.cat(out, dim=-2)
