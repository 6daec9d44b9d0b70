"""The causal sequence is what the rollout's passes see; the bidirectional one shows what its mask says and no more."""

from dataclasses import replace

import pytest
import torch

from engine.rollout.base import Pass, reference_pass
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.kv_cache import KVCache
from engine.rollout.self_forcing import SelfForcing
from engine.rollout.strategies import make_rollout
from ground.config import RolloutSpec
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT
from tests.clips import draws, noise_clips, random_model
from training import bidirectional
from training.clips import DropoutConfig, withhold
from training.configs import PRESETS
from training.noise import sample_sigmas
from training.sequence import ExposureConfig, Layout, build, frame_mask, predict, predict_recorded, record

SIGMAS = (1.0, 0.9375, 0.8333333333333334, 0.625)
KNOT_FORCING = RolloutSpec(start=25)
LAYOUT = Layout(KNOT_FORCING, 7)


@pytest.fixture(scope="module")
def model() -> CausalWanDiT:
    return random_model()


def _run(model: CausalWanDiT, cache: KVCache, work: Pass) -> torch.Tensor:
    read = torch.tensor([work.reads]).view(1, -1, 2).long()
    targets = torch.tensor([[work.commits[own] for own in work.kept]]).long()
    view = cache.view(torch.tensor([0]), read[..., 0], read[..., 1], targets, work.kept)
    out: torch.Tensor = model(
        work.latents[None], torch.tensor([work.sigmas]), work.condition[None], work.drive[None], None, view,
        torch.tensor([work.positions]),
    )  # fmt: skip
    return out[0]


@pytest.mark.parametrize(
    "spec",
    [
        KNOT_FORCING,
        replace(KNOT_FORCING, knot=2),
        replace(KNOT_FORCING, knot=0),
        replace(KNOT_FORCING, window=9),
        replace(KNOT_FORCING, running_ahead="constant", start=22),
        RolloutSpec(strategy="self_forcing", knot=0),
    ],
    ids=["paper", "k=2", "k=0", "L=9", "constant", "self_forcing"],
)
def test_the_training_sequence_sees_what_the_rollout_sees(model: CausalWanDiT, spec: RolloutSpec) -> None:
    """Chunk by chunk through the engine's own passes and cache, with the true past: the same predictions."""
    layout, batch = Layout(spec, 6), noise_clips()
    c, k = spec.chunk, spec.knot
    sequence = build(batch, layout, ExposureConfig(knot_given=1.0), draws(1, 1))
    noisy = torch.randn(sequence.target.shape, generator=torch.Generator().manual_seed(2))
    sigmas = torch.tensor([SIGMAS[j % 4] for j in range(6)])
    trained = predict(model, sequence, noisy, sigmas.repeat_interleave(layout.span)[None])[0].unflatten(0, (6, -1))

    rollout = make_rollout(spec, EMBEDDED)
    assert isinstance(rollout, KnotForcing | SelfForcing)
    cache = KVCache(EMBEDDED, slots=1, frames=rollout.cached_frames, device=torch.device("cpu"), dtype=torch.float32)
    features = batch.features[0, :, None, None].expand(-1, 2, 2)
    state = rollout.new_state(torch.zeros(16, 2, 2), features, 0)
    for chunk in range(6):
        at = c * chunk
        drive = batch.drive[0, at : at + layout.span]
        if chunk == 0:
            _run(model, cache, reference_pass(state, drive))
        own = noisy[0, layout.span * chunk : layout.span * (chunk + 1)]
        knots = sequence.noisy_condition[0, layout.span * chunk : layout.span * chunk + k, :16] if chunk else None
        clean = sequence.context_latents[0, layout.context - layout.clean :][at : at + c]
        if isinstance(rollout, KnotForcing):
            rollout.run_ahead(state)
            work = rollout.denoising_pass(state, own, float(sigmas[chunk]), knots, drive)
            state.knot = knots
            commit = rollout.commit_pass(state, clean, drive[:c]) if chunk < 5 else None
        else:
            work = rollout.make_pass(state, own, float(sigmas[chunk]), drive)
            commit = rollout.make_pass(state, clean, 0.0, drive) if chunk < 5 else None
        torch.testing.assert_close(_run(model, cache, work), trained[chunk], atol=2e-4, rtol=1e-4)
        if commit is not None:
            _run(model, cache, commit)
            state.next_latent += c


def test_mask_counts_are_those_of_knot_forcing() -> None:
    mask = frame_mask(LAYOUT)
    clean = LAYOUT.clean
    assert mask.shape == (1 + 18 + 28,) * 2
    seen = mask.sum(1).tolist()
    assert seen[0] == 1
    assert seen[1 : 1 + clean] == [4] * 3 + [7] * (clean - 3)
    assert seen[1 + clean :] == [5] * 4 + [8] * 24
    assert not mask[:, 1 + clean :][: 1 + clean].any(), "nothing clean sees a noisy latent"


def test_a_recorded_context_equals_the_whole_sequence(model: CausalWanDiT) -> None:
    sequence = build(noise_clips(2), LAYOUT, ExposureConfig(), draws(2))
    noisy = torch.randn(sequence.target.shape)
    whole = predict(model, sequence, noisy, torch.full(noisy.shape[:2], 0.5))
    torch.testing.assert_close(
        predict_recorded(model, sequence, record(model, sequence), noisy, 0.5), whole, atol=1e-4, rtol=1e-4
    )


