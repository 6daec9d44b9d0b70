"""What the motion transformer is held to: controls, and their speed inside latents, across latents and across
chunks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.motion import NAMES
from training.sequence import CHUNKS, SPAN

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


def frames_in_order(latents: Tensor) -> Tensor:
    """Noisy latents [B, 28, 16, 2, 2] as frames of each chunk, [B, 7, 16 frames, 16 channels]."""
    return latents.flatten(3).transpose(2, 3).reshape(latents.shape[0], CHUNKS, SPAN * 4, -1)


def motion_loss(prediction: Tensor, target: Tensor, sigmas: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """prediction, target [B, 28, 16, 2, 2] and sigmas [B, 7]: the loss, and the plain error per channel [16]."""
    weights = torch.tensor(
        [config.blinks if name.startswith("blink") else _CHANNEL_WEIGHTS.get(name, 1.0) for name in NAMES]
    )
    error = frames_in_order(prediction - target)
    speed = error[:, :, 1:] - error[:, :, :-1]
    seam = error[:, 1:, 0]  # against the last clean frame, whose error is zero
    level = torch.clamp(1 / (sigmas**2 + 0.02), max=config.cap)

    def weighted(x: Tensor) -> Tensor:
        return (x.square() * weights).mean(tuple(range(2, x.dim())))

    per_chunk = weighted(error) + config.speed * weighted(speed)
    total = (per_chunk * level).mean() + config.seam * (weighted(seam) * level[:, 1:]).mean() / (SPAN * 4)
    return total, error.detach().square().mean((0, 1, 2))
