"""The supervised process and its streams, seen from the gateway, against a worker without a model."""

import asyncio
import os
import signal
import sys
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.pool.client import WorkerClient, WorkerLimits
from engine.pool.stream import EngineStream, StreamSpec
from engine.portrait.portrait import Portrait
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import ChunkReady, PushPose, ToWorker
from ground.config import EngineConfig
from ground.errors import CapacityError, EngineError, RequestError

FAKE = (sys.executable, "-m", "tests.fake_worker")
QUICK = WorkerLimits(start=10.0, open=3.0, close=1.0, stop=1.0, ping_every=0.1, missed_pings=3, dump=0.05)


def spec(name: str = "call", seed: int = 0, first_frame: int = 0, epoch: int = 0) -> StreamSpec:
    portrait = np.zeros((64, 64, 3), np.uint8)
    return StreamSpec(name, Portrait(portrait, {"cx": 0.0}), seed=seed, first_frame=first_frame, epoch=epoch)


def voice(frames: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return np.zeros(frames * 640, np.int16)


class Controls(dict[str, float]):
    """A dict that can be watched."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
async def nothing_leaks() -> AsyncIterator[None]:
    """Every test here gives back its descriptors, tasks and children."""
    before, tasks = descriptors(), len(asyncio.all_tasks())
    yield
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) <= tasks
    assert descriptors() == before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not children


@pytest.fixture
async def client() -> AsyncIterator[WorkerClient]:
    client = WorkerClient(FAKE, QUICK)
    await client.start(EngineConfig(model="fake", slots=2))
    yield client
    await client.close()


async def test_chunks_come_in_order_with_their_media_time(client: WorkerClient) -> None:
    stream = await client.open(spec(first_frame=100))
    stream.push_voice(voice(200), 0)
    first, second = await stream.next_chunk(), await stream.next_chunk()
    assert [first.first_frame, second.first_frame] == [100, 109]
    assert [len(first.frames), len(second.frames)] == [9, 12]
    assert first.frames.shape[1:] == (96, 64)
    assert [int(f[0, 0]) for f in second.frames] == [n % 200 + 16 for n in range(109, 121)]
    await stream.close()


async def test_a_reader_that_stops_stops_the_worker(client: WorkerClient) -> None:
    stream = await client.open(spec())
    stream.push_voice(voice(1000), 0)
    await asyncio.sleep(0.3)
    assert len(stream._ready) == 3  # 9 + 12 + 12 of the ring's 36 slots
    for _ in range(20):
        chunk = await stream.next_chunk()
        assert [int(f[0, 0]) for f in chunk.frames] == [
            (chunk.first_frame + i) % 200 + 16 for i in range(len(chunk.frames))
        ]
    await stream.close()


async def test_two_streams_do_not_meet(client: WorkerClient) -> None:
    one, two = await client.open(spec("one")), await client.open(spec("two", first_frame=50))
    one.push_voice(voice(9), 0)
    two.push_voice(voice(59), 0)
    assert (await one.next_chunk()).first_frame == 0
    assert (await two.next_chunk()).first_frame == 50
    with pytest.raises(CapacityError) as full:
        await client.open(spec("three"))
    assert full.value.code == "no_slot"
    await one.close()
    three = await client.open(spec("three"))
    await asyncio.gather(two.close(), three.close())


async def test_a_killed_worker_ends_its_streams_at_once(client: WorkerClient) -> None:
    stream = await client.open(spec())
    stream.push_voice(voice(9), 0)
    waiting = asyncio.create_task(stream.next_chunk())
    assert (await waiting).index == 0
    waiting = asyncio.create_task(stream.next_chunk())
    await asyncio.sleep(0.05)
    assert client.pid is not None
    began = time.monotonic()
    os.kill(client.pid, 9)
    with pytest.raises(EngineError) as lost:
        await waiting
    assert lost.value.code == "worker_lost" and lost.value.retryable
    assert time.monotonic() - began < 1.0
    async with asyncio.timeout(2):
        await client.died.wait()
    assert not client.alive
    stream.push_voice(voice(9), 0)  # dropped
    await stream.close()
    with pytest.raises(EngineError):
        await client.open(spec("late"))


async def test_what_was_made_before_the_worker_died_is_still_read(client: WorkerClient) -> None:
    stream = await client.open(spec())
    stream.push_voice(voice(21), 0)
    await asyncio.sleep(0.2)
    assert client.pid is not None
    os.kill(client.pid, 9)
    await client.died.wait()
    assert [(await stream.next_chunk()).index for _ in range(2)] == [0, 1]
    for _ in range(2):
        with pytest.raises(EngineError):
            await stream.next_chunk()
    await stream.close()


async def test_a_hung_worker_is_dumped_and_killed(capfd: pytest.CaptureFixture[str]) -> None:
    client = WorkerClient(FAKE, QUICK)
    await client.start(EngineConfig(model="hang"))
    stream = await client.open(spec())
    stream.push_voice(voice(9), 0)
    await stream.next_chunk()
    began = time.monotonic()
    with pytest.raises(EngineError):
        await stream.next_chunk()
    assert time.monotonic() - began < 2.0
    await client.died.wait()
    assert "in serve" in capfd.readouterr().err
    await stream.close()
    await client.close()


async def test_a_stopped_process_is_killed_too(client: WorkerClient) -> None:
    stream = await client.open(spec())
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngineError) as lost:
        await stream.next_chunk()
    assert lost.value.code == "worker_lost" and time.monotonic() - began < 2.0
    await client.died.wait()
    await stream.close()


async def test_a_worker_that_answers_is_left_alone(client: WorkerClient) -> None:
    await asyncio.sleep(3 * QUICK.missed_pings * QUICK.ping_every)
    assert client.alive


async def test_a_worker_that_reads_nothing_is_killed_before_it_is_missed() -> None:
    client = WorkerClient(FAKE, replace(QUICK, ping_every=60.0))
    await client.start(EngineConfig(model="fake"))
    stream = await client.open(spec())
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    for _ in range(30):  # 20 seconds of sound each, 19 MB in all
        stream.push_voice(voice(500), 0)
    async with asyncio.timeout(5):
        await client.died.wait()
    await stream.close()


async def test_a_stream_whose_close_is_cancelled_holds_nothing() -> None:
    client = WorkerClient(FAKE, replace(QUICK, close=60.0, ping_every=60.0))
    await client.start(EngineConfig(model="fake"))
    before = descriptors()
    stream = await client.open(spec())
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)  # so that it does not say that the stream is closed
    closing = asyncio.create_task(stream.close())
    await asyncio.sleep(0.05)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert descriptors() == before
    await client.close()


def alone(sent: list[ToWorker]) -> EngineStream:
    """A stream without a worker; what it would send."""
    ring = FrameRing.create(36, 64, 64)
    return EngineStream(spec(), 25, ring, lambda message, descriptor=None: sent.append(message), lambda _: None, 1.0)


async def test_poses_far_ahead_wait_until_the_reader_comes_near() -> None:
    sent: list[ToWorker] = []
    stream = alone(sent)
    for frame in (499, 500, 508, 509):  # 20 seconds ahead of what has been taken
        stream.push_pose({"yaw": 0.1}, frame)

    def poses() -> list[float]:
        return [message.frame for message in sent if isinstance(message, PushPose)]

    assert poses() == [499]
    for frame in range(9):
        stream._ring.write(frame, np.zeros((96, 64), np.uint8))
    stream.deliver(ChunkReady("call", 0, 0, 0, 9, 1.0, 0.5, []))
    await stream.next_chunk()
    assert poses() == [499, 500, 508]
    stream.abandon()


async def test_a_stream_that_is_abandoned_keeps_nothing() -> None:
    stream = alone([])
    recording, controls = voice(25 * 60), Controls()
    stream.push_voice(recording, 0)
    stream.push_pose(controls, 9000)
    held = [weakref.ref(recording), weakref.ref(controls)]
    del recording, controls
    assert all(one() is not None for one in held)
    stream.deliver(ChunkReady("call", 0, 0, 0, 9, 1.0, 0.5, []))
    stream.abandon()
    assert [one() for one in held] == [None, None]
    with pytest.raises(EngineError) as closed:  # and not for a chunk whose pictures are gone
        await stream.next_chunk()
    assert closed.value.code == "stream_closed"


async def test_an_error_of_one_stream_ends_that_stream_only(client: WorkerClient) -> None:
    bad, good = await client.open(spec("bad", seed=666)), await client.open(spec("good"))
    bad.push_voice(voice(1), 0)
    with pytest.raises(EngineError) as failed:
        await bad.next_chunk()
    assert failed.value.code == "decode_failed"
    await bad.close()
    good.push_voice(voice(9), 0)
    assert len((await good.next_chunk()).frames) == 9
    await good.close()


async def test_a_late_answer_to_an_earlier_open_settles_no_later_one() -> None:
    client = WorkerClient(FAKE, QUICK)
    await client.start(EngineConfig(model="late"))
    began = time.monotonic()
    stream = await client.open(spec(epoch=1))  # neither "opened" nor "failed" of epoch 0 is its answer
    assert time.monotonic() - began >= 0.1
    stream.push_voice(voice(9), 0)
    assert (await stream.next_chunk()).epoch == 1
    await stream.close()
    await client.close()


async def test_a_worker_that_dies_while_a_stream_is_opened_ends_the_wait(client: WorkerClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    opening = asyncio.create_task(client.open(spec()))
    await asyncio.sleep(0.05)
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(EngineError) as lost:
        await opening
    assert lost.value.code == "worker_lost"


@pytest.mark.parametrize(
    ("model", "code", "kind"),
    [
        ("refuse", "unknown_model", RequestError),
        ("crash", "worker_lost", EngineError),
        ("garbage", "protocol_error", EngineError),
    ],
)
async def test_a_worker_that_does_not_start_says_why(model: str, code: str, kind: type[Exception]) -> None:
    client = WorkerClient(FAKE, QUICK)
    with pytest.raises(kind) as failed:
        await client.start(EngineConfig(model=model))
    assert getattr(failed.value, "code", "") == code
    assert client.died.is_set()


async def test_close_ends_the_process_and_is_idempotent() -> None:
    client = WorkerClient(FAKE, QUICK)
    await client.start(EngineConfig(model="fake"))
    stream = await client.open(spec())
    await client.close()
    await client.close()
    assert client.died.is_set()
    with pytest.raises(EngineError):
        await stream.next_chunk()
    await stream.close()


async def test_start_is_cancelled_cleanly() -> None:
    client = WorkerClient((sys.executable, "-c", "import time; time.sleep(60)"), WorkerLimits(start=0.3))
    with pytest.raises(EngineError) as slow:
        await client.start(EngineConfig())
    assert slow.value.code == "worker_start_timeout"
