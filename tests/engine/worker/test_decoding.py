"""Decoding beside the next passes: whenever it ends, the same pictures in the same order, and nothing is lost."""

import gc
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.wire.channel import WorkerChannel
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    ChunkReady,
    CloseStream,
    Deadline,
    Failure,
    FramesRead,
    ModelInfo,
    OpenStream,
    PushVoice,
    Rollout,
    StreamClosed,
    ToWorker,
)
from engine.worker.decoding import Decoded, Decoding, SideStream
from engine.worker.i420 import to_i420
from engine.worker.loop import IDLE_SECONDS, DeviceLost, Worker
from engine.worker.runner import Execution, ModelRunner
from engine.worker.warm_up import warm_up
from ground.clock import monotonic
from ground.config import EngineConfig
from models.codecs.base import Portrait
from models.registry import load_model
from tests.engine.worker.test_loop import LANDMARKS, spec, voice

CONFIG = EngineConfig(model="embedded", device="cpu", dtype="float32", slots=2, threads=1, random_weights=True)
CHUNKS, MOST, SIZE = 4, 12, 256


class Late:
    """There when the test says so."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.ready = False
        self.error: Exception | None = None
        self._pictures = pictures

    def done(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.ready

    def pictures(self) -> np.ndarray:
        assert self.ready, "nobody waits for what is not there"
        return self._pictures


class Gateway:
    """A worker's channel, and whoever reads its pictures: a turn of the worker's loop is a call of ``turn``."""

    def __init__(self, runner: ModelRunner, info: ModelInfo) -> None:
        self.worker = Worker(cast(WorkerChannel, self), runner, info)
        self.turn: Callable[[float], None] = lambda timeout: None
        self.inbox: deque[tuple[ToWorker, int | None]] = deque()
        self.said: list[Any] = []
        self.rings: dict[str, FrameRing] = {}
        self.pictures: dict[str, list[np.ndarray]] = {}

    def open(self, name: str, seed: int) -> None:
        made = spec(name, seed)
        ring = self.rings[name] = FrameRing.create(3 * MOST, SIZE, SIZE)
        self.pictures[name] = []
        opened = OpenStream(
            stream=name, epoch=0, portrait=made.portrait.tobytes(), width=SIZE, height=SIZE, landmarks=LANDMARKS,
            confidence=1.0, seed=seed, rollout=Rollout(), first_frame=0, live=False,
        )  # fmt: skip
        self.inbox.append((opened, os.dup(ring.descriptor)))
        self.inbox.append((PushVoice(name, 0, voice(2.5, seed).tobytes()), None))

    def wait(self, timeout: float) -> None:
        for stream in self.worker._streams.values():
            assert stream._next_frame - stream._read <= 3 * MOST, "no picture is written over one that was not read"
            assert timeout < IDLE_SECONDS or not (stream.leaving or stream.finished), "nothing is forgotten"
        self.turn(timeout)
        if all(len(self.of(name)) >= CHUNKS for name in self.rings):
            self.worker.stop()

    def receive(self) -> Iterator[tuple[ToWorker, int | None]]:
        while self.inbox:
            yield self.inbox.popleft()

    def send(self, message: Any) -> None:
        self.said.append(message)
        if isinstance(message, ChunkReady):
            end = message.first_frame + message.frames
            for frame in range(message.first_frame, end):
                picture = self.rings[message.stream].read(frame)
                assert picture is not None
                self.pictures[message.stream].append(picture.copy())
            self.inbox.append((FramesRead(message.stream, end), None))

    def of(self, name: str) -> list[ChunkReady]:
        return [said for said in self.said if isinstance(said, ChunkReady) and said.stream == name]

    def close(self) -> None:
        for ring in self.rings.values():
            ring.close()


@pytest.fixture(scope="module")
def engine() -> tuple[ModelRunner, ModelInfo]:
    """Each pass by itself: which of them could run as one batch hangs on time, and rounds another way."""
    runner = ModelRunner.start(CONFIG)
    together = runner.run
    runner.run = lambda passes: [together([one])[0] for one in passes]  # type: ignore[method-assign]
    return runner, warm_up(runner, CONFIG)


@pytest.fixture
def gateway(engine: tuple[ModelRunner, ModelInfo]) -> Iterator[Gateway]:
    made = Gateway(*engine)
    yield made
    made.worker.close()


@pytest.fixture
def late(engine: tuple[ModelRunner, ModelInfo], monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """Every decoding that is begun, in order."""
    runner, begun = engine[0], list[Late]()
    at_once = runner.decode

    def decode(*given: Any) -> tuple[Decoding, Any]:
        decoding, state = at_once(*given)
        begun.append(Late(decoding.pictures()))
        return begun[-1], state

    monkeypatch.setattr(runner, "decode", decode)
    return begun


@pytest.fixture(scope="module")
def plain(engine: tuple[ModelRunner, ModelInfo]) -> dict[str, np.ndarray]:
    """Two calls' pictures, decoded at once."""
    gateway = Gateway(*engine)
    gateway.open("one", 1)
    gateway.open("two", 2)
    gateway.worker.run()
    gateway.worker.close()
    return {name: np.stack(pictures)[:45] for name, pictures in gateway.pictures.items()}


