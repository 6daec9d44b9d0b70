"""Distillation to the rollout's four steps: regress the end of a teacher's path from states along it (ODE regression).

Without it four steps give the mean of what could happen, a dead head. The teacher walks from noise to motion in small
Euler steps under a fixed context; the student learns to jump from the four noise levels to where the teacher arrives. A
small teacher arrives too near to the mean: its spread is measured against the data's and put right in the target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.dit import CausalWanDiT
from models.motion import NAMES
from training.noise import SIGMAS, shifted
from training.sequence import CHUNKS, SPAN, Sequence, predict_recorded, record

STRETCHED = ("brow", "gazeX", "gazeY", "yaw", "pitch", "roll", "tx", "ty")


@dataclass(frozen=True, slots=True)
class TeacherPath:
    """States at the four levels [4, B, 28, 16, 2, 2] and the end of the path [B, 28, 16, 2, 2]."""

    states: Tensor
    end: Tensor


def teacher_path(
    teacher: CausalWanDiT,
    sequence: Sequence,
    steps: int,
    generator: torch.Generator,
    spread: Tensor | None = None,
) -> TeacherPath:
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
    if spread is not None:
        mean = predict_recorded(teacher, sequence, view, states[0], sigmas[0])
        end = mean + spread[:, None, None] * (end - mean)
    return TeacherPath(torch.stack(states), torch.where(given_controls(sequence), sequence.target, end))


def given_controls(sequence: Sequence) -> Tensor:
    """Which values of the noisy latents the drive itself gives, bool [B, 28, 16, 2, 2]: there the answer is known, and
    the student is held to it rather than to what a teacher makes of it."""
    mask = sequence.noisy_drive[..., -len(NAMES) :]  # [B, 28, 4 frames, 16]
    return mask.transpose(2, 3).unflatten(3, (2, 2)) > 0


def missing_spread(
    teacher: CausalWanDiT, sequence: Sequence, steps: int, generator: torch.Generator, limit: float
) -> Tensor:
    """By how much, per channel [16], the ends of the teacher's paths lie closer about their mean than the data does.

    The mean is the prediction from pure noise. At least 1, at most `limit`; 1 for lips, which the voice determines, and
    for blinks, which are all or nothing and cannot be stretched.
    """
    view = record(teacher, sequence)
    noise = torch.randn(sequence.target.shape, generator=generator)
    mean = predict_recorded(teacher, sequence, view, noise, 1.0)
    end = teacher_path(teacher, sequence, steps, generator).end
    free = ~given_controls(sequence)
    wanted, found = (((x - mean).square() * free).sum((0, 1, 3, 4)) for x in (sequence.target, end))
    stretched = torch.tensor([name in STRETCHED for name in NAMES])
    return torch.where(stretched, (wanted / found).sqrt().clamp(1.0, limit), torch.ones(len(NAMES)))


def student_input(path: TeacherPath, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each chunk one of the four levels at random: noisy latents and their sigmas [B, 7]."""
    size = path.end.shape[0]
    level = torch.randint(len(SIGMAS), (size, CHUNKS), generator=generator)
    index = level.repeat_interleave(SPAN, 1)
    noisy = path.states.gather(0, index[None, ..., None, None, None].expand(1, *path.end.shape))[0]
    return noisy, torch.tensor(SIGMAS)[level]
