"""Playout buffer: one clock releases pictures and sound together, a constant delay behind the voice.

Pure: time is an argument, nothing is sent. Media time never goes backwards, also over a change of engine (epoch).
Playout waits for a late picture and holds the sound by the same amount. The delay added that way is removed during
silence, frame by frame, and at the limit also during speech.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.pool.stream import MediaChunk
from ground.units import BLOCK, BLOCK_S, PLAYOUT_PER_DRIVE, PLAYOUT_RATE, frame_at, frame_start
from server.call.voice import faded_in

MAX_BURST = 5  # most ticks released at once to catch up; a longer stall moves the clock instead
REPEAT_TICKS = 4  # a held picture is sent again every 80 ms
SKIP_TICKS = 10  # at most one frame is skipped in so many ticks
SLACK = 3 * BLOCK  # delay above the target that is left alone
QUIET = 330  # peak of int16: -40 dB of full scale
AGAIN_TICKS = 1000  # an underrun within so many ticks of the last one shows that the target is too short
CALM_TICKS = 1500  # after every so many ticks without an underrun, the target comes down one block

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Release:
    """Output of one tick of 20 ms.

    audio: int16 [BLOCK], 48 kHz. sample: media time of the audio, -1 if it is filler. picture: I420 uint8 [H*3/2, W],
    or None to repeat the last one. frame: media frame of the picture shown, -1 for the still. fresh: the picture is a
    generated one that has not been shown before.
    """

    tick: int
    audio: NDArray[np.int16]
    sample: int
    picture: Picture | None
    frame: int
    fresh: bool


class Playout:
    """Buffer of voice and pictures. Fill it by ``push_voice`` and ``push_chunk``; call ``due`` 50 times a second."""

    def __init__(self, still: Picture, fps: int, delay: int, limit: int) -> None:
        """still: shown before the first frame. delay: target, in 48 kHz samples, from the head of the voice to the
        sound released. limit: delay from which speech is skipped too."""
        assert delay > 0 and limit > delay and delay % BLOCK == 0
        self.fps, self.delay, self.limit = fps, delay, limit
        self.position = 0  # media sample of the next sound to leave
        self.head = 0
        self.epoch = 0
        self.frame = -1  # last media frame shown
        self.shown = self.underruns = self.skipped = self.stalls = 0
        self.awaited = 0  # first frame of the current engine; waiting for it is no underrun
        self._arrived = False  # the current engine has given a chunk
        self._voice: dict[int, NDArray[np.int16]] = {}
        self._silent_until = 0  # sample up to which the engine took silence for late voice; that voice is silenced too
        self._frames: dict[int, Picture] = {}
        self._picture = still
        self._anchor = 0.0
        self._tick = 0
        self._held = True
        self._since_sent = REPEAT_TICKS  # the still goes out with the first tick
        self._since_skip = 0
        self._target = delay
        # Cap on waiting frames. An engine has voice for at most ``limit``; frames beyond twice that are a fault.
        self._most_frames = 2 * limit * fps // PLAYOUT_RATE
        self._underrun_at = -AGAIN_TICKS
        self._again = False
        self._tail: NDArray[np.int16] | None = None  # first block of a skip, to be crossfaded into the sound after it

    @property
    def lag(self) -> int:
        """Present delay: samples between the head of the voice and the sound released next."""
        return self.head - self.position

    @property
    def arrived(self) -> bool:
        """Whether the current engine has given a chunk."""
        return self._arrived

    def next_due(self) -> float:
        """When the next tick is due, on the caller's clock; 0 before the first."""
        return self._anchor + self._tick * BLOCK_S if self._tick else 0.0

    def time_of(self, frame: int) -> float:
        """When ``frame`` would be shown if nothing were held from now on."""
        return self.next_due() + (frame_start(frame, self.fps) - self.position) / PLAYOUT_RATE

    # In

    def push_voice(self, pcm: NDArray[np.int16], at: int) -> None:
        """The next block of the time line; blocks come in order and without gaps."""
        assert at == self.head and len(pcm) == BLOCK
        self._voice[at] = pcm
        self.head += BLOCK
        if at < self._silent_until:
            self._silence(at, self._silent_until)

    def push_chunk(self, chunk: MediaChunk) -> None:
        """Pictures of the current engine; those of an older one, and those whose time has passed, are dropped."""
        if chunk.epoch != self.epoch:
            return
        self._arrived = True
        for i, picture in enumerate(chunk.frames):
            if self.frame < chunk.first_frame + i and len(self._frames) < self._most_frames:
                self._frames[chunk.first_frame + i] = picture
        for start, end in chunk.missing:
            start, end = start * PLAYOUT_PER_DRIVE, end * PLAYOUT_PER_DRIVE
            self._silence(start, end)
            # The engine began this chunk with all voice pushed by then, so the voice missing beyond the head is one
            # range.
            self._silent_until = max(self._silent_until, end)

    def await_engine(self) -> int:
        """The engine was lost; its frames are still played. Returns the first frame that its successor must make."""
        self._arrived = False
        frame = self.frame + 1
        while frame in self._frames:
            frame += 1
        self.awaited = frame
        self._silent_until = min(self._silent_until, frame_start(frame, self.fps))  # the successor hears the rest
        return frame

    def begin_epoch(self, epoch: int) -> None:
        """From now on only this engine's chunks count."""
        self.epoch = epoch

    def fade_out(self) -> int:
        """Interrupt: fade the rest of the voice out within 20 ms. Returns the media sample from which it is silent."""
        if (first := self._voice.get(self.position)) is not None:
            ramp = np.linspace(1.0, 0.0, BLOCK, dtype=np.float32)
            self._voice[self.position] = (first * ramp).astype(np.int16)
        silent_from = self.position + BLOCK
        self._silence(silent_from, self.head)
        return silent_from

    def clear(self) -> None:
        """Drop pictures and sound, the still too. The counts stay. ``due`` must not be called any more."""
        self._frames.clear()
        self._voice.clear()
        self._picture, self._tail = self._picture[:0].copy(), None

    # Out

    def due(self, now: float) -> list[Release]:
        """Releases due by ``now``, in seconds, in order: usually one, none if called early."""
        if self._tick == 0:
            self._anchor = now
        count = int((now - self._anchor) / BLOCK_S + 1e-6) + 1 - self._tick
        if count > MAX_BURST:  # this process was stopped for longer: the lost time is not made up for
            self._anchor += (count - 1) * BLOCK_S
            self.stalls += 1
            count = 1
        return [self._release() for _ in range(count)]

    def _release(self) -> Release:
        tick, self._tick = self._tick, self._tick + 1
        self._since_sent += 1
        self._since_skip += 1
        self._give_back()
        wanted = frame_at(self.position, self.fps)
        new = wanted > self.frame
        if (new and wanted not in self._frames) or self.position not in self._voice:
            return self._hold(tick)
        fresh = new
        if new:
            for old in [frame for frame in self._frames if frame < wanted]:
                del self._frames[old]
            self._picture, self.frame = self._frames.pop(wanted), wanted
            self.shown += 1
        sample, audio = self.position, self._voice.pop(self.position)
        if self._held:
            audio = faded_in(audio)
        if self._tail is not None:
            audio, self._tail = _crossfaded(self._tail, audio), None
        self._held = False
        self.position += BLOCK
        return Release(tick, audio, sample, self._send(fresh), self.frame, fresh)

    def _hold(self, tick: int) -> Release:
        """No picture is there yet: repeat the last one and hold the sound."""
        audio = np.zeros(BLOCK, np.int16)
        if not self._held:
            follows = self._voice.get(self.position)
            if follows is not None:  # against a click: the next 5 ms of sound, faded out; they are played again later
                audio[:240] = (follows[:240] * np.linspace(1.0, 0.0, 240, dtype=np.float32)).astype(np.int16)
            if self._arrived:
                self.underruns += 1
                self._again = tick - self._underrun_at < AGAIN_TICKS
                self._underrun_at = tick
        if self._arrived and self._again:
            self._target = min(self._target + BLOCK, self.limit - SLACK)
        self._held = True
        return Release(tick, audio, -1, self._send(False), self.frame, False)

    def _send(self, fresh: bool) -> Picture | None:
        if not fresh and self._since_sent < REPEAT_TICKS:
            return None
        self._since_sent = 0
        return self._picture

    def _give_back(self) -> None:
        """Skip one frame of media time, picture and sound alike, while the delay is above its target."""
        calm = self._tick - self._underrun_at
        if self._target > self.delay and calm % CALM_TICKS == 0:
            self._target -= BLOCK
        over = self.lag - self._target
        if over <= SLACK or self._since_skip < SKIP_TICKS or self.frame < 0:
            return
        step = -(-frame_start(1, self.fps) // BLOCK) * BLOCK
        after = frame_at(self.position + step, self.fps)
        if after not in self._frames or after + 1 not in self._frames:
            return  # a skip would only cause an underrun
        blocks = [self._voice.get(at) for at in range(self.position, self.position + step, BLOCK)]
        if any(block is None for block in blocks):
            return
        quiet = all(block is not None and np.abs(block.astype(np.int32)).max() < QUIET for block in blocks)
        if not quiet and self.lag < self.limit:
            return
        self._tail = blocks[0]
        for at in range(self.position, self.position + step, BLOCK):
            del self._voice[at]
        self.position += step
        self.skipped += 1
        self._since_skip = 0

    def _silence(self, start: int, end: int) -> None:
        for at in range(start // BLOCK * BLOCK, end, BLOCK):
            if (block := self._voice.get(at)) is not None:
                block = block.copy()
                block[max(0, start - at) : max(0, end - at)] = 0
                self._voice[at] = block


def _crossfaded(old: NDArray[np.int16], new: NDArray[np.int16]) -> NDArray[np.int16]:
    ramp = np.linspace(0.0, 1.0, BLOCK, dtype=np.float32)
    faded: NDArray[np.int16] = (old * (1.0 - ramp) + new * ramp).astype(np.int16)
    return faded
