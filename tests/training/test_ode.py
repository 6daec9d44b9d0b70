"""Distillation along a teacher's paths: they pass the rollout's levels, and what the drive gives is kept."""

from dataclasses import replace

import torch

from ground.config import RolloutSpec
from ground.motion import NAMES
from models.codecs.motion import pack_controls
from models.config import EMBEDDED, Prediction
from tests.clips import draws, noise_clips
from training.bidirectional import Guidance
from training.families import MotionFamily
from training.losses import LossConfig, flow_loss, frames_in_order, motion_loss
from training.noise import add_noise, to_x0
from training.ode import base_path, missing_spread, own_steps, path_sigmas, student_input, teacher_path
from training.sequence import ExposureConfig, Layout, build

LAYOUT = Layout(RolloutSpec(), 7)
LEVELS = (1.0, 0.9375, 0.8333333333333334, 0.625)
FAMILY = MotionFamily(LossConfig())


class Oracle(torch.nn.Module):
    """Knows the answer; `timid` expects nothing of pure noise, and then arrives at four fifths of it."""

    config = EMBEDDED.dit

    def __init__(self, answer: torch.Tensor, timid: bool = False) -> None:
        super().__init__()
        self.answer, self.timid = answer, timid

    def forward(self, latents: torch.Tensor, sigmas: torch.Tensor, *_: object) -> torch.Tensor:
        if latents.shape[1] < self.answer.shape[1]:
            return latents  # the context alone
        answer = torch.cat([latents[:, : latents.shape[1] - self.answer.shape[1]], self.answer], 1)
        if not self.timid:
            return answer
        return torch.zeros_like(answer) if float(sigmas.max()) == 1.0 else 0.8 * answer


def test_the_teacher_walks_the_schedule() -> None:
    sequence = build(noise_clips(2), LAYOUT, ExposureConfig(), draws(2))
    noise = torch.randn(sequence.target.shape)
    path = teacher_path(Oracle(sequence.target), sequence, path_sigmas(8, 5.0), noise)  # type: ignore[arg-type]
    torch.testing.assert_close(path.ends[0], sequence.target)
    for sigma, state in zip(LEVELS, path.states, strict=True):
        torch.testing.assert_close(
            state, add_noise(path.ends[0], noise, torch.full((2, 28), sigma)), atol=1e-4, rtol=1e-4
        )
    noisy, sigmas, end = student_input(path, LAYOUT, LEVELS, draws(2))
    torch.testing.assert_close(end, sequence.target)
    torch.testing.assert_close(
        noisy, add_noise(path.ends[0], noise, sigmas.repeat_interleave(4, 1)), atol=1e-4, rtol=1e-4
    )


def test_what_the_base_makes_is_the_students_past() -> None:
    batch, answer = noise_clips(2), torch.randn(2, 22, 16, 2, 2)
    exposure = ExposureConfig(knot_given=1.0, knot_noise=0.0, context_noise=0.0)
    sequence, path = base_path(
        Oracle(answer), batch, LAYOUT, exposure, draws(2), path_sigmas(8, 5.0), Guidance()  # type: ignore[arg-type]
    )  # fmt: skip
    torch.testing.assert_close(path.ends[0], answer[:, LAYOUT.order])
    torch.testing.assert_close(sequence.context_latents[:, 1:], answer[:, :18])
    torch.testing.assert_close(sequence.noisy_condition[:, 4, :16], answer[:, 3])
    assert torch.equal(path.states[0][:, 3], path.states[0][:, 4]), "a knot and its chunk come from one path"


class Shrinking(Oracle):
    """Answers with `answer` times the noise level, and counts the levels it was asked at."""

    def forward(self, latents: torch.Tensor, sigmas: torch.Tensor, *_: object) -> torch.Tensor:
        if latents.shape[1] < self.answer.shape[1]:
            return latents
        return sigmas[..., None, None, None] * self.answer


def test_a_fine_tune_walks_its_own_steps_and_stays_what_it_was() -> None:
    """The states are what the model itself makes of noise, renewed at every level as in a rollout; what is known ends
    in the truth, all else in the frozen model's answer at that very level."""
    sequence = build(noise_clips(2), LAYOUT, ExposureConfig(), draws(2))
    own, before = torch.full_like(sequence.target, 3.0), torch.full_like(sequence.target, -2.0)
    known = FAMILY.known(sequence.noisy_drive)
    assert known is not None
    path = own_steps(Shrinking(own), Shrinking(before), sequence, LEVELS, draws(2), known)  # type: ignore[arg-type]
    for sigma, earlier, state in zip(LEVELS[1:], LEVELS, path.states[1:], strict=False):
        noise = (state - (1 - sigma) * earlier * own) / sigma
        assert abs(float(noise.mean())) < 0.08 and abs(float(noise.std()) - 1) < 0.08
    assert float(torch.corrcoef(path.states[:2].flatten(1))[0, 1]) < 0.08, "noise is drawn anew at every level"
    for sigma, end in zip(LEVELS, path.ends, strict=True):
        torch.testing.assert_close(end, torch.where(known, sequence.target, sigma * before))
    noisy, sigmas, end = student_input(path, LAYOUT, LEVELS, draws(2))
    level = sigmas.repeat_interleave(LAYOUT.span, 1)[..., None, None, None]
    torch.testing.assert_close(end, torch.where(known, sequence.target, level * before))
    picked = [LEVELS.index(round(float(s), 4)) if s != LEVELS[2] else 2 for s in sigmas[0]]
    for chunk, at in enumerate(picked):
        frames = slice(chunk * LAYOUT.span, (chunk + 1) * LAYOUT.span)
        assert torch.equal(noisy[0, frames], path.states[at][0, frames])


