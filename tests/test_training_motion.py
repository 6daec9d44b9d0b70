"""The trainer: its one sequence is what the rollout's passes see, distillation walks the schedule, and resuming is
exact."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import RolloutSpec
from engine.kv_cache import KVCache
from engine.rollout.base import Pass, reference_pass
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.strategies import make_rollout
from models.config import EMBEDDED
from models.dit import CausalWanDiT, randomise_
from models.motion import NAMES
from models.motion_codec import pack_controls
from training import checkpoint
from training.configs import PRESETS
from training.dataset import ClipBatch, ClipConfig, ClipSampler
from training.distill import STRETCHED, missing_spread, student_input, teacher_path
from training.losses import LossConfig, frames_in_order, motion_loss
from training.motion_trainer import MotionTrainer, rate_factor
from training.noise import SIGMAS, add_noise, sample_sigmas
from training.sequence import (
    CHUNK,
    CHUNKS,
    CLEAN,
    SPAN,
    ExposureConfig,
    build,
    frame_mask,
    predict,
    predict_recorded,
    record,
)  # fmt: skip


def _batch(size: int = 1, seed: int = 0) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    return ClipBatch(
        latents=torch.randn(size, 22, 16, 2, 2, generator=generator),
        drive=torch.randn(size, 22, 4, 672, generator=generator),
        features=torch.randn(size, 20, generator=generator),
        reference=torch.full((size,), 25),
    )


@pytest.fixture(scope="module")
def model() -> CausalWanDiT:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    return dit.eval().requires_grad_(False)


def _run(model: CausalWanDiT, cache: KVCache, work: Pass) -> torch.Tensor:
    view = cache.view([0], [work.reads], [work.commits])
    out: torch.Tensor = model(
        work.latents[None], torch.tensor([work.sigmas]), work.condition[None], work.drive[None], None, view,
        torch.tensor([work.positions]),
    )  # fmt: skip
    return out[0]


def test_the_training_sequence_sees_what_the_rollout_sees(model: CausalWanDiT) -> None:
    """Chunk by chunk through the engine's own passes and cache, with the true past: the same predictions."""
    batch = _batch()
    generator = torch.Generator().manual_seed(1)
    sequence = build(batch, ExposureConfig(knot_given=1.0), generator)
    noisy = torch.randn(sequence.target.shape, generator=generator)
    sigmas = torch.tensor([SIGMAS[j % 4] for j in range(CHUNKS)])
    trained = predict(model, sequence, noisy, sigmas.repeat_interleave(SPAN)[None])[0].view(CHUNKS, SPAN, 16, 2, 2)

    spec = RolloutSpec(running_ahead="countdown", start=25)
    rollout = make_rollout(spec, EMBEDDED)
    assert isinstance(rollout, KnotForcing)
    cache = KVCache(EMBEDDED, slots=1, context=3, device=torch.device("cpu"), dtype=torch.float32)
    features = batch.features[0, :, None, None].expand(-1, 2, 2)
    state = rollout.new_state(torch.zeros(16, 2, 2), features, 0)
    for chunk in range(CHUNKS):
        at = CHUNK * chunk
        drive = batch.drive[0, at : at + SPAN]
        if chunk == 0:
            _run(model, cache, reference_pass(state, drive))
        knot = sequence.noisy_condition[0, SPAN * chunk, :16][None] if chunk else None
        own = noisy[0, SPAN * chunk : SPAN * (chunk + 1)]
        made = _run(model, cache, rollout.denoising_pass(state, own, float(sigmas[chunk]), knot, drive))
        torch.testing.assert_close(made, trained[chunk], atol=2e-4, rtol=1e-4)
        if chunk < CHUNKS - 1:
            state.knot = knot
            clean = sequence.context_latents[0, 1 + at : 1 + at + CHUNK]
            _run(model, cache, rollout.commit_pass(state, clean, drive[:CHUNK]))
            state.next_latent += CHUNK


