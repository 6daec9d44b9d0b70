"""Link from a call to its engine: sends voice and poses, puts chunks into playout, and replaces a lost worker.

Owns the lease. Media time waits for the engine: while there is none, or it has given no chunk yet, no voice is taken
from the line. So no speech is lost and the delay stays the same.
"""

import logging
from asyncio import sleep
from collections.abc import Callable

from engine.media.pose import Pose
from engine.pool.local import Lease, WorkerPool
from engine.pool.stream import EngineStream, MediaChunk, StreamSpec
from ground.clock import monotonic
from ground.errors import CapacityError, EngineError
from ground.units import drive_start, frame_start, milliseconds
from server.call.playout import Playout
from server.call.sender_clock import SenderClock
from server.call.stamp import stamp
from server.call.voice import VoiceLine
from server.metrics import Metrics

logger = logging.getLogger(__name__)

CONTEXT_FRAMES = 25  # voice before a new engine's first frame, as the past of its features
RECOVERY_S = 60.0  # from the loss of an engine until the call gives up
RETRY_S = 0.2
PATIENCE_STEPS = 1000  # 20 s without a chunk from a live engine, after which the call gives up


class EngineLink:
    """``run`` is a task of the call; ``step`` is called every 20 ms; ``release`` at the end."""

    def __init__(
        self,
        pool: WorkerPool,
        spec: StreamSpec,
        line: VoiceLine,
        playout: Playout,
        metrics: Metrics,
        on_state: Callable[[str], None],
        *,
        stamped: bool,
    ) -> None:
        """on_state: called with ``live`` once a slot is leased, ``recovering`` when it is lost, and ``live`` again.

        stamped: write frame numbers into the pictures (server/call/stamp.py).
        """
        self._pool, self._line, self._playout = pool, line, playout
        self._spec: StreamSpec | None = spec
        self._name = spec.stream
        self._metrics, self._on_state, self._stamped = metrics, on_state, stamped
        self._lease: Lease | None = None
        self._stream: EngineStream | None = None
        self._sender = SenderClock()
        self._lost_at: float | None = None
        self._waited = 0  # steps for which media time waited for the present engine, since its last chunk
        self._stalls = 0  # stalls of playout's clock when the engine was last sent its deadline
        self.chunk_ms = 0.0

    async def run(self) -> None:
        """Lease a slot, then receive chunks until cancelled. Raises AvatarError when there is no slot, or the engine is
        lost for good."""
        assert self._spec is not None, "run after release"
        self._lease = await self._pool.acquire(self._spec)
        self._attach(self._lease.stream, 0)
        self._on_state("live")
        while True:
            assert self._stream is not None
            try:
                chunk = await self._stream.next_chunk()
            except EngineError as error:
                if not error.retryable:
                    raise
                await self._recover(self._lease, error)
            else:
                self._take(chunk)

    def step(self) -> None:
        """Send 20 ms of voice to the engine, unless media time must wait for it. Raises EngineError ``engine_silent``
        if the engine is alive and has all the voice it needs, but makes no chunk.
        """
        stream, playout = self._stream, self._playout
        if stream is not None and playout.arrived and playout.stalls != self._stalls:
            self._tell_deadline(stream, playout.frame + 1)
        ahead = self._line.head - frame_start(playout.awaited, playout.fps)
        if stream is None or (not playout.arrived and ahead >= playout.delay) or playout.lag >= playout.limit:
            self._line.microphone.clear()  # sound from this time is not played later
            self._waited += stream is not None
            if self._waited > PATIENCE_STEPS:
                raise EngineError("engine_silent", "the engine makes no pictures any more")
            return
        block = self._line.next_block()
        playout.push_voice(block.pcm, block.at)
        stream.push_voice(block.drive, block.drive_at)

    def push_pose(self, pose: Pose) -> None:
        """Send controls at the media time of the voice that arrives now, so that both take effect together."""
        if self._stream is not None and pose.controls:
            at_ms = self._sender.media_ms(pose.t_ms, milliseconds(self._line.head))
            self._stream.push_pose(pose.controls, at_ms * self._playout.fps / 1000)

    def take_back(self, sample: int) -> None:
        """Replace the voice from 48 kHz ``sample`` on by silence, so that the mouth closes soon. Frames already made
        stay as they are.
        """
        silence, at = self._line.take_back(sample)
        if self._stream is not None:
            self._stream.push_voice(silence, at)

    async def release(self) -> None:
        self._stream = self._spec = None
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.release()

    def _attach(self, stream: EngineStream, first_frame: int) -> None:
        """Send a new engine the past voice, and silence up to the delay, so that it can make its first chunk at
        once."""
        self._playout.begin_epoch(stream.epoch)
        runway = frame_start(first_frame, self._playout.fps) + self._playout.delay
        while self._line.head < runway:
            block = self._line.silent_block()
            self._playout.push_voice(block.pcm, block.at)
        past = drive_start(max(0, first_frame - CONTEXT_FRAMES), self._playout.fps)
        drive, at = self._line.drive_since(past)
        assert at <= past, "the voice line keeps too little: the engine would wait for ever for the missing voice"
        stream.push_voice(drive, at)
        self._stream, self._waited = stream, 0

    def _take(self, chunk: MediaChunk) -> None:
        if self._lost_at is not None:
            self._metrics.recovered(monotonic() - self._lost_at)
            self._lost_at = None
            self._on_state("live")
        self.chunk_ms, self._waited = chunk.chunk_ms, 0
        self._metrics.chunk(chunk.chunk_ms / 1000)
        if self._stamped:
            for i, picture in enumerate(chunk.frames):
                stamp(picture, chunk.first_frame + i)
        self._playout.push_chunk(chunk)
        assert self._stream is not None
        self._tell_deadline(self._stream, chunk.first_frame + len(chunk.frames))

    def _tell_deadline(self, stream: EngineStream, frame: int) -> None:
        """Send the time at which ``frame`` is due, again whenever playout's clock was moved: the deadline sent before
        is too early by as much, and the engine would treat voice that comes in time as missing.
        """
        self._stalls = self._playout.stalls
        stream.set_deadline(frame, self._playout.time_of(frame))

    async def _recover(self, lease: Lease, error: EngineError | CapacityError) -> None:
        """Replace a lost engine. Media time stands still until then; the new engine begins at the first missing frame.

        If the new engine is lost before its first chunk, ``RECOVERY_S`` goes on counting from the first loss, and the
        next one is asked for after ``RETRY_S``. Raises EngineError ``worker_lost``.
        """
        logger.warning("engine lost stream=%s code=%s", self._name, error.code)
        self._metrics.worker_lost()
        self._stream = None
        first_frame = self._playout.await_engine()
        if self._lost_at is None:
            self._lost_at = monotonic()
            self._on_state("recovering")
        else:
            await sleep(RETRY_S)
        while error.retryable and monotonic() - self._lost_at <= RECOVERY_S:
            try:
                self._attach(await lease.reopen(first_frame), first_frame)
                return
            except (EngineError, CapacityError) as again:
                error = again
                await sleep(RETRY_S)
        raise EngineError("worker_lost", "the engine was lost and did not come back") from error
