"""Media of a call: voice and poses in, pictures and sound out, on one clock.

Every 20 ms one block of voice goes to the engine and one block of sound leaves, with the picture of the same media time
when one is due. The engine may be lost and replaced during a call. Knows no transport, session or message.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.media.pose import Pose
from engine.pool.local import WorkerPool
from engine.pool.stream import StreamSpec
from engine.wire.messages import ModelInfo
from ground.clock import monotonic
from ground.fitting import fit_picture
from ground.units import BLOCK, PLAYOUT_RATE, playout_samples
from server.call.engine_link import EngineLink
from server.call.playout import Playout, Release
from server.call.voice import Turn, VoiceLine
from server.metrics import Metrics

LIMIT_MS = 1000  # delay above the target at which playout skips speech too
HISTORY_S = 2.0  # voice kept beyond the longest delay: a new engine is given one second of voice before its first frame


class AvatarListener(Protocol):
    """Receiver of an ``AvatarStream``'s output. Called on the stream's clock, so every method must return at once."""

    def on_release(self, release: Release) -> None:
        """Sound to send now, with a picture if one is due."""
        ...

    def on_turn(self, turn: Turn) -> None:
        """``turn.state`` has changed, as the viewer hears it, to speaking, finished or interrupted."""
        ...

    def on_engine(self, state: str) -> None:
        """The engine's new state: ``live`` once it is leased, ``recovering`` when it is lost, then ``live`` again."""
        ...


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """Counters of a stream and its present state.

    shown: generated frames shown. underruns: times the next frame was late. skipped: frames skipped to reduce delay.
    stalls: times the clock was moved because this process had been stopped. delay: from the head of the voice to the
    sound, in 48 kHz samples. position: media time of the next sound, likewise. chunk_ms: time the last chunk took.
    """

    shown: int
    underruns: int
    skipped: int
    stalls: int
    delay: int
    position: int
    chunk_ms: float


class AvatarStream:
    """Call ``run`` once and ``release`` at the end; the other methods may be called in between."""

    def __init__(
        self,
        pool: WorkerPool,
        spec: StreamSpec,
        metrics: Metrics,
        listener: AvatarListener,
        *,
        delay_ms: int = 0,
        stamped: bool = False,
    ) -> None:
        """delay_ms: see ``playout_delay``. stamped: write frame numbers into the pictures (server/call/stamp.py)."""
        info = pool.info
        delay = playout_delay(info, delay_ms)
        self._playout = Playout(still_picture(spec, info), info.fps, delay, delay + round(playout_samples(LIMIT_MS)))
        self._line = VoiceLine(self._playout.limit / PLAYOUT_RATE + HISTORY_S)
        self._listener = listener
        self._engine = EngineLink(
            pool, spec, self._line, self._playout, metrics, listener.on_engine, stamped=stamped
        )  # fmt: skip
        self._told: dict[str, str] = {}  # turn -> the state last told

    # In

    def hear(self, pcm: NDArray[np.int16]) -> None:
        """Microphone input: int16 [N], 48 kHz mono, in real time. Queued turns take precedence over it."""
        self._line.microphone.push(pcm)

    def require_room(self) -> None:
        """Raises CapacityError when the queue of turns is full."""
        self._line.require_room()

    def say(self, turn: Turn) -> None:
        """Queue a turn, whole or open. Raises CapacityError when the queue is full. An open turn is spoken while it
        still arrives: ``extend`` adds to it, ``Turn.close`` ends it.
        """
        self._line.say(turn)

    def extend(self, turn: Turn, pcm: NDArray[np.int16]) -> None:
        """Append int16 [N], 48 kHz mono, to an open turn. Raises CapacityError when too much speech is queued."""
        self._line.extend(turn, pcm)

    def interrupt(self) -> list[str]:
        """Silence the spoken turn, the queued turns and the sound on its way to the viewer, within 20 ms. Returns the
        ids of the stopped turns."""
        ids = self._line.interrupt()
        self._engine.take_back(self._playout.fade_out())
        self._tell_turns()
        return ids

    def push_pose(self, pose: Pose) -> None:
        """Apply controls at the voice that arrives now, spaced in time as the viewer sent them. Dropped while there is
        no engine."""
        self._engine.push_pose(pose)

    # Out

    @property
    def turns(self) -> list[Turn]:
        """Turns that are queued or heard, and the last few that are over; oldest first."""
        return self._line.turns

    @property
    def position(self) -> int:
        """Media time of the next sound to leave, in samples (48 kHz)."""
        return self._playout.position

    def figures(self) -> StreamFigures:
        playout = self._playout
        return StreamFigures(
            playout.shown, playout.underruns, playout.skipped, playout.stalls, playout.lag, playout.position,
            self._engine.chunk_ms,
        )  # fmt: skip

    async def run(self) -> None:
        """Lease an engine and play until cancelled. Raises an ExceptionGroup of AvatarError when no engine can be had,
        or it is lost for good."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._engine.run())
            group.create_task(self._play())

    async def release(self) -> None:
        """Release the engine, the pictures and the sound. Counters and turns stay."""
        self._line.clear()
        self._playout.clear()
        await self._engine.release()

    async def _play(self) -> None:
        while True:
            for release in self._playout.due(monotonic()):
                self._engine.step()
                self._listener.on_release(release)
                self._line.heard(self._playout.position)
                self._tell_turns()
            await asyncio.sleep(max(0.001, self._playout.next_due() - monotonic()))

    def _tell_turns(self) -> None:
        turns = self._line.turns
        for turn in turns:
            if self._told.get(turn.id, "queued") != turn.state:
                self._listener.on_turn(turn)
        self._told = {turn.id: turn.state for turn in turns}


def playout_delay(info: ModelInfo, delay_ms: int) -> int:
    """Delay from voice to picture, in 48 kHz samples and whole blocks.

    delay_ms: the delay asked for; 0 chooses the drive that a chunk needs, 1.5 times its cost, and 80 ms. The drive of a
    chunk of c frames is the voice of c + k frames and the features' look-ahead. It is the minimum: with less delay the
    first chunk could never be made.
    """
    drive_ms = (info.chunk_frames + info.drive_ahead_frames) * 1000 / info.fps + info.lookahead_ms
    wanted_ms = delay_ms or drive_ms + 1.5 * info.warmup_chunk_ms + 80
    return math.ceil(playout_samples(max(drive_ms, wanted_ms)) / BLOCK) * BLOCK


def still_picture(spec: StreamSpec, info: ModelInfo) -> NDArray[np.uint8]:
    """The portrait as I420 uint8 [H*3/2, W], shown until the engine's first frame."""
    rgb = spec.portrait.rgb
    if rgb.shape[:2] != (info.height, info.width):
        rgb = fit_picture(rgb, info.width, info.height)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
