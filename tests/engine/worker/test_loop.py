"""The real worker process with the embedded model's shape and random weights: voice in at one end, pictures out."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from engine.pool.client import WorkerClient
from engine.pool.local import LocalPool
from engine.pool.stream import EngineStream, MediaChunk, StreamSpec
from engine.portrait.portrait import Portrait
from engine.wire.messages import RolloutRequest
from ground.clock import monotonic
from ground.config import EngineConfig
from ground.errors import EngineError, RequestError
from models.codecs.motion import FEATURE_STATISTICS

LANDMARKS = {name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}
CONFIG = EngineConfig(model="embedded", device="cpu", dtype="float32", slots=2, threads=1, random_weights=True)

Pcm = np.ndarray[tuple[int], np.dtype[np.int16]]


def spec(name: str, seed: int = 0, **changes: object) -> StreamSpec:
    gradient = np.linspace(40, 200, 256, dtype=np.uint8)
    portrait = np.stack(np.broadcast_arrays(gradient[:, None], gradient[None, :], np.uint8(120)), axis=-1)
    settings: dict[str, object] = {"live": False, **changes}
    return StreamSpec(name, Portrait(np.ascontiguousarray(portrait), LANDMARKS), seed=seed, **settings)  # type: ignore[arg-type]


def voice(seconds: float, seed: int = 0) -> Pcm:
    generator = np.random.default_rng(seed)
    count = round(seconds * 16000)
    loudness = 0.5 + 0.5 * np.sin(np.arange(count) / 16000 * 2 * np.pi * 3)
    return (generator.normal(0, 3000, count) * loudness).astype(np.int16)


async def chunks(stream: EngineStream, count: int) -> list[MediaChunk]:
    async with asyncio.timeout(60):
        return [await stream.next_chunk() for _ in range(count)]


def pictures(made: list[MediaChunk]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.concatenate([chunk.frames for chunk in made])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    pool = LocalPool(CONFIG)
    await pool.start()
    yield pool
    await pool.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_chunks_have_nine_frames_and_then_twelve(pool: LocalPool) -> None:
    info = pool.info
    assert (info.name, info.width, info.fps, info.chunk_frames, info.first_chunk_frames) == ("embedded", 256, 25, 12, 9)
    assert (info.drive_ahead_frames, info.lookahead_ms) == (4, 55.0)
    assert info.warmup_chunk_ms > 0 and info.memory_mb > 50
    lease = await pool.acquire(spec("shape"))
    lease.stream.push_voice(voice(2.5), 0)
    made = await chunks(lease.stream, 4)
    assert [(chunk.index, chunk.first_frame, len(chunk.frames)) for chunk in made] == [
        (0, 0, 9), (1, 9, 12), (2, 21, 12), (3, 33, 12),
    ]  # fmt: skip
    assert made[0].frames.shape == (9, 384, 256)
    assert len({frame.tobytes() for frame in pictures(made)}) == 45, "every picture differs"
    assert all(chunk.missing == () for chunk in made)
    await lease.release()


async def test_equal_seed_and_drive_make_equal_pictures_from_any_packets(pool: LocalPool) -> None:
    sound = voice(2.0)
    whole = await pool.acquire(spec("whole", seed=7))
    whole.stream.push_voice(sound, 0)
    expected = pictures(await chunks(whole.stream, 3))
    await whole.release()
    pieces = await pool.acquire(spec("pieces", seed=7))
    for start in range(0, len(sound), 777):
        pieces.stream.push_voice(sound[start : start + 777], start)
        await asyncio.sleep(0)
    assert np.array_equal(pictures(await chunks(pieces.stream, 3)), expected)
    await pieces.release()
    other = await pool.acquire(spec("other", seed=8))
    other.stream.push_voice(sound, 0)
    assert not np.array_equal(pictures(await chunks(other.stream, 3)), expected)
    await other.release()


async def test_two_streams_in_one_worker_equal_each_alone(pool: LocalPool) -> None:
    alone = []
    for seed in (1, 2):
        lease = await pool.acquire(spec(f"alone{seed}", seed=seed))
        lease.stream.push_voice(voice(2.5, seed), 0)
        alone.append(pictures(await chunks(lease.stream, 4)))
        await lease.release()
    both = [await pool.acquire(spec(f"both{seed}", seed=seed)) for seed in (1, 2)]
    for lease, seed in zip(both, (1, 2), strict=True):
        lease.stream.push_voice(voice(2.5, seed), 0)
    together = await asyncio.gather(*(chunks(lease.stream, 4) for lease in both))
    for lease, made, expected in zip(both, together, alone, strict=True):
        difference = np.abs(pictures(made).astype(int) - expected.astype(int))
        assert difference.max() <= 2 and difference.mean() < 0.01  # another batch size rounds another way
        await lease.release()


async def test_the_voice_is_waited_for_without_a_deadline(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("waits"))
    lease.stream.push_voice(voice(0.574), 0)  # 13 frames and 55 ms end at 0.575 s
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await lease.stream.next_chunk()
    lease.stream.push_voice(voice(0.002), round(0.574 * 16000))
    assert len((await chunks(lease.stream, 1))[0].frames) == 9
    await lease.release()


async def test_at_the_deadline_silence_is_taken_and_reported(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("late", live=True))
    stream = lease.stream
    stream.push_voice(voice(0.2), 0)
    deadline = monotonic() + 0.6
    stream.set_deadline(0, deadline)
    chunk = (await chunks(stream, 1))[0]
    assert deadline - 0.5 < monotonic()  # not at once
    assert chunk.missing == ((3200, 9200),)
    stream.push_voice(voice(0.8), 3200)  # what was missing stays so
    following = (await chunks(stream, 1))[0]
    assert following.first_frame == 9 and all(start >= 9200 for start, _ in following.missing)
    await lease.release()


async def test_a_reader_that_stops_holds_the_worker(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("stopped"))
    lease.stream.push_voice(voice(8.0), 0)
    await asyncio.sleep(1.5)
    assert len(lease.stream._ready) <= 3
    made = await chunks(lease.stream, 8)
    assert [chunk.index for chunk in made] == list(range(8))
    await lease.release()


async def test_poses_and_the_other_rollout_are_taken(pool: LocalPool) -> None:
    with pytest.raises(RequestError) as unknown:
        await pool.acquire(spec("odd", rollout=RolloutRequest(strategy="nonsense")))
    assert unknown.value.code == "unknown_rollout"
    lease = await pool.acquire(spec("posed", rollout=RolloutRequest(strategy="self_forcing"), first_frame=1000))
    lease.stream.push_pose({"yaw": 0.3, "no such": 1.0}, 1000)
    lease.stream.push_voice(voice(2.0), 999 * 640)
    made = await chunks(lease.stream, 2)
    assert [chunk.first_frame for chunk in made] == [1000, 1009]
    await lease.release()


async def test_a_stream_of_nonsense_ends_alone(pool: LocalPool) -> None:
    good = await pool.acquire(spec("good"))
    with pytest.raises(EngineError) as failed:
        await pool.acquire(StreamSpec("bad", Portrait(np.zeros((64, 64, 3), np.uint8), {})))
    assert failed.value.code == "internal_error" and "Key" not in failed.value.message
    good.stream.push_voice(voice(0.6), 0)
    assert len(await chunks(good.stream, 1)) == 1
    await good.release()


async def test_a_killed_worker_is_replaced_within_the_call(pool: LocalPool) -> None:
    lease = await pool.acquire(spec("killed"))
    lease.stream.push_voice(voice(0.6), 0)
    await chunks(lease.stream, 1)
    pid = pool._seats[0].client.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(EngineError) as lost:
        await lease.stream.next_chunk()
    assert lost.value.code == "worker_lost" and time.monotonic() - began < 1.0
    stream = await lease.reopen(first_frame=50)
    stream.push_voice(voice(1.5), 48 * 640)
    chunk = (await chunks(stream, 1))[0]
    assert (chunk.epoch, chunk.index, chunk.first_frame, len(chunk.frames)) == (1, 0, 50, 9)
    await lease.release()
    assert pool.stats().leased == 0 and pool.stats().restarts == 1


async def test_calls_that_end_leave_nothing_in_the_worker(pool: LocalPool) -> None:
    pid = pool._seats[0].client.pid
    counts = []
    for i in range(12):
        lease = await pool.acquire(spec(f"short{i}"))
        lease.stream.push_voice(voice(0.6), 0)
        if i % 2:
            await chunks(lease.stream, 1)
        await lease.release()
        maps = Path(f"/proc/{pid}/maps").read_text().count("knotcast-frames")
        counts.append((len(os.listdir(f"/proc/{pid}/fd")), maps))
    assert len(set(counts[2:])) == 1 and counts[-1][1] == 0


async def test_a_model_that_is_not_there_is_named() -> None:
    pool = LocalPool(EngineConfig(model="no-such-model"))
    with pytest.raises(RequestError) as failed:
        await pool.start()
    assert failed.value.code == "unknown_model"


async def test_asked_to_end_it_ends_well() -> None:
    asked, told = WorkerClient(), WorkerClient()
    await asyncio.gather(asked.start(CONFIG), told.start(CONFIG))
    assert asked.pid is not None
    os.kill(asked.pid, signal.SIGTERM)
    await told.close()
    async with asyncio.timeout(5):
        await asked.died.wait()
    for client in (asked, told):
        assert client._process is not None and client._process.returncode == 0


async def test_no_worker_outlives_a_gateway_that_was_killed() -> None:
    gateway = subprocess.Popen(
        [sys.executable, "-c", _GATEWAY], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert gateway.stdout is not None
    pid = int(gateway.stdout.readline())
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        await asyncio.sleep(0.05)
    pytest.fail("the worker lives on")


_GATEWAY = """
import asyncio
from ground.config import EngineConfig
from engine.pool.client import WorkerClient
async def main():
    client = WorkerClient()
    await client.start(EngineConfig(device="cpu", dtype="float32", threads=1, random_weights=True))
    print(client.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
