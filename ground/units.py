"""Units of media time: sample rates, the 20 ms block, and conversions between samples, milliseconds and frames.

Media time is counted from the start of a call, in samples of the voice or in frames of the picture.
"""

PLAYOUT_RATE = 48_000  # Hz: the voice that is heard
DRIVE_RATE = 16_000  # Hz: the voice that drives the face
BLOCK = 960  # playout samples in one step of a call's clock, and in one sent Opus packet: 20 ms
BLOCK_S = BLOCK / PLAYOUT_RATE
PLAYOUT_PER_DRIVE = PLAYOUT_RATE // DRIVE_RATE  # playout samples per drive sample


def milliseconds(samples: float) -> float:
    """Duration of playout samples (48 kHz)."""
    return samples * 1000 / PLAYOUT_RATE


def playout_samples(ms: float) -> float:
    """Playout samples (48 kHz) in a duration; not rounded."""
    return ms * PLAYOUT_RATE / 1000


def frame_start(frame: int, fps: int) -> int:
    """Index of a frame's first playout sample (48 kHz)."""
    return -(-frame * PLAYOUT_RATE // fps)


def frame_at(sample: int, fps: int) -> int:
    """Index of the frame that is shown during a playout sample (48 kHz)."""
    return sample * fps // PLAYOUT_RATE


def drive_start(frame: int, fps: int) -> int:
    """Index of a frame's first drive sample (16 kHz)."""
    return frame * DRIVE_RATE // fps
