"""The voice of a call as one continuous time line: turns to say, else the microphone, else silence.

The number of samples appended so far *is* media time; the 16 kHz copy that drives the face carries the same time. Knows
nothing of networks, engines or wall time: whoever calls ``next_block`` sets the pace.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.media.decimate import Decimator
from ground.errors import CapacityError
from ground.units import BLOCK, PLAYOUT_PER_DRIVE, PLAYOUT_RATE, milliseconds

_FADE = np.linspace(0.0, 1.0, 240, dtype=np.float32)  # 5 ms
MAX_TURNS = 256  # not yet heard to their end
MAX_QUEUED_S = 240.0  # seconds waiting, beyond which no further turn is taken
MAX_PAST_TURNS = 8


@dataclass(frozen=True, slots=True)
class VoiceBlock:
    """One step of the time line. pcm: int16 [BLOCK] from 48 kHz sample ``at``; drive: 16 kHz samples from
    ``drive_at`` (2 ms behind: the low-pass waits for its future)."""

    pcm: NDArray[np.int16]
    at: int
    drive: NDArray[np.int16]
    drive_at: int


@dataclass(slots=True, eq=False)
class Turn:
    """A piece of speech to be said. start and end: media samples where it lies on the time line, -1 while that is not
    known.

    pcm: int16, 48 kHz mono; of an ``open`` turn, which is spoken while it still arrives, what has arrived so far.
    state: ``queued``, ``speaking``, ``finished`` or ``interrupted``, as the viewer hears it: one delay after the time
    line.
    """

    id: str
    pcm: NDArray[np.int16]
    open: bool = False
    state: str = "queued"
    start: int = -1
    end: int = -1
    spoken: int = 0
    duration_ms: int = field(init=False)  # of everything that arrived, also once its samples were dropped
    _samples: int = field(init=False)

    def __post_init__(self) -> None:
        self._samples = 0
        self._count(self.pcm)

    def extend(self, pcm: NDArray[np.int16]) -> None:
        """More of an open turn; dropped once it was interrupted."""
        assert self.open, "the turn has its end"
        if not self.over:
            self.pcm, self.spoken = np.concatenate([self.pcm[self.spoken :], pcm]), 0
            self._count(pcm)

    def close(self) -> None:
        """End an open turn, so that the next one may follow."""
        self.open = False

    def _count(self, pcm: NDArray[np.int16]) -> None:
        self._samples += len(pcm)
        self.duration_ms = round(milliseconds(self._samples))

    @property
    def over(self) -> bool:
        return self.state in ("finished", "interrupted")


class MicrophoneBuffer:
    """Buffer between the caller's clock and the server's: small, bounded, and corrected by inaudible resampling.

    A caller's sound card runs a little fast or slow. As the level, averaged over a second, leaves its target, up to 1 %
    more or fewer samples are stretched over a block; only a burst too large for that is cut.
    """

    TARGET = 5 * BLOCK // 2  # one block to give, one packet that may be late, and half for the drift between them
    LIMIT = 12 * BLOCK

    def __init__(self) -> None:
        self._pcm = np.zeros(0, np.int16)
        self._flowing = False
        self._mean = 0.0
        self.cut_samples = 0

    @property
    def level(self) -> int:
        return len(self._pcm)

    def push(self, pcm: NDArray[np.int16]) -> None:
        self._pcm = np.concatenate([self._pcm, pcm])
        if len(self._pcm) > self.LIMIT:
            self.cut_samples += len(self._pcm) - self.TARGET
            self._pcm = self._pcm[-self.TARGET :]

    def pull(self) -> NDArray[np.int16] | None:
        """int16 [BLOCK], or None while nothing has come or the buffer is filling up again."""
        if len(self._pcm) < (BLOCK + 1 if self._flowing else self.TARGET):
            self._flowing = False
            return None
        began, self._flowing = not self._flowing, True
        self._mean = float(self.level) if began else self._mean + (self.level - self._mean) / 50
        wanted = BLOCK + max(-10, min(10, round((self._mean - self.TARGET) / 24)))
        if wanted == BLOCK or self.level <= wanted:
            block, self._pcm = self._pcm[:BLOCK], self._pcm[BLOCK:]
        else:
            at = np.arange(BLOCK) * (wanted / BLOCK)
            block = np.interp(at, np.arange(wanted + 1), self._pcm[: wanted + 1]).astype(np.int16)
            self._pcm = self._pcm[wanted:]
        return faded_in(block) if began else block

    def clear(self) -> None:
        self._pcm = np.zeros(0, np.int16)
        self._flowing = False


class VoiceLine:
    """``head``: media time in 48 kHz samples, one block further with each ``next_block``."""

    def __init__(self, history_s: float) -> None:
        """history_s: how much of the 16 kHz voice is kept for an engine that begins anew."""
        self.head = 0
        self.microphone = MicrophoneBuffer()
        self._decimator = Decimator()
        self._drive_head = 0
        self._history: deque[tuple[NDArray[np.int16], int]] = deque(maxlen=int(history_s * 50))
        self._queue: deque[Turn] = deque()
        self._turns: list[Turn] = []

    @property
    def turns(self) -> list[Turn]:
        """Turns that wait or are heard, and the last few that are over; oldest first."""
        return list(self._turns)

    def require_room(self) -> None:
        """Raises CapacityError when ``MAX_QUEUED_S`` of speech wait, or ``MAX_TURNS`` are not heard to their end."""
        if self._full or sum(not turn.over for turn in self._turns) >= MAX_TURNS:
            raise _queue_full()

    @property
    def _full(self) -> bool:
        return sum(len(turn.pcm) - turn.spoken for turn in self._queue) >= MAX_QUEUED_S * PLAYOUT_RATE

    def say(self, turn: Turn) -> None:
        self.require_room()
        self._queue.append(turn)
        self._turns.append(turn)
        past = [turn for turn in self._turns if turn.over]
        for old in past[: max(0, len(self._turns) - MAX_PAST_TURNS)]:
            self._turns.remove(old)

    def extend(self, turn: Turn, pcm: NDArray[np.int16]) -> None:
        """More of an open turn. Raises CapacityError when ``MAX_QUEUED_S`` of speech wait."""
        if self._full:
            raise _queue_full()
        turn.extend(pcm)

    def interrupt(self) -> list[str]:
        """Drop the spoken turn and those that wait. Returns their ids, and those of turns not heard to their end."""
        stopped = [turn for turn in self._turns if not turn.over]
        for turn in stopped:
            turn.state, turn.pcm = "interrupted", turn.pcm[:0]
        self._queue.clear()
        return [turn.id for turn in stopped]

    def heard(self, sample: int) -> None:
        """The viewer was sent the voice up to 48 kHz ``sample``. Returns the turns that began or ended by that."""
        for turn in self._turns:
            if turn.over or not 0 <= turn.start < sample:
                continue
            turn.state = "finished" if 0 <= turn.end <= sample else "speaking"

    def clear(self) -> None:
        """Drop every sample. The turns and their states stay."""
        self.interrupt()
        self.microphone.clear()
        self._history.clear()

    def next_block(self) -> VoiceBlock:
        said = self._said()
        heard = self.microphone.pull()
        block = said if said is not None else heard
        return self._append(block if block is not None else np.zeros(BLOCK, np.int16))

    def silent_block(self) -> VoiceBlock:
        """One step of silence whatever waits: the run-up before a call's first picture."""
        return self._append(np.zeros(BLOCK, np.int16))

    def drive_since(self, sample: int) -> tuple[NDArray[np.int16], int]:
        """The kept part of the 16 kHz voice from ``sample`` on: (int16 [n], its first sample)."""
        parts = [(pcm, at) for pcm, at in self._history if at + len(pcm) > sample]
        if not parts:
            return np.zeros(0, np.int16), self._drive_head
        return np.concatenate([pcm for pcm, _ in parts]), parts[0][1]

    def take_back(self, sample: int) -> tuple[NDArray[np.int16], int]:
        """Silence the kept voice from 48 kHz ``sample`` on. Returns the 16 kHz silence to send in its place, (int16
        [n], its first sample).
        """
        start = sample // PLAYOUT_PER_DRIVE
        for pcm, at in self._history:
            pcm[max(0, start - at) :] = 0
        self._decimator.forget()  # it holds the last 2 ms, which would be a click
        return np.zeros(max(0, self._drive_head - start), np.int16), start

    def _said(self) -> NDArray[np.int16] | None:
        """The next block of the turns that wait, one directly after the other; silence where none is left, and where
        an open one has not come yet."""
        if not self._queue:
            return None
        block = np.zeros(BLOCK, np.int16)
        filled = 0
        while self._queue and filled < BLOCK:
            turn = self._queue[0]
            if turn.start < 0 and (len(turn.pcm) or not turn.open):
                turn.start = self.head + filled
            part = turn.pcm[turn.spoken : turn.spoken + BLOCK - filled]
            block[filled : filled + len(part)] = part
            filled += len(part)
            turn.spoken += len(part)
            if turn.spoken == len(turn.pcm):
                if turn.open:
                    break
                turn.end, turn.pcm, turn.spoken = self.head + filled, turn.pcm[:0], 0
                self._queue.popleft()
        return block

    def _append(self, pcm: NDArray[np.int16]) -> VoiceBlock:
        drive = self._decimator.push(pcm)
        block = VoiceBlock(pcm, self.head, drive, self._drive_head)
        self.head += BLOCK
        self._drive_head += len(drive)
        self._history.append((drive, block.drive_at))
        return block


def _queue_full() -> CapacityError:
    return CapacityError("say_queue_full", "too much is waiting to be said: wait for a turn to end", status=429)


def faded_in(block: NDArray[np.int16]) -> NDArray[np.int16]:
    """The block with its first 5 ms faded in."""
    out = block.astype(np.float32)
    out[: len(_FADE)] *= _FADE
    return out.astype(np.int16)
