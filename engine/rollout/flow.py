"""Few-step noise schedule of rectified flow: noise levels, clean estimates, renoising.

x_t = (1 - sigma) x0 + sigma noise, with Wan2.1's shift; after each step the clean estimate gets fresh noise (Self
Forcing, section 3.2). Knows no model and no cache; the random generator is passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import Prediction

GRID = 1000


def shifted(u: float, shift: float) -> float:
    """sigma = s u / (1 + (s - 1) u) for a base level u in [0, 1]."""
    return shift * u / (1 + (shift - 1) * u)


@dataclass(frozen=True, slots=True)
class FewStepSchedule:
    """Noise levels sigma, falling, all above 0; the network sees t = 1000 sigma."""

    sigmas: tuple[float, ...]
    prediction: Prediction

    @classmethod
    def warped(cls, steps: Sequence[int], shift: float, prediction: Prediction) -> "FewStepSchedule":
        """Steps are indices into the shifted 1000-point grid: [1000, 750, 500, 250] at shift 5 gives
        t = 1000, 937.5, 833.3, 625."""
        return cls(tuple(shifted(step / GRID, shift) for step in steps), prediction)

    def to_x0(self, prediction: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        """The clean estimate: the prediction itself, or x_t - sigma v for a flow v = noise - x0."""
        return prediction if self.prediction == "x0" else noisy - sigma * prediction

    def renoise(self, clean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        """Fresh noise at level sigma on a clean estimate."""
        return (1 - sigma) * clean + sigma * draw(clean.shape, generator, clean.device)


def draw(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal fp32 noise. The generator lives on the CPU, so that a seed means the same on every machine; from
    pinned memory the noise goes to a GPU without waiting for it."""
    noise = torch.randn(tuple(shape), generator=generator, pin_memory=device.type == "cuda")
    return noise.to(device, non_blocking=True)
