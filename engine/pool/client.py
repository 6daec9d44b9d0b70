"""Client of one supervised worker process: start, handshake, streams, ping, stack dump, kill.

The process is started by name, never by fork, and everything it needs travels on its command line and its socket. When
it dies, hangs or breaks the protocol, each of its streams ends with an EngineError at once; the pool restarts it. Never
imports torch.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec

from engine.pool.stream import EngineStream, StreamSpec
from engine.wire.channel import GatewayChannel
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    PROTOCOL_VERSION,
    ChunkReady,
    CloseStream,
    Failure,
    ModelInfo,
    OpenStream,
    Ping,
    Pong,
    Ready,
    Shutdown,
    StreamClosed,
    StreamOpened,
    ToGateway,
    ToWorker,
    error_from,
)
from ground.config import EngineConfig
from ground.errors import AvatarError, EngineError

log = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-m", "engine.worker.process")
RING_CHUNKS = 3  # unread chunks of a stream, beyond which the worker waits


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Seconds. A worker that leaves ``missed_pings`` pings in a row unanswered counts as hung and is killed."""

    start: float = 180.0
    open: float = 15.0
    close: float = 2.0
    stop: float = 3.0
    leave: float = 1.0
    reap: float = 5.0
    dump: float = 0.2
    ping_every: float = 0.5
    missed_pings: int = 5


