"""espeak-ng voices through its shared library: speech with known phonemes, in any voice, speed and pitch.

espeak-ng is GPL and is loaded only here, to make training data and voices to measure with; nothing of it is shipped.
The library keeps global state, so one process speaks one sentence at a time.
"""

import ctypes as C
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.errors import MediaError, RequestError
from training.data.synthetic.sound import resample

SAMPLE_RATE = 16000
SILENCE = "_"
_AUDIO_SYNCHRONOUS, _PHONEME_EVENTS, _EVENT_PHONEME, _EVENT_END = 2, 1, 7, 0
_DONT_EXIT = 0x8000  # where the library's own data is missing
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One phoneme by espeak's own name, with its times in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Speech:
    """16 kHz mono float sound (full scale 1) and its phonemes, which cover it without gaps."""

    sound: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]


@dataclass(frozen=True, slots=True)
class Voice:
    """An espeak-ng voice name such as "en-gb+f3", words per minute, pitch and its range (0..100, 50 is normal)."""

    name: str
    wpm: int = 150
    pitch: int = 50
    pitch_range: int = 50


class _Event(C.Structure):
    _fields_ = [
        ("type", C.c_int), ("uid", C.c_uint), ("text_position", C.c_int), ("length", C.c_int),
        ("audio_ms", C.c_int), ("sample", C.c_int), ("user", C.c_void_p), ("name", C.c_char * 8),
    ]  # fmt: skip


_Callback = C.CFUNCTYPE(C.c_int, C.POINTER(C.c_short), C.c_int, C.POINTER(_Event))


class Synthesiser:
    """The loaded library. Raises MediaError ``no_espeak`` where it is not installed."""

    def __init__(self) -> None:
        missing = "voices need espeak-ng: on Debian, apt-get install libespeak-ng1 espeak-ng-data"
        try:
            self._lib = C.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise MediaError("no_espeak", missing) from error
        self._sound: list[NDArray[np.int16]] = []
        self._heard: list[tuple[float, str]] = []
        self._rate = self._lib.espeak_Initialize(_AUDIO_SYNCHRONOUS, 500, None, _PHONEME_EVENTS | _DONT_EXIT)
        if self._rate <= 0:
            raise MediaError("no_espeak", missing)
        self._callback = _Callback(self._hear)  # kept: the library holds a bare pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: "C._Pointer[C.c_short]", count: int, events: "C._Pointer[_Event]") -> int:
        if count > 0:
            self._sound.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            if events[i].type == _EVENT_PHONEME:
                self._heard.append((events[i].audio_ms / 1000, events[i].name.decode("utf8", "ignore")))
            i += 1
        return 0

    def choose(self, name: str) -> None:
        """Take a voice. Raises RequestError ``no_voice``."""
        if self._lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise RequestError("no_voice", f"espeak-ng has no voice {name!r}")

    def speak(self, text: str, voice: Voice) -> Speech:
        """Speak one sentence. Raises RequestError if the voice is unknown or says nothing."""
        self.choose(voice.name)
        for parameter, value in ((_RATE, voice.wpm), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._sound.clear()
        self._heard.clear()
        said = text.encode()
        self._lib.espeak_Synth(said, len(said) + 1, 0, 1, 0, 1, None, None)
        self._lib.espeak_Synchronize()
        if not self._sound or not self._heard:
            raise RequestError("nothing_said", f"the voice {voice.name!r} says nothing for {text!r}")
        pcm = np.concatenate(self._sound).astype(np.float32) * np.float32(1 / 32768)
        return Speech(resample(pcm, self._rate, SAMPLE_RATE), phonemes_of(self._heard, len(pcm) / self._rate))


def phonemes_of(heard: Sequence[tuple[float, str]], seconds: float) -> tuple[Phoneme, ...]:
    """Turn espeak's events (start, raw name) into phonemes that cover `0..seconds`."""
    phonemes = []
    starts = [t for t, _ in heard] + [seconds]
    if starts[0] > 0:
        phonemes.append(Phoneme(SILENCE, 0.0, starts[0]))
    for (start, raw), end in zip(heard, starts[1:], strict=True):
        name = raw.strip("',%=|;")
        silent = not name or name.startswith(SILENCE)
        if end > start:
            phonemes.append(Phoneme(SILENCE if silent else name, start, end))
    return tuple(phonemes)
