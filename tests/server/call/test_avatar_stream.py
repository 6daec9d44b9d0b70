"""``AvatarStream`` alone, as a transport other than WebRTC would use it: no transport, call or session."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from engine.media.pose import Pose
from engine.pool.stream import StreamSpec
from engine.portrait.portrait import Portrait
from ground.errors import EngineError
from ground.units import BLOCK
from server.call import engine_link
from server.call.avatar_stream import AvatarStream
from server.call.playout import Release
from server.call.voice import Turn
from server.metrics import Metrics
from tests.fake_pool import SIZE, FakePool

LOUD = np.full(20 * BLOCK, 16_000, np.int16)


class Door:
    """A listener that keeps what it is called with."""

    def __init__(self) -> None:
        self.releases: list[Release] = []
        self.turns: list[tuple[str, str]] = []
        self.turned_at: list[int] = []  # number of releases before each turn change
        self.engine: list[str] = []

    def on_release(self, release: Release) -> None:
        self.releases.append(release)

    def on_turn(self, turn: Turn) -> None:
        self.turns.append((turn.id, turn.state))
        self.turned_at.append(len(self.releases))

    def on_engine(self, state: str) -> None:
        self.engine.append(state)

    @property
    def loud(self) -> list[int]:
        """Media samples at which loud blocks begin."""
        return [r.sample for r in self.releases if np.abs(r.audio.astype(int)).max() > 8000]


@contextlib.asynccontextmanager
async def streaming(
    pool: FakePool | None = None,
) -> AsyncIterator[tuple[AvatarStream, Door, FakePool, asyncio.Task[None]]]:
    pool, door = pool or FakePool(), Door()
    spec = StreamSpec(stream="s", portrait=Portrait(np.zeros((SIZE, SIZE, 3), np.uint8), {}))
    stream = AvatarStream(pool, spec, Metrics(), door)
    task = asyncio.create_task(stream.run())
    try:
        yield stream, door, pool, task
    finally:
        task.cancel()
        await asyncio.wait({task})
        await stream.release()
        assert not pool.leases


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_open_segment_comes_out_as_sound_and_its_end_is_told_when_it_left() -> None:
    async with streaming() as (stream, door, pool, task):
        await until(lambda: door.engine == ["live"] and any(r.fresh for r in door.releases))
        segment = Turn("segment", np.zeros(0, np.int16), open=True)
        stream.say(segment)
        for _ in range(4):
            stream.extend(segment, LOUD)
            await asyncio.sleep(0.05)
        segment.close()
        await until(lambda: ("segment", "finished") in door.turns)
        assert door.turns == [("segment", "speaking"), ("segment", "finished")]
        assert segment.end - segment.start >= 4 * len(LOUD) and door.loud[0] // BLOCK == segment.start // BLOCK
        at = door.releases[door.turned_at[1] - 1]
        assert at.sample + BLOCK >= segment.end > at.sample or at.sample == -1
        assert stream.position >= segment.end
        ticks = [release.tick for release in door.releases]
        assert ticks == list(range(len(ticks)))


async def test_clear_silences_at_once_and_tells_it() -> None:
    async with streaming() as (stream, door, pool, task):
        segment = Turn("segment", np.tile(LOUD, 20), open=True)
        stream.say(segment)
        await until(lambda: len(door.loud) > 5)
        assert stream.interrupt() == ["segment"]
        before = len(door.releases)
        assert door.turns == [("segment", "speaking"), ("segment", "interrupted")]
        await until(lambda: len(door.releases) > before + 30)
        assert max(np.abs(r.audio.astype(int)).max() for r in door.releases[before + 2 :]) == 0
        stream.extend(segment, LOUD)  # a late part of the interrupted turn
        await until(lambda: len(door.releases) > before + 60)
        assert [turn.state for turn in stream.turns] == ["interrupted"] and stream.interrupt() == []


async def test_microphone_and_poses_reach_the_engine() -> None:
    async with streaming() as (stream, door, pool, task):
        await until(lambda: pool.leases and door.engine)
        stream.push_pose(Pose(None, {"yaw": 0.1}))
        for _ in range(60):
            stream.hear(LOUD[:BLOCK])
            await asyncio.sleep(0.015)
        engine = pool.leases[0].stream
        assert engine.poses[0][1] == {"yaw": 0.1}
        assert max(np.abs(pcm.astype(int)).max() for _, pcm in engine.pushed if len(pcm)) > 8000


async def test_a_stream_without_an_engine_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "PATIENCE_STEPS", 5)
    async with streaming(FakePool(chunk_s=60.0)) as (stream, door, pool, task):
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(10):
                await task
        assert [error.code for error in caught.value.exceptions if isinstance(error, EngineError)] == ["engine_silent"]
        assert stream.figures().shown == 0
