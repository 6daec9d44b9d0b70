"""The gateway's end of one call's stream in a worker: voice and poses in, chunks of pictures out.

What is pushed is handed to the socket at once (what is far ahead, in time) and never waited for. Pictures stay in the
frame ring until ``next_chunk`` copies them, and only then may the worker write their slots again: a reader that stops
also stops the worker, and nothing accumulates. Never imports torch.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.portrait.portrait import Portrait
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    ChunkReady,
    CloseStream,
    Deadline,
    Failure,
    FramesRead,
    OfStream,
    PushPose,
    PushVoice,
    RolloutRequest,
    StreamClosed,
    StreamOpened,
    ToWorker,
    error_from,
)
from ground.errors import AvatarError, EngineError
from ground.units import DRIVE_RATE

AHEAD_SECONDS = 20  # seconds ahead of the reader that are sent; the rest waits here
_PUSH_SAMPLES = DRIVE_RATE  # one message carries at most a second


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a worker must know to animate one portrait for one call.

    first_frame: media time at
    which the stream begins. epoch: which engine of this call, 0 first; returned with every chunk. live: False for a
    file, which is made in the time that calls leave, and is never refused for lack of time.
    """

    stream: str
    portrait: Portrait
    seed: int = 0
    rollout: RolloutRequest = field(default_factory=RolloutRequest)
    first_frame: int = 0
    epoch: int = 0
    live: bool = True


@dataclass(frozen=True, slots=True)
class MediaChunk:
    """Pictures made together. ``frames`` is I420, uint8 [n, H*3/2, W], the reader's own copy.

    first_frame: media time of the first picture. missing: 16 kHz sample ranges [start, end) of the voice that had not
    come by the deadline; the pictures were made for silence there, so the sound must be silent too.
    """

    epoch: int
    index: int
    first_frame: int
    frames: NDArray[np.uint8]
    chunk_ms: float
    decode_ms: float
    missing: tuple[tuple[int, int], ...]


class SendToWorker(Protocol):
    def __call__(self, message: ToWorker, descriptor: int | None = None) -> None: ...


class EngineStream:
    """Made by ``WorkerClient.open``. Pushes to a stream that has ended are dropped; ``next_chunk`` says why it
    ended.
    """

    def __init__(
        self,
        spec: StreamSpec,
        fps: int,
        ring: FrameRing,
        send: SendToWorker,
        forget: Callable[["EngineStream"], None],
        patience: float,
    ) -> None:
        """patience: seconds that ``close`` waits for the worker."""
        self.name, self.epoch = spec.stream, spec.epoch
        self._ring, self._send, self._forget, self._patience = ring, send, forget, patience
        self._fps = fps
        self._horizon = float(spec.first_frame + AHEAD_SECONDS * fps)
        self._voice: deque[tuple[int, NDArray[np.int16]]] = deque()  # views of what the caller pushed
        self._poses: deque[tuple[float, Mapping[str, float]]] = deque()
        self._ready: deque[ChunkReady] = deque()
        self._opened, self._closed, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._error: AvatarError | None = None

    def push_voice(self, pcm: NDArray[np.int16], at: int) -> None:
        """16 kHz mono samples that begin at ``at`` of media time; a whole file may be pushed at once."""
        assert pcm.dtype == np.int16 and pcm.ndim == 1
        for start in range(0, len(pcm), _PUSH_SAMPLES):
            self._voice.append((at + start, pcm[start : start + _PUSH_SAMPLES]))
        self._pump()

    def push_pose(self, controls: Mapping[str, float], at: float) -> None:
        """Absolute control values by channel name (``ground/motion.py``) that hold at ``at``."""
        self._poses.append((at, controls))
        self._pump()

    def set_deadline(self, frame: int, deadline: float) -> None:
        """Playout would run dry at ``deadline`` (seconds of ``ground.clock.monotonic``) if ``frame`` were not there.

        Holds for later frames too, one frame's time each, until it is set anew. 0 = never, wait for the voice (a file).
        """
        self._push(Deadline(self.name, frame, deadline))

    async def next_chunk(self) -> MediaChunk:
        """Wait for the next pictures. Chunks made before the stream ended still come; then its error is raised.

        A worker that dies or hangs ends the wait (``worker_lost``); voice that does not come does not.
        """
        while not self._ready:
            self._check()
            self._news.clear()
            await self._news.wait()
        return self._take(self._ready.popleft())

    async def close(self) -> None:
        """Release the worker's slot. Bounded; twice is fine; cancelled, it still frees what is held on this side."""
        try:
            if self._error is None:
                self._push(CloseStream(self.name))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience):
                        await self._closed.wait()
        finally:
            self.abandon()

    async def opened(self) -> None:
        """For the client: wait until the worker has opened the stream. Raises its answer, or the error that ended the
        stream."""
        await self._opened.wait()
        self._check()

    def deliver(self, message: OfStream) -> None:
        """For the client: handle one message of the worker about this stream."""
        match message:
            case StreamOpened():
                self._opened.set()
            case ChunkReady():  # it lies in the ring
                self._ready.append(message)
                self._news.set()
            case StreamClosed():
                self._closed.set()
            case Failure():
                self.fail(error_from(message))

    def fail(self, error: AvatarError) -> None:
        """For the client: end the stream with an error. The first one counts."""
        self._error = self._error or error
        for waited_for in (self._opened, self._closed, self._news):
            waited_for.set()

    def abandon(self) -> None:
        """For the client: free what is held on this side, without a message to the worker."""
        self.fail(EngineError("stream_closed", "the stream is closed"))
        for kept in (self._ready, self._voice, self._poses):
            kept.clear()
        self._forget(self)
        self._ring.close()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # fresh: it may be raised many times

    def _take(self, chunk: ChunkReady) -> MediaChunk:
        ring = self._ring
        frames = np.empty((chunk.frames, ring.height * 3 // 2, ring.width), np.uint8)
        for i in range(chunk.frames):
            if not ring.read_into(chunk.first_frame + i, frames[i]):
                raise EngineError("frame_lost", "a picture was overwritten before it was read", retryable=True)
        end = chunk.first_frame + chunk.frames
        self._push(FramesRead(self.name, end))
        self._horizon = float(end + AHEAD_SECONDS * self._fps)
        self._pump()
        return MediaChunk(
            chunk.epoch, chunk.index, chunk.first_frame, frames, chunk.chunk_ms, chunk.decode_ms,
            tuple((start, end) for start, end in chunk.missing),
        )  # fmt: skip

    def _pump(self) -> None:
        """Send what is near enough to the reader's position."""
        while self._poses and self._poses[0][0] < self._horizon:
            at, controls = self._poses.popleft()
            self._push(PushPose(self.name, at, dict(controls)))
        while self._voice and self._voice[0][0] * self._fps < self._horizon * DRIVE_RATE:
            at, pcm = self._voice.popleft()
            self._push(PushVoice(self.name, at, pcm.astype("<i2", copy=False).tobytes()))

    def _push(self, message: ToWorker) -> None:
        if self._error is None:
            with contextlib.suppress(EngineError):  # the client learns of a lost worker by itself and calls ``fail``
                self._send(message)
