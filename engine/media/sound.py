"""Sound file reading: WAV, MP3, FLAC, Ogg and others to the mono 48 kHz, 16 bit voice that the rest works with.

Decoded by libsndfile, never by FFmpeg, block by block, with limits on size, length, rate and channels. An unusable file
raises a ``MediaError`` whose message says what to do.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from engine.media.downmix import Downmix
from engine.media.resample import Resampler
from engine.media.sound_parts import FORMATS, sound_parts
from ground.errors import MediaError
from ground.units import PLAYOUT_RATE

MAX_SECONDS = 600.0
MIN_RATE, MAX_RATE = 4_000, 192_000
MAX_CHANNELS = 8
MAX_PARTS = 1000
BYTES_PER_SECOND = PLAYOUT_RATE * 2 * 4  # stereo, 32 bit
MAX_TAG_BYTES = 2**20
MAX_BYTES = 256 * 2**20
SMALLER = "send it compressed (MP3, Ogg, FLAC) or as 16 bit mono"

_BLOCKS_PER_SECOND = 25
_SLACK_S = 0.01
_SILENT_PEAK = 0.001  # -60 dB of full scale
_INT16_SCALE = 32768.0
_INT16_LEAST = 256.0  # peak of floats from which they are taken for 16 bit values
_LARGEST = 2.0**31
_UNSUPPORTED_ENCODING = 4  # SF_ERR_UNSUPPORTED_ENCODING


@dataclass(frozen=True, slots=True)
class Sound:
    """pcm: int16 [n], mono, 48 kHz."""

    pcm: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / PLAYOUT_RATE


def most_bytes(seconds: float) -> int:
    """The largest file that is taken for a sound of so many seconds."""
    return min(MAX_BYTES, int(seconds * BYTES_PER_SECOND) + MAX_TAG_BYTES)


def read_sound(source: bytes | Path, *, max_seconds: float = MAX_SECONDS) -> Sound:
    """Read a sound of 4 to 192 kHz and up to 8 channels, in any encoding that libsndfile has of ``FORMATS``.

    Whole files in a row are joined, each at its own rate. Of a file that is cut short, what is there is read. Floats
    above full scale are scaled down. Raises MediaError: audio_not_found, audio_too_large, audio_too_long,
    unsupported_audio, broken_audio, empty_audio, silent_audio.
    """
    limit = most_bytes(max_seconds)
    data = source if isinstance(source, bytes) else _load(source, limit)
    if len(data) > limit:
        raise MediaError("audio_too_large", f"the audio is larger than {limit // 2**20} MiB: {SMALLER}", status=413)
    voice = _Voice(max_seconds)
    for number, part in enumerate(sound_parts(data, max_seconds + 1.0)):
        if number == MAX_PARTS:
            raise MediaError("broken_audio", f"the audio is made of more than {MAX_PARTS} files in a row")
        _decode(part, voice)
    mono = voice.finish()
    if len(mono) == 0:
        raise MediaError("empty_audio", "the audio holds no samples")
    mono = _scaled(mono)
    if float(np.abs(mono).max()) < _SILENT_PEAK:
        raise MediaError("silent_audio", "the audio is silent: nothing in it can be spoken")
    return Sound(np.clip(np.rint(mono * 32768.0), -32768, 32767).astype(np.int16))


class _Voice:
    """Blocks of any rate and number of channels, joined to mono at 48 kHz."""

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._seconds = 0.0
        self._kind = (0, 0)
        self._downmix = Downmix(1, PLAYOUT_RATE)
        self._resampler = Resampler(PLAYOUT_RATE)
        self._blocks: list[NDArray[np.float32]] = []

    def begin(self, rate: int, channels: int) -> None:
        """What follows has this shape; what has the same shape as before goes on without a seam."""
        if (rate, channels) == self._kind:
            return
        self._blocks.append(self._resampler.finish())
        self._kind = rate, channels
        self._downmix, self._resampler = Downmix(channels, rate), Resampler(rate)

    def push(self, samples: NDArray[np.float32]) -> None:
        """float32 [n, channels]."""
        peak = float(np.abs(samples).max(initial=0.0))
        if not np.isfinite(peak):
            raise MediaError("broken_audio", "the audio holds values that are not numbers (NaN or infinite)")
        if peak > _LARGEST:
            raise MediaError("broken_audio", f"the audio holds samples of {peak:.0e}: floats belong between -1 and 1")
        self._seconds += len(samples) / self._kind[0]
        if self._seconds > self._max_seconds + _SLACK_S:
            raise MediaError("audio_too_long", f"the audio is longer than {self._max_seconds:g} s", status=413)
        self._blocks.append(self._resampler.push(self._downmix.push(samples)))

    @property
    def is_empty(self) -> bool:
        return self._seconds == 0.0

    def finish(self) -> NDArray[np.float32]:
        """float32 [n], at the scale of what came in."""
        return np.concatenate([*self._blocks, self._resampler.finish()])


class _Bytes(io.BytesIO):
    """Takes a place before the start for the start: in a damaged file libsndfile seeks there, and an exception in its
    callback would be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(0, offset) if whence == io.SEEK_SET else offset, whence)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Read from its start to its end only: a seek after every block, as soundfile does where it can, restarts the MP3
    decoder and leaves gaps."""

    def seekable(self) -> bool:
        return False


def _load(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise MediaError("audio_not_found", f"cannot read the audio file {path.name!r}") from error


def _decode(part: bytes, voice: _Voice) -> None:
    """Push all that can be decoded. What is damaged ends it; if nothing came before the damage, it is an error."""
    try:
        with _Forward(_Bytes(part)) as file:
            _check_shape(file)
            voice.begin(file.samplerate, file.channels)
            position = 0
            while True:
                block = np.empty((file.samplerate // _BLOCKS_PER_SECOND, file.channels), np.float32)
                try:
                    count = len(file.read(out=block))
                except soundfile.SoundFileError:
                    voice.push(block[: max(0, file.tell() - position)])
                    raise
                if count == 0:
                    return
                position += count
                voice.push(block[:count])
    except soundfile.SoundFileError as error:
        if not voice.is_empty:
            return
        if getattr(error, "code", 0) == _UNSUPPORTED_ENCODING:
            raise MediaError("unsupported_audio", f"its encoding cannot be read: send {FORMATS}", status=415) from error
        raise MediaError("broken_audio", "the audio is damaged: nothing in it can be decoded") from error


def _check_shape(file: soundfile.SoundFile) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        told = f"{file.samplerate} Hz: send {MIN_RATE} to {MAX_RATE} Hz"
        raise MediaError("unsupported_audio", told, status=415)
    if file.channels > MAX_CHANNELS:
        told = f"{file.channels} channels: send at most {MAX_CHANNELS}"
        raise MediaError("unsupported_audio", told, status=415)


def _scaled(mono: NDArray[np.float32]) -> NDArray[np.float32]:
    """Within full scale: 16 bit values in floats by their own scale, all else that is too loud by its peak."""
    peak = float(np.abs(mono).max())
    if _INT16_LEAST <= peak <= _INT16_SCALE:
        return mono / np.float32(_INT16_SCALE)
    return mono / np.float32(peak) if peak > 1.0 else mono
