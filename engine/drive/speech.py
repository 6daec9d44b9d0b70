"""Drive buffer for models with a speech encoder: samples of the voice, chunk by chunk, without gap or overlap.

The encoder runs on the model's device, so the samples go there as they are. The model knows no other drive: poses are
dropped and counted. Otherwise as ``engine.drive.buffer``: it never waits, and what has not come is silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.drive.voice import HORIZON_SECONDS, VoiceBuffer
from ground.units import DRIVE_RATE
from models.config import ModelConfig

HISTORY_SECONDS = 8  # what the encoder hears; a call begins with as much of the past, or of silence


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """samples: float32 in -1..1, all since the last chunk; they end with its last frame. missing: as in
    ``DriveChunk``."""

    samples: NDArray[np.float32]
    missing: tuple[tuple[int, int], ...]


class SpeechDrive(VoiceBuffer):
    """One call's voice in chunks that overlap: the first ``config.knot`` latents of a chunk show nothing new, and the
    call's first picture, ``first_frame``, begins latent number ``config.knot``."""

    def __init__(self, config: ModelConfig, first_frame: int = 0) -> None:
        self._fps, self._frames, self._shared = config.fps, config.frames_per_latent, config.knot
        self._first_frame = first_frame
        history = HISTORY_SECONDS * DRIVE_RATE
        begin = self._sample_of(first_frame)
        self._taken = begin - history  # may lie before the call: silence
        super().__init__(max(0, self._taken), begin, HORIZON_SECONDS * DRIVE_RATE + history)

    def push_pose(self, controls: Mapping[str, float], at: float) -> None:
        self.counts.dropped_poses += 1

    def ready_until(self) -> int:
        """The latent before which all voice has come; or was taken as silence."""
        frames = (self.complete + 1) * self._fps - 1  # whole frames that end at ``complete`` or before it
        return max(0, frames // DRIVE_RATE - self._first_frame) // self._frames + self._shared

    def take(self, first_latent: int, latents: int) -> SpeechChunk:
        """The voice up to the end of some latents. Never waits."""
        end = self._sample_of(self._first_frame + (first_latent + latents - self._shared) * self._frames)
        assert end >= self._taken, "drive that was given up is asked for again"
        missing = self.fix(end)
        before, start = max(0, -self._taken), max(0, self._taken)
        sound = self.sound(start, end).astype(np.float32) / np.float32(32768.0)
        self.drop_before(end)
        self._taken = end
        return SpeechChunk(np.concatenate([np.zeros(before, np.float32), sound]), missing)

    def _sample_of(self, frame: int) -> int:
        return frame * DRIVE_RATE // self._fps
