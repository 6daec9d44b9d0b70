"""Knot Forcing's bookkeeping against the paper, with oracle models in closed form instead of a network."""

import pytest
import torch
from torch import Tensor

from engine.rollout.base import Pass, Rollout, RolloutState
from ground.errors import RequestError
from tests.toy import TOY, new_state, toy_drive, toy_rollout

CHANNELS = TOY.dit.latent_channels


def drive_chunk(rollout: Rollout, state: RolloutState, oracle: float | list[float]) -> tuple[Tensor, list[Pass]]:
    """Run one chunk against an oracle that answers x0 = a constant (or one constant per frame), as a flow."""
    passes: list[Pass] = []
    denoise = rollout.denoise(state, toy_drive(rollout.drive_latents))
    answer = None
    while True:
        try:
            work = denoise.send(answer)
        except StopIteration as done:
            return done.value, passes
        passes.append(work)
        clean = torch.full_like(work.latents, 0.0) + torch.tensor(oracle).reshape(-1, 1, 1, 1)[: work.frames]
        answer = None if work.is_commit else (work.latents - clean) / work.sigmas[0]


def test_a_constant_oracle_is_emitted_unchanged() -> None:
    rollout = toy_rollout()
    state = new_state(rollout)
    for _ in range(3):
        emitted, _ = drive_chunk(rollout, state, 0.75)
        torch.testing.assert_close(emitted, torch.full_like(emitted, 0.75), atol=1e-5, rtol=0)


