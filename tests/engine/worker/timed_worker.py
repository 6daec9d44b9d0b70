"""The real worker loop, streams and rollouts on a fake clock: a device whose costs are stated, and a gateway that keeps
its time.
"""

import heapq
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch

from engine.rollout.strategies import own_rollout
from engine.wire.channel import WorkerChannel
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    ChunkReady,
    CloseStream,
    Deadline,
    Failure,
    FramesRead,
    ModelInfo,
    OpenStream,
    PushVoice,
    RolloutRequest,
    StreamOpened,
    ToWorker,
)
from engine.worker.loop import Worker
from engine.worker.runner import ModelRunner, SlottedPass
from models.codecs.base import Portrait, Reference
from models.config import EMBEDDED

MODEL = replace(EMBEDDED, dit=replace(EMBEDDED.dit, visemes=0, drive_dim=672))  # no lips to estimate: it takes time
SIZE = MODEL.pixel_size[0]
FPS, CHUNK = MODEL.fps, 12
PERIOD = CHUNK / FPS
PACKET = 640  # samples, a frame's
STEPS = 4


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Device:
    """In place of a ``ModelRunner``: everything is zeros and takes its stated time. one: seconds of a pass alone.
    more: of each further member of its batch. operations: how often an encoding can be interrupted."""

    clock: Clock
    one: float
    more: float
    decoding: float
    encoding: float = 0.01
    operations: int = 100
    batches: list[list[int]] = field(default_factory=list)  # slots
    broken: bool = False

    config = MODEL
    device = torch.device("cpu")
    frames = own_rollout(MODEL).cached_frames

    @property
    def codec(self) -> "Device":
        return self

    @property
    def chunk_seconds(self) -> float:
        return STEPS * self.one + self.decoding

    def initial_state(self) -> bool:
        return True  # fresh

    def encode_reference(self, portrait: Portrait) -> Reference:
        for _ in range(self.operations):
            self.clock.now += self.encoding / self.operations
            torch.zeros(1)
        if self.broken:
            raise ValueError("broken")
        features = torch.zeros(self.config.dit.reference_channels, *self.config.latent_size)
        return Reference(torch.zeros(self.config.latent_shape), features, None)

    def run(self, passes: Sequence[SlottedPass]) -> list[torch.Tensor | None]:
        assert len({item.work.shape_key for item in passes}) == 1
        self.clock.now += self.one + self.more * (len(passes) - 1)
        self.batches.append([item.slot for item in passes])
        return [
            None if item.work.is_commit else torch.zeros_like(item.work.latents[item.work.clean :]) for item in passes
        ]

    def synchronise(self) -> None:
        pass

    def decode(self, latents: torch.Tensor, reference: Reference, fresh: bool) -> tuple[np.ndarray, bool]:
        self.clock.now += self.decoding
        return np.zeros((4 * len(latents) - 3 * fresh, SIZE * 3 // 2, SIZE), np.uint8), False


class Timeline:
    """A worker, its device, and a gateway that opens streams and speaks at given times. ``run`` until a time."""

    def __init__(self, device: Device, slots: int = 8) -> None:
        self.clock, self.device = device.clock, device
        info = ModelInfo(
            name="embedded", width=SIZE, height=SIZE, fps=FPS, chunk_frames=CHUNK, first_chunk_frames=9,
            drive_ahead_frames=4, lookahead_ms=55.0, slots=slots, device="cpu", dtype="none", torch="none", cpu="none",
            warmup_chunk_ms=1000 * device.chunk_seconds, memory_mb=1.0, rollouts=["knot_forcing"],
        )  # fmt: skip
        self.worker = Worker(cast(WorkerChannel, self), cast(ModelRunner, device), info, self.clock)
        self.began = self.clock.now
        self.late: dict[str, list[float]] = {}  # seconds after its deadline (negative: before) of each live chunk
        self.made: dict[str, int] = {}
        self.opened: dict[str, float] = {}  # seconds since it was asked for
        self.failed: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._rings: dict[str, FrameRing] = {}
        self._promised: dict[str, float] = {}  # the first frame's deadline
        self._live: dict[str, float | None] = {}
        self._events: list[tuple[float, int, ToWorker]] = []
        self._count = itertools.count()
        self._end = 0.0

    def live(self, name: str, at: float = 0.0, delay: float | None = None) -> None:
        """A caller who speaks without end from when the stream is opened. delay: seconds from a frame's voice to its
        picture beyond what a chunk waits for; by default as the gateway chooses it."""
        self._live[name] = 1.5 * self.device.chunk_seconds + 0.08 if delay is None else delay
        self._ask(name, at, live=True)

    def file(self, name: str, at: float = 0.0) -> None:
        self._live[name] = None
        self._ask(name, at, live=False)

    def hang_up(self, name: str, at: float) -> None:
        self._later(self.began + at, CloseStream(name))

    def run(self, seconds: float) -> None:
        self._end = self.began + seconds
        self.worker.run()
        self.worker.close()

    def _ask(self, name: str, at: float, live: bool) -> None:
        self.late[name], self.made[name] = [], 0
        self._later(self.began + at, OpenStream(
            stream=name, epoch=0, portrait=bytes(8 * 8 * 3), width=8, height=8, landmarks={}, confidence=1.0, seed=0,
            rollout=RolloutRequest(), first_frame=0, live=live,
        ))  # fmt: skip

    def _later(self, at: float, message: ToWorker) -> None:
        heapq.heappush(self._events, (at, next(self._count), message))

    # The worker's channel.

    def wait(self, timeout: float) -> None:
        if timeout > 0:
            following = self._events[0][0] if self._events else self._end
            self.clock.now = max(self.clock.now, min(self.clock.now + timeout, following))
        if self.clock.now >= self._end:
            self.worker.stop()

    def receive(self) -> Iterator[tuple[ToWorker, int | None]]:
        while self._events and self._events[0][0] <= self.clock.now:
            at, _, message = heapq.heappop(self._events)
            if isinstance(message, OpenStream):
                self._asked[message.stream] = at
                ring = self._rings[message.stream] = FrameRing.create(3 * CHUNK, SIZE, SIZE)
                yield message, os.dup(ring.descriptor)
                continue
            if isinstance(message, PushVoice) and self._live[message.stream] is not None:
                self._speak(message.stream, message.sample + PACKET)
            yield message, None

    def _speak(self, name: str, sample: int) -> None:
        """The packet that begins there leaves when it has been spoken."""
        began = self.opened[name] + self._asked[name]
        self._later(began + (sample + PACKET) / 16000, PushVoice(name, sample, bytes(2 * PACKET)))

    def send(self, message: Any) -> None:
        now = self.clock.now
        match message:
            case StreamOpened(stream=name):
                self.opened[name] = now - self._asked[name]
                if (delay := self._live[name]) is None:
                    for second in range(12):
                        self._later(now, PushVoice(name, 16000 * second, bytes(32000)))
                else:
                    self._promised[name] = now + (CHUNK + 4 + 2) / FPS + delay  # looks 55 ms ahead, in packets
                    self._later(now, Deadline(name, 0, self._promised[name]))
                    self._speak(name, 0)
            case ChunkReady(stream=name, first_frame=first, frames=frames, missing=missing):
                self.made[name] += 1
                if name in self._promised:
                    self.late[name].append(now - self._promised[name] - first / FPS)
                    assert not missing, "its voice was there"
                self._later(now, FramesRead(name, first + frames))
            case Failure(stream=name, code=code):
                self.failed[name] = code

    def close(self) -> None:
        for ring in self._rings.values():
            ring.close()
