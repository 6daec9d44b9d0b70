"""Festival voices of people of other languages than English: speech with known phonemes.

Festival, run as a program, with the voices that Debian packages. Spelling is read letter by letter in these languages,
so any of them reads any words, also made-up ones, with a foreigner's accent. Phonemes go by espeak's names.
"""

import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ground.errors import MediaError, RequestError
from training.data.synthetic.phonemes import SAMPLE_RATE, SILENCE, Phoneme, Speech
from training.data.synthetic.sound import import_soundfile, resample

_COMMON = {name: name for name in ("a", "e", "i", "o", "u", *"ptkbdgfsvzmnljw")} | {"S": "S", "Z": "Z", "r": "R2"}
_PAUSES = dict.fromkeys(("#", "##", "pau", "_", "_pau"), SILENCE)
_STRESSED = {f"{name}1": name for name in ("a", "e", "E", "i", "o", "O", "u")} | {"E": "E", "O": "O"}
_PALATAL = {"J": "n^", "L": "l^"}
_PHONES: dict[str, dict[str, str]] = {
    "italian": {
        **_COMMON, **_PAUSES, **_STRESSED, **_PALATAL, "ts": "ts", "tS": "tS", "dz": "dz", "dZ": "dZ", "ng": "N",
        "nf": "n",
    },
    "catalan": {**_COMMON, **_PAUSES, **_STRESSED, **_PALATAL, "ax": "@", "rr": "R2"},
    "czech": {
        **_COMMON, **_PAUSES, "c": "ts", "c~": "tS", "ch": "x", "d~": "d", "dz": "dz", "dz~": "dZ", "h": "h", "n*": "N",
        "n~": "n^", "r~": "Z", "r~*": "S", "s~": "S", "t~": "t", "z~": "Z",
    },
    "finnish": {**_COMMON, **_PAUSES, "y": "y", "@": "@", "7": "Y", "&": "a", "T": "T", "D": "D", "h": "h", "N": "N",
                "L": "l^"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reader:
    """A voice of Festival: its function's name without ``voice_``, its phones, and Debian's package."""

    name: str
    language: str
    package: str


READERS = (
    Reader("lp_diphone", "italian", "festvox-italp16k"),
    Reader("pc_diphone", "italian", "festvox-itapc16k"),
    Reader("upc_ca_ona_hts", "catalan", "festvox-ca-ona-hts"),
    Reader("czech_dita", "czech", "festvox-czech-dita"),
    Reader("czech_machac", "czech", "festvox-czech-machac"),
    Reader("suo_fi_lj_diphone", "finnish", "festvox-suopuhe-lj"),
    Reader("hy_fi_mv_diphone", "finnish", "festvox-suopuhe-mv"),
)
HELD_OUT = Reader("czech_ph", "czech", "festvox-czech-ph")
_SCRIPT = """(voice_{reader})
(Parameter.set 'Duration_Stretch {stretch})
(define (say text path)
  (let ((said (utt.synth (eval (list 'Utterance 'Text text)))))
    (utt.save.wave said path 'riff)
    (format t "SAID %s\\n" path)
    (mapcar (lambda (s) (format t "%s %s\\n" (item.name s) (item.feat s "end"))) (utt.relation.items said 'Segment))))
"""


class Festival:
    """Raises MediaError ``no_festival`` where the program or one of the voices is not installed."""

    def __init__(self) -> None:
        found = shutil.which("festival")
        if found is None or not {reader.name for reader in (*READERS, HELD_OUT)} <= _installed(found):
            packages = " ".join(("festival", *(reader.package for reader in (*READERS, HELD_OUT))))
            raise MediaError(
                "no_festival",
                f"festival or one of its voices is missing: on Debian, apt-get install {packages} "
                "(make_data does without: --festival-sessions 0)",
            )
        self._program = found
        self._soundfile = import_soundfile()

    def read(self, sentences: Sequence[str], reader: Reader, stretch: float = 1.0) -> list[Speech]:
        """Read sentences, each by itself; their accents are taken off, and what the voice cannot read is left out.
        stretch: how much longer every sound lasts (Catalan has its own time). Raises RequestError ``nothing_said``."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "said.scm"
            # What a voice stumbles over (a name that it cannot spell) would otherwise end the script.
            lines = [
                f'(unwind-protect (say "{plain(text)}" "{folder}/{i}.wav") nil)' for i, text in enumerate(sentences)
            ]
            script.write_text(_SCRIPT.format(reader=reader.name, stretch=stretch) + "\n".join(lines))
            told = subprocess.run(
                [self._program, "-b", str(script)], capture_output=True, check=False, stdin=subprocess.DEVNULL
            )
            blocks = told.stdout.decode("latin-1").split("SAID ")[1:]
            spoken = [self._speech(block, reader) for block in blocks]
        if not spoken:
            raise RequestError("nothing_said", f"festival's voice {reader.name} says nothing for {list(sentences)!r}")
        return spoken

    def _speech(self, told: str, reader: Reader) -> Speech:
        path, *lines = told.strip().splitlines()
        sound, rate = self._soundfile.read(path, dtype="float32")
        sound = resample(np.asarray(sound, np.float32), rate, SAMPLE_RATE)
        return Speech(sound, phonemes_of(lines, reader.language, len(sound) / SAMPLE_RATE))


def phonemes_of(lines: Sequence[str], language: str, seconds: float) -> tuple[Phoneme, ...]:
    """Festival's segments ("name end") as phonemes that cover `0..seconds`. Raises RequestError ``unknown_phone``."""
    phonemes, at = [], 0.0
    for line in lines:
        name, _, end = line.rpartition(" ")
        until = min(float(end), seconds)
        if until > at:
            phonemes.append(Phoneme(_espeak_name(name.rstrip(":"), language), at, until))
            at = until
    if at < seconds:
        phonemes.append(Phoneme(SILENCE, at, seconds))
    return tuple(phonemes)


def _espeak_name(phone: str, language: str) -> str:
    if phone not in _PHONES[language]:
        raise RequestError("unknown_phone", f"festival's {language} voices say {phone!r}, which has no name here yet")
    return _PHONES[language][phone]


def plain(text: str) -> str:
    """Letters without accents, digits left out, and the marks where a reader rests."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(re.sub("[^A-Za-z ,.?!]", " ", letters).split())


def _installed(program: str) -> set[str]:
    """The names of its voices."""
    told = subprocess.run(
        [program, "-b", "(mapcar print (voice.list))"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return set(told.stdout.split())
