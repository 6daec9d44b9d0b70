"""Recordings of readers: a folder of sounds, and transcripts.json with the text and the language of each.

Those whose names begin with ``reading_`` are kept for testing. Phoneme times come by espeak-ng's readings of the text.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ground.errors import RequestError
from training.data.synthetic.alignment import align
from training.data.synthetic.phonemes import SAMPLE_RATE, Phoneme, Speech, Synthesiser, Voice
from training.data.synthetic.sound import import_soundfile

LEAST_S = 0.5
ENGLISH = "en-us"
READERS = ("+f2", "+m3", "+klatt2", "+f4", "", "+Andy")  # the first one's phonemes count
READING_WPM = 160


@dataclass(frozen=True, slots=True)
class Recording:
    """sound: 16 kHz mono float, full scale 1. language: its code, such as ``de``."""

    name: str
    sound: NDArray[np.float32]
    text: str
    language: str

    @property
    def voice(self) -> str:
        """The plain voice of its language, by espeak-ng's name."""
        return ENGLISH if self.language == "en" else self.language


def for_testing(name: str) -> bool:
    return name.startswith("reading_")


def read_recordings(voices: Path, wanted: Callable[[str], bool]) -> list[Recording]:
    """The recordings whose names are wanted. Raises RequestError ``bad_voices``, and MediaError without soundfile."""
    path = voices / "transcripts.json"
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _bad(f"{path} is missing or not JSON") from error
    if not isinstance(entries, dict):
        raise _bad(f"{path} must be one object of file names")
    chosen = [_read(voices, name, entry) for name, entry in entries.items() if wanted(name)]
    if not chosen:
        raise _bad(f"{path} names no recording that can be used here")
    return chosen


def _read(voices: Path, name: str, entry: object) -> Recording:
    said = entry if isinstance(entry, dict) else {}
    text, language = (str(said.get(field, "")) for field in ("text", "language"))
    if not language or not any(letter.isalnum() for letter in text):
        raise _bad(f"{name} needs a text and a language in transcripts.json")
    soundfile = import_soundfile()
    try:
        sound, rate = soundfile.read(voices / name, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise _bad(f"{voices / name} is missing or no sound that can be read") from error
    if rate != SAMPLE_RATE or sound.ndim != 1:
        raise _bad(f"{voices / name} must be 16 kHz mono")
    if len(sound) < LEAST_S * SAMPLE_RATE:
        raise _bad(f"{voices / name} is shorter than {LEAST_S:g} s")
    return Recording(name, np.asarray(sound, np.float32), text, language)


def _bad(what: str) -> RequestError:
    return RequestError("bad_voices", f"--voices: {what}")


def human_speeches(espeak: Synthesiser, recordings: Sequence[Recording]) -> list[Speech]:
    """Recordings with their phonemes, in the same order; those of a language are aligned together."""
    found: dict[str, tuple[Phoneme, ...]] = {}
    for voice in sorted({recording.voice for recording in recordings}):
        said = [recording for recording in recordings if recording.voice == voice]
        readings = [[espeak.speak(one.text, Voice(voice + who, READING_WPM)) for who in READERS] for one in said]
        times = align([one.sound for one in said], readings)
        found |= {one.name: phonemes for one, phonemes in zip(said, times, strict=True)}
    return [Speech(one.sound, found[one.name]) for one in recordings]