def test_mask_counts_are_those_of_knot_forcing() -> None:
    mask = frame_mask()
    assert mask.shape == (1 + CLEAN + CHUNKS * SPAN,) * 2
    seen = mask.sum(1).tolist()
    assert seen[0] == 1
    assert seen[1 : 1 + CLEAN] == [4] * 3 + [7] * (CLEAN - 3)
    assert seen[1 + CLEAN :] == [5] * 4 + [8] * (CHUNKS - 1) * SPAN
    assert not mask[:, 1 + CLEAN :][: 1 + CLEAN].any(), "nothing clean sees a noisy latent"


def test_a_recorded_context_equals_the_whole_sequence(model: CausalWanDiT) -> None:
    generator = torch.Generator().manual_seed(0)
    sequence = build(_batch(2), ExposureConfig(), generator)
    noisy = torch.randn(sequence.target.shape, generator=generator)
    whole = predict(model, sequence, noisy, torch.full(noisy.shape[:2], 0.5))
    torch.testing.assert_close(
        predict_recorded(model, sequence, record(model, sequence), noisy, 0.5), whole, atol=1e-4, rtol=1e-4
    )


def test_knots_are_shown_only_where_they_are_given() -> None:
    sequence = build(_batch(200), ExposureConfig(), torch.Generator().manual_seed(0))
    mask = sequence.noisy_condition[:, :, 16, 0, 0].view(200, CHUNKS, SPAN)
    assert (mask[:, 0] == 0).all() and (mask[:, :, 1:] == 0).all()
    assert 0.8 < mask[:, 1:, 0].mean() < 0.88
    values = sequence.noisy_condition[:, :, :16].view(200, CHUNKS, SPAN, 16, 2, 2)
    assert (values[:, :, 0][mask[:, :, 0] == 0] == 0).all()
    shown = mask[:, :, 0] == 1
    difference = values[:, :, 0][shown] - sequence.target.view(200, CHUNKS, SPAN, 16, 2, 2)[:, :, 0][shown]
    assert 0.02 < difference.std() < 0.12
    clean = sequence.context_condition[:, 1:, 16, 0, 0].view(200, CHUNKS - 1, CHUNK)
    torch.testing.assert_close(clean[:, :, 0], mask[:, :-1, 0])


def test_sigmas_favour_the_schedule() -> None:
    drawn = sample_sigmas((4000,), 0.5, torch.Generator().manual_seed(0))
    assert drawn.min() > 0 and drawn.max() <= 1
    on = torch.isin(drawn, torch.tensor(SIGMAS)).float().mean()
    assert 0.45 < on < 0.56


def test_loss_is_zero_for_the_truth_and_feels_speed_and_seams() -> None:
    target = torch.randn(2, CHUNKS * SPAN, 16, 2, 2)
    sigmas = torch.ones(2, CHUNKS)
    assert motion_loss(target, target, sigmas, LossConfig())[0] == 0
    level = motion_loss(target + 0.1, target, sigmas, LossConfig())[0]
    jitter = motion_loss(target + 0.1 * torch.sign(torch.randn_like(target)), target, sigmas, LossConfig())[0]
    assert jitter > 1.5 * level


class _Oracle(torch.nn.Module):
    """Knows the answer."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, latents: torch.Tensor, *_: object) -> torch.Tensor:
        return self.answer if latents.shape == self.answer.shape else latents


def test_the_teacher_walks_the_schedule() -> None:
    sequence = build(_batch(2), ExposureConfig(), torch.Generator().manual_seed(0))
    path = teacher_path(_Oracle(sequence.target), sequence, 8, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    torch.testing.assert_close(path.end, sequence.target)
    noise = path.states[0]
    for sigma, state in zip(SIGMAS, path.states, strict=True):
        torch.testing.assert_close(state, add_noise(path.end, noise, torch.full((2, 28), sigma)), atol=1e-4, rtol=1e-4)
    noisy, sigmas = student_input(path, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        noisy, add_noise(path.end, noise, sigmas.repeat_interleave(SPAN, 1)), atol=1e-4, rtol=1e-4
    )


class _Timid(torch.nn.Module):
    """Expects nothing of pure noise, and then arrives at four fifths of the answer."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, latents: torch.Tensor, sigmas: torch.Tensor, *_: object) -> torch.Tensor:
        if latents.shape != self.answer.shape:
            return latents
        return torch.zeros_like(latents) if float(sigmas.max()) == 1.0 else 0.8 * self.answer


