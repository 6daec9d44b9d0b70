"""Deblocking filter of the motion latent: smooths the steps between latents, as a video decoder smooths block edges.

A latent holds four frames and is denoised from its own noise. So there is a small step between neighbouring latents, a
few hundredths of a channel's spread, and at 6.25 latents a second the head visibly stutters. The filter moves the first
frame of a latent towards the extrapolation from both sides; the correction fades over the latent's four frames. Larger
steps of eyes and brows are intended and stay. Larger steps of the head are smoothed too, because a head has inertia,
but towards the slower of the two sides: a jump within a latent does not tell the velocity before it. Lips and lids are
not filtered, because they must be fast.
"""

import torch
from torch import Tensor

from ground.motion import FRAMES_PER_LATENT, INDEX, NAMES

EDGE = 0.3  # scaled units; a larger step is intended. 99.5 % of the unintended steps are below 0.25
STRENGTH = 0.75  # removed share of a step; the rest is as large as the data's own steps between frames

HEAD = ("yaw", "pitch", "roll", "tx", "ty")
SMOOTHED = ("brow", "gazeX", "gazeY", "breath", *HEAD)

_FADE = torch.zeros(FRAMES_PER_LATENT, len(INDEX))  # share of the step subtracted from each frame of a latent
_FADE[:, [INDEX[name] for name in SMOOTHED]] = torch.linspace(STRENGTH, 0, FRAMES_PER_LATENT + 1)[:-1, None]
_IS_HEAD = torch.tensor([name in HEAD for name in NAMES])


def deblock(controls: Tensor, before: Tensor | None) -> Tensor:
    """Smooth the scaled controls [..., 4F, 16] of whole latents.

    before: [..., 2, 16], the last two smoothed frames of the previous latents, None at the start of a call. Filtering
    latent by latent gives the same result as all at once.
    """
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
