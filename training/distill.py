"""Distillation to the rollout's four steps: regress the end of the teacher's path from states along it (ODE
regression).

Without it four steps give the mean of what could happen, a dead head. The teacher walks from noise to motion in small
Euler steps under a fixed context; the student learns to jump from the four noise levels to where the teacher arrives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.dit import CausalWanDiT
from training.noise import SIGMAS, shifted
from training.sequence import CHUNKS, SPAN, Sequence, predict_recorded, record


@dataclass(frozen=True, slots=True)
class Path:
    """States at the four levels [4, B, 28, 16, 2, 2] and the end of the path [B, 28, 16, 2, 2]."""

    states: Tensor
    end: Tensor


def teacher_path(teacher: CausalWanDiT, sequence: Sequence, steps: int, generator: torch.Generator) -> Path:
    """Integrate the teacher from noise; `steps` is a multiple of four, so that the four levels lie on its grid."""
    assert steps % 4 == 0
    view = record(teacher, sequence)
    sigmas = [float(shifted(torch.tensor(1 - i / steps, dtype=torch.float64))) for i in range(steps + 1)]
    x = torch.randn(sequence.target.shape, generator=generator)
    states, end = [], x
    for i, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        if i % (steps // 4) == 0:
            states.append(x)
        end = predict_recorded(teacher, sequence, view, x, sigma)
        x = end + (following / sigma) * (x - end)
    return Path(torch.stack(states), end)


def student_input(path: Path, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each chunk one of the four levels at random: noisy latents and their sigmas [B, 7]."""
    size = path.end.shape[0]
    level = torch.randint(len(SIGMAS), (size, CHUNKS), generator=generator)
    index = level.repeat_interleave(SPAN, 1)
    noisy = path.states.gather(0, index[None, ..., None, None, None].expand(1, *path.end.shape))[0]
    return noisy, torch.tensor(SIGMAS)[level]