def in_order(chunks: list[ChunkReady]) -> None:
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    ends = [0, *(chunk.first_frame + chunk.frames for chunk in chunks)]
    assert [chunk.first_frame for chunk in chunks] == ends[:-1]


@pytest.mark.parametrize("seed", [0, 1, 2, None], ids=["soon", "sometimes", "late", "when nothing else is to be done"])
def test_whenever_it_ends_the_pictures_are_the_same(
    gateway: Gateway, late: list[Late], plain: dict[str, np.ndarray], seed: int | None
) -> None:
    random, beside = np.random.default_rng(seed), 0

    def turn(timeout: float) -> None:
        nonlocal beside
        waiting = [decoding for decoding in late if not decoding.ready]
        beside += any(stream.busy and stream.leaving for stream in gateway.worker._streams.values())
        if waiting and (timeout > 0 if seed is None else random.random() < 1 / (1 + 3 * seed)):
            waiting[random.integers(len(waiting))].ready = True  # of two calls either may be first

    gateway.turn = turn
    gateway.open("one", 1)
    gateway.open("two", 2)
    gateway.worker.run()
    for name, expected in plain.items():
        in_order(gateway.of(name))
        assert np.array_equal(np.stack(gateway.pictures[name])[:45], expected)
        assert all(0 <= chunk.decode_ms <= chunk.chunk_ms for chunk in gateway.of(name))
    assert beside, "passes ran while pictures were on their way"


def test_of_chunks_that_end_together_the_more_urgent_leaves_first(gateway: Gateway) -> None:
    for name, seconds in (("one", 60), ("two", 30)):
        gateway.open(name, 1)
        gateway.inbox.append((Deadline(name, 0, monotonic() + seconds), None))
    gateway.worker.run()
    assert next(said.stream for said in gateway.said if isinstance(said, ChunkReady)) == "two"


def test_files_take_turns(gateway: Gateway) -> None:
    def turn(timeout: float) -> None:
        if gateway.of("one") and "two" not in gateway.rings:
            gateway.open("two", 2)

    gateway.turn = turn
    gateway.open("one", 1)
    gateway.worker.run()
    order = [said.stream for said in gateway.said if isinstance(said, ChunkReady)]
    assert order[:6] == ["one", "one", "two", "one", "two", "one"], "the second came when the first was at its second"


def test_a_call_that_ends_meanwhile_leaves_its_slot_and_nothing_else(
    gateway: Gateway, late: list[Late], plain: dict[str, np.ndarray]
) -> None:
    """Its pictures are not sent, and the call that comes after it under the same name begins anew."""

    def turn(timeout: float) -> None:
        if len(late) == 3 and timeout > 0 and "two" not in gateway.rings:
            gateway.inbox.append((CloseStream("one"), None))
            gateway.rings.pop("one").close()
            gateway.open("two", 2)
            gateway.open("one", 1)
        for decoding in late[:2] + late[3:]:
            decoding.ready = True

    gateway.turn = turn
    gateway.open("one", 1)
    gateway.worker.run()
    late[2].ready = True
    closed = next(index for index, said in enumerate(gateway.said) if isinstance(said, StreamClosed))
    assert len([said for said in gateway.said[:closed] if isinstance(said, ChunkReady)]) == 2
    after = [said for said in gateway.said[closed:] if isinstance(said, ChunkReady)]
    for name, expected in plain.items():
        in_order([chunk for chunk in after if chunk.stream == name])
        assert np.array_equal(np.stack(gateway.pictures[name])[:45], expected)