def test_knots_are_shown_only_where_they_are_given() -> None:
    sequence = build(noise_clips(200), LAYOUT, ExposureConfig(), draws(200))
    mask = sequence.noisy_condition[:, :, 16, 0, 0].view(200, 7, 4)
    assert (mask[:, 0] == 0).all() and (mask[:, :, 1:] == 0).all()
    assert 0.8 < mask[:, 1:, 0].mean() < 0.88
    values = sequence.noisy_condition[:, :, :16].view(200, 7, 4, 16, 2, 2)
    assert (values[:, :, 0][mask[:, :, 0] == 0] == 0).all()
    shown = mask[:, :, 0] == 1
    difference = values[:, :, 0][shown] - sequence.target.view(200, 7, 4, 16, 2, 2)[:, :, 0][shown]
    assert 0.02 < difference.std() < 0.12
    clean = sequence.context_condition[:, 1:, 16, 0, 0].view(200, 6, 3)
    torch.testing.assert_close(clean[:, :, 0], mask[:, :-1, 0])


def test_sigmas_favour_the_schedule() -> None:
    drawn = sample_sigmas((4000,), 0.5, torch.Generator().manual_seed(0), SIGMAS, 5.0)
    assert drawn.min() > 0 and drawn.max() <= 1
    on = torch.isin(drawn, torch.tensor(SIGMAS)).float().mean()
    assert 0.45 < on < 0.56


def test_the_base_is_shown_prefix_and_reference_at_their_rates() -> None:
    exposure = ExposureConfig(prefix=0.3, prefix_latents=8)
    clip = bidirectional.build(noise_clips(2000), exposure, DropoutConfig(reference=0.1), draws(2000))
    mask = clip.condition[:, :, 16, 0, 0]
    assert 0.08 < (mask[:, 0] == 0).float().mean() < 0.12
    given = mask[:, 1:].sum(1)
    assert 0.27 < (given > 0).float().mean() < 0.33 and given.max() == 8
    assert (mask[:, 1:].diff(dim=1) <= 0).all(), "what is given is a prefix"
    values = clip.condition[:, 1:, :16]
    torch.testing.assert_close(values, clip.target[:, 1:] * mask[:, 1:, None, None, None])
    sigmas = clip.sigmas(torch.full((2000,), 0.5))
    assert (sigmas[:, 1:] == 0.5).all() and (sigmas[:, 0] == torch.where(mask[:, 0] == 1, 0.0, 0.5)).all()
    assert (clip.condition[:, :, 17:, 0, 0][mask[:, 0] == 0] == 0).all(), "who it is goes with the reference"


def test_a_withheld_reference_tells_nothing(model: CausalWanDiT) -> None:
    """Two clips that differ in the portrait alone, from the same noise: the same answer only where it is withheld."""
    batch = noise_clips(1)
    other = replace(batch, portrait=torch.randn(1, 16, 2, 2), features=batch.features + 1)
    noisy, sigma = torch.randn(1, 23, 16, 2, 2), torch.tensor([0.7])

    def answers(without: tuple[str, ...]) -> list[torch.Tensor]:
        return [
            bidirectional.predict(model, bidirectional.unconditioned(one, without), noisy, sigma)
            for one in (batch, other)
        ]

    torch.testing.assert_close(*answers(("reference",)))
    hidden, shown = answers(("drive",))
    assert (hidden - shown).abs().max() > 1e-3


def test_conditions_are_withheld_at_their_rates() -> None:
    batch = replace(noise_clips(2000), text=torch.ones(2000, 3, 4))
    dropped = withhold(batch, DropoutConfig(text=0.1, drive=0.25), draws(2000))
    assert dropped.text is not None
    assert 0.08 < (dropped.text == 0).all((1, 2)).float().mean() < 0.12
    silent = (dropped.drive == 0).flatten(1).all(1)
    assert 0.22 < silent.float().mean() < 0.28
    assert torch.equal(dropped.drive[~silent], batch.drive[~silent])
    assert withhold(batch, DropoutConfig(), draws(2000)).drive is batch.drive


def test_what_guidance_compares_with_is_trained() -> None:
    """Text and drive withheld, the reference shown: by itself each would leave one clip in a hundred."""
    batch = replace(noise_clips(2000), text=torch.ones(2000, 3, 4))
    for config in (PRESETS["wan-1.3b-base"], PRESETS["base-cpu"]):
        clip = bidirectional.build(batch, config.exposure, config.dropout, draws(2000))
        assert clip.text is not None
        nothing = (clip.text == 0).all((1, 2)) & (clip.drive == 0).flatten(1).all(1)
        assert 0.08 < (nothing & clip.shown).float().mean() < 0.12
        assert 0.16 < (clip.text == 0).all((1, 2)).float().mean() < 0.22


def test_guidance_goes_beyond_the_conditioned_answer(model: CausalWanDiT) -> None:
    batch, noisy, sigma = noise_clips(2), torch.randn(2, 23, 16, 2, 2), torch.tensor([0.7, 0.3])
    with_all = bidirectional.predict(model, bidirectional.conditioned(batch), noisy, sigma)
    without = bidirectional.predict(model, bidirectional.unconditioned(batch, ("text", "drive")), noisy, sigma)
    guided = bidirectional.guided(model, batch, noisy, sigma, bidirectional.Guidance(4.0))
    torch.testing.assert_close(guided, with_all + 3 * (with_all - without), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bidirectional.guided(model, batch, noisy, sigma, bidirectional.Guidance()), with_all)
