"""A strategy that the product does not know runs everywhere by one line in the table."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.animate import AnimateJob
from cli.main import app
from engine.rollout.base import (
    REFERENCE_SLOT,
    Denoise,
    Pass,
    Rollout,
    RolloutState,
    make_condition,
    reference_pass,
    refuse_unless,
)
from engine.rollout.flow import draw
from engine.rollout.strategies import STRATEGIES, default_spec, make_rollout, own_rollout, rollouts_of
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import OpenStream, RolloutRequest
from engine.worker.runner import ModelRunner
from engine.worker.stream import Stream
from engine.worker.warm_up import warm_up
from ground.config import EngineConfig, RolloutSpec
from ground.errors import RequestError
from models.config import EMBEDDED, FLASHHEAD_PRO, ModelConfig
from models.registry import LoadedModel
from tests.clips import CPU, TINY, noise_clips, random_model
from tests.engine.worker.test_loop import LANDMARKS, spec, voice
from tests.toy import record, toy_rollout, toy_runner
from training.self_rollout import self_rollout
from training.sequence import Layout, frame_mask

AHEAD = 5


class LastChunk(Rollout):
    """Each chunk attends to the one before it and to a reference that stands five latents ahead."""

    @classmethod
    def misfit(cls, config: ModelConfig) -> str:
        return "" if config.dit.inpainting else "has no reference"

    @classmethod
    def check(cls, spec: RolloutSpec) -> None:
        refuse_unless(spec.knot < 2, "last_chunk knows no knots")

    @property
    def context(self) -> int:
        return self.spec.chunk

    def denoise(self, state: RolloutState, drive: torch.Tensor) -> Denoise:
        if state.next_latent == 0:
            yield reference_pass(state, drive)
        noisy = draw((self.spec.chunk, *state.reference.shape), state.generator, state.reference.device)
        clean = noisy
        for step, sigma in enumerate(self.schedule.sigmas):
            noisy = self.schedule.renoise(clean, sigma, state.generator) if step else noisy
            prediction = yield self.make_pass(state, noisy, sigma, drive)
            assert prediction is not None
            clean = self.schedule.to_x0(prediction, noisy, sigma)
        yield self.make_pass(state, clean, 0.0, drive)
        state.next_latent += self.spec.chunk
        return clean

    def make_pass(self, state: RolloutState, latents: torch.Tensor, sigma: float, drive: torch.Tensor) -> Pass:
        c, i = self.spec.chunk, state.next_latent
        past = tuple((1 + at, at) for at in range(c)) if i else ()
        return Pass(
            latents=latents, sigmas=(sigma,) * c,
            condition=make_condition(None, state.features, c, tuple(state.reference.shape)), drive=drive,
            positions=tuple(range(c, 2 * c)), origin=i - c, reads=((REFERENCE_SLOT, c + AHEAD), *past),
            commits=() if sigma else tuple(range(1, c + 1)),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "last_chunk", LastChunk)


def test_it_is_a_choice_of_the_models_that_it_fits() -> None:
    assert rollouts_of(EMBEDDED) == ("knot_forcing", "self_forcing", "last_chunk")
    assert rollouts_of(FLASHHEAD_PRO) == ("overlap_chunks",)
    with pytest.raises(RequestError, match="has no reference: roll it out with overlap_chunks") as refused:
        default_spec(FLASHHEAD_PRO, strategy="last_chunk")
    assert (refused.value.code, refused.value.param) == ("invalid_rollout", "rollout")
    with pytest.raises(RequestError, match="choose one of knot_forcing, self_forcing, overlap_chunks, last_chunk"):
        default_spec(EMBEDDED, strategy="first_chunk")
    with pytest.raises(RequestError, match="knows no knots"):
        make_rollout(RolloutSpec("last_chunk", knot=2), EMBEDDED)


def test_joined_commits_change_nothing() -> None:
    rollout = toy_rollout(strategy="last_chunk")
    apart, passes = record(toy_runner(), rollout, chunks=5)
    joined, fewer = record(toy_runner(), rollout, chunks=5, joined=True)
    torch.testing.assert_close(joined, apart, atol=2e-5, rtol=1e-4)
    assert (len(passes), len(fewer)) == (1 + 5 * 5, 1 + 5 * 4)


def test_a_worker_takes_calls_for_it() -> None:
    """The worker tells the gateway that it may be asked for, and a stream shows its frames."""
    config = EngineConfig(model="embedded", device="cpu", dtype="float32", slots=1, threads=1, random_weights=True)
    runner = ModelRunner.start(config)
    info = warm_up(runner, config)
    assert info.rollouts == ["knot_forcing", "self_forcing", "last_chunk"]
    face = spec("call").portrait
    opened = OpenStream(
        stream="call", epoch=0, portrait=face.rgb.tobytes(), width=256, height=256, landmarks=LANDMARKS, confidence=1.0,
        seed=1, rollout=RolloutRequest("last_chunk"), first_frame=0,
    )  # fmt: skip
    with FrameRing.create(24, 256, 256) as ring:
        stream = Stream(opened, 0, ring, runner)
        stream.encode()
        stream.push_voice(voice(2.0).tobytes(), 0)
        made = []
        for _ in range(2):
            assert stream.drive_complete(0.0)
            stream.begin(0.0)
            while not stream.finished:
                stream.run_pending()
            made.append(stream.emit().chunk)
        assert [(chunk.first_frame, chunk.frames) for chunk in made] == [(0, 9), (9, 12)]
        assert not np.array_equal(ring.read(0), ring.read(20))


def test_a_worker_names_only_what_its_cache_has_room_for() -> None:
    runner = toy_runner(frames=own_rollout(EMBEDDED).cached_frames - 1)
    assert runner.rollouts == ()


def test_the_command_line_takes_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[AnimateJob] = []
    monkeypatch.setattr("cli.animate.animate", jobs.append)
    words = ["animate", "--portrait", "a.jpg", "--audio", "a.wav", "--out", "a.mp4", "--rollout", "last_chunk"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert [job.rollout for job in jobs] == [RolloutRequest("last_chunk")]
    told = CliRunner().invoke(app, ["models", "info", "embedded"]).stdout
    assert "knot_forcing, self_forcing, last_chunk" in told


def test_training_rolls_it_out_as_the_engine_does() -> None:
    batch, dit, own = noise_clips(2, config=TINY), random_model(TINY), RolloutSpec("last_chunk", knot=0)
    made = self_rollout(dit, TINY, own, batch, [5, 6], 4, 3, gradient=True)
    rollout = make_rollout(own, TINY)
    model = LoadedModel(TINY, dit, None, None, CPU, torch.float32)
    runner = ModelRunner(model, slots=1, frames=rollout.cached_frames)
    for row, seed in enumerate((5, 6)):
        features = batch.features[row, :, None, None].expand(-1, 2, 2)
        state, held, latents = rollout.new_state(torch.zeros(TINY.latent_shape), features, seed), None, []
        for _ in range(4):
            drive = batch.drive[row, state.next_latent : state.next_latent + rollout.drive_latents]
            chunk, held = runner.make_chunk(0, rollout, state, drive, held)
            latents.append(chunk)
        torch.testing.assert_close(made[row], torch.cat(latents), atol=2e-5, rtol=1e-4)


def test_its_training_sequence_sees_what_its_passes_see() -> None:
    layout = Layout(RolloutSpec("last_chunk", knot=1), 3)
    assert (layout.span, layout.knot, layout.latents, layout.moving) == (3, 0, 9, True)
    assert layout.reference_positions(torch.tensor([22])).tolist() == [[5, 8, 11]]
    mask = frame_mask(layout)  # three references, six clean latents, nine noisy ones
    noisy = mask[3 + 6 :]
    assert noisy[3:6].nonzero()[:, 1].tolist() == [1, 3, 4, 5, 12, 13, 14] * 3
    assert noisy[6:9].nonzero()[:, 1].tolist() == [2, 6, 7, 8, 15, 16, 17] * 3


@pytest.mark.parametrize(
    "own",
    [RolloutSpec("overlap_chunks"), RolloutSpec("self_forcing", window=12, sink=3)],
    ids=["no past", "a latent at several places"],
)
def test_chunks_that_do_not_lie_in_one_sequence_are_refused(own: RolloutSpec) -> None:
    with pytest.raises(RequestError, match="one sequence"):
        frame_mask(Layout(own, 7))
