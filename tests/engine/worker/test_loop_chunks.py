"""Chunks of several calls in one worker: in order, the most urgent first, and an error ends one call alone."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

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
    RolloutRequest,
    StreamClosed,
    StreamOpened,
    ToWorker,
)
from engine.worker.loop import IDLE_SECONDS, DeviceLost, Worker
from engine.worker.runner import ModelRunner
from engine.worker.warm_up import warm_up
from ground.clock import monotonic
from ground.config import EngineConfig
from tests.engine.worker.test_loop import LANDMARKS, spec, voice

CONFIG = EngineConfig(model="embedded", device="cpu", dtype="float32", slots=2, threads=1, random_weights=True)
CHUNKS, MOST, SIZE = 4, 12, 256


class Gateway:
    """A worker's channel, and whoever reads its pictures: a turn of the worker's loop is a call of ``turn``."""

    def __init__(self, runner: ModelRunner, info: ModelInfo) -> None:
        self.worker = Worker(cast(WorkerChannel, self), runner, info)
        self.turn: Callable[[float], None] = lambda timeout: None
        self.inbox: deque[tuple[ToWorker, int | None]] = deque()
        self.said: list[Any] = []
        self.rings: dict[str, FrameRing] = {}
        self.pictures: dict[str, list[np.ndarray]] = {}

    def open(self, name: str, seed: int, *, speaks: bool = True) -> None:
        made = spec(name, seed)
        ring = self.rings[name] = FrameRing.create(3 * MOST, SIZE, SIZE)
        self.pictures[name] = []
        opened = OpenStream(
            stream=name, epoch=0, portrait=made.portrait.rgb.tobytes(), width=SIZE, height=SIZE, landmarks=LANDMARKS,
            confidence=1.0, seed=seed, rollout=RolloutRequest(), first_frame=0, live=False,
        )  # fmt: skip
        self.inbox.append((opened, os.dup(ring.descriptor)))
        if speaks:
            self.speak(name, seed)

    def speak(self, name: str, seed: int) -> None:
        self.inbox.append((PushVoice(name, 0, voice(2.5, seed).tobytes()), None))

    def wait(self, timeout: float) -> None:
        for stream in self.worker._streams.values():
            assert stream._next_frame - stream._read <= 3 * MOST, "no picture is written over one that was not read"
            assert timeout < IDLE_SECONDS or not stream.finished, "nothing is forgotten"
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


Decoding = tuple[np.ndarray, Any]


@pytest.fixture
def failing(engine: tuple[ModelRunner, ModelInfo], monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], None]:
    """Let the decoding of that number fail."""
    runner = engine[0]
    decode, count = runner.decode, 0

    def fail(number: int, error: Exception) -> None:
        def failing_decode(*given: Any) -> Decoding:
            nonlocal count
            count += 1
            if count == number:
                raise error
            return decode(*given)

        monkeypatch.setattr(runner, "decode", failing_decode)

    return fail


@pytest.fixture(scope="module")
def plain(engine: tuple[ModelRunner, ModelInfo]) -> dict[str, np.ndarray]:
    """Each call's pictures when it is alone."""
    alone: dict[str, np.ndarray] = {}
    for name, seed in (("one", 1), ("two", 2)):
        gateway = Gateway(*engine)
        gateway.open(name, seed)
        gateway.worker.run()
        gateway.worker.close()
        alone[name] = np.stack(gateway.pictures[name])[:45]
    return alone


def in_order(chunks: list[ChunkReady]) -> None:
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    ends = [0, *(chunk.first_frame + chunk.frames for chunk in chunks)]
    assert [chunk.first_frame for chunk in chunks] == ends[:-1]


def test_calls_beside_each_other_show_what_each_shows_alone(gateway: Gateway, plain: dict[str, np.ndarray]) -> None:
    gateway.open("one", 1)
    gateway.open("two", 2)
    gateway.worker.run()
    for name, expected in plain.items():
        in_order(gateway.of(name))
        assert np.array_equal(np.stack(gateway.pictures[name])[:45], expected)
        assert all(0 < chunk.decode_ms < chunk.chunk_ms for chunk in gateway.of(name))


def test_of_chunks_that_end_together_the_more_urgent_leaves_first(gateway: Gateway) -> None:
    def turn(timeout: float) -> None:
        if sum(isinstance(said, StreamOpened) for said in gateway.said) == 2 and not told:
            for name, seconds in (("one", 60), ("two", 30)):
                told.append(name)
                gateway.inbox.append((Deadline(name, 0, monotonic() + seconds), None))
                gateway.speak(name, 1)

    told: list[str] = []
    gateway.turn = turn
    for name in ("one", "two"):
        gateway.open(name, 1, speaks=False)
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


def test_a_call_that_ends_leaves_its_slot_and_nothing_else(gateway: Gateway, plain: dict[str, np.ndarray]) -> None:
    """The call that comes after it under the same name begins anew."""

    def turn(timeout: float) -> None:
        if len(gateway.of("one")) == 2 and "two" not in gateway.rings:
            gateway.inbox.append((CloseStream("one"), None))
            gateway.rings.pop("one").close()
            gateway.open("two", 2)
            gateway.open("one", 1)

    gateway.turn = turn
    gateway.open("one", 1)
    gateway.worker.run()
    closed = next(index for index, said in enumerate(gateway.said) if isinstance(said, StreamClosed))
    assert len([said for said in gateway.said[:closed] if isinstance(said, ChunkReady)]) == 2
    after = [said for said in gateway.said[closed:] if isinstance(said, ChunkReady)]
    for name, expected in plain.items():
        in_order([chunk for chunk in after if chunk.stream == name])
        assert np.array_equal(np.stack(gateway.pictures[name])[:45], expected)


def test_a_decoding_that_fails_ends_its_call_alone(
    gateway: Gateway, failing: Callable[[int, Exception], None], plain: dict[str, np.ndarray]
) -> None:
    def turn(timeout: float) -> None:
        for name in {said.stream for said in gateway.said if isinstance(said, Failure)} & set(gateway.rings):
            gateway.rings.pop(name).close()

    failing(3, RuntimeError("broken"))
    gateway.turn = turn
    gateway.open("one", 1)
    gateway.open("two", 2)
    gateway.worker.run()
    [failed] = [said for said in gateway.said if isinstance(said, Failure)]
    assert failed.code == "internal_error" and failed.stream not in gateway.rings
    [name] = gateway.rings
    assert np.array_equal(np.stack(gateway.pictures[name])[:45], plain[name])


def test_a_decoder_without_memory_ends_the_worker(gateway: Gateway, failing: Callable[[int, Exception], None]) -> None:
    failing(1, torch.OutOfMemoryError())
    gateway.open("one", 1)
    with pytest.raises(DeviceLost):
        gateway.worker.run()