def test_a_timid_teachers_spread_is_put_right() -> None:
    sequence = build(noise_clips(2), LAYOUT, ExposureConfig(), draws(2))
    teacher, sigmas = Oracle(sequence.target, timid=True), path_sigmas(8, 5.0)
    free = torch.ones_like(sequence.target, dtype=torch.bool)
    spread = missing_spread(teacher, sequence, sigmas, draws(2), free, limit=1.5)  # type: ignore[arg-type]
    torch.testing.assert_close(spread, torch.full((16,), 1.25))
    noise = torch.randn(sequence.target.shape)
    path = teacher_path(teacher, sequence, sigmas, noise, None, spread)  # type: ignore[arg-type]
    torch.testing.assert_close(path.ends[0], sequence.target)


def test_only_what_the_voice_leaves_free_is_stretched() -> None:
    chosen = {name for name, s in zip(NAMES, FAMILY.stretched().tolist(), strict=True) if s}  # type: ignore[union-attr]
    assert {"yaw", "pitch", "roll", "gazeX", "brow"} <= chosen
    assert not chosen & {"jaw", "pucker", "smile", "press", "upper", "blinkL", "blinkR"}


LIPS = 5  # of the sixteen controls, the first


def test_what_the_drive_tells_is_taken_from_the_truth() -> None:
    """The lips always, by the voice; of the others what is given."""
    batch = noise_clips(1)
    batch.drive[:, :, 2, -16 + 10] = 1.0  # the mask of yaw, third frame of each latent
    known = FAMILY.known(batch.drive)
    assert known is not None and known[:, :, :LIPS].all() and known[:, :, 10, 1, 0].all()
    assert known[:, :, LIPS:].sum() == 22
    sequence = build(batch, LAYOUT, ExposureConfig(), draws(1))
    oracle = Oracle(torch.zeros_like(sequence.target))
    path = teacher_path(
        oracle, sequence, path_sigmas(4, 5.0), torch.randn(sequence.target.shape),  # type: ignore[arg-type]
        FAMILY.known(sequence.noisy_drive),
    )  # fmt: skip
    torch.testing.assert_close(path.ends[0][:, :, 10, 1, 0], sequence.target[:, :, 10, 1, 0])
    torch.testing.assert_close(path.ends[0][:, :, :LIPS], sequence.target[:, :, :LIPS])
    assert path.ends[0][:, :, LIPS:].count_nonzero() == 28


def test_loss_is_zero_for_the_truth_and_feels_speed_and_seams() -> None:
    target, sigmas = torch.randn(2, 28, 16, 2, 2), torch.ones(2, 7)
    assert motion_loss(target, target, sigmas, LossConfig())[0] == 0
    level = motion_loss(target + 0.1, target, sigmas, LossConfig())[0]
    jitter = motion_loss(target + 0.1 * torch.sign(torch.randn_like(target)), target, sigmas, LossConfig())[0]
    assert jitter > 1.5 * level
    jump = torch.zeros(2, 7, 4, 16, 2, 2)
    jump[:, 3] = 0.1  # one chunk stands apart from what it follows
    seam = motion_loss(target + jump.flatten(1, 2), target, sigmas, LossConfig())[0]
    torch.testing.assert_close(
        seam - motion_loss(target + jump.flatten(1, 2), target, sigmas, LossConfig(seam=0.0))[0],
        level_of_seam(jump), atol=1e-6, rtol=1e-4,
    )  # fmt: skip


def level_of_seam(jump: torch.Tensor) -> torch.Tensor:
    """One of six seams is off by 0.1, over 16 frames."""
    one = motion_loss(torch.full((1, 1, 16, 2, 2), 0.1), torch.zeros(1, 1, 16, 2, 2), torch.ones(1, 1), LossConfig())[0]
    return one / 6 / 16


def test_flow_loss_is_the_error_of_the_velocity() -> None:
    clean, noise, predicted = torch.randn(3, 2, 6, 4, 2, 2).unbind(0)
    sigmas = torch.tensor([[0.9, 0.2], [0.5, 0.4]])
    every = sigmas.repeat_interleave(3, 1)
    noisy = add_noise(clean, noise, every)
    kind: Prediction = "flow"
    loss, _ = flow_loss(to_x0(predicted, noisy, every, kind), clean, sigmas)
    torch.testing.assert_close(loss, (predicted - (noise - clean)).square().mean(), atol=1e-5, rtol=1e-5)


def test_frames_are_taken_out_of_latents_in_time_order() -> None:
    rows = torch.arange(2 * 28 * 4 * 16.0).view(-1, 16)
    latents = pack_controls(rows).view(2, 28, 16, 2, 2)
    assert torch.equal(frames_in_order(latents, 7).reshape(-1, 16), rows)


def test_levels_off_the_path_are_refused() -> None:
    import pytest

    from training.ode import level_indices

    assert level_indices(12, (1000, 750, 500, 250)) == [0, 3, 6, 9]
    with pytest.raises(AssertionError):
        level_indices(10, replace(LAYOUT.spec).steps)