def test_a_decoding_that_fails_ends_its_call_alone(
    gateway: Gateway, late: list[Late], plain: dict[str, np.ndarray]
) -> None:
    def turn(timeout: float) -> None:
        for index, decoding in enumerate(late):
            decoding.ready = index != 2
        if len(late) > 2 and timeout > 0:
            late[2].error = RuntimeError("broken")
            lost = {said.stream for said in gateway.said if isinstance(said, Failure)}
            for name in lost & set(gateway.rings):
                gateway.rings.pop(name).close()

    gateway.turn = turn
    gateway.open("one", 1)
    gateway.open("two", 2)
    gateway.worker.run()
    [failed] = [said for said in gateway.said if isinstance(said, Failure)]
    assert failed.code == "internal_error" and failed.stream not in gateway.rings
    [name] = gateway.rings
    assert np.array_equal(np.stack(gateway.pictures[name])[:45], plain[name])


def test_a_device_without_memory_is_noticed_there_too(gateway: Gateway, late: list[Late]) -> None:
    def turn(timeout: float) -> None:
        for decoding in late:
            decoding.error = torch.OutOfMemoryError()

    gateway.turn = turn
    gateway.open("one", 1)
    with pytest.raises(DeviceLost):
        gateway.worker.run()


class FakeCuda:
    """As much of streams as is used, without a device: what is queued has run when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.over = False
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "main")
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(self.order.append("side")))
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **given: empty(*shape, **given))

    def wait_stream(self, stream: str) -> None:
        self.order.append(f"after {stream}")

    def record_event(self) -> "FakeCuda":
        self.order.append("event")
        return self

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        self.over = True


def test_what_is_read_stays_until_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    side = SideStream(torch.device("cpu"))
    frames = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)

    def begin() -> tuple[Decoding, weakref.ref[Tensor]]:
        latents = frames.clone()

        def work() -> tuple[Tensor, str]:
            cuda.order.append("work")
            return latents, "state"

        decoding, state = side.decode(work)
        assert state == "state"
        return decoding, weakref.ref(latents)

    decoding, read = begin()
    assert cuda.order == ["after main", "side", "work", "event"] and not decoding.done()
    del decoding  # its call has ended
    gc.collect()
    assert read() is not None
    cuda.over = True
    decoding, also = begin()
    gc.collect()
    assert read() is None, "the next one finds it done"
    assert np.array_equal(decoding.pictures(), to_i420(frames))
    gc.collect()
    assert decoding.done() and also() is None


def decoded(device: str, overlap: bool, name: str = "embedded") -> list[Decoding]:
    """Some chunks, begun one after the other."""
    model = load_model(name, device=device, dtype="float32", random_weights=True)
    runner = ModelRunner(model, slots=1, context=3, execution=Execution(overlap=overlap))
    reference = runner.encode_reference(Portrait(spec("s").portrait, LANDMARKS))
    state, begun = runner.codec.initial_state(), []
    for latents in torch.randn(4, 3, *model.config.latent_shape, generator=torch.Generator().manual_seed(0)):
        decoding, state = runner.decode(0.3 * latents.to(device), reference, state)
        begun.append(decoding)
    return begun


def test_without_a_gpu_pictures_are_there_at_once() -> None:
    begun = decoded("cpu", overlap=True)
    assert all(isinstance(decoding, Decoded) and decoding.done() for decoding in begun)
    assert [decoding.pictures().shape for decoding in begun] == [(9, 384, 256), *[(12, 384, 256)] * 3]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_decoder_is_compiled_where_the_blocks_are(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, **options: layer)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model = load_model("wan-tiny-test", device="cpu", random_weights=True)
    runner = ModelRunner(model, slots=1, context=3, execution=Execution(compiled=compiled))
    layers = [layer for layer in runner.codec.decoder.modules() if hasattr(layer, "compiled")]
    assert len(layers) == 17 and all((layer.compiled is not None) == compiled for layer in layers)
    assert torch.backends.cudnn.benchmark == compiled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_pictures_are_those_of_decoding_at_once() -> None:
    """Of a decoder that ends on the device, so that nothing but the event says when its pictures are there."""
    sides = [decoded("cuda", overlap, "wan-tiny-test") for overlap in (True, False)]
    for side, expected in zip(*sides, strict=True):
        assert not isinstance(side, Decoded) and np.array_equal(side.pictures(), expected.pictures()) and side.done()
