"""Noise levels of training: the shift-5 schedule, with weight on the four levels that the rollout uses."""

import torch
from torch import Tensor

SIGMAS = (1.0, 0.9375, 0.8333333333333334, 0.625)
_SHARES = (0.34, 0.22, 0.22, 0.22)


def shifted(u: Tensor, shift: float = 5.0) -> Tensor:
    """sigma = s u / (1 + (s - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)


def sample_sigmas(shape: tuple[int, ...], on_schedule: float, generator: torch.Generator) -> Tensor:
    """Levels from the inference schedule with probability `on_schedule`, else anywhere on the shifted line."""
    anywhere = shifted(torch.rand(shape, generator=generator).clamp(min=0.002))
    picked = torch.multinomial(torch.tensor(_SHARES), anywhere.numel(), replacement=True, generator=generator)
    chosen = torch.tensor(SIGMAS)[picked].view(shape)
    return torch.where(torch.rand(shape, generator=generator) < on_schedule, chosen, anywhere)


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma noise; sigmas [B, F] for latents [B, F, C, h, w]."""
    level = sigmas[..., None, None, None]
    return (1 - level) * clean + level * noise
