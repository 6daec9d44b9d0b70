"""The three stages: what each asks its networks, step by step. A stage yields turns, the trainer descends.

base: the bidirectional model, by flow matching. causal: its first causal successor, under the true past or along a
teacher's paths. distill: the causal model left to itself, held to the base's distribution by a critic.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from engine.rollout.flow import FewStepSchedule
from models.dit.transformer import CausalWanDiT
from training import bidirectional, dmd, ode
from training.bidirectional import conditioned, guided
from training.clips import ClipBatch, withhold
from training.configs import StageConfig
from training.families import Family
from training.noise import Draws, add_noise, shifted
from training.self_rollout import self_rollout
from training.sequence import Layout, Sequence, build, predict
from training.stream import ClipStream

Piece = tuple[Tensor, Tensor]  # loss, plain errors [names]
Networks = dict[str, CausalWanDiT]


@dataclass(frozen=True, slots=True)
class NetworkTurn:
    """One optimiser step of one network: the losses of the batch's pieces, each computed when it is asked for."""

    network: str
    pieces: Iterator[Piece]


@dataclass(frozen=True, slots=True)
class Setting:
    """Inputs of a stage. share: this process's rows of a piece. teacher: frozen, None if there is none."""

    config: StageConfig
    family: Family
    networks: Networks
    teacher: CausalWanDiT | None
    stream: ClipStream
    generator: torch.Generator
    device: torch.device
    share: slice

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The rollout's noise levels."""
        config = self.config
        return FewStepSchedule.warped(config.rollout.steps, config.model.shift, config.model.dit.prediction).sigmas

    def draw(self) -> tuple[ClipBatch, Draws]:
        """The next piece's clips, and the source of its random numbers."""
        size = self.config.batch // self.config.accumulate
        return self.stream.next().to(self.device), Draws(self.generator, size, self.share, self.device)

    def numbers_apart(self, size: int, seed: int) -> Draws:
        """Random numbers for measurements and sheets. They do not advance the run's own, so a resumed run finds the
        same."""
        return Draws(torch.Generator().manual_seed(seed), size, slice(None), self.device)


class Stage(Protocol):
    def turns(self, step: int) -> Iterator[NetworkTurn]: ...

    def sample(self, clip: ClipBatch) -> Tensor:
        """What the model makes of a clip (a batch of one), [1, F, C, h, w]; the same noise each time."""
        ...


