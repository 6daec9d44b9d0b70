"""Presets and the memory they are planned to take, and what a worker that ran out of memory becomes."""

from typing import cast

import pytest
import torch

from engine.rollout.strategies import own_rollout
from engine.wire.channel import WorkerChannel
from engine.wire.messages import Failure
from engine.worker.loop import Worker, _telling
from engine.worker.process import _reason, serve
from ground.config import PRESETS as NAMES
from ground.config import EngineConfig
from ground.errors import EngineError, RequestError
from models.config import WAN21_1_3B, find_config
from models.memory import GIB, OVERHEAD, check, describe, largest_fitting, plan
from models.presets import PRESETS, with_preset
from models.registry import load_model
from tests.engine.pool.test_client import nothing_leaks, spec, voice
from tests.engine.pool.test_local import make_pool
from tests.fake_worker import SIZE
from tests.tiny_models import WAN_TINY_TEST

__all__ = ["nothing_leaks"]  # a fixture


def test_a_preset_is_the_model_at_another_size() -> None:
    assert tuple(PRESETS) == NAMES
    small = with_preset(WAN21_1_3B, "realtime")
    assert small.pixel_size == (384, 384) and small.latent_size == (48, 48)
    assert small.steps == WAN21_1_3B.steps and small.codec == "wan-tiny" and small.dit == WAN21_1_3B.dit
    assert with_preset(WAN21_1_3B, "") is WAN21_1_3B
    with pytest.raises(RequestError, match="unknown preset 'best': choose one of quality, balanced, realtime"):
        with_preset(WAN21_1_3B, "best")
    with pytest.raises(RequestError, match="embedded has no presets"):
        load_model("embedded", device="cpu", preset="quality")


def test_the_plan_counts_what_is_really_made() -> None:
    """Weights and cache of a model that fits this machine, held against their tensors."""
    from engine.worker.runner import ModelRunner

    model = load_model("wan-tiny-test", device="cpu", dtype="bfloat16", random_weights=True)
    runner = ModelRunner(model, slots=2, frames=4)
    made = plan(WAN_TINY_TEST, 2)
    assert model.codec is not None and model.context is not None
    parts = (model.dit, model.codec.encoder, model.codec.decoder)
    values = sum(parameter.numel() for part in parts for parameter in part.parameters())
    values += sum(tensor.numel() for pair in model.context for tensor in pair)
    assert made.weights == 2 * values
    assert made.cache == sum(2 * tensor.numel() for tensor in (runner.cache.keys, runner.cache.values))


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "self-forcing", "longlive"])
def test_the_plan_counts_the_cache_of_a_models_own_rollout(name: str) -> None:
    from engine.rollout.kv_cache import KVCache

    config = find_config(name)
    frames = own_rollout(config).cached_frames
    cache = KVCache(config, slots=2, frames=frames, device=torch.device("meta"), dtype=torch.bfloat16)
    assert plan(config, 2).cache == cache.keys.nbytes + cache.values.nbytes


def test_less_is_planned_for_lower_presets_and_fewer_calls() -> None:
    totals = [plan(with_preset(WAN21_1_3B, name), 1).total for name in NAMES]
    assert totals == sorted(totals, reverse=True)
    assert plan(WAN21_1_3B, 2).total > plan(WAN21_1_3B, 1).total
    # Measured: balanced in 8 GiB. quality in 16 is the plan's word alone.
    assert [largest_fitting(WAN21_1_3B, 1, card * GIB) for card in (2, 8, 12, 16, 24)] == [
        "", "balanced", "balanced", "quality", "quality",
    ]  # fmt: skip
    assert "24 GiB: quality" in describe(WAN21_1_3B, 1)


def test_a_card_too_small_is_told_what_fits() -> None:
    with pytest.raises(EngineError) as told:
        check(WAN21_1_3B, 1, 8 * GIB)
    assert told.value.code == "device_too_small" and "use --preset balanced" in told.value.message
    with pytest.raises(EngineError, match="no preset fits"):
        check(WAN21_1_3B, 1, GIB)
    check(WAN21_1_3B, 1, plan(WAN21_1_3B, 1).total - OVERHEAD)


def test_only_models_with_presets_are_lowered() -> None:
    lack = torch.OutOfMemoryError()
    assert _reason(EngineConfig(model="wan2.1-1.3b"), lack).code == "out_of_memory"
    assert _reason(EngineConfig(model="embedded"), lack).code == "device_lost"
    assert _reason(EngineConfig(model="wan2.1-1.3b"), RuntimeError()).code == "device_lost"


def test_one_preset_lower() -> None:
    config = EngineConfig(model="wan2.1-1.3b")
    names = []
    while (lower := config.lower) is not None:
        config = lower
        names.append(config.preset)
    assert names == ["balanced", "realtime"]


class Told:
    """A channel that only remembers."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def send(self, message: object) -> None:
        self.said.append(message)

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("masked", [False, True], ids=["plainly", "while a pass was recorded"])
@pytest.mark.parametrize("where", ["loading", "serving"])
def test_a_worker_without_memory_ends_and_says_so(where: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*arguments: object) -> None:
        try:
            raise torch.OutOfMemoryError
        finally:
            if masked:
                raise torch.AcceleratorError

    def failed(worker: Worker) -> None:
        with _telling(lambda error: None):
            lacking()

    channel = Told()
    if where == "loading":
        monkeypatch.setattr("engine.worker.process.warm_up", lacking)
    monkeypatch.setattr(Worker, "run", failed)
    monkeypatch.setattr("engine.worker.process.signal.signal", lambda number, handler: None)
    config = EngineConfig(model="wan-tiny-test", device="cpu", dtype="float32", random_weights=True, slots=1, threads=1)
    code = serve(cast(WorkerChannel, channel), config)
    assert code == {"loading": 2, "serving": 1}[where]
    last = channel.said[-1]
    assert isinstance(last, Failure) and (last.stream, last.code) == ("", "out_of_memory")


async def test_a_server_starts_with_the_preset_that_there_is_memory_for() -> None:
    pool = make_pool(model="tight")
    await pool.start()
    assert pool.info.width == SIZE // 2 and pool.stats().restarts == 0
    await pool.close()


async def test_a_call_goes_on_smaller_after_its_worker_ran_out_of_memory() -> None:
    """Twice, to the last preset: the same lease, the next epoch, pictures of another size."""
    pool = make_pool(model="full")
    await pool.start()
    try:
        lease = await pool.acquire(spec("call"))
        for _ in range(2):
            assert pool.info.width == SIZE
            lease.stream.push_voice(voice(21), 0)
            with pytest.raises(EngineError):
                await lease.stream.next_chunk()
            await lease.reopen(0)
        assert pool.info.width == SIZE // 2 and pool.stats().restarts == 2
        lease.stream.push_voice(voice(21), 0)
        chunk = await lease.stream.next_chunk()
        assert (chunk.epoch, chunk.index) == (2, 0)
        assert chunk.frames.shape[1:] == (SIZE // 2 * 3 // 2, SIZE // 2)
        await lease.release()
    finally:
        await pool.close()