def test_a_timid_teachers_spread_is_put_right_where_the_voice_leaves_freedom() -> None:
    sequence = build(_batch(2), ExposureConfig(), torch.Generator().manual_seed(0))
    teacher = _Timid(sequence.target)
    spread = missing_spread(teacher, sequence, 8, torch.Generator().manual_seed(0), limit=1.5)  # type: ignore[arg-type]
    free = torch.tensor([name in STRETCHED for name in NAMES])
    torch.testing.assert_close(spread[free], torch.full((len(STRETCHED),), 1.25))
    assert (spread[~free] == 1).all()
    path = teacher_path(teacher, sequence, 8, torch.Generator().manual_seed(0), spread)  # type: ignore[arg-type]
    torch.testing.assert_close(path.end[:, :, free], sequence.target[:, :, free])


def test_rate_rises_and_falls() -> None:
    config = PRESETS["base-cpu"]
    rates = [rate_factor(step, config) for step in range(config.steps)]
    peak = int(np.argmax(rates))
    assert 0 < peak < 0.1 * config.steps and rates[peak] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(config.final_rate, abs=1e-3)


class _Clips(ClipSampler):
    """Clips of noise, drawn as the real ones are: from `rng` alone."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.config = ClipConfig()

    def batch(self, size: int) -> ClipBatch:
        return _batch(size, int(self.rng.integers(1 << 30)))


def _trainer(folder: Path, preset: str, start: checkpoint.Ema | None = None) -> MotionTrainer:
    return MotionTrainer(PRESETS[preset], _Clips(), folder, start)


@pytest.mark.parametrize("preset", ["base-smoke", "distil-smoke"])
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, preset: str) -> None:
    torch.manual_seed(0)
    start = CausalWanDiT(EMBEDDED.dit).state_dict()
    whole = _trainer(tmp_path / "whole", preset, start)
    whole.run()
    first = _trainer(tmp_path / "parts", preset, start)
    for _ in range(2):  # then killed, after its first checkpoint
        first.advance()
        first.step += 1
    checkpoint.save(
        first.checkpoint, first.step, first.model, first.ema, first.optimiser, first.generator, first.sampler.rng
    )
    second = _trainer(tmp_path / "parts", preset, start)
    assert second.step == 2
    second.run()
    for name, value in whole.ema.items():
        assert torch.equal(value, second.ema[name]), name


def test_export_is_bf16_and_loads_as_the_engine_loads_it(tmp_path: Path) -> None:
    from models.registry import load_weights

    trainer = _trainer(tmp_path, "base-smoke")
    size = checkpoint.export(trainer.ema, tmp_path / "dit.safetensors", {"model": "embedded"})
    assert size < 16
    dit = CausalWanDiT.on_meta(EMBEDDED.dit)
    load_weights(dit, tmp_path / "dit.safetensors", torch.device("cpu"), torch.float32)
    assert all(value.dtype == torch.float32 for value in dit.state_dict().values())


def test_frames_are_taken_out_of_latents_in_time_order() -> None:
    rows = torch.arange(2 * CHUNKS * SPAN * 4 * 16.0).view(-1, 16)
    latents = pack_controls(rows).view(2, CHUNKS * SPAN, 16, 2, 2)
    assert torch.equal(frames_in_order(latents).reshape(-1, 16), rows)
