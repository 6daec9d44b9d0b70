"""Noise levels of training on the shifted schedule, and random numbers that do not depend on the number of processes.

Every process draws the numbers of the whole batch from the same generator and keeps its rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import Prediction

FIRST_SHARE = 0.34  # share of pure noise, which decides most, among the picks from the rollout's levels


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers for `size` rows, of which this process keeps `share`, on its device."""

    generator: torch.Generator
    size: int
    share: slice
    device: torch.device

    def mine(self, rows: Tensor) -> Tensor:
        """This process's rows of a draw for all processes."""
        return rows[self.share].to(self.device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform in 0..1, [rows, *shape]."""
        return self.mine(torch.rand(self.size, *shape, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        return self.mine(torch.randn(self.size, *shape, generator=self.generator))

    def randint(self, high: int, *shape: int) -> Tensor:
        return self.mine(torch.randint(high, (self.size, *shape), generator=self.generator))

    def sigmas(self, columns: int, on_schedule: float, levels: Sequence[float], shift: float) -> Tensor:
        """[rows, columns], see `sample_sigmas`."""
        return self.mine(sample_sigmas((self.size, columns), on_schedule, self.generator, levels, shift))


def shifted(u: Tensor, shift: float) -> Tensor:
    """sigma = s u / (1 + (s - 1) u), for tensors (`engine.rollout.flow.shifted` is the same for one number)."""
    return shift * u / (1 + (shift - 1) * u)


def sample_sigmas(
    shape: tuple[int, ...], on_schedule: float, generator: torch.Generator, levels: Sequence[float], shift: float
) -> Tensor:
    """Noise levels: one of the rollout's `levels` with probability `on_schedule`, else uniform on the shifted line."""
    anywhere = shifted(torch.rand(shape, generator=generator).clamp(min=0.002), shift)
    others = len(levels) - 1
    shares = torch.tensor([FIRST_SHARE] + [(1 - FIRST_SHARE) / max(others, 1)] * others)
    picked = torch.multinomial(shares, anywhere.numel(), replacement=True, generator=generator)
    chosen = torch.tensor(levels)[picked].view(shape)
    return torch.where(torch.rand(shape, generator=generator) < on_schedule, chosen, anywhere)


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma noise; sigmas [B, F] for latents [B, F, C, h, w]."""
    level = sigmas[..., None, None, None]
    return (1 - level) * clean + level * noise


def to_x0(prediction: Tensor, noisy: Tensor, sigmas: Tensor, kind: Prediction) -> Tensor:
    """The clean estimate in fp32: the prediction itself, or x_sigma - sigma v for a flow v = noise - x0."""
    out = prediction.float()
    return out if kind == "x0" else noisy - sigmas[..., None, None, None] * out