class WorkerClient:
    """Start it once, use it, close it once. ``died`` is set when the process is gone and reaped, or could not be
    started."""

    def __init__(self, command: Sequence[str] = WORKER_COMMAND, limits: WorkerLimits | None = None) -> None:
        self._command = tuple(command)
        self._limits = limits or WorkerLimits()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: GatewayChannel | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._info: ModelInfo | None = None
        self._streams: dict[str, EngineStream] = {}
        self._missed_pings = 0
        self._closing = False
        self.died = asyncio.Event()
        self.reason = ""  # error code that ended it

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None, "the worker has not been started"
        return self._info

    @property
    def alive(self) -> bool:
        return self._supervisor is not None and not self._supervisor.done() and self._channel is not None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, config: EngineConfig) -> None:
        """Start the process and wait until its model is warm. Raises AvatarError; then nothing is left behind."""
        assert self._process is None, "a client starts one process"
        try:
            self._process, ours = self._spawn(config)
        except OSError as error:  # no descriptor, process or memory left, perhaps for a moment only
            self.died.set()
            raise EngineError(
                "worker_start_failed", "the worker process could not be started", retryable=True
            ) from error
        self._channel = GatewayChannel(ours)
        try:
            async with asyncio.timeout(self._limits.start):
                self._info = await self._handshake()
        except BaseException as error:
            self.reason = error.code if isinstance(error, AvatarError) else ""
            await self._destroy()
            if isinstance(error, TimeoutError):
                raise _late("worker_start_timeout", "the worker did not get ready in time") from None
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name=f"worker-{self.pid}")

    async def open(self, spec: StreamSpec) -> EngineStream:
        """Give a call a slot. Raises what the worker answers, or EngineError when it is gone or silent."""
        info = self.info
        assert spec.stream not in self._streams, f"stream {spec.stream} is open"
        ring = FrameRing.create(RING_CHUNKS * info.chunk_frames, info.width, info.height)
        stream = EngineStream(spec, info.fps, ring, self.send, self._forget, self._limits.close)
        self._streams[spec.stream] = stream
        portrait = spec.portrait
        height, width, _ = portrait.rgb.shape
        message = OpenStream(
            stream=spec.stream, epoch=spec.epoch, portrait=portrait.rgb.tobytes(), width=width, height=height,
            landmarks=portrait.landmarks, confidence=portrait.confidence, seed=spec.seed, rollout=spec.rollout,
            first_frame=spec.first_frame, live=spec.live,
        )  # fmt: skip
        try:
            self.send(message, ring.descriptor)
            async with asyncio.timeout(self._limits.open):
                await stream.opened()
        except BaseException as error:
            self.send_quietly(CloseStream(spec.stream))
            stream.abandon()
            if isinstance(error, TimeoutError):
                raise _late("worker_timeout", "the worker did not open the stream in time") from None
            raise
        return stream

    async def close(self) -> None:
        """End the process: ask, then kill. Streams end with ``worker_lost``. Twice is fine."""
        if self._supervisor is None:
            return
        self._closing = True
        self.send_quietly(Shutdown())
        try:
            await asyncio.wait({self._supervisor}, timeout=self._limits.stop)
        finally:
            self._kill()
        await asyncio.wait({self._supervisor}, timeout=2 * self._limits.reap)

    def send(self, message: ToWorker, descriptor: int | None = None) -> None:
        """Raises EngineError when the worker is gone or does not read."""
        if self._channel is None:
            raise EngineError("worker_lost", "the worker has gone", retryable=True)
        try:
            self._channel.send(message, descriptor)
        except EngineError as error:
            if error.code == "worker_stalled":
                self._kill()
            raise

    def send_quietly(self, message: ToWorker) -> None:
        """Send a last message; a lost worker is no error here."""
        with contextlib.suppress(EngineError):
            self.send(message)

    def dump_stacks(self) -> None:
        """Ask the process to print every thread's stack to its standard error."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def _spawn(self, config: EngineConfig) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process and our end of its socket. Raises OSError; then neither is left."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            number = str(theirs.fileno())
            settings = msgspec.json.encode(asdict(config)).decode()
            try:
                # Its own process group: an interrupt typed at the terminal is the gateway's to handle.
                process = subprocess.Popen(
                    [*self._command, "--fd", number, "--config", settings],
                    stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), process_group=0,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        return process, ours

    async def _handshake(self) -> ModelInfo:
        assert self._channel is not None
        message = await self._channel.receive()
        if isinstance(message, Failure):
            raise error_from(message)
        if not isinstance(message, Ready) or message.protocol != PROTOCOL_VERSION:
            raise EngineError("protocol_error", "the worker speaks another version of the protocol")
        return message.model

    async def _supervise(self) -> None:
        reason = EngineError("worker_lost", "the worker has gone", retryable=True)
        leave = 0.0
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._ping())
        except* AvatarError as errors:
            first = errors.exceptions[0]
            assert isinstance(first, AvatarError)
            self.reason = first.code
            leave = self._limits.leave if first.code == reason.code else 0.0  # a closed socket: it is about to end
            if not self._closing:
                log.warning("worker lost pid=%s code=%s", self.pid, first.code)
        except* Exception:
            log.exception("worker client failed pid=%s", self.pid)
        finally:
            for stream in list(self._streams.values()):
                stream.fail(reason)
            self._streams.clear()
            await self._destroy(leave)

    async def _read(self) -> None:
        assert self._channel is not None
        while True:
            self._dispatch(await self._channel.receive())

    def _dispatch(self, message: ToGateway) -> None:
        match message:
            case Pong():
                self._missed_pings = 0
            case Ready():
                raise EngineError("protocol_error", "the worker said twice that it is ready")
            case Failure(stream=""):
                raise error_from(message)
            case StreamOpened() | ChunkReady() | StreamClosed() | Failure():
                stream = self._streams.get(message.stream)
                if stream is not None and stream.epoch == message.epoch:  # else it is late, for a stream that is gone
                    stream.deliver(message)

    async def _ping(self) -> None:
        """Ping the worker. Raises EngineError ``worker_hung`` if it does not answer. Counts pings and not seconds, so
        that a pause of the gateway is not blamed on the worker."""
        nonce = 0
        while True:
            await asyncio.sleep(self._limits.ping_every)
            if self._missed_pings >= self._limits.missed_pings:
                self.dump_stacks()
                await asyncio.sleep(self._limits.dump)
                raise EngineError("worker_hung", "the worker does not answer", retryable=True)
            self._missed_pings += 1
            nonce += 1
            self.send(Ping(nonce))

    def _forget(self, stream: EngineStream) -> None:
        if self._streams.get(stream.name) is stream:
            del self._streams[stream.name]

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def _destroy(self, leave: float = 0.0) -> None:
        """Close the socket, give the process ``leave`` seconds to end by itself, kill, reap."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        assert self._process is not None
        try:
            if not await self._ended(leave):
                self._kill()
                if not await self._ended(self._limits.reap):
                    log.error("worker pid=%s cannot be killed", self.pid)
        except asyncio.CancelledError:
            self._kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # a moment, after a kill; shielded, so that a cancellation leaves no zombie
            raise
        finally:
            self.died.set()

    async def _ended(self, patience: float) -> bool:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._process.poll() is None:
                    await asyncio.sleep(0.005)
        return self._process.poll() is not None


def _late(code: str, message: str) -> EngineError:
    return EngineError(code, message, retryable=True)
