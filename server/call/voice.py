"""Voice of a call as one continuous time line: queued turns, else the microphone, else silence.

Media time is the number of samples appended so far. The 16 kHz copy that drives the face has the same time line. Knows
nothing of networks, engines or wall time: the caller of ``next_block`` sets the pace.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.media.decimate import Decimator
from ground.errors import CapacityError
from ground.units import BLOCK, PLAYOUT_PER_DRIVE, PLAYOUT_RATE, milliseconds

_FADE = np.linspace(0.0, 1.0, 240, dtype=np.float32)  # 5 ms
MAX_TURNS = 256  # most turns that are not yet heard to their end
MAX_QUEUED_S = 240.0  # seconds of queued speech at which no more is taken
MAX_PAST_TURNS = 8  # turns that are over are forgotten while more than so many turns are kept


@dataclass(frozen=True, slots=True)
class VoiceBlock:
    """One step of the time line. pcm: int16 [BLOCK] from 48 kHz sample ``at`` on. drive: int16 [N] from 16 kHz sample
    ``drive_at`` on; it ends 2 ms before ``pcm``, because the low-pass filter looks that far ahead."""

    pcm: NDArray[np.int16]
    at: int
    drive: NDArray[np.int16]
    drive_at: int


@dataclass(slots=True, eq=False)
class Turn:
    """A piece of speech to be said. An ``open`` turn is spoken while it still arrives.

    pcm: int16, 48 kHz mono; emptied once it lies on the time line or is interrupted. state: ``queued``, ``speaking``,
    ``finished`` or ``interrupted``, as the viewer hears it: one delay after the time line. start, end: place on the
    time line in 48 kHz samples, -1 while unknown. spoken: samples of ``pcm`` already on the time line.
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
        """Append samples to an open turn. They are dropped once the turn is over."""
        assert self.open, "the turn was closed"
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
    """Jitter and drift buffer between the caller's audio clock and the server's, corrected by inaudible resampling.

    When the level, averaged over a second, leaves ``TARGET``, each block is resampled from up to 1 % more or fewer
    samples. Only when the level exceeds ``LIMIT`` is it cut to the newest ``TARGET`` samples.
    """

    TARGET = 5 * BLOCK // 2  # samples: one block to give, one packet that may be late, and half a block for drift
    LIMIT = 12 * BLOCK

    def __init__(self) -> None:
        self._pcm = np.zeros(0, np.int16)
        self._flowing = False
        self._mean = 0.0
        self.cut_samples = 0

    @property
    def level(self) -> int:
        """Samples in the buffer."""
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
    """Time line of a call's voice. head: media time of its end in 48 kHz samples; every new block moves it on."""

    def __init__(self, history_s: float) -> None:
        """history_s: seconds of 16 kHz voice kept for a new engine."""
        self.head = 0
        self.microphone = MicrophoneBuffer()
        self._decimator = Decimator()
        self._drive_head = 0
        self._history: deque[tuple[NDArray[np.int16], int]] = deque(maxlen=int(history_s * 50))
        self._queue: deque[Turn] = deque()
        self._turns: list[Turn] = []

    @property
    def turns(self) -> list[Turn]:
        """Turns that are queued or heard, and the last few that are over; oldest first."""
        return list(self._turns)

    def require_room(self) -> None:
        """Raises CapacityError when ``MAX_QUEUED_S`` of speech are queued, or ``MAX_TURNS`` turns are not over."""
        if self._full or sum(not turn.over for turn in self._turns) >= MAX_TURNS:
            raise _queue_full()

    @property
    def _full(self) -> bool:
        return sum(len(turn.pcm) - turn.spoken for turn in self._queue) >= MAX_QUEUED_S * PLAYOUT_RATE

    def say(self, turn: Turn) -> None:
        """Queue a turn. Raises CapacityError as ``require_room`` does."""
        self.require_room()
        self._queue.append(turn)
        self._turns.append(turn)
        past = [turn for turn in self._turns if turn.over]
        for old in past[: max(0, len(self._turns) - MAX_PAST_TURNS)]:
            self._turns.remove(old)

    def extend(self, turn: Turn, pcm: NDArray[np.int16]) -> None:
        """Append samples to an open turn. Raises CapacityError when ``MAX_QUEUED_S`` of speech are queued."""
        if self._full:
            raise _queue_full()
        turn.extend(pcm)

    def interrupt(self) -> list[str]:
        """Interrupt every turn that is not over, and drop its sound from the queue. Returns their ids."""
        stopped = [turn for turn in self._turns if not turn.over]
        for turn in stopped:
            turn.state, turn.pcm = "interrupted", turn.pcm[:0]
        self._queue.clear()
        return [turn.id for turn in stopped]

    def heard(self, sample: int) -> None:
        """Update the turns' states: the viewer was sent the voice up to 48 kHz ``sample``."""
        for turn in self._turns:
            if turn.over or not 0 <= turn.start < sample:
                continue
            turn.state = "finished" if 0 <= turn.end <= sample else "speaking"

    def clear(self) -> None:
        """Interrupt every turn and drop every sample. The list of turns stays."""
        self.interrupt()
        self.microphone.clear()
        self._history.clear()

    def next_block(self) -> VoiceBlock:
        """Append one block: of the queued turns, else of the microphone, else silence."""
        said = self._said()
        heard = self.microphone.pull()
        block = said if said is not None else heard
        return self._append(block if block is not None else np.zeros(BLOCK, np.int16))

    def silent_block(self) -> VoiceBlock:
        """Append one block of silence, whatever is queued: the time before a call's first picture."""
        return self._append(np.zeros(BLOCK, np.int16))

    def drive_since(self, sample: int) -> tuple[NDArray[np.int16], int]:
        """The kept 16 kHz voice from the block of 16 kHz ``sample`` on: (int16 [n], index of its first sample)."""
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
        self._decimator.forget()  # it holds the last 2 ms of voice, which would be a click
        return np.zeros(max(0, self._drive_head - start), np.int16), start

    def _said(self) -> NDArray[np.int16] | None:
        """The next block of the queued turns, joined without a gap; None if none is queued. Silence fills the rest
        after the last turn, and the time in which an open turn has not arrived yet."""
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
