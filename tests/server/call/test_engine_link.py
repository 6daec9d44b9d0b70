"""``EngineLink`` with voice line and playout, without network or wall clock: input and output block by block."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Any

import numpy as np
import pytest

from engine.drive.buffer import DriveBuffer
from engine.media.pose import Pose
from engine.pool.stream import MediaChunk, StreamSpec
from engine.portrait.portrait import Portrait
from engine.worker.scheduler import DeadlineScheduler, Pulse
from ground.errors import EngineError
from ground.units import BLOCK, BLOCK_S
from models.config import EMBEDDED
from server.call import engine_link
from server.call.engine_link import CONTEXT_FRAMES, RECOVERY_S, RETRY_S, EngineLink
from server.call.playout import Playout, Release
from server.call.voice import Turn, VoiceLine
from server.metrics import Metrics
from tests.fake_pool import BOX, CHUNK, FIRST, FPS, LOUD, SAMPLES, SIZE, FakeLease, FakePool, FakeStream

DELAY = 48 * BLOCK
FRAME = 2 * BLOCK
STILL = np.full((SIZE * 3 // 2, SIZE), 7, np.uint8)


class Call:
    """The media of a call, advanced by hand."""

    def __init__(self, pool: Any, delay: int = DELAY) -> None:
        spec = StreamSpec(stream="s", portrait=Portrait(np.zeros((SIZE, SIZE, 3), np.uint8), {}))
        self.pool, self.told = pool, list[str]()
        self.playout = Playout(STILL, FPS, delay, delay + 50 * BLOCK)
        self.line = VoiceLine(self.playout.limit / 48_000 + 2.0)
        self.engine = EngineLink(
            pool, spec, self.line, self.playout, Metrics(), self.told.append, stamped=False
        )  # fmt: skip
        self.task = asyncio.create_task(self.engine.run())
        self.out: list[Release] = []
        self.left: list[float] = []  # when each release left
        self.now = 100.0

    @property
    def lease(self) -> FakeLease:
        return self.pool.leases[0]

    @property
    def stream(self) -> FakeStream:
        return self.lease.stream

    async def ticks(self, count: int) -> None:
        for _ in range(count):
            await self.tick()
            self.now += BLOCK_S

    async def tick(self) -> None:
        for release in self.playout.due(self.now):
            self.engine.step()
            self.out.append(release)
            self.left.append(self.now)
        for _ in range(8):  # let the engine's tasks run; they take no time on the fake clock
            await asyncio.sleep(0)

    def say(self, *beeps: int, frames: int) -> None:
        """Queue ``frames`` frames of silence, with a beep of two frames from each frame of ``beeps`` on."""
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
        """Frames whose sound left and was loud."""
        loud = [r.sample // FRAME for r in self.out if r.sample >= 0 and np.abs(r.audio.astype(int)).max() > LOUD]
        return list(dict.fromkeys(loud))


@contextlib.asynccontextmanager
async def running(delay: int = DELAY, pool: Any = None) -> AsyncIterator[Call]:
    call = Call(pool or FakePool(chunk_s=0, restart_s=0), delay)
    try:
        await asyncio.sleep(0)
        yield call
    finally:
        call.task.cancel()
        await asyncio.wait({call.task})
        await call.engine.release()


def reopened_by(call: Call, change: Callable[[FakeStream], object]) -> None:
    """Apply ``change`` to every engine that replaces the present one, before it is used."""
    lease = call.lease
    reopen = lease.reopen

    async def changed(first_frame: int) -> FakeStream:
        stream = await reopen(first_frame)
        change(stream)
        return stream

    lease.reopen = changed


def pushed(stream: FakeStream) -> tuple[int, np.ndarray]:
    """All drive voice pushed to a stream, joined: (first sample, int16 [n])."""
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
        # Beeps between the new engine's first frame and the head of the voice are in sync like any others.
        assert len(call.heard()) == 2 * 17 and call.seen() == call.heard()
        assert any(new.first <= beep < head // FRAME for beep in call.heard())
        assert call.told == ["live", "recovering", "live"]


async def test_the_past_of_a_new_engine_is_long_enough_for_its_features() -> None:
    assert CONTEXT_FRAMES * SAMPLES >= 16_000  # a second: see EngineLink._attach


@pytest.mark.parametrize("lost", [False, True])
async def test_what_is_taken_back_is_not_seen(lost: bool) -> None:
    async with running() as call:
        call.line.say(Turn("tone", np.full(400 * BLOCK, 16_000, np.int16)))
        await call.ticks(150)
        made = call.stream.made
        assert call.seen() and call.line.interrupt() == ["tone"]
        assert made < call.line.head // FRAME - 4  # some of the voice has been sent and not yet used
        call.engine.take_back(call.playout.fade_out())
        if lost:  # the next engine does not get that voice either
            call.stream.lose()
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
        now = 2000.0  # RECOVERY_S counts from each loss, not from a call's first one
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


# Poses


async def test_poses_that_bunch_on_the_way_keep_their_spacing() -> None:
    async with running() as call:
        await call.ticks(100)
        call.stream.poses.clear()
        waiting = list[Pose]()
        for n in range(200):
            waiting.append(Pose(5000.0 + 40 * n, {"yaw": n / 1000}))
            if n % 4 == 3 or n < 4:  # four at a time
                for pose in waiting:
                    call.engine.push_pose(pose)
                waiting.clear()
            await call.ticks(2)
        at = np.array([frame for frame, _ in call.stream.poses])
        assert [controls["yaw"] for _, controls in call.stream.poses] == [n / 1000 for n in range(200)]
        assert np.abs(np.diff(at) - 1.0).max() < 0.01
        assert 0 <= call.line.head / FRAME - at[-1] < 2


async def test_a_pose_without_a_time_counts_from_its_arrival() -> None:
    async with running() as call:
        await call.ticks(100)
        call.stream.poses.clear()
        for _ in range(3):
            call.engine.push_pose(Pose(None, {"yaw": 0.1}))
            await call.ticks(10)
        assert [at for at, _ in call.stream.poses] == [call.line.head / FRAME - back for back in (15, 10, 5)]


# The clock


async def test_a_frame_leaves_when_its_engine_was_told_that_it_would() -> None:
    async with running() as call:
        told: list[tuple[float, int, float]] = []
        await call.ticks(1)
        call.stream.set_deadline = lambda frame, deadline: told.append((call.now, frame, deadline))
        await call.ticks(150)
        call.now += 1.0
        await call.ticks(5)  # too short for a chunk to end
        assert call.playout.stalls == 1 and len(told) <= call.stream.made // CHUNK + 2
        await call.ticks(150)
        checked = 0
        for release, at in zip(call.out, call.left, strict=True):
            before = [(frame, deadline) for when, frame, deadline in told if when < at]
            if release.fresh and before and at != call.left[151]:  # the release at which the stall was noticed
                frame, deadline = before[-1]
                assert at == pytest.approx(deadline + (release.frame - frame) / FPS)
                checked += 1
        assert checked > 120


class Worker:
    """Pool, lease, stream and worker in one, with the real drive buffer, scheduler and pulse, on the call's clock."""

    COST = 0.1
    epoch = 0

    def __init__(self) -> None:
        self.stream, self.now = self, 0.0
        self.late: list[tuple[int, int]] = []  # voice that arrived after the engine had taken silence for it
        self.drive, self._pulse = DriveBuffer(EMBEDDED), Pulse()
        self._scheduler: DeadlineScheduler[str] = DeadlineScheduler(CHUNK / FPS, self.COST)
        self._scheduler.join("s")
        self._told: tuple[int, float] | None = None
        self._latent = self._next = self._read = 0
        self._making: tuple[float, tuple[tuple[int, int], ...]] | None = None
        self._made: deque[MediaChunk] = deque()
        self._news = asyncio.Event()

    async def acquire(self, spec: StreamSpec) -> "Worker":
        return self

    async def release(self) -> None:
        pass

    def push_voice(self, pcm: np.ndarray, at: int) -> None:
        self._pulse.beat(self.now)
        before = self.drive.counts.late_samples
        self.drive.push_voice(pcm, at)
        if (late := self.drive.counts.late_samples - before) > 0:
            self.late.append((at, at + late))

    def set_deadline(self, frame: int, deadline: float) -> None:
        self._pulse.beat(self.now)
        self._told = frame, deadline

    async def next_chunk(self) -> MediaChunk:
        while not self._made:
            self._news.clear()
            await self._news.wait()
        chunk = self._made.popleft()
        self._read = chunk.first_frame + len(chunk.frames)
        return chunk

    def work(self, now: float) -> None:
        self.now = now
        count = CHUNK if self._latent else FIRST
        if self._making is None:
            complete = self._latent + 4 <= self.drive.ready_until()
            deadline = inf if self._told is None else self._told[1] + (self._next - self._told[0]) / FPS
            if not self._next + count - self._read <= 3 * CHUNK or not (complete or self._told):
                return
            self._scheduler.offer("s", now, deadline + (0.0 if complete else self._pulse.grace(now)), complete)
            if self._scheduler.order(now):
                self._making = now + self.COST, self.drive.take(self._latent, 4).missing
        elif now >= self._making[0]:
            self._scheduler.withdraw("s")
            self._scheduler.spent("s", self.COST)
            frames = np.zeros((count, SIZE * 3 // 2, SIZE), np.uint8)
            self._made.append(MediaChunk(0, 0, self._next, frames, 100.0, 1.0, self._making[1]))
            self._latent, self._next, self._making = self._latent + 3, self._next + count, None
            self._news.set()


async def spoken_to(call: Call, worker: Worker, seconds: float, *, stopped: bool = False) -> None:
    """Run call and worker for ``seconds``. stopped: the gateway does not run."""
    for _ in range(round(seconds / BLOCK_S)):
        if not stopped:
            await call.tick()
        for _ in range(4):
            call.now += BLOCK_S / 4
            worker.work(call.now)


@pytest.mark.parametrize("stop", [0.3, 0.5])
async def test_a_short_stop_of_the_gateway_costs_no_voice(stop: float) -> None:
    worker = Worker()
    async with running(pool=worker) as call:
        call.line.say(Turn("tone", np.full(3000 * BLOCK, 16_000, np.int16)))
        await spoken_to(call, worker, 3.0)
        for _ in range(13):  # each stop at another place within a chunk
            await spoken_to(call, worker, stop, stopped=True)
            await spoken_to(call, worker, 1.22)
        assert call.playout.stalls == 13 and call.playout.shown > 300
        assert worker.drive.counts.missing_samples == 0 and worker.late == []


async def test_voice_for_which_silence_was_taken_is_not_heard() -> None:
    worker = Worker()
    async with running(pool=worker) as call:
        call.line.say(Turn("tone", np.full(3000 * BLOCK, 16_000, np.int16)))
        for _ in range(5):
            await spoken_to(call, worker, 3.06)
            await spoken_to(call, worker, 3.0, stopped=True)
        await spoken_to(call, worker, 3.0)
        assert sum(end - start for start, end in worker.late) > 16_000
        heard = np.zeros(call.playout.position, np.int16)
        for release in call.out:
            if release.sample >= 0:
                heard[release.sample : release.sample + BLOCK] = release.audio
        wanted = np.full_like(heard, 16_000)
        wanted[: call.line.turns[0].start] = 0
        for start, end in worker.late:
            wanted[3 * start : 3 * end] = 0
        assert np.array_equal(heard, wanted)
