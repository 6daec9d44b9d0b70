"""A pool without processes: streams that make 256x256 frames from the voice pushed, in real time, and can be lost at
will.

Frames are a moving gradient; a box in the middle is white in every frame whose own 40 ms of voice are loud, so that
what is seen can be compared with what is heard.
"""

import asyncio

import numpy as np

from engine.pool.local import PoolStats
from engine.pool.stream import MediaChunk, StreamSpec
from engine.wire.messages import ModelInfo
from ground.errors import CapacityError, EngineError

SIZE, FPS = 256, 25
CHUNK, FIRST, AHEAD = 12, 9, 4
SAMPLES = 640  # of 16 kHz voice a frame
LOOKAHEAD = 880  # samples: 55 ms
LOUD = 1000
BOX = (slice(96, 160), slice(96, 160))


class FakeStream:
    def __init__(self, spec: StreamSpec, chunk_s: float) -> None:
        self.epoch = spec.epoch
        self.first = spec.first_frame
        self.chunk_s = chunk_s
        self.poses: list[tuple[float, dict[str, float]]] = []
        self.deadlines: list[tuple[int, float]] = []
        self.pushed: list[tuple[int, np.ndarray]] = []  # (first 16 kHz sample, what was pushed), in order
        self.closed = self.mute = False  # mute: alive, and gives nothing
        self._voice: dict[int, np.ndarray] = {}  # frame -> its own samples
        self._end = 0
        self._next, self._index = spec.first_frame, 0
        self._news = asyncio.Event()
        self._lost: EngineError | None = None

    def push_voice(self, pcm: np.ndarray, at: int) -> None:
        assert at <= (self._end or self.first * SAMPLES), "voice has a gap"
        self.pushed.append((at, pcm.copy()))
        end = at + len(pcm)
        for frame in range(at // SAMPLES, -(-end // SAMPLES)):
            start, stop = max(at, frame * SAMPLES), min(end, (frame + 1) * SAMPLES)
            own = self._voice.setdefault(frame, np.zeros(SAMPLES, np.int16))
            own[start - frame * SAMPLES : stop - frame * SAMPLES] = pcm[start - at : stop - at]
        self._end = max(self._end, end)
        self._news.set()

    def push_pose(self, controls: dict[str, float], at: float) -> None:
        self.poses.append((at, dict(controls)))

    def set_deadline(self, frame: int, deadline: float) -> None:
        self.deadlines.append((frame, deadline))

    @property
    def made(self) -> int:
        """The first frame that has not been made yet."""
        return self._next

    def lose(self) -> None:
        self._lost = EngineError("worker_lost", "the worker has gone", retryable=True)
        self._news.set()

    async def next_chunk(self) -> MediaChunk:
        count = CHUNK if self._index else FIRST
        needs = (self._next + count + AHEAD) * SAMPLES + LOOKAHEAD
        while self._end < needs or self.mute or self._lost is not None:
            if self._lost is not None:
                raise self._lost
            self._news.clear()
            await self._news.wait()
        await asyncio.sleep(self.chunk_s)
        first, index = self._next, self._index
        self._next, self._index = first + count, index + 1
        frames = np.stack([self._picture(frame) for frame in range(first, first + count)])
        self._voice = {frame: own for frame, own in self._voice.items() if frame >= self._next}
        return MediaChunk(self.epoch, index, first, frames, self.chunk_s * 1000, 1.0, ())

    async def close(self) -> None:
        self.closed = True

    def _picture(self, frame: int) -> np.ndarray:
        picture = np.full((SIZE * 3 // 2, SIZE), 128, np.uint8)
        picture[:SIZE] = (np.arange(SIZE) // 2 + 30 + frame * 3 % 60).astype(np.uint8)
        own = self._voice.get(frame, np.zeros(1, np.int16))
        picture[BOX] = 235 if np.abs(own.astype(np.int32)).max() > LOUD else 60
        return picture


class FakeLease:
    def __init__(self, pool: "FakePool", spec: StreamSpec) -> None:
        self._pool, self._spec = pool, spec
        self.stream = FakeStream(spec, pool.chunk_s)
        self.released = False

    async def reopen(self, first_frame: int) -> FakeStream:
        await asyncio.sleep(self._pool.restart_s)
        self._spec = StreamSpec(
            self._spec.stream, self._spec.portrait, self._spec.seed,
            self._spec.rollout, first_frame, self._spec.epoch + 1,
        )  # fmt: skip
        self.stream = FakeStream(self._spec, self._pool.chunk_s)
        return self.stream

    async def release(self) -> None:
        if not self.released:
            self.released = True
            self._pool.leases.remove(self)


class FakePool:
    def __init__(self, slots: int = 2, chunk_s: float = 0.03, restart_s: float = 0.3, start_s: float = 0.0) -> None:
        self.slots, self.chunk_s, self.restart_s, self.start_s = slots, chunk_s, restart_s, start_s
        self.leases: list[FakeLease] = []
        self.acquired = 0
        self.info = ModelInfo(
            name="fake", width=SIZE, height=SIZE, fps=FPS, chunk_frames=CHUNK, first_chunk_frames=FIRST,
            drive_ahead_frames=AHEAD, lookahead_ms=55.0, slots=slots, device="cpu", dtype="none", torch="none",
            cpu="none", warmup_chunk_ms=chunk_s * 1000, memory_mb=1.0,
            rollouts=["knot_forcing", "self_forcing"],
        )  # fmt: skip

    async def start(self) -> None:
        await asyncio.sleep(self.start_s)

    async def close(self) -> None:
        assert not self.leases, "a lease was not released"

    async def acquire(self, spec: StreamSpec) -> FakeLease:
        if len(self.leases) >= self.slots:
            raise CapacityError("no_slot", "every slot is taken: try again later", status=429)
        self.acquired += 1
        lease = FakeLease(self, spec)
        self.leases.append(lease)
        return lease

    def stats(self) -> PoolStats:
        return PoolStats(1, 1, self.slots, len(self.leases), self.slots - len(self.leases), 0)