class BaseStage:
    """Mask inpainting by flow matching: one noise level a clip."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def turns(self, step: int) -> Iterator[NetworkTurn]:
        yield NetworkTurn("model", (self.loss() for _ in range(self.setting.config.accumulate)))

    def loss(self) -> Piece:
        setting, config = self.setting, self.setting.config
        batch, draws = setting.draw()
        clip = bidirectional.build(batch, config.exposure, config.dropout, draws)
        sigma = draws.sigmas(1, config.schedule, setting.sigmas, config.model.shift)
        noisy = bidirectional.noised(clip, sigma[:, 0], draws)
        made = bidirectional.predict(setting.networks["model"], clip, noisy, sigma[:, 0])
        return setting.family.loss(made, batch.latents, sigma)

    def sample(self, clip: ClipBatch) -> Tensor:
        setting, config = self.setting, self.setting.config
        draws = setting.numbers_apart(1, config.seed)
        noise = draws.randn(1 + clip.latents.shape[1], *clip.latents.shape[2:])
        sigmas = ode.path_sigmas(config.ode.paths, config.model.shift)
        return bidirectional.walk(setting.networks["model"], clip, sigmas, noise, config.guidance)[1]


class CausalStage:
    """The sequence of Knot Forcing's rollout in one forward; from noise on the truth, or along a teacher's paths."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.layout = Layout(setting.config.rollout, setting.config.chunks)
        self.path_levels = ode.path_sigmas(setting.config.ode.paths, setting.config.model.shift)
        self.paths: list[tuple[Sequence, ode.TeacherPath]] = []

    def turns(self, step: int) -> Iterator[NetworkTurn]:
        make = self.on_truth if self.setting.config.method == "teacher_forcing" else self.on_path
        yield NetworkTurn("model", (make(step, piece) for piece in range(self.setting.config.accumulate)))

    def on_truth(self, step: int, piece: int) -> Piece:
        setting, config = self.setting, self.setting.config
        batch, draws = setting.draw()
        sequence = build(withhold(batch, config.dropout, draws), self.layout, config.exposure, draws)
        sigmas = draws.sigmas(self.layout.chunks, config.schedule, setting.sigmas, config.model.shift)
        noise = draws.randn(*sequence.target.shape[1:])
        noisy = add_noise(sequence.target, noise, sigmas.repeat_interleave(self.layout.span, 1))
        return self.loss(sequence, noisy, sigmas, sequence.target)

    def on_path(self, step: int, piece: int) -> Piece:
        """A path serves `reuse` steps. It is not saved: checkpoints fall between paths (see StageConfig), but for the
        last one, and a run that goes on from there walks anew."""
        setting, config = self.setting, self.setting.config
        if step % config.ode.reuse == 0 or piece == len(self.paths):
            self.paths[piece : piece + 1] = [self.walk()]
        sequence, path = self.paths[piece]
        size = config.batch // config.accumulate
        draws = Draws(setting.generator, size, setting.share, setting.device)
        noisy, sigmas, end = ode.student_input(path, self.layout, setting.sigmas, draws)
        return self.loss(sequence, noisy, sigmas, end)

    def walk(self) -> tuple[Sequence, ode.TeacherPath]:
        setting, config = self.setting, self.setting.config
        assert setting.teacher is not None
        batch, draws = setting.draw()
        if config.method == "ode" and config.ode.teacher == "base":
            return ode.base_path(
                setting.teacher, batch, self.layout, config.exposure, draws, self.path_levels, config.guidance,
                setting.family.known(batch.drive),
            )  # fmt: skip
        sequence = build(batch, self.layout, config.exposure, draws)
        known = setting.family.known(sequence.noisy_drive)
        if config.method == "fine_tune":
            model = setting.networks["model"]
            return sequence, ode.own_steps(model, setting.teacher, sequence, setting.sigmas, draws, known)
        noise = draws.randn(*sequence.target.shape[1:])
        return sequence, ode.teacher_path(setting.teacher, sequence, self.path_levels, noise, known, self.spread)

    def loss(self, sequence: Sequence, noisy: Tensor, sigmas: Tensor, target: Tensor) -> Piece:
        every = sigmas.repeat_interleave(self.layout.span, 1)
        return self.setting.family.loss(predict(self.setting.networks["model"], sequence, noisy, every), target, sigmas)

    @cached_property
    def spread(self) -> Tensor | None:
        """Stretch of a causal teacher's answers, per channel; None without one. Measured at the first use."""
        setting, config = self.setting, self.setting.config
        stretched = setting.family.stretched()
        if config.method != "ode" or config.ode.teacher != "causal" or stretched is None:
            return None
        assert setting.teacher is not None
        batch = setting.stream.clips.apart(config.seed + 1).batch(0, config.ode.spread_clips).to(setting.device)
        draws = setting.numbers_apart(config.ode.spread_clips, config.seed)
        sequence = build(batch, self.layout, config.exposure, draws)
        known = setting.family.known(sequence.noisy_drive)
        free = torch.ones_like(sequence.target, dtype=torch.bool) if known is None else ~known
        missing = ode.missing_spread(setting.teacher, sequence, self.path_levels, draws, free, config.ode.spread_limit)
        return torch.where(stretched.to(missing.device), missing, 1.0)

    def sample(self, clip: ClipBatch) -> Tensor:
        return sample_rollout(self.setting, clip)


