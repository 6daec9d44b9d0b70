"""The worker's loop: one model on one device, and the calls that share it.

Speaks ``engine.wire.messages``. An error of one stream ends that stream; a device that cannot be used any more, a
broken protocol or a gateway that has gone end the loop, and with it the process (``engine.worker.process``). Holds no
decision about time (``engine.worker.scheduler``) and no method (``engine.rollout``).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import perf_counter

import msgspec
import torch

from engine.wire.channel import WorkerChannel
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    CloseStream,
    Deadline,
    FramesRead,
    ModelInfo,
    OpenStream,
    Ping,
    Pong,
    PushPose,
    PushVoice,
    Shutdown,
    StreamClosed,
    StreamOpened,
    ToWorker,
    failure,
)
from engine.worker.runner import ModelRunner
from engine.worker.scheduler import DeadlineScheduler, Pulse
from engine.worker.stream import Stream
from ground.clock import Clock, monotonic
from ground.errors import AvatarError, CapacityError, EngineError

log = logging.getLogger("engine.worker.loop")

IDLE_SECONDS = 0.5  # how long the loop may sleep: a SIGTERM is seen by then


class DeviceLost(Exception):
    """The device answers every further call with an error, or has no memory left: only a new process helps."""


class Worker:
    """Serves streams until told to stop."""

    def __init__(self, channel: WorkerChannel, runner: ModelRunner, info: ModelInfo, clock: Clock = monotonic) -> None:
        self._channel, self._runner, self._clock = channel, runner, clock
        self._streams: dict[str, Stream] = {}
        self._free = list(range(info.slots))
        self._scheduler: DeadlineScheduler[str] = DeadlineScheduler(
            period=info.chunk_frames / info.fps, cost=info.warmup_chunk_ms / 1000
        )
        self._pulse = Pulse()
        self._running = True

    def run(self) -> None:
        """Raises EngineError when the gateway has gone or talks nonsense, DeviceLost when the device is done for."""
        batch: list[Stream] = []
        while self._running:
            self._channel.wait(0.0 if batch else self._idle_time())
            self._drain_inbox()
            batch = self._schedule()
            self._run_batch(batch)
            self._emit(batch)

    def stop(self) -> None:
        """May be called from a signal handler."""
        self._running = False

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._channel.close()

    def _idle_time(self) -> float:
        return min(IDLE_SECONDS, max(0.0, self._scheduler.wake_at() - self._clock()))

    def _drain_inbox(self) -> None:
        for message, descriptor in self._channel.receive():
            self._pulse.beat(self._clock())
            self._handle(message, descriptor)

    def _schedule(self) -> list[Stream]:
        """The most urgent stream, and whoever's pass can run with its pass as one batch."""
        now = self._clock()
        for stream in self._streams.values():
            self._offer(stream, now)
        due = [self._streams[name] for name in self._scheduler.order(now)]
        for stream in due:
            if not stream.busy:
                with self._guard(stream):
                    stream.begin(now)
        ready = [stream for stream in due if stream.busy]
        if not ready:
            self._run_held()
            return []
        shape = ready[0].pending.work.shape_key
        return [stream for stream in ready if stream.pending.work.shape_key == shape]

    def _offer(self, stream: Stream, now: float) -> None:
        if stream.busy:
            return
        if stream.has_room and stream.drive_complete(now):
            self._scheduler.offer(stream.name, now, stream.deadline, complete=True)
        elif stream.has_room and stream.has_deadline:
            self._scheduler.offer(stream.name, now, stream.deadline + self._pulse.grace(now), complete=False)
        else:
            self._scheduler.withdraw(stream.name)

    def _run_held(self) -> None:
        """Idle time is for the commits that live streams hold back; one at a time, then look at the inbox again."""
        for stream in list(self._streams.values()):
            held = stream.take_held()
            if held is not None:
                with self._guard(stream):
                    self._runner.run([held])
                return

    def _run_batch(self, batch: list[Stream]) -> None:
        began = perf_counter()
        answers: list[torch.Tensor | None] = [None] * len(batch)
        with self._guard(*batch):
            answers = self._runner.run([stream.pending for stream in batch])
        share = (perf_counter() - began) / max(1, len(batch))
        for stream, answer in zip(list(batch), answers, strict=True):
            if stream.name not in self._streams:
                continue
            stream.work += share
            with self._guard(stream):
                stream.answer(answer)

    def _emit(self, batch: list[Stream]) -> None:
        """Send the chunks that the batch has finished."""
        for stream in list(batch):
            if self._streams.get(stream.name) is stream and stream.finished:
                with self._guard(stream):
                    self._send_chunk(stream)

    def _send_chunk(self, stream: Stream) -> None:
        denoised = self._clock()
        emitted, now = stream.emit(), self._clock()
        self._scheduler.withdraw(stream.name)
        chunk_ms, decode_ms = 1000 * (now - emitted.began_at), 1000 * (now - denoised)
        self._channel.send(msgspec.structs.replace(emitted.chunk, chunk_ms=chunk_ms, decode_ms=decode_ms))
        self._scheduler.spent(stream.name, emitted.work + now - denoised)

    def _handle(self, message: ToWorker, descriptor: int | None) -> None:
        match message:
            case Ping(nonce=nonce):
                self._channel.send(Pong(nonce))
            case Shutdown():
                self.stop()
            case OpenStream():
                assert descriptor is not None
                self._open(message, descriptor)
            case _ if (stream := self._streams.get(message.stream)) is not None:
                with self._guard(stream):
                    self._tell(stream, message)
            case _:
                pass  # for a stream that has just ended

    def _tell(self, stream: Stream, message: PushVoice | PushPose | Deadline | FramesRead | CloseStream) -> None:
        match message:
            case PushVoice(sample=sample, pcm=pcm):
                stream.push_voice(pcm, sample)
            case PushPose(frame=frame, controls=controls):
                stream.drive.push_pose(controls, frame)
            case Deadline():
                stream.set_deadline(message)
            case FramesRead(frame=frame):
                stream.frames_read(frame)
            case CloseStream():
                self._drop(stream)
                self._channel.send(StreamClosed(stream.name, stream.epoch))

    def _open(self, message: OpenStream, descriptor: int) -> None:
        if (old := self._streams.get(message.stream)) is not None:
            self._drop(old)
        with _telling(partial(self._report, message.stream, message.epoch)):
            ring = FrameRing.attach(descriptor)
            try:
                self._streams[message.stream] = stream = self._admit(message, ring)
            except BaseException:
                ring.close()
                raise
            log.info("stream=%s event=opened epoch=%d slot=%d", stream.name, stream.epoch, stream.slot)
            self._channel.send(StreamOpened(stream.name, stream.epoch, stream.slot))

    def _admit(self, message: OpenStream, ring: FrameRing) -> Stream:
        if not self._free:
            raise CapacityError("no_slot", "every slot of this worker is taken: try again later", status=429)
        if message.live and not self._scheduler.admit():
            raise CapacityError("machine_busy", "the machine is too slow for one more call: try again later")
        stream = Stream(message, self._free[-1], ring, self._runner)
        self._free.pop()
        self._scheduler.join(stream.name, message.live)
        return stream

    def _drop(self, stream: Stream) -> None:
        del self._streams[stream.name]
        self._scheduler.leave(stream.name)
        self._free.append(stream.slot)
        stream.close()
        log.info("stream=%s event=closed epoch=%d %s", stream.name, stream.epoch, stream.summary)

    def _guard(self, *streams: Stream) -> AbstractContextManager[None]:
        """What goes wrong inside ends these streams, and no other."""
        return _telling(partial(self._fail, streams))

    def _fail(self, streams: tuple[Stream, ...], error: AvatarError) -> None:
        for stream in streams:
            if self._streams.get(stream.name) is stream:
                self._drop(stream)
                self._report(stream.name, stream.epoch, error)

    def _report(self, name: str, epoch: int, error: AvatarError) -> None:
        log.warning("stream=%s event=error code=%s", name, error.code)
        self._channel.send(failure(error, name, epoch))


@contextmanager
def _telling(tell: Callable[[AvatarError], None]) -> Iterator[None]:
    """What goes wrong inside is told, and goes no further unless it concerns every stream."""
    try:
        yield
    except AvatarError as error:
        if error.code in ("gateway_lost", "protocol_error"):
            raise
        tell(error)
    except Exception as error:
        log.exception("event=failed")
        tell(_internal(error))


def _internal(error: Exception) -> EngineError:
    """What a stream is told of an error that nobody foresaw. Raises DeviceLost where no stream can go on."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        raise DeviceLost from error
    return EngineError("internal_error", "the engine failed on this call", retryable=True)
