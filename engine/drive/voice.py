"""Voice buffer by media time: 16 kHz packets of any size and order in, contiguous spans out, silence where nothing
came.

It never waits: it says how far it is complete, and voice that is missing when it is taken stays silent. Its memory is
fixed. Knows no features and no frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.errors import EngineError
from ground.units import DRIVE_RATE

HORIZON_SECONDS = 30  # how far voice and poses may run ahead of what was taken


@dataclass(slots=True)
class DriveCounts:
    """Degradations of one call, in samples and in pose records."""

    late_samples: int = 0
    repeated_samples: int = 0
    missing_samples: int = 0
    dropped_poses: int = 0


class VoiceBuffer:
    """Base of every drive buffer. base: first sample that is held. begin: first sample that the call waits for; what
    lies before is history. complete: first sample from ``begin`` on that has not come, or was not taken as silence."""

    def __init__(self, base: int, begin: int, capacity: int = HORIZON_SECONDS * DRIVE_RATE) -> None:
        self._pcm = np.zeros(capacity, np.int16)
        self._have = np.zeros(capacity, np.bool_)
        self._base, self._begin = base, begin
        self._fixed = begin  # below: taken, or history
        self._end = begin  # beyond the last that has come
        self.complete = begin
        self.counts = DriveCounts()

    def push_voice(self, pcm: NDArray[np.int16], at: int) -> None:
        """Add samples that begin at sample ``at``, in any order. What comes too late is dropped and counted; what comes
        again replaces what has not been taken (a caller who interrupts silences it so).

        Raises EngineError ``voice_overflow`` for voice more than ``HORIZON_SECONDS`` ahead.
        """
        end = at + len(pcm)
        if end > self._base + len(self._pcm):
            raise EngineError("voice_overflow", f"voice may run at most {HORIZON_SECONDS} s ahead of the pictures")
        # History may still come while nothing was taken; later, a sample that was taken as silence stays silent.
        open_from = self._base if self._fixed == self._begin else self._fixed
        start = min(max(at, open_from), end)
        self.counts.late_samples += start - at
        if start == end:
            return
        have = self._have[start - self._base : end - self._base]
        self.counts.repeated_samples += int(have.sum())
        self._pcm[start - self._base : end - self._base] = pcm[start - at :]
        have[:] = True
        self._end = max(self._end, end)
        self._advance()

    def fix(self, until: int) -> tuple[tuple[int, int], ...]:
        """Everything below ``until`` is taken from now on. The ranges [start, end) that had not come: they are silence,
        and are told once."""
        fixed = max(self._fixed, until)
        missing = self._missing(self._fixed, fixed)
        self._fixed = fixed
        self.complete = max(self.complete, fixed)
        self._end = max(self._end, fixed)
        self._advance()
        return missing

    def drop_before(self, sample: int) -> None:
        """Drop what lies before ``sample``."""
        count = sample - self._base
        assert count >= 0, "drive that was given up is asked for again"
        count = min(count, len(self._pcm))
        if count:
            kept = len(self._pcm) - count
            self._pcm[:kept], self._have[:kept] = self._pcm[count:].copy(), self._have[count:].copy()
            self._pcm[kept:], self._have[kept:] = 0, False
        self._base = sample

    def sound(self, start: int, end: int) -> NDArray[np.int16]:
        """Samples [start, end) of what is held, a view."""
        return self._pcm[start - self._base : end - self._base]

    def _advance(self) -> None:
        """Move ``complete`` over what has come."""
        ahead = self._have[self.complete - self._base : self._end - self._base]
        gap = int(ahead.argmin()) if len(ahead) else 0
        self.complete = self._end if len(ahead) and ahead[gap] else self.complete + gap

    def _missing(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        end = min(end, self._base + len(self._have))
        gaps = ~self._have[start - self._base : max(start, end) - self._base]
        edges = np.flatnonzero(np.diff(gaps, prepend=False, append=False)) + start
        self.counts.missing_samples += int(gaps.sum())
        return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