class DistillStage:
    """Self-rollout distribution matching distillation: critic at every step, generator at every n-th."""

    def __init__(self, setting: Setting) -> None:
        assert setting.teacher is not None
        self.setting, self.teacher = setting, setting.teacher

    def turns(self, step: int) -> Iterator[NetworkTurn]:
        """Critic and generator learn from the same rollouts, which have one random exit step in all chunks."""
        rolled: list[tuple[ClipBatch, Draws]] = []
        exit_step = int(torch.randint(len(self.setting.sigmas), (), generator=self.setting.generator))
        if step % self.setting.config.critic.generator_every == 0:
            yield NetworkTurn("model", self.generator_pieces(rolled, exit_step))
        else:
            for _ in range(self.setting.config.accumulate):
                batch, _, draws = self.roll(exit_step, gradient=False)
                rolled.append((batch, draws))
        yield NetworkTurn("critic", (self.critic_loss(batch, draws) for batch, draws in rolled))

    def roll(self, exit_step: int, *, gradient: bool) -> tuple[ClipBatch, Tensor, Draws]:
        """Clips as the generator makes them, and the latents that they had."""
        batch, draws = self.setting.draw()
        made = roll(self.setting, batch, draws, exit_step, gradient=gradient)
        length = made.shape[1]
        return replace(batch, latents=made, drive=batch.drive[:, :length]), batch.latents[:, :length], draws

    def generator_pieces(self, rolled: list[tuple[ClipBatch, Draws]], exit_step: int) -> Iterator[Piece]:
        """The rolled clips go to the critic, without their graph."""
        for _ in range(self.setting.config.accumulate):
            batch, truth, draws = self.roll(exit_step, gradient=True)
            rolled.append((replace(batch, latents=batch.latents.detach()), draws))
            yield self.generator_loss(batch, truth, draws)

    def generator_loss(self, batch: ClipBatch, truth: Tensor, draws: Draws) -> Piece:
        """The real score is the base's, guided; the fake score the critic's. Values that the drive gives are pulled to
        the truth [B, F, C, h, w] instead."""
        config, critic = self.setting.config, self.setting.networks["critic"]
        held = replace(batch, latents=batch.latents.detach())
        clip, sigma = conditioned(held), self.sigma(draws)
        gradient = dmd.pull(
            held.latents, bidirectional.noised(clip, sigma, draws), sigma,
            real=lambda x, s: guided(self.teacher, held, x, s, config.guidance),
            fake=lambda x, s: bidirectional.predict(critic, clip, x, s),
        )  # fmt: skip
        apart = gradient.square().mean((0, 1, 3, 4))
        known = self.setting.family.known(batch.drive)
        if known is not None:
            gradient = torch.where(known, config.given * (held.latents - truth), gradient)
        return dmd.matching_loss(batch.latents, gradient), apart

    def critic_loss(self, batch: ClipBatch, draws: Draws) -> Piece:
        """Flow matching on the generator's clips."""
        clip, sigma = conditioned(batch), self.sigma(draws)
        noisy = bidirectional.noised(clip, sigma, draws)
        made = bidirectional.predict(self.setting.networks["critic"], clip, noisy, sigma)
        return self.setting.family.loss(made, batch.latents, sigma[:, None])

    def sigma(self, draws: Draws) -> Tensor:
        """One level a clip, uniform on the unshifted line, kept away from both ends."""
        config = self.setting.config
        return shifted(draws.rand(), config.model.shift).clamp(*config.critic.levels)

    def sample(self, clip: ClipBatch) -> Tensor:
        return sample_rollout(self.setting, clip)


def roll(setting: Setting, batch: ClipBatch, draws: Draws, exit_step: int, *, gradient: bool) -> Tensor:
    """The model's own rollout over the clips' drive."""
    config = setting.config
    seeds = draws.randint(2**31).tolist()
    return self_rollout(
        setting.networks["model"], config.model, config.rollout, batch, seeds, config.chunks, exit_step,
        gradient=gradient,
    )  # fmt: skip


def sample_rollout(setting: Setting, clip: ClipBatch) -> Tensor:
    """All steps of the rollout, the same noise each time."""
    return roll(setting, clip, setting.numbers_apart(1, setting.config.seed), len(setting.sigmas) - 1, gradient=False)


STAGES: dict[str, Callable[[Setting], Stage]] = {"base": BaseStage, "causal": CausalStage, "distill": DistillStage}
