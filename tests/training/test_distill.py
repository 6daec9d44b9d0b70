"""Self-rollout: the engine's rollout with a gradient in one place; distribution matching moves a mean where it
should."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from engine.rollout.strategies import make_rollout
from engine.worker.runner import ModelRunner
from ground.config import RolloutSpec
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT
from models.registry import LoadedModel
from tests.clips import CPU, TINY, NoiseClips, noise_clips, random_model
from training import dmd
from training.bidirectional import Guidance, conditioned
from training.configs import PRESETS
from training.families import family_of
from training.noise import add_noise
from training.self_rollout import self_rollout
from training.stages import DistillStage, Setting
from training.stream import ClipStream

SPECS = [
    RolloutSpec(),
    RolloutSpec(running_ahead="constant", start=22),
    RolloutSpec(knot=2, window=9),
    RolloutSpec(strategy="self_forcing", knot=0),
]


def trainable(seed: int = 0) -> CausalWanDiT:
    return random_model(TINY, seed).requires_grad_(True)


@pytest.mark.parametrize("spec", SPECS, ids=["paper", "constant", "k=2 L=9", "self_forcing"])
def test_the_training_rollout_is_the_engines(spec: RolloutSpec) -> None:
    """Exit at the last step: latent for latent what ModelRunner makes of the same noise, every clip with its own n."""
    batch = replace(noise_clips(2, config=TINY), reference=torch.tensor([22, 31]), portrait=torch.randn(2, 16, 2, 2))
    batch = replace(batch, drive=torch.randn(2, 24, 4, TINY.dit.drive_dim))
    assert batch.portrait is not None
    dit = random_model(TINY)
    made = self_rollout(dit, TINY, spec, batch, [5, 6], 7, 3, gradient=True)
    model, frames = LoadedModel(TINY, dit, None, None, CPU, torch.float32), make_rollout(spec, TINY).cached_frames
    runner = ModelRunner(model, slots=1, frames=frames)
    for row, seed in enumerate((5, 6)):
        own = replace(spec, start=int(batch.reference[row])) if spec.running_ahead == "countdown" else spec
        rollout = make_rollout(own, TINY)
        features = batch.features[row, :, None, None].expand(-1, 2, 2)
        state, held, latents = rollout.new_state(batch.portrait[row], features, seed), None, []
        for _ in range(7):
            drive = batch.drive[row, state.next_latent : state.next_latent + rollout.drive_latents]
            chunk, held = runner.make_chunk(0, rollout, state, drive, held)
            latents.append(chunk)
        torch.testing.assert_close(made[row], torch.cat(latents), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("exit_step", range(4))
def test_gradient_reaches_the_exit_step_alone(exit_step: int) -> None:
    """A hook on every forward: only the exit step of each chunk is part of the graph, and chunks are not linked."""
    model, seen = trainable(), []

    def note(_: object, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen.append((float(given[1].max()), out.requires_grad, given[0].requires_grad, given[2].requires_grad))

    model.register_forward_hook(note)
    sigmas = (1.0, 0.9375, 0.8333333333333334, 0.625)
    made = self_rollout(model, TINY, RolloutSpec(), noise_clips(2, config=TINY), [1, 2], 3, exit_step, gradient=True)
    assert len(seen) == 1 + 3 * (exit_step + 2), "the reference, then the steps up to the exit and the clean pass"
    for sigma, tracked, noisy_tracked, condition_tracked in seen:
        assert tracked == (abs(sigma - sigmas[exit_step]) < 1e-6), sigma
        assert not (tracked and (noisy_tracked or condition_tracked)), "noise and knot are constants"
    for chunk in range(3):
        model.zero_grad()
        made[:, 3 * chunk : 3 * chunk + 3].square().sum().backward(retain_graph=True)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert norms and all(n.isfinite() for n in norms) and sum(norms) > 0


def test_the_fused_latent_gets_half_the_gradient() -> None:
    """Its other half is the knot, a constant."""
    made = {}
    for k in (0, 1):
        model = trainable()
        with torch.no_grad():
            for p in model.head.parameters():
                p.zero_()
        latents = self_rollout(model, TINY, RolloutSpec(knot=k), noise_clips(1, config=TINY), [1], 2, 0, gradient=True)
        latents[:, 3].sum().backward()
        made[k] = model.head.head.bias.grad
    torch.testing.assert_close(made[1], made[0] / 2)


def test_without_gradient_nothing_is_tracked() -> None:
    made = self_rollout(trainable(), TINY, RolloutSpec(), noise_clips(1, config=TINY), [1], 2, 3, gradient=False)
    assert not made.requires_grad


def test_recomputed_blocks_give_the_same_gradient() -> None:
    """Backward runs the blocks again after the cache has moved on."""
    gradients = []
    for recompute in (False, True):
        model = trainable()
        model.recompute = recompute
        made = self_rollout(model, TINY, RolloutSpec(), noise_clips(1, config=TINY), [1], 3, 1, gradient=True)
        made.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_the_gradient_survives_bf16() -> None:
    model = trainable()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        made = self_rollout(model, TINY, RolloutSpec(), noise_clips(1, config=TINY), [1], 2, 2, gradient=True)
    made.float().square().sum().backward()
    gradient = model.blocks[0].ffn[0].weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0


def test_distribution_matching_moves_a_gaussians_mean_to_the_teachers() -> None:
    """Data N(3, 1), student N(m, 1): clean estimates in closed form, E[x0 | x] = mean + a (x - (1 - s) mean)."""
    generator = torch.Generator().manual_seed(0)

    def score(mean: torch.Tensor) -> dmd.Score:
        def x0(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            s = sigma.view(-1, 1, 1, 1, 1)
            return mean + (1 - s) / ((1 - s) ** 2 + s**2) * (noisy - (1 - s) * mean)

        return x0

    mean = torch.nn.Parameter(torch.tensor(-2.0))
    optimiser = torch.optim.SGD([mean], lr=0.3)
    wanted = torch.tensor(3.0)
    for step in range(200):
        sample = mean + torch.randn(64, 1, 1, 2, 2, generator=generator)
        sigma = torch.rand(64, generator=generator).clamp(0.02, 0.98)
        noise = torch.randn(sample.shape, generator=generator)
        noisy = add_noise(sample.detach(), noise, sigma[:, None])
        real, fake = score(wanted), score(mean.detach())
        gradient = dmd.pull(sample.detach(), noisy, sigma, real, fake)
        scale = (sample - real(noisy, sigma)).abs().mean((1, 2, 3, 4), keepdim=True)
        torch.testing.assert_close(gradient * scale, fake(noisy, sigma) - real(noisy, sigma), atol=1e-5, rtol=1e-4)
        optimiser.zero_grad()
        dmd.matching_loss(sample, gradient).backward()
        assert mean.grad is not None
        torch.testing.assert_close(mean.grad, gradient.mean())
        optimiser.step()
        if step == 0:
            assert mean > -2.0
    assert abs(float(mean.detach()) - 3.0) < 0.15


def setting(model: CausalWanDiT, teacher: CausalWanDiT, critic: CausalWanDiT) -> Setting:
    config = replace(PRESETS["distill-smoke"], model=TINY, chunks=3, guidance=Guidance(2.0))
    return Setting(
        config, family_of(TINY, config.loss), {"model": model, "critic": critic}, teacher,
        ClipStream(NoiseClips(), config.batch), torch.Generator().manual_seed(0), CPU, slice(None),
    )  # fmt: skip


def test_turns_alternate_and_touch_only_their_network() -> None:
    model, critic = trainable(), trainable(1)
    stage = DistillStage(setting(model, random_model(TINY, 2), critic))
    for step, expected in enumerate((["model", "critic"], ["critic"], ["model", "critic"], ["critic"])):
        found = []
        for turn in stage.turns(step):
            found.append(turn.network)
            for network in (model, critic):
                network.zero_grad()
            for loss, _ in turn.pieces:
                loss.backward()
            touched = {
                name for name, network in (("model", model), ("critic", critic))
                if any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
            }  # fmt: skip
            assert touched == {turn.network}
        assert found == expected


def test_where_critic_and_base_agree_the_generator_rests() -> None:
    base = random_model(TINY, 2)
    critic = CausalWanDiT(TINY.dit)
    critic.load_state_dict(base.state_dict())
    stage = DistillStage(setting(trainable(), base, critic))
    nothing = SimpleNamespace(known=lambda drive: None)
    config = replace(stage.setting.config, guidance=Guidance())
    stage.setting = replace(stage.setting, config=config, family=nothing)  # type: ignore[arg-type]
    turn = next(stage.turns(0))
    assert turn.network == "model" and float(next(turn.pieces)[0].detach()) == 0.0


def test_what_the_drive_gives_is_pulled_to_the_truth_instead() -> None:
    """Where critic and base agree nothing else pulls, so a generator that gives it back rests."""
    base = random_model(TINY, 2)
    critic = CausalWanDiT(TINY.dit)
    critic.load_state_dict(base.state_dict())
    stage = DistillStage(setting(trainable(), base, critic))
    known = torch.zeros(2, 9, *TINY.latent_shape, dtype=torch.bool)
    known[0, 3:, :2] = True
    family = SimpleNamespace(known=lambda drive: known)
    config = replace(stage.setting.config, guidance=Guidance())
    stage.setting = replace(stage.setting, config=config, family=family)  # type: ignore[arg-type]
    made, truth, draws = stage.roll(0, gradient=False)
    latents = made.latents.clone().requires_grad_()
    loss, _ = stage.generator_loss(replace(made, latents=latents), truth, draws)
    loss.backward()
    assert latents.grad is not None
    wanted = torch.where(known, config.given * (made.latents - truth), 0) / latents.numel()
    torch.testing.assert_close(latents.grad, wanted)


def test_the_scored_clip_has_its_reference_ahead() -> None:
    batch = replace(noise_clips(2), reference=torch.tensor([22, 40]))
    clip = conditioned(replace(batch, latents=batch.latents[:, :21], drive=batch.drive[:, :21]))
    assert clip.positions[:, 0].tolist() == [22, 40] and clip.positions[:, 1:].tolist() == [list(range(21))] * 2
    assert clip.sigmas(torch.ones(2))[:, 0].tolist() == [0, 0]
    assert EMBEDDED.trained_latents == 21
