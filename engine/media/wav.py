"""A caller's WAV file to the mono 48 kHz, 16 bit voice that everything above works with.

Read by libsndfile with the format pinned and with caps on size and length, never by FFmpeg. Whatever is wrong with
the file is a ``MediaError`` whose message says what to do about it.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ground.errors import MediaError
from ground.units import PLAYOUT_RATE

MAX_BYTES = 64 * 1024 * 1024
MAX_SECONDS = 600.0
MIN_RATE, MAX_RATE = 8_000, 48_000
_SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")
_SILENT_PEAK = 0.001  # -60 dB of full scale


@dataclass(frozen=True, slots=True)
class Wave:
    """pcm: int16 [n], mono, 48 kHz."""

    pcm: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / PLAYOUT_RATE


def read_wav(source: bytes | Path, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> Wave:
    """Read a WAV of 8 to 48 kHz, mono or stereo, 16 to 32 bit.

    Raises MediaError: audio_not_found, audio_too_large, audio_too_long, unsupported_audio, broken_audio, empty_audio,
    silent_audio.
    """
    data = source if isinstance(source, bytes) else _load(source, max_bytes)
    if len(data) > max_bytes:
        raise MediaError("audio_too_large", f"the audio is larger than {max_bytes // 2**20} MiB", status=413)
    if data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        raise MediaError(
            "unsupported_audio", "this is not a WAV file: send WAV, 8 to 48 kHz, mono or stereo", status=415
        )
    samples, rate = _decode(data, max_seconds)
    mono = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise MediaError("broken_audio", "the audio holds values that are not numbers")
    if float(np.abs(mono).max(initial=0.0)) < _SILENT_PEAK:
        raise MediaError("silent_audio", "the audio is silent: nothing in it can be spoken")
    if rate != PLAYOUT_RATE:
        mono = soxr.resample(mono, rate, PLAYOUT_RATE)
    return Wave(np.clip(np.rint(mono * 32767.0), -32768, 32767).astype(np.int16))


def _load(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise MediaError("audio_not_found", f"cannot read the audio file {path.name!r}") from error


def _decode(data: bytes, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    """float32 [n, channels] and the rate, after every check that the header alone allows."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format not in ("WAV", "WAVEX") or file.subtype not in _SUBTYPES:
                raise MediaError("unsupported_audio", "the WAV must hold 16, 24 or 32 bit samples", status=415)
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise MediaError("unsupported_audio", f"{file.samplerate} Hz: send 8000 to 48000 Hz", status=415)
            if file.channels > 2:
                raise MediaError("unsupported_audio", f"{file.channels} channels: send mono or stereo", status=415)
            if file.frames > max_seconds * file.samplerate:
                raise MediaError("audio_too_long", f"the audio is longer than {max_seconds:g} s", status=413)
            rate = file.samplerate
            samples: NDArray[np.float32] = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise MediaError("broken_audio", "the WAV file is damaged or cut short") from error
    if len(samples) == 0:
        raise MediaError("empty_audio", "the audio holds no samples")
    return samples, rate
