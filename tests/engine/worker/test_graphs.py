"""Passes recorded and replayed: exact on a stand-in for CUDA graphs, and on the GPU itself where there is one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.worker.graphs import Graphs, Inputs, Work
from engine.worker.runner import Execution, ModelRunner
from engine.worker.warm_up import meet_shapes
from models.codecs.base import Reference
from models.registry import load_model
from tests.toy import TOY, record, toy_rollout, toy_runner


class HostGraphs(Graphs):
    """Records by remembering the work, which reads its own buffers at every replay as a graph does."""

    def __init__(self, limit: int = 32, broken: Exception | None = None) -> None:
        self._limit, self.broken, self.runs = limit, broken, 0
        self._replays = {}

    def warm_up(self, work: Work, own: Inputs) -> Tensor:
        self.runs += 1
        return work(own).clone()

    def record(self, work: Work, own: Inputs) -> Callable[[], Tensor]:
        if self.broken is not None:
            raise self.broken
        return lambda: work(own)


@pytest.mark.parametrize("joined", [True, False])
def test_replayed_passes_equal_plain_ones(joined: bool) -> None:
    rollout = toy_rollout(running_ahead="countdown")
    plain, _ = record(toy_runner(), rollout, chunks=12, joined=joined)
    runner = toy_runner()
    runner.graphs = HostGraphs()
    replayed, trace = record(runner, rollout, chunks=12, joined=joined)
    assert torch.equal(replayed, plain)
    assert 4 <= len(runner.graphs) == runner.graphs.runs < 8 < len(trace), "a few shapes serve all passes"


def test_two_calls_share_recordings_and_keep_their_slots() -> None:
    rollout = toy_rollout()
    alone, _ = record(toy_runner(), rollout, chunks=4, seed=2)
    runner = toy_runner()
    runner.graphs = HostGraphs()
    record(runner, rollout, chunks=4, seed=1, slot=0)
    before = len(runner.graphs)
    other, _ = record(runner, rollout, chunks=4, seed=2, slot=1)
    assert torch.equal(other, alone) and len(runner.graphs) == before


def test_an_answer_is_kept_when_the_next_is_made() -> None:
    graphs = HostGraphs()
    buffer = torch.zeros(1)

    def work(inputs: Inputs) -> Tensor:
        return buffer.copy_(inputs[0])

    answers = [graphs.run("key", work, (torch.full((1,), float(i)),)) for i in range(3)]
    assert [answer.item() for answer in answers] == [0.0, 1.0, 2.0]


def test_what_cannot_be_recorded_or_is_too_much_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr("engine.worker.graphs.log.warning", lambda message, reason: warned.append(message % reason))
    rollout = toy_rollout()
    plain, _ = record(toy_runner(), rollout, chunks=3)
    refused = RuntimeError("not while capturing")
    for graphs, recorded in (
        (HostGraphs(broken=refused), 0), (HostGraphs(broken=cuda_error(900)), 0), (HostGraphs(limit=2), 2),
    ):  # fmt: skip
        runner = toy_runner()
        runner.graphs = graphs
        latents, _ = record(runner, rollout, chunks=3)
        assert torch.equal(latents, plain) and len(graphs) == recorded
    assert {line.partition("graph: ")[2] for line in warned} == {"not while capturing", "CUDA error number 900"}


def cuda_error(number: int, masked: BaseException | None = None) -> RuntimeError:
    """As torch tells it; masked: what was being handled when it was raised."""
    error = torch.AcceleratorError(f"CUDA error number {number}")
    error.error_code = number  # type: ignore[attr-defined]
    error.__context__ = masked
    return error


LOST = {
    "full": torch.OutOfMemoryError(),
    "gone": cuda_error(700),
    "numberless": torch.AcceleratorError(),
    "full, and the recording ended badly": cuda_error(901, torch.OutOfMemoryError()),
}


@pytest.mark.parametrize("error", LOST.values(), ids=LOST)
def test_a_device_that_is_full_or_gone_is_not_passed_over(error: RuntimeError) -> None:
    graphs = HostGraphs(broken=error)
    with pytest.raises(type(error)):
        graphs.run("key", lambda inputs: inputs[0], (torch.zeros(1),))
    assert len(graphs) == 0


def test_a_call_brings_no_shape_that_the_warm_up_has_not_met() -> None:
    met = toy_runner()
    met.graphs = HostGraphs()
    features = torch.zeros(TOY.dit.reference_channels, *TOY.latent_size)
    meet_shapes(met, Reference(torch.zeros(TOY.latent_shape), features, None), slots=2)
    recorded = set(met.graphs._replays)
    for joined in (True, False):
        runner = toy_runner()
        runner.graphs = HostGraphs()
        record(runner, toy_rollout(), chunks=30, joined=joined)
        assert set(runner.graphs._replays) <= recorded
    assert {calls for _, calls in recorded} == {1, 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_equal_eager() -> None:
    rollout = toy_rollout()
    answers = []
    for graphs in (False, True):
        model = load_model("embedded", device="cuda", dtype="float32")
        runner = ModelRunner(model, slots=1, frames=4, execution=Execution(graphs=graphs))
        config = model.config
        generator = torch.Generator().manual_seed(0)
        reference = torch.randn(config.latent_shape, generator=generator).cuda()
        features = torch.randn(config.dit.reference_channels, *config.latent_size, generator=generator).cuda()
        state, held, out = rollout.new_state(reference, features, 0), None, []
        for _ in range(6):
            drive = torch.randn(4, config.dit.drive_tokens, config.dit.drive_dim, generator=generator)
            latents, held = runner.make_chunk(0, rollout, state, drive, held)
            out.append(latents)
        answers.append(torch.cat(out))
        assert runner.graphs is None or len(runner.graphs) >= 4
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)
