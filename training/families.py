"""Model families in training: the loss, what the drive already determines, and a sheet of a sample.

The one place where the stages meet faces: everything else is latents.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ground.motion import NAMES
from models.config import ModelConfig
from training.clips import ClipBatch
from training.losses import LossConfig, flow_loss, motion_loss


class Family(Protocol):
    """names: of the figures that `loss` gives beside the loss."""

    names: tuple[str, ...]

    def loss(self, prediction: Tensor, target: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """x0 [B, M, C, h, w] against the truth, sigmas [B, groups of latents]: the loss and plain errors [names]."""
        ...

    def known(self, drive: Tensor) -> Tensor | None:
        """Values of latents that the drive gives, bool [B, F, C, h, w] from drive [B, F, n, d]; None = none."""
        ...

    def stretched(self) -> Tensor | None:
        """Channels [C] whose spread in a teacher's answer may be corrected; None = no correction."""
        ...

    def sheet(self, made: Tensor, clip: ClipBatch) -> NDArray[np.uint8] | None:
        """A BGR picture of the latents made [F, C, h, w] for a clip (a batch of one); None = there is no codec."""
        ...


class MotionFamily:
    """The embedded model: latents are controls of the rig."""

    # What the voice leaves no choice in is held to the truth like what is given; a base's score knows it less well.
    VOICED = ("jaw", "pucker", "smile", "press", "upper")
    # Lips follow from the voice, and blinks are all or nothing: neither can be stretched.
    STRETCHED = ("brow", "gazeX", "gazeY", "yaw", "pitch", "roll", "tx", "ty")
    names = NAMES

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def loss(self, prediction: Tensor, target: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        return motion_loss(prediction, target, sigmas, self.config)

    def known(self, drive: Tensor) -> Tensor | None:
        mask = drive[..., -len(NAMES) :]  # [B, F, 4 frames, 16]
        given: Tensor = mask.transpose(2, 3).unflatten(3, (2, 2)) > 0
        voiced = torch.tensor([name in self.VOICED for name in NAMES], device=drive.device)
        return given | voiced[:, None, None]

    def stretched(self) -> Tensor | None:
        return torch.tensor([name in self.STRETCHED for name in NAMES])

    def sheet(self, made: Tensor, clip: ClipBatch) -> NDArray[np.uint8] | None:
        from training.motion_sheet import draw

        return draw(made, clip.latents[0, : len(made)])


class VideoFamily:
    """Wan2.1: latents of a video autoencoder, which training does not load, so there is nothing to look at."""

    def __init__(self, channels: int) -> None:
        self.names = tuple(f"channel {i}" for i in range(channels))

    def loss(self, prediction: Tensor, target: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        return flow_loss(prediction, target, sigmas)

    def known(self, drive: Tensor) -> Tensor | None:
        return None

    def stretched(self) -> Tensor | None:
        return None

    def sheet(self, made: Tensor, clip: ClipBatch) -> NDArray[np.uint8] | None:
        return None


def family_of(model: ModelConfig, loss: LossConfig) -> Family:
    return MotionFamily(loss) if model.codec == "motion" else VideoFamily(model.dit.latent_channels)
