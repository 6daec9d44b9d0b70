"""ODE regression for few steps: learn the end of a teacher's path from the states along it.

Without it four steps give the mean of what could happen, a dead head. The teacher walks from noise to a clean clip in
small Euler steps; the student learns to jump from the rollout's noise levels to where the teacher arrives. A causal
teacher walks under the true past of the clip; the bidirectional base makes the whole clip, which then is the past. A
small causal teacher arrives too near to the mean: its spread is measured against the data's and put right.
"""

from collections.abc import Sequence as Levels
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models.dit.transformer import CausalWanDiT
from training.bidirectional import Guidance, walk
from training.clips import ClipBatch
from training.noise import Draws, shifted
from training.sequence import ExposureConfig, Layout, Sequence, build, predict_recorded, record


@dataclass(frozen=True, slots=True)
class OdeConfig:
    """teacher: the network whose paths are followed. paths: its Euler steps. reuse: student steps that use one path.
    spread_clips, spread_limit: clips on which a causal teacher's missing spread is measured, and the most it is
    stretched by."""

    teacher: Literal["causal", "base"] = "causal"
    paths: int = 12
    reuse: int = 4
    spread_clips: int = 96
    spread_limit: float = 1.5


@dataclass(frozen=True, slots=True)
class TeacherPath:
    """States at the rollout's levels and where each of them leads, both [levels, B, M, C, h, w]."""

    states: Tensor
    ends: Tensor

    @classmethod
    def to(cls, end: Tensor, states: list[Tensor]) -> "TeacherPath":
        """The same states, all leading to one end [B, M, C, h, w]."""
        return cls(torch.stack(states), end.expand(len(states), *end.shape))


def path_sigmas(steps: int, shift: float) -> list[float]:
    """Noise levels from 1 to 0 in `steps` steps, uniform on the unshifted line."""
    return [float(shifted(torch.tensor(1 - i / steps, dtype=torch.float64), shift)) for i in range(steps + 1)]


def level_indices(steps: int, levels: Levels[int]) -> list[int]:
    """Indices of the states of a path that lie on the rollout's `levels` (of 1000, see `RolloutSpec.steps`)."""
    at = [(1000 - level) * steps / 1000 for level in levels]
    assert all(i == int(i) for i in at), f"{steps} steps do not pass through the levels {tuple(levels)}"
    return [int(i) for i in at]


def teacher_path(
    teacher: CausalWanDiT,
    sequence: Sequence,
    sigmas: list[float],
    noise: Tensor,
    known: Tensor | None = None,
    spread: Tensor | None = None,
) -> TeacherPath:
    """Integrate a causal teacher under the past that the sequence shows. known [B, M, C, h, w]: values that the drive
    itself gives, where the student is held to the truth rather than to what a teacher makes of it."""
    view = record(teacher, sequence)
    x, states, end = noise, [], noise
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        states.append(x)
        end = predict_recorded(teacher, sequence, view, x, sigma)
        x = end + (following / sigma) * (x - end)
    if spread is not None:
        mean = predict_recorded(teacher, sequence, view, noise, sigmas[0])
        end = mean + spread[:, None, None] * (end - mean)
    at = level_indices(len(sigmas) - 1, sequence.layout.spec.steps)
    return TeacherPath.to(_held(end, sequence.target, known), [states[i] for i in at])


def base_path(
    teacher: CausalWanDiT, batch: ClipBatch, layout: Layout, exposure: ExposureConfig, draws: Draws,
    sigmas: list[float], guidance: Guidance, known: Tensor | None = None,
) -> tuple[Sequence, TeacherPath]:  # fmt: skip
    """Let the bidirectional base make the clip; its past and knots are then what the student is shown.

    known [B, F, C, h, w]: of the whole clip.
    """
    batch = replace(batch, latents=batch.latents[:, : layout.latents], drive=batch.drive[:, : layout.latents])
    noise = draws.randn(1 + layout.latents, *batch.latents.shape[2:])
    states, end = walk(teacher, batch, sigmas, noise, guidance)
    end = _held(end, batch.latents, None if known is None else known[:, : layout.latents])
    order = layout.order.to(end.device)
    at = level_indices(len(sigmas) - 1, layout.spec.steps)
    sequence = build(replace(batch, latents=end), layout, exposure, draws)
    return sequence, TeacherPath.to(end[:, order], [states[i][:, order] for i in at])


def _held(end: Tensor, truth: Tensor, known: Tensor | None) -> Tensor:
    return end if known is None else torch.where(known, truth, end)


def missing_spread(
    teacher: CausalWanDiT, sequence: Sequence, sigmas: list[float], draws: Draws, free: Tensor, limit: float
) -> Tensor:
    """By how much, per channel [C], the ends of the teacher's paths lie closer about their mean than the data does.

    The mean is the prediction from pure noise. free [B, M, C, h, w]: values that nothing gives. Between 1 and `limit`.
    """
    view = record(teacher, sequence)
    mean = predict_recorded(teacher, sequence, view, draws.randn(*sequence.target.shape[1:]), sigmas[0])
    end = teacher_path(teacher, sequence, sigmas, draws.randn(*sequence.target.shape[1:]), ~free).ends[0]
    wanted, found = (((x - mean).square() * free).sum((0, 1, 3, 4)) for x in (sequence.target, end))
    return (wanted / found).sqrt().clamp(1.0, limit)


def own_steps(
    model: CausalWanDiT, teacher: CausalWanDiT, sequence: Sequence, levels: Levels[float], draws: Draws,
    known: Tensor | None = None,
) -> TeacherPath:  # fmt: skip
    """The few steps of a finished model, with a frozen teacher's answer at each.

    For a fine-tune: where something is known (values that the drive itself gives) it learns the truth, in everything
    else it stays the teacher, which is itself as it was.
    """
    own, frozen = record(model, sequence), record(teacher, sequence)
    shape = sequence.target.shape[1:]
    x, states, ends = draws.randn(*shape), [], []
    for sigma, following in zip(levels, [*levels[1:], 0.0], strict=True):
        states.append(x)
        ends.append(_held(predict_recorded(teacher, sequence, frozen, x, sigma), sequence.target, known))
        if following:
            x = predict_recorded(model, sequence, own, x, sigma)
            x = (1 - following) * x + following * draws.randn(*shape)
    return TeacherPath(torch.stack(states), torch.stack(ends))


def student_input(
    path: TeacherPath, layout: Layout, levels: Levels[float], draws: Draws
) -> tuple[Tensor, Tensor, Tensor]:
    """For each chunk one of the levels at random: noisy latents [B, M, C, h, w], their sigmas [B, chunks], and where
    they lead."""
    level = draws.randint(len(levels), layout.chunks)
    index = level.repeat_interleave(layout.span, 1)[None, ..., None, None, None].expand(1, *path.states.shape[1:])
    noisy, end = (values.gather(0, index)[0] for values in (path.states, path.ends))
    return noisy, torch.tensor(levels, device=level.device)[level], end
