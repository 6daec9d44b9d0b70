"""CMU flite voices, made of recordings: speech with known phonemes.

espeak-ng computes its sound by rule, whatever the voice; flite's speak with the spectra of people (CMU ARCTIC), which
is what a network must have heard before it hears a caller. They are English; other languages they speak with an accent,
from espeak-ng's phonemes. Phonemes go by espeak's names, as everywhere.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ground.errors import MediaError, RequestError
from training.data.synthetic.phonemes import SAMPLE_RATE, SILENCE, Phoneme, Speech
from training.data.synthetic.sound import import_soundfile

VOICES = ("slt", "awb", "kal16")
HELD_OUT = "rms"
_UNSTRESSED = 0.7  # without words it takes every sound for a stressed one
_PAUSE_S = 0.1  # a shorter silence of the reading is not said
_ESPEAK_NAMES = {
    "aa": "A:", "ae": "a", "ah": "V", "ao": "O:", "aw": "aU", "ax": "@", "ay": "aI", "eh": "E", "er": "3:", "ey": "eI",
    "ih": "I", "iy": "i:", "ow": "oU", "oy": "OI", "uh": "U", "uw": "u:", "b": "b", "ch": "tS", "d": "d", "dh": "D",
    "f": "f", "g": "g", "hh": "h", "jh": "dZ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "N", "p": "p", "r": "r",
    "s": "s", "sh": "S", "t": "t", "th": "T", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "Z", "pau": SILENCE,
}  # fmt: skip
# The English sound that comes nearest, for espeak's names in other languages (beside those above), by their beginning.
_NEAREST = {
    "n^": "n y", "l^": "l y", "ts": "t s", "dz": "d z", "pF": "p f", "ss": "s", "r/": "d", "a": "aa", "A": "aa",
    "{": "ae", "e": "eh", "i": "iy", "o": "ao", "O": "ao", "0": "ao", "u": "uw", "y": "uw", "Y": "uh", "2": "er",
    "9": "er", "W": "er", "3": "er", "@": "ax", "&": "aa", "V": "ah", "C": "sh", "x": "hh", "X": "hh", "R": "r",
    "Q": "g", "B": "v", "*": "d", "D": "dh", "T": "th", "N": "ng", "S": "sh", "Z": "zh", "E": "eh", "I": "ih",
    "U": "uh",
}  # fmt: skip
_ENGLISH_NAMES = {name: phone for phone, name in _ESPEAK_NAMES.items() if name != SILENCE}


class Flite:
    """Raises MediaError ``no_flite`` where the program is not installed."""

    def __init__(self) -> None:
        found = shutil.which("flite")
        if found is None:
            raise MediaError(
                "no_flite",
                "flite is missing: on Debian, apt-get install flite (make_data does without: --flite-sessions 0)",
            )
        self._program = found
        self._soundfile = import_soundfile()

    def speak(self, text: str, voice: str, stretch: float = 1.0) -> Speech:
        """Speak one English sentence; stretch: how much longer every sound lasts. Raises RequestError
        ``nothing_said``."""
        return self._run("-t", text, voice, stretch)

    def pronounce(self, phonemes: Sequence[Phoneme], voice: str, stretch: float = 1.0) -> Speech:
        """Speak the sounds of another reading, in any language, as near as English comes. Raises RequestError."""
        phones = [nearest(p.name) for p in phonemes if p.name != SILENCE or p.end - p.start > _PAUSE_S]
        return self._run("-p", " ".join(["pau", *filter(None, phones), "pau"]), voice, stretch * _UNSTRESSED)

    def _run(self, kind: str, what: str, voice: str, stretch: float) -> Speech:
        assert voice in (*VOICES, HELD_OUT), "flite takes another voice for one that it does not have"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "said.wav"
            words = ["-voice", voice, "--setf", f"duration_stretch={stretch}", "-psdur", kind, what, str(path)]
            told = subprocess.run([self._program, *words], capture_output=True, text=True, check=False)
            said = {word.partition(":")[0] for word in told.stdout.split()} - {"pau"}
            if told.returncode != 0 or not said:
                raise RequestError("nothing_said", f"flite's voice {voice!r} says nothing for {what!r}")
            sound, rate = self._soundfile.read(path, dtype="float32")
        assert rate == SAMPLE_RATE
        return Speech(np.asarray(sound, np.float32), phonemes_of(told.stdout, len(sound) / SAMPLE_RATE))


def nearest(name: str) -> str:
    """flite's phones for a phoneme by espeak's name, "pau" for silence, "" where there is nothing like it."""
    if name == SILENCE:
        return "pau"
    known = _ENGLISH_NAMES | _NEAREST
    return next((known[part] for part in (name, name[:2], name[:1]) if part in known), "")


def phonemes_of(told: str, seconds: float) -> tuple[Phoneme, ...]:
    """flite's durations ("name:end name:end ...") as phonemes that cover `0..seconds`."""
    phonemes, at = [], 0.0
    for word in told.split():
        name, _, end = word.rpartition(":")
        until = min(float(end), seconds)
        if until > at:
            phonemes.append(Phoneme(_ESPEAK_NAMES[name], at, until))
            at = until
    if at < seconds:
        phonemes.append(Phoneme(SILENCE, at, seconds))
    return tuple(phonemes)
