"""The worker's loop: one model on one device, and the calls that share it.

One unit of work at a time: a batch of passes, a chunk's decoding, or a slice of a portrait's encoding. Speaks
``engine.wire.messages``. An error of one stream ends that stream; a device that cannot be used any more, a broken
protocol or a gateway that has gone end the loop, and with it the process (``engine.worker.process``). Holds no decision
about time (``engine.worker.scheduler``, ``engine.worker.batching``) and no method (``engine.rollout``).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import inf

import msgspec
import torch

from engine.rollout.strategies import default_spec
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
from engine.worker.batching import Candidate, Costs, Kind, Outlook, Promise, booked, choose
from engine.worker.runner import ModelRunner
from engine.worker.scheduler import DeadlineScheduler, Pulse
from engine.worker.stream import Stream
from ground.clock import Clock, monotonic
from ground.errors import AvatarError, CapacityError, EngineError

log = logging.getLogger("engine.worker.loop")

IDLE_SECONDS = 0.5  # seconds that the loop sleeps at most, so that it sees a SIGTERM
SLICE_SECONDS = 0.01  # seconds of one slice of an encoding, between checks of the inbox and the deadlines
GROWTH_ON_CPU, GROWTH_ON_GPU = 1.0, 0.5  # cost of a batch's further members, until it is measured


class DeviceLost(Exception):
    """The device is unusable or out of memory: only a new process helps."""


class Worker:
    """Serves streams until told to stop."""

    def __init__(self, channel: WorkerChannel, runner: ModelRunner, info: ModelInfo, clock: Clock = monotonic) -> None:
        self._channel, self._runner, self._clock = channel, runner, clock
        self._streams: dict[str, Stream] = {}
        self._free = list(range(info.slots))
        self._scheduler: DeadlineScheduler[str] = DeadlineScheduler(
            period=info.chunk_frames / info.fps, cost=info.warmup_chunk_ms / 1000
        )
        units = len(default_spec(runner.config).steps) + 1
        growth = GROWTH_ON_CPU if runner.device.type == "cpu" else GROWTH_ON_GPU
        self._costs = Costs(info.warmup_chunk_ms / 1000 / units, growth)
        self._pulse = Pulse()
        self._running = True

    def run(self) -> None:
        """Raises EngineError when the gateway has gone or breaks the protocol, DeviceLost when the device is
        unusable."""
        batch: list[Stream] = []
        while self._running:
            self._channel.wait(0.0 if batch else self._idle_time())
            self._drain_inbox()
            batch = self._schedule()
            if batch:
                self._work_on(batch)
            else:
                self._run_held()

    def stop(self) -> None:
        """May be called from a signal handler."""
        self._running = False

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._channel.close()

    def _idle_time(self) -> float:
        overdue = min((stream.deadline for stream in self._streams.values() if stream.opening), default=inf)
        return min(IDLE_SECONDS, max(0.0, min(self._scheduler.wake_at(), overdue) - self._clock()))

    def _drain_inbox(self) -> None:
        for message, descriptor in self._channel.receive():
            self._pulse.beat(self._clock())
            self._handle(message, descriptor)

    def _schedule(self) -> list[Stream]:
        """The streams whose next unit of work is run now, as one batch."""
        now = self._clock()
        for stream in self._streams.values():
            self._offer(stream, now)
        due = [self._streams[name] for name in self._scheduler.order(now)]
        for stream in due:
            if not (stream.opening or stream.busy):
                with self._guard(stream):
                    stream.begin(now)
        outlook = self._outlook()
        ready = [
            Candidate(stream.name, stream.step, stream.presses(outlook.now))
            for stream in due
            if stream.opening or stream.busy
        ]
        return [self._streams[name] for name in choose(ready, outlook, self._costs)]

    def _offer(self, stream: Stream, now: float) -> None:
        if stream.busy:
            return
        if stream.opening or (stream.has_room and stream.drive_complete(now)):
            self._scheduler.offer(stream.name, now, stream.deadline, complete=True)
        elif stream.has_room and stream.has_deadline:
            self._scheduler.offer(stream.name, now, stream.deadline + self._pulse.grace(now), complete=False)
        else:
            self._scheduler.withdraw(stream.name)

    def _outlook(self) -> Outlook[str]:
        now = self._clock()
        promises = {
            stream.name: Promise(stream.deadline, self._seconds(stream.left), self._seconds(stream.usual))
            for stream in self._streams.values()
            if stream.promised(now)
        }
        return Outlook(now, self._scheduler.period, promises)

    def _seconds(self, kinds: tuple[Kind, ...]) -> float:
        return sum(self._costs.cost(kind, 1) for kind in kinds)

    def _run_held(self) -> None:
        """Use idle time for one held commit of a live stream; then the inbox is checked again."""
        slack = self._outlook().slack()
        for stream in self._streams.values():
            if (kind := stream.held) is not None and self._costs.cost(kind, 1) <= slack:
                began = self._clock()
                with self._guard(stream):
                    self._runner.run([stream.take_held()])
                    self._runner.synchronise()
                    self._costs.measured(kind, 1, self._clock() - began)
                return

    def _work_on(self, batch: list[Stream]) -> None:
        kind, began = batch[0].step, self._clock()
        with self._guard(*batch):
            match kind.work:
                case "encode":
                    self._encode(batch[0])
                case "pass":
                    self._run_passes(batch, kind)
                case "decode":
                    self._send_chunk(batch[0])
            self._costs.measured(kind, len(batch), self._clock() - began)

    def _encode(self, stream: Stream) -> None:
        stream.encode(SLICE_SECONDS, self._clock)
        if not stream.opening:
            log.info("stream=%s event=opened epoch=%d slot=%d", stream.name, stream.epoch, stream.slot)
            self._channel.send(StreamOpened(stream.name, stream.epoch, stream.slot))

    def _run_passes(self, batch: list[Stream], kind: Kind) -> None:
        """Run the passes and wait for the device, because the next choice depends on the time, and queued passes would
        seem to take none."""
        began = self._clock()
        answers = self._runner.run([stream.pending for stream in batch])
        for stream, answer in zip(batch, answers, strict=True):
            with self._guard(stream):
                stream.answer(answer)
        self._runner.synchronise()
        live = sum(stream.deadline < inf for stream in batch)
        of_live, of_file = booked(self._clock() - began, kind, live, len(batch) - live, self._costs)
        for stream in batch:
            stream.work += of_live if stream.deadline < inf else of_file

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
                stream.push_pose(controls, frame)
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
                self._streams[message.stream] = self._admit(message, ring)
            except BaseException:
                ring.close()
                raise

    def _admit(self, message: OpenStream, ring: FrameRing) -> Stream:
        """Give an opening stream its slot, and count it as load."""
        if not self._free:
            raise CapacityError("no_slot", "every slot of this worker is taken: try again later", status=429)
        if message.live and not self._scheduler.admit():
            raise CapacityError("machine_busy", "the machine is too slow for one more call: try again later")
        stream = Stream(message, self._free[-1], ring, self._runner, self._clock())
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
        """Context in which an error ends these streams and no others."""
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
    """Context in which an error is passed to ``tell`` and raised no further, unless it concerns every stream."""
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
    """The EngineError that a stream gets for an unexpected exception. Raises DeviceLost where no stream can go on."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        raise DeviceLost from error
    return EngineError("internal_error", "the engine failed on this call", retryable=True)
