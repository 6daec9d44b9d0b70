"""Losses of the model families: a clean estimate against the truth, group by group of latents.

For motion: controls, and their speed inside latents, across latents and across chunks. For video latents: the flow's
own mean square error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ground.motion import NAMES

# Lips are what a viewer reads; the other weights make up for channels whose spread is small in their unit.
_CHANNEL_WEIGHTS = {
    "jaw": 2.5, "pucker": 1.6, "smile": 1.6, "press": 1.5, "upper": 1.3, "brow": 3.0, "gazeX": 3.0, "gazeY": 5.0,
    "yaw": 2.0, "pitch": 2.0, "roll": 2.0, "tx": 2.5, "ty": 3.0, "breath": 0.7,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LossConfig:
    """speed: weight of the frame-to-frame term beside the term of values; cap: largest weight of a noise level;
    blinks: weight of the lids."""

    speed: float = 1.0
    seam: float = 1.0
    cap: float = 6.0
    blinks: float = 1.5


def frames_in_order(latents: Tensor, groups: int) -> Tensor:
    """Latents [B, M, 16, 2, 2] as frames of each group, [B, groups, frames, 16 channels]."""
    return latents.flatten(3).transpose(2, 3).reshape(latents.shape[0], groups, -1, latents.shape[2])


def channel_weights(names: Sequence[str], blinks: float = 1.0) -> Tensor:
    """Of errors of scaled controls, [names]."""
    return torch.tensor([blinks if name.startswith("blink") else _CHANNEL_WEIGHTS.get(name, 1.0) for name in names])


def motion_loss(prediction: Tensor, target: Tensor, sigmas: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """prediction, target [B, M, 16, 2, 2] and sigmas [B, groups]: the loss, and the plain error per channel [16]."""
    weights = channel_weights(NAMES, config.blinks).to(target.device)
    error = frames_in_order(prediction - target, sigmas.shape[1])
    speed = error[:, :, 1:] - error[:, :, :-1]
    seam = error[:, 1:, 0]  # against the last clean frame, whose error is zero
    level = torch.clamp(1 / (sigmas**2 + 0.02), max=config.cap)

    def weighted(x: Tensor) -> Tensor:
        return (x.square() * weights).mean(tuple(range(2, x.dim())))

    per_group = weighted(error) + config.speed * weighted(speed)
    total = (per_group * level).mean()
    if sigmas.shape[1] > 1:
        total = total + config.seam * (weighted(seam) * level[:, 1:]).mean() / error.shape[2]
    return total, error.detach().square().mean((0, 1, 2))


def flow_loss(prediction: Tensor, target: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square error of the flow v = noise - x0, for x0 [B, M, C, h, w] made with it: dx0 = -sigma dv."""
    level = sigmas.repeat_interleave(target.shape[1] // sigmas.shape[1], 1)[..., None, None, None]
    error = (prediction - target) / level
    return error.square().mean(), error.detach().square().mean((0, 1, 3, 4))
