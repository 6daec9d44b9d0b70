"""A call's side of its engine without a network or a clock: what the engine is given, and what comes of it, block by
block.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from engine.errors import EngineError
from engine.stream_client import StreamSpec
from server import engine_link
from server.engine_link import CONTEXT_FRAMES, RECOVERY_S, RETRY_S, EngineLink
from server.metrics import Metrics
from server.playout import TICK, Playout, Release
from server.voice import BLOCK, Turn, VoiceLine
from tests.fake_pool import BOX, FPS, LOUD, SAMPLES, SIZE, FakeLease, FakePool, FakeStream

DELAY = 48 * BLOCK
FRAME = 2 * BLOCK
STILL = np.full((SIZE * 3 // 2, SIZE), 7, np.uint8)


class Call:
    """The media of a call, turned by hand."""

    def __init__(self, pool: FakePool, delay: int = DELAY) -> None:
        spec = StreamSpec(stream="s", portrait=np.zeros((SIZE, SIZE, 3), np.uint8), landmarks={})
        self.pool, self.told = pool, list[str]()
        self.playout = Playout(STILL, FPS, delay, delay + 50 * BLOCK)
        self.line = VoiceLine(self.playout.limit / 48_000 + 2.0)
        self.engine = EngineLink(
            pool, spec, self.line, self.playout, Metrics(), self.told.append, stamped=False
        )  # fmt: skip
        self.task = asyncio.create_task(self.engine.run())
        self.out: list[Release] = []
        self.now = 100.0

    @property
    def lease(self) -> FakeLease:
        return self.pool.leases[0]

    @property
    def stream(self) -> FakeStream:
        return self.lease.stream

    async def ticks(self, count: int) -> None:
        for _ in range(count):
            for release in self.playout.due(self.now):
                self.engine.step()
                self.out.append(release)
            self.now += TICK
            for _ in range(8):  # the engine, which takes no time of its own
                await asyncio.sleep(0)

    def say(self, *beeps: int, frames: int) -> None:
        """So many frames of silence with a beep two frames long from each of ``beeps`` on."""
        pcm = np.zeros(frames * FRAME, np.int16)
        t = np.arange(2 * FRAME) / 48_000
        tone = 16_000 * np.sin(2 * np.pi * 1000 * t) * np.hanning(len(t))  # no edge that a low-pass would spread
        for beep in beeps:
            pcm[beep * FRAME : (beep + 2) * FRAME] = tone
        self.line.say(Turn(f"turn {len(self.line.turns)}", pcm))

    def seen(self) -> list[int]:
        """Frames shown with the box white."""
        return [r.frame for r in self.out if r.fresh and r.picture is not None and r.picture[BOX].mean() > 140]

    def heard(self) -> list[int]:
        """Frames sounded with something loud in them."""
        loud = [r.sample // FRAME for r in self.out if r.sample >= 0 and np.abs(r.audio.astype(int)).max() > LOUD]
        return list(dict.fromkeys(loud))


@contextlib.asynccontextmanager
async def running(delay: int = DELAY) -> AsyncIterator[Call]:
    call = Call(FakePool(chunk_s=0, restart_s=0), delay)
    try:
        await asyncio.sleep(0)
        yield call
    finally:
        call.task.cancel()
        await asyncio.wait({call.task})
        await call.engine.release()


def reopened_by(call: Call, change: Callable[[FakeStream], object]) -> None:
    """Let ``change`` at every engine that comes after the present one, before it is used."""
    lease = call.lease
    reopen = lease.reopen

    async def changed(first_frame: int) -> FakeStream:
        stream = await reopen(first_frame)
        change(stream)
        return stream

    lease.reopen = changed


def pushed(stream: FakeStream) -> tuple[int, np.ndarray]:
    """All the drive that a stream was given, as one: (first sample, int16 [n])."""
    first, out = stream.pushed[0][0], np.zeros(0, np.int16)
    for at, pcm in stream.pushed:
        assert at - first <= len(out), "a gap"
        out = np.concatenate([out[: at - first], pcm, out[at - first + len(pcm) :]])
    return first, out


@pytest.mark.parametrize("delay", [DELAY, 300 * BLOCK])
async def test_a_beep_is_seen_in_the_frames_it_is_heard_in(delay: int) -> None:
    async with running(delay) as call:
        call.say(0, 7, 20, 33, 51, frames=60)
        await call.ticks(120 + delay // BLOCK + 60)
        start = call.line.turns[0].start // FRAME
        assert start >= delay // FRAME
        assert call.heard() == call.seen() == [start + at + i for at in (0, 7, 20, 33, 51) for i in (0, 1)]


async def test_a_new_engine_is_given_the_past_as_it_was() -> None:
    async with running() as call:
        call.say(*range(3, 190, 11), frames=200)  # loud before, at and after the place where the engine is lost
        await call.ticks(150)
        lost = call.stream
        _, before = pushed(lost)
        head = call.line.head
        lost.lose()
        await call.ticks(1)
        new = call.stream
        assert new is not lost and new.epoch == 1 and new.first == lost.made > 40
        at, past = new.pushed[0]
        assert at <= (new.first - CONTEXT_FRAMES) * SAMPLES
        assert np.array_equal(past[: len(before) - at], before[at:]) and np.abs(before[at:]).max() > 8000
        assert at + len(past) >= head // 3 - 32
        await call.ticks(400)
        # A beep between the first frame of the new engine and the head of the voice is as well placed as any other.
        assert len(call.heard()) == 2 * 17 and call.seen() == call.heard()
        assert any(new.first <= beep < head // FRAME for beep in call.heard())
        assert call.told == ["live", "recovering", "live"]


async def test_the_past_of_a_new_engine_is_long_enough_for_its_features() -> None:
    assert CONTEXT_FRAMES * SAMPLES >= 16_000  # a second: see EngineLink._attach


async def test_what_is_taken_back_is_not_seen() -> None:
    async with running() as call:
        call.line.say(Turn("tone", np.full(400 * BLOCK, 16_000, np.int16)))
        await call.ticks(150)
        made = call.stream.made
        assert call.seen() and call.line.interrupt() == ["tone"]
        assert made < call.line.head // FRAME - 4  # some of the voice has been sent and not been used
        call.engine.take_back(call.playout.fade_out())
        await call.ticks(150)
        assert call.playout.frame > made + 20
        assert [frame for frame in call.seen() if frame >= made] == []


async def test_voice_does_not_run_away_from_an_engine_that_gives_nothing() -> None:
    async with running() as call:
        await call.ticks(100)
        call.stream.mute = True
        await call.ticks(400)
        assert call.playout.lag == call.playout.limit
        assert len(call.playout._voice) * BLOCK == call.playout.limit
        call.stream.mute = False
        call.stream._news.set()
        await call.ticks(500)
        assert call.playout.lag <= DELAY + 4 * BLOCK


@pytest.mark.parametrize("after", [0, 100])
async def test_an_engine_that_stays_silent_ends_the_call(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(engine_link, "PATIENCE_STEPS", 200)
    async with running() as call:
        await call.ticks(after)
        call.stream.mute = True
        await call.ticks(190)
        with pytest.raises(EngineError) as caught:
            await call.ticks(100)
        assert caught.value.code == "engine_silent" and not caught.value.retryable


async def test_the_patience_with_an_engine_begins_anew_with_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "PATIENCE_STEPS", 80)
    async with running() as call:
        for _ in range(5):
            await call.ticks(100)
            call.stream.mute = True
            await call.ticks(110)  # 50 until the limit, 60 of waiting
            call.stream.mute = False
            call.stream._news.set()


async def test_the_patience_begins_anew_with_a_new_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "PATIENCE_STEPS", 80)
    async with running() as call:
        reopened_by(call, lambda stream: setattr(stream, "mute", True))
        await call.ticks(100)
        call.stream.mute = True
        await call.ticks(110)  # 50 until the limit, 60 of waiting
        call.stream.lose()
        await call.ticks(70)
        assert call.stream.epoch == 1 and not call.playout.arrived
        with pytest.raises(EngineError, match="no pictures"):
            await call.ticks(20)


async def test_engines_that_open_and_give_nothing_but_errors_end_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 1000.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(engine_link, "monotonic", lambda: now)
    monkeypatch.setattr(engine_link, "sleep", sleep)
    async with running() as call:
        await call.ticks(100)
        call.stream.lose()
        await call.ticks(100)
        assert call.told == ["live", "recovering", "live"]
        now = 2000.0  # the patience is with one loss, not with all that a call has
        reopened_by(call, lambda stream: (asked.append(now), stream.lose()))
        call.stream.lose()
        with pytest.raises(EngineError) as caught:
            async with asyncio.timeout(5):
                await call.task
        assert caught.value.code == "worker_lost" and not caught.value.retryable
        assert call.told == ["live", "recovering", "live", "recovering"]
        assert asked[0] == 2000.0 and np.diff(asked) == pytest.approx(RETRY_S)
        assert asked[-1] == pytest.approx(2000.0 + RECOVERY_S, abs=1.5 * RETRY_S)


async def test_what_the_microphone_heard_while_no_engine_was_there_is_not_said_later() -> None:
    async with running() as call:
        call.pool.restart_s = 0.05
        await call.ticks(100)
        call.stream.lose()
        await call.ticks(2)
        assert call.told[-1] == "recovering"
        for _ in range(5):
            call.line.microphone.push(np.full(BLOCK, 16_000, np.int16))
            await call.ticks(1)
        await asyncio.sleep(0.1)
        await call.ticks(200)
        assert call.told[-1] == "live" and call.playout.frame > 60
        assert call.heard() == [] and call.seen() == []