def test_the_knot_is_averaged_once_at_the_last_step_and_handed_on_unfused() -> None:
    rollout = toy_rollout()
    state = new_state(rollout)
    first, passes = drive_chunk(rollout, state, [1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(first[:, 0, 0, 0], torch.tensor([1.0, 2.0, 3.0]), atol=1e-5, rtol=0)
    assert not passes[1].condition[:, CHANNELS].any()  # the first chunk is given nothing
    second, passes = drive_chunk(rollout, state, [10.0, 20.0, 30.0, 40.0])
    torch.testing.assert_close(second[:, 0, 0, 0], torch.tensor([(4 + 10) / 2, 20.0, 30.0]), atol=1e-4, rtol=0)
    assert state.knot is not None
    torch.testing.assert_close(state.knot[:, 0, 0, 0], torch.tensor([40.0]), atol=1e-4, rtol=0)
    *denoising, commit = passes
    assert commit.is_commit and torch.equal(commit.latents, second)  # the clean pass sees the fused latent
    for work in denoising:  # fed as a condition only: the noisy slot stays noise, the estimate is not averaged before
        torch.testing.assert_close(work.condition[0, :CHANNELS], torch.full_like(second[0], 4.0), atol=1e-5, rtol=0)
        assert work.condition[0, CHANNELS].eq(1).all() and not work.condition[1:, CHANNELS].any()
        assert (work.latents[0] - 4.0).abs().max() > 0.1


def test_every_step_draws_fresh_noise_for_all_latents() -> None:
    rollout = toy_rollout()
    state = new_state(rollout)
    _, passes = drive_chunk(rollout, state, 0.0)
    noisy = [work for work in passes if not work.is_commit]
    assert [work.sigmas[0] for work in noisy] == pytest.approx([1.0, 0.9375, 0.83333, 0.625], abs=1e-4)
    assert all(len(set(work.sigmas)) == 1 and work.frames == 4 for work in noisy)
    noises = [work.latents / work.sigmas[0] for work in noisy]  # the oracle's x0 is 0
    for i, noise in enumerate(noises):
        assert 0.8 < noise.std() < 1.2
        assert all((noise - other).abs().max() > 0.5 for other in noises[:i])


def test_the_reference_runs_ahead_for_a_hundred_chunks() -> None:
    rollout = toy_rollout(running_ahead="countdown")
    state = new_state(rollout)
    distances = []
    for chunk in range(100):
        i = 3 * chunk
        _, passes = drive_chunk(rollout, state, 0.0)
        n = state.reference_index
        assert n >= i + 3 + 1
        distances.append(n - i)
        assert all((0, 3 + n - i) in work.reads for work in passes if not work.commits or work.reads)
    assert distances[:7] == [22, 19, 16, 13, 10, 7, 4]
    assert set(distances) == {22, 19, 16, 13, 10, 7, 4}
    assert [i for i in range(1, 100) if distances[i] > distances[i - 1]] == list(range(7, 100, 7))


def test_a_constant_distance_stays() -> None:
    rollout = toy_rollout(running_ahead="constant")
    state = new_state(rollout)
    for chunk in range(20):
        drive_chunk(rollout, state, 0.0)
        assert state.reference_index - 3 * chunk == 22


@pytest.mark.parametrize("knot", [0, 1, 2, 3])
def test_running_ahead_holds_for_every_knot(knot: int) -> None:
    rollout = toy_rollout(running_ahead="countdown", knot=knot, start=21 + knot)
    state = new_state(rollout)
    for chunk in range(30):
        drive_chunk(rollout, state, 0.0)
        assert state.reference_index >= 3 * chunk + 3 + knot


def test_what_each_pass_attends_to() -> None:
    """Frames and positions per pass: 5 key frames in the first chunk's steps (reference and c+k own), then 8; 4, then
    7 in the clean passes. Positions are window-relative: past 0..2, chunk 3..6."""
    rollout = toy_rollout(running_ahead="countdown")
    state = new_state(rollout)
    _, (reference, *first) = drive_chunk(rollout, state, 0.0)
    assert reference.reads == () and reference.commits == (0,) and reference.condition[0, CHANNELS].eq(1).all()
    assert not reference.drive.any()
    assert [work.frames + len(work.reads) for work in first] == [5, 5, 5, 5, 4]
    _, second = drive_chunk(rollout, state, 0.0)
    assert [work.frames + len(work.reads) for work in second] == [8, 8, 8, 8, 7]
    assert second[0].positions == (3, 4, 5, 6) and second[-1].positions == (3, 4, 5)
    assert sorted(at for slot, at in second[0].reads if slot) == [0, 1, 2]
    assert dict(second[0].reads)[0] == 3 + 19


def test_self_forcing_attends_to_its_start_image_and_window() -> None:
    rollout = toy_rollout(strategy="self_forcing")
    state = new_state(rollout)
    for _ in range(2):
        drive_chunk(rollout, state, 0.0)
    _, passes = drive_chunk(rollout, state, 0.0)
    assert [work.frames + len(work.reads) for work in passes] == [7, 7, 7, 7, 7]
    assert passes[0].reads[0] == (0, 0) and sorted(at for _, at in passes[0].reads) == [0, 1, 2, 3]
    assert passes[0].positions == (4, 5, 6)
    assert not passes[0].condition[:, CHANNELS].any()


@pytest.mark.parametrize(
    "changes",
    [{"knot": 4}, {"window": 3}, {"chunk": 0, "window": 0}, {"steps": (250, 500)}, {"steps": ()}, {"start": 2},
     {"strategy": "none"}, {"running_ahead": "never"}],
)  # fmt: skip
def test_specs_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        toy_rollout(**changes)


def test_every_step_noises_the_unfused_estimate() -> None:
    rollout = toy_rollout()
    state = new_state(rollout)
    drive_chunk(rollout, state, [1.0, 2.0, 3.0, 4.0])
    generator = torch.Generator()
    generator.set_state(state.generator.get_state())
    oracle = torch.tensor([10.0, 20.0, 30.0, 40.0]).reshape(-1, 1, 1, 1)
    _, passes = drive_chunk(rollout, state, oracle.flatten().tolist())
    for work in passes[:-1]:
        sigma = work.sigmas[0]
        noise = torch.randn(work.latents.shape, generator=generator)
        torch.testing.assert_close(work.latents, (1 - sigma) * oracle + sigma * noise, atol=1e-3, rtol=1e-4)


def test_every_pass_gets_its_own_frames_drive_and_condition() -> None:
    rollout = toy_rollout()
    state = new_state(rollout)
    drive = toy_drive(rollout.drive_latents)
    for chunk in range(2):
        second, passes = drive_chunk(rollout, state, [10.0, 20.0, 30.0, 40.0])
        for work in passes[-5:]:
            torch.testing.assert_close(work.drive, drive[: work.frames])
            features = state.features.expand(work.frames, -1, -1, -1)
            torch.testing.assert_close(work.condition[:, CHANNELS + 1 :], features)
        commit = passes[-1]
        fused = commit.condition[:, : CHANNELS + 1]
        expected = torch.zeros_like(fused)
        if chunk:
            expected[0, :CHANNELS], expected[0, CHANNELS] = second[0], 1.0
        torch.testing.assert_close(fused, expected)
