"""One call inside the worker: its slot, rollout, drive, reference, decoder and frame ring.

It says whether its next chunk can be made and which unit of work it needs now; the worker decides when and runs it.
Owns no model, no clock and no socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
import torch

from engine.drive.buffer import DriveBuffer, DriveChunk
from engine.drive.speech import SpeechChunk, SpeechDrive
from engine.portrait.portrait import Portrait
from engine.rollout.base import Pass, RolloutState
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import own_rollout
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import ChunkReady, Deadline, OpenStream
from engine.worker.batching import Kind
from engine.worker.runner import ModelRunner, SlottedPass
from engine.worker.slices import Sliced
from ground.clock import Clock, monotonic
from ground.errors import EngineError, RequestError
from models.codecs.base import Reference
from models.codecs.clip import ClipState
from models.encoders.speech import SpeechState

# A live caller's portrait is encoded in time that no live chunk needs; after so long, whatever that makes late. So a
# caller is let in after this time, the rest of the encoding, and those of the callers before it, at the latest.
OPENING_SECONDS = 5.0
DECODE = Kind("decode")


@dataclass(frozen=True, slots=True)
class Emitted:
    """A chunk whose pictures lie in the ring. chunk: without times. began_at: monotonic seconds. work: seconds that its
    passes took."""

    chunk: ChunkReady
    began_at: float
    work: float


class Stream:
    """From ``OpenStream`` to ``CloseStream``. Takes over the ring; ``close`` closes it.

    It is ``opening`` until its portrait is encoded; voice and poses are taken already, chunks begin afterwards.
    """

    def __init__(
        self, opened: OpenStream, slot: int, ring: FrameRing, runner: ModelRunner, opened_at: float = 0.0
    ) -> None:
        """opened_at: monotonic seconds. Raises RequestError or EngineError for an invalid request."""
        self.name, self.epoch, self.slot = opened.stream, opened.epoch, slot
        self._runner, self._ring, self._config = runner, ring, runner.config
        if (ring.width, ring.height) != self._config.pixel_size:
            raise EngineError("bad_frame_ring", "the frame ring is not of the model's picture size")
        self._rollout = own_rollout(self._config, opened.rollout.strategy, opened.rollout.running_ahead)
        if self._rollout.cached_frames > runner.frames:
            raise RequestError("invalid_rollout", "the rollout looks further back than this worker remembers")
        self._opened_at, self._seed = opened_at, opened.seed
        self._encoding = Sliced(partial(runner.encode_reference, portrait_of(opened)), runner.device)
        self._slices = 0
        self._reference: Reference
        self._state: RolloutState
        self._decoder_state = runner.codec.initial_state()
        kind = DriveBuffer if self._config.dit.audio is None else SpeechDrive
        self._drive: DriveBuffer | SpeechDrive = kind(self._config, opened.first_frame)
        self._heard: SpeechState | None = None
        self._first_frame = self._next_frame = self._read = opened.first_frame
        self._index = 0
        self._live = opened.live
        self._deadline: Deadline | None = None
        self._job: ChunkJob | None = None
        self._held: Pass | None = None
        self._missing: tuple[tuple[int, int], ...] = ()
        self._ready_at: float | None = None
        self._began_at = 0.0
        self._done: list[Kind] = []  # units of work of the present chunk
        self._usual: tuple[Kind, ...] = (*(Kind("pass") for _ in self._rollout.spec.steps), DECODE)
        self.work = 0.0  # seconds of the present chunk's passes, counted by the worker

    def push_voice(self, pcm: bytes, sample: int) -> None:
        """16 kHz mono s16 little-endian."""
        if len(pcm) % 2:
            raise RequestError("invalid_voice", "a packet of voice ends in the middle of a sample")
        self._drive.push_voice(np.frombuffer(pcm, "<i2").astype(np.int16, copy=False), sample)

    def push_pose(self, controls: Mapping[str, float], frame: float) -> None:
        """Absolute control values by channel name that hold from ``frame`` on."""
        self._drive.push_pose(controls, frame)

    def set_deadline(self, deadline: Deadline) -> None:
        self._deadline = deadline if deadline.deadline > 0 else None

    def frames_read(self, frame: int) -> None:
        """The reader has copied everything below ``frame``."""
        self._read = max(self._read, frame)

    @property
    def deadline(self) -> float:
        """When the next chunk must be there, in seconds of the monotonic clock; infinite for a file. What the gateway
        said of one frame holds for later ones, as playout goes on at content speed. Before it said anything, someone
        waits for the first picture: a period from when it could be begun. While it is opening: when that must go on
        whatever it makes late."""
        if self.opening:
            return self._opened_at + OPENING_SECONDS if self._live else inf
        if self._deadline is None:
            if self._ready_at is None or not self._live:
                return inf
            return self._ready_at + self._chunk_frames / self._config.fps
        return self._deadline.deadline + (self._next_frame - self._deadline.frame) / self._config.fps

    @property
    def has_deadline(self) -> bool:
        return self._deadline is not None

    @property
    def opening(self) -> bool:
        """The portrait is still to be encoded."""
        return not self._encoding.done

    def encode(self, seconds: float = inf, clock: Clock = monotonic) -> None:
        """Continue to encode the portrait for ``seconds``."""
        self._encoding.advance(seconds, clock)
        self._slices += 1
        if self._encoding.done:
            self._reference = self._encoding.result
            self._state = self._rollout.new_state(self._reference.latent, self._reference.features, self._seed)

    def promised(self, now: float) -> bool:
        """Its next chunk is waited for by its deadline. A reader that has left no room and whose deadline has passed
        does not wait."""
        return not self.opening and self.deadline < inf and (self.busy or self.has_room or self.deadline > now)

    def presses(self, now: float) -> bool:
        """Whether its next unit of work must be done whatever it delays: a live chunk's, or an opening's after it has
        waited too long."""
        return self.deadline <= now if self.opening else self.deadline < inf

    @property
    def step(self) -> Kind:
        """The unit of work that comes next, of a stream that is opening or busy."""
        if self.opening:
            return Kind("encode", self._slices)
        return DECODE if self.finished else Kind("pass", self.pending.work.shape_key)

    @property
    def left(self) -> tuple[Kind, ...]:
        """The next chunk's units of work that are still to be done, as many as the chunk before had."""
        if not self.busy:
            return self._usual
        if self.finished:
            return (DECODE,)
        return (self.step, *(self._usual[len(self._done) + 1 :] or (DECODE,)))

    @property
    def usual(self) -> tuple[Kind, ...]:
        """All units of work of a chunk, by the last one's."""
        return self._usual

    @property
    def busy(self) -> bool:
        """A chunk is in the making."""
        return self._job is not None

    @property
    def has_room(self) -> bool:
        """The next chunk's pictures fit into what the reader has left free of the ring."""
        return self._next_frame + self._chunk_frames - self._read <= self._ring.capacity

    def drive_complete(self, now: float) -> bool:
        """All drive of the next chunk has come; ``now`` is noted the first time."""
        complete = self._state.next_latent + self._rollout.drive_latents <= self._drive.ready_until()
        if complete and self._ready_at is None:
            self._ready_at = now
        return complete

    def begin(self, now: float) -> None:
        """Start the next chunk on whatever drive there is."""
        assert self._job is None
        chunk = self._drive.take(self._state.next_latent, self._rollout.drive_latents)
        self._missing, self._began_at, self.work, self._done = chunk.missing, now, 0.0, []
        self._job = ChunkJob(self._rollout.denoise(self._state, self._tokens(chunk)), self._held)
        self._held = None

    def _tokens(self, chunk: DriveChunk | SpeechChunk) -> torch.Tensor:
        """The chunk's drive as the transformer takes it, on the device."""
        if isinstance(chunk, DriveChunk):
            return torch.from_numpy(chunk.tokens).to(self._runner.device)
        tokens, self._heard = self._runner.listen(chunk.samples, self._heard, self._rollout.drive_latents)
        return tokens

    @property
    def pending(self) -> SlottedPass:
        """The pass that the chunk in the making waits for."""
        assert self._job is not None and self._job.next_pass is not None
        return SlottedPass(self.slot, self._job.next_pass)

    def answer(self, prediction: torch.Tensor | None) -> None:
        """The prediction for ``pending``."""
        assert self._job is not None
        self._done.append(self.step)
        self._job.answer(prediction)

    def run_pending(self) -> None:
        """Run the pass at once, with no other call's beside it."""
        self.answer(self._runner.run([self.pending])[0])

    @property
    def finished(self) -> bool:
        """The chunk's latents are there: ``emit`` it."""
        return self._job is not None and self._job.next_pass is None

    def emit(self) -> Emitted:
        """Decode the finished chunk and write its pictures into the ring; the next one may begin."""
        job = self._job
        assert job is not None and job.latents is not None
        self._job, self._held = None, job.held
        pictures, self._decoder_state = self._runner.decode(job.latents, self._reference, self._decoder_state)
        if isinstance(self._decoder_state, ClipState):  # the next chunk begins with what was shown last
            self._state.knot = self._decoder_state.shown
        chunk = ChunkReady(
            stream=self.name, epoch=self.epoch, index=self._index, first_frame=self._next_frame,
            frames=self._chunk_frames, chunk_ms=0.0, decode_ms=0.0, missing=list(self._missing),
        )  # fmt: skip
        assert len(pictures) == chunk.frames, "the codec made another number of frames than its latents' own"
        for offset, picture in enumerate(pictures):
            self._ring.write(chunk.first_frame + offset, picture)
        self._next_frame, self._index = chunk.first_frame + chunk.frames, chunk.index + 1
        self._ready_at, self._usual = None, (*self._done, DECODE)
        return Emitted(chunk, self._began_at, self.work)

    @property
    def held(self) -> Kind | None:
        """The last chunk's commit, if it may be run by itself in idle time instead of joined with the next chunk's
        first pass.

        Only of a live call, whose next chunk then starts sooner. For a file the join saves a pass, and whether it
        happens must not hang on timing, so that equal input gives equal pictures to the bit.
        """
        if self._held is None or self.busy or not self.has_deadline:
            return None
        return Kind("pass", self._held.shape_key)

    def take_held(self) -> SlottedPass:
        """Take the held commit, to run it now."""
        assert self._held is not None
        held, self._held = self._held, None
        return SlottedPass(self.slot, held)

    @property
    def summary(self) -> str:
        """Line for the log: frames made, and voice that was late."""
        counts = self._drive.counts
        return (
            f"chunks={self._index} missing={counts.missing_samples} late={counts.late_samples} "
            f"dropped_poses={counts.dropped_poses}"
        )

    def close(self) -> None:
        self._encoding.close()
        self._ring.close()

    @property
    def _chunk_frames(self) -> int:
        return self._rollout.emitted_frames(self._index, self._config.frames_per_latent)


def portrait_of(opened: OpenStream) -> Portrait:
    if len(opened.portrait) != opened.width * opened.height * 3:
        raise RequestError("invalid_portrait", "the portrait's pixels do not match its size")
    rgb = np.frombuffer(opened.portrait, np.uint8).reshape(opened.height, opened.width, 3).copy()  # writable, for torch
    return Portrait(rgb, opened.landmarks, opened.confidence)
