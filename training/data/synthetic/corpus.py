"""Training corpus: voices with their mel hops, lip tracks, and several head tracks for each voice.

Sessions of half a minute from espeak-ng voices, from flite's and Festival's, human recordings aligned to their text,
and sound without speech. Written once as an .npz, minutes of work for hours of speech. Plain voices of espeak-ng (no
variant), one of flite's, one of Festival's and every tenth sentence are kept for testing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ground.files import replacing
from ground.motion import INDEX
from models.encoders.mel import LogMelConfig, StreamingLogMel
from training.data.synthetic import festival, flite, texts
from training.data.synthetic.phonemes import SAMPLE_RATE, SILENCE, Phoneme, Speech, Synthesiser, Voice
from training.data.synthetic.recordings import for_testing, human_speeches, read_recordings
from training.data.synthetic.sound import Augmentation, augment, coloured_noise, resample
from training.data.synthetic.tracks import FPS, HeadStyle, head_tracks, loudness
from training.data.synthetic.visemes import join_silences, lip_tracks

LANGUAGES: dict[str, tuple[str, ...]] = {
    "en": (
        "gmw/en",
        "en-us",
        "gmw/en-GB-x-rp",
        "gmw/en-GB-scotland",
        "gmw/en-029",
        "gmw/en-GB-x-gbclan",
        "gmw/en-US-nyc",
    ),
    "de": ("de",),
    "es": ("es",),
    "fr": ("fr",),
    "it": ("it",),
}
VARIANTS = (
    *(f"m{i}" for i in range(1, 9)), *(f"f{i}" for i in range(1, 6)),
    "klatt", "klatt2", "klatt3", "linda", "steph", "Andy", "Alex", "Annie", "belinda", "adam", "david", "edward",
    "michel", "quincy", "paul", "robert", "travis", "Mario", "Lee",
)  # fmt: skip
HEAD_TAIL = 4 * 44  # frames of head beyond a session's end, so that a reference can lie ahead of its last clip
HEAD = slice(INDEX["blinkL"], INDEX["breath"] + 1)
LIPS = slice(INDEX["jaw"], INDEX["upper"] + 1)


@dataclass(frozen=True, slots=True)
class CorpusConfig:
    """Amounts of each kind of session. Sessions (of espeak-ng's voices, of flite's and of Festival's) are cut at
    `session_s` seconds; human recordings are repeated. speeds: at which these and the last two kinds of voices are
    played, for other pitches and throats."""

    sessions: int = 300
    flite_sessions: int = 160
    festival_sessions: int = 0
    session_s: float = 30.0
    language_weights: tuple[tuple[str, float], ...] = (
        ("en", 0.60),
        ("de", 0.13),
        ("es", 0.11),
        ("fr", 0.08),
        ("it", 0.08),
    )
    words_per_minute: tuple[int, int] = (110, 215)
    stretch: tuple[float, float] = (0.75, 1.3)
    human_repeats: int = 14
    speeds: tuple[float, float] = (0.86, 1.18)
    quiet_sessions: int = 24
    clean_probability: float = 0.25
    heads: int = 6
    seed: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    style: HeadStyle = field(default_factory=HeadStyle)


@dataclass(frozen=True, slots=True)
class SpokenSession:
    """One recording: hops `[4F + 8, 40]`, lips `[F, 5]`, heads `[V, F + HEAD_TAIL, 11]`, all at 25 frames a second."""

    hops: NDArray[np.float16]
    lips: NDArray[np.float16]
    heads: NDArray[np.float16]


class CorpusMaker:
    """Makes sessions; needs libespeak-ng, flite and Festival if they are to speak, and soundfile for them and for human
    recordings, which are read at once.

    Raises RequestError for recordings that cannot be used, MediaError for a library that is missing.
    """

    def __init__(self, config: CorpusConfig, voices: Path | None = None) -> None:
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.espeak = Synthesiser()
        self.flite = flite.Flite() if config.flite_sessions else None
        self.festival = festival.Festival() if config.festival_sessions else None
        self.recordings = [] if voices is None else read_recordings(voices, lambda name: not for_testing(name))
        for recording in self.recordings:
            self.espeak.choose(recording.voice)
        self.mel = StreamingLogMel(LogMelConfig())
        self._babble = np.zeros(SAMPLE_RATE, np.float32)

    def sessions(self) -> Iterator[SpokenSession]:
        yield from (self.session(self._spoken()) for _ in range(self.config.sessions))
        if self.flite is not None:
            yield from (self.session(self._by_flite(self.flite)) for _ in range(self.config.flite_sessions))
        if self.festival is not None:
            yield from (self.session(self._by_festival(self.festival)) for _ in range(self.config.festival_sessions))
        yield from (self.session(speech) for speech in self._human())
        yield from (self._quiet() for _ in range(self.config.quiet_sessions))

    def session(self, speech: Speech, clean: bool = False) -> SpokenSession:
        """Augment a speech and add what lips and heads do with it."""
        frames = int(len(speech.sound) / SAMPLE_RATE * FPS)
        lips = lip_tracks(speech.phonemes, frames / FPS, FPS)
        speaking = speaking_frames(speech.phonemes, frames)
        decibels = loudness(speech.sound, frames)
        sound = speech.sound
        if not clean and self.rng.random() >= self.config.clean_probability:
            sound = augment(sound, self.rng, self.config.augmentation, self._babble)
        self._babble = speech.sound
        return self._session(sound, lips, decibels, speaking)

    def _session(
        self,
        sound: NDArray[np.float32],
        lips: NDArray[np.float64],
        decibels: NDArray[np.float64],
        speaking: NDArray[np.bool_],
    ) -> SpokenSession:
        frames = len(lips)
        hops = hops_of(self.mel, sound, frames)
        tail = (np.full(HEAD_TAIL, -60.0), np.zeros(HEAD_TAIL, bool))
        loud, busy = np.concatenate([decibels, tail[0]]), np.concatenate([speaking, tail[1]])
        heads = [head_tracks(loud, busy, self.rng, self.config.style)[:, HEAD] for _ in range(self.config.heads)]
        return SpokenSession(hops.astype(np.float16), lips.astype(np.float16), np.stack(heads).astype(np.float16))

    def _spoken(self) -> Speech:
        language = self._language()
        voice = Voice(
            f"{self.rng.choice(LANGUAGES[language])}+{self.rng.choice(VARIANTS)}",
            int(self.rng.integers(*self.config.words_per_minute)),
            int(self.rng.integers(25, 80)),
            int(self.rng.integers(30, 75)),
        )
        return self._monologue(lambda: self.espeak.speak(training_sentence(language, self.rng), voice))

    def _by_flite(self, program: flite.Flite) -> Speech:
        language = self._language()
        voice, speed = str(self.rng.choice(flite.VOICES)), self.rng.uniform(*self.config.speeds)
        stretch = speed * self.rng.uniform(*self.config.stretch)

        def sentence() -> Speech:
            text = training_sentence(language, self.rng)
            if language == "en":
                return faster(program.speak(text, voice, stretch), speed)
            reading = self.espeak.speak(text, Voice(LANGUAGES[language][0]))
            return faster(program.pronounce(reading.phonemes, voice, stretch), speed)

        return self._monologue(sentence)

    def _by_festival(self, program: festival.Festival) -> Speech:
        reader = festival.READERS[self.rng.integers(len(festival.READERS))]
        speed = self.rng.uniform(*self.config.speeds)
        stretch = speed * self.rng.uniform(*self.config.stretch)

        def sentences() -> Iterator[Speech]:
            while True:  # batched: the program takes longer to start than to read
                yield from program.read([self._foreign_sentence() for _ in range(12)], reader, stretch)

        said = sentences()
        return self._monologue(lambda: faster(next(said), speed))

    def _foreign_sentence(self) -> str:
        """What a voice reads whose language has no pool: as many made-up words as Italian and Spanish."""
        if self.rng.random() < 0.5:
            return texts.made_up(self.rng)
        return training_sentence(str(self.rng.choice(["es", "it"])), self.rng)

    def _language(self) -> str:
        names, weights = zip(*self.config.language_weights, strict=True)
        return str(self.rng.choice(names, p=np.array(weights) / sum(weights)))

    def _monologue(self, sentence: Callable[[], Speech]) -> Speech:
        """Sentences and pauses until a session is full."""
        parts, seconds = [pause(self.rng.uniform(0.2, 1.5))], 0.0
        while seconds < self.config.session_s:
            gap = self.rng.uniform(0.15, 0.8) if self.rng.random() < 0.7 else self.rng.uniform(0.8, 4.0)
            parts += [sentence(), pause(gap)]
            seconds = sum(len(p.sound) for p in parts) / SAMPLE_RATE
        return join(parts)

    def _human(self) -> Iterator[Speech]:
        if not self.recordings:
            return
        recordings = human_speeches(self.espeak, self.recordings)
        for repeat in range(self.config.human_repeats):
            parts = [pause(0.4)]
            for speech in recordings:
                speed = 1.0 if repeat == 0 else self.rng.uniform(*self.config.speeds)
                parts += [faster(speech, speed), pause(self.rng.uniform(0.2, 1.5))]
                if sum(len(p.sound) for p in parts) > self.config.session_s * SAMPLE_RATE:
                    yield join(parts)
                    parts = [pause(0.3)]
            yield join(parts)

    def _quiet(self) -> SpokenSession:
        """No speech: digital silence, room noise, clicks and hum. The mouth rests."""
        frames = int(self.config.session_s * FPS)
        samples = int(self.config.session_s * SAMPLE_RATE)
        sound = coloured_noise(samples, self.rng) * np.float32(10 ** self.rng.uniform(-4.5, -1.2))
        t = np.arange(samples) / SAMPLE_RATE
        sound += np.float32(10 ** self.rng.uniform(-5, -1.5)) * np.sin(
            2 * np.pi * self.rng.uniform(45, 400) * t
        ).astype(np.float32)
        for at in self.rng.integers(0, samples - 800, 40):
            click = self.rng.normal(size=800) * np.exp(-np.arange(800) / self.rng.uniform(20, 200))
            sound[at : at + 800] += (10 ** self.rng.uniform(-3, -0.8) * click).astype(np.float32)
        if self.rng.random() < 0.3:
            sound[:] = 0
        return self._session(sound, np.zeros((frames, 5)), np.full(frames, -60.0), np.zeros(frames, bool))


def pause(seconds: float) -> Speech:
    return Speech(np.zeros(int(seconds * SAMPLE_RATE), np.float32), (Phoneme(SILENCE, 0.0, seconds),))


def join(parts: list[Speech]) -> Speech:
    """One speech after the other."""
    phonemes, at = [], 0
    for part in parts:
        start = at / SAMPLE_RATE
        phonemes += [Phoneme(p.name, start + p.start, start + p.end) for p in part.phonemes]
        at += len(part.sound)
    return Speech(np.concatenate([p.sound for p in parts]), tuple(phonemes))


def faster(speech: Speech, speed: float) -> Speech:
    """Play at another speed, which also moves the pitch."""
    sound = resample(speech.sound, SAMPLE_RATE * speed, SAMPLE_RATE)
    return Speech(sound, tuple(Phoneme(p.name, p.start / speed, p.end / speed) for p in speech.phonemes))


def training_sentence(language: str, rng: np.random.Generator) -> str:
    """A sentence, never one of those kept for testing."""
    while True:
        said = texts.sentence(language, rng)
        if said not in held_out_sentences(language):
            return said


def held_out_sentences(language: str) -> list[str]:
    return texts.POOLS[language][9::10]


def speaking_frames(phonemes: tuple[Phoneme, ...], frames: int) -> NDArray[np.bool_]:
    out = np.ones(frames, bool)
    for p in join_silences(phonemes):
        if p.name == SILENCE and p.end - p.start > 0.25:
            out[round(p.start * FPS) : round(p.end * FPS)] = False
    return out


def hops_of(mel: StreamingLogMel, sound: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Exactly the `4 F + 8` hops that the tokens of `frames` frames need; sound that is missing at the end is
    silence."""
    config = mel.config
    samples = (config.hops_per_frame * frames + config.hops_from - 1) * config.hop + config.window
    padded = np.zeros(samples, np.float32)
    padded[: min(samples, len(sound))] = sound[:samples]
    return mel.whole(padded)


def write(path: Path, sessions: Iterator[SpokenSession]) -> dict[str, float]:
    """Write a corpus to the very file that is named; return what it holds. What cannot be written is told before the
    sessions are made."""
    with replacing(path) as partial, partial.open("wb") as file:
        kept = list(sessions)
        frames = np.array([len(s.lips) for s in kept])
        np.savez(
            file,
            frames=frames,
            hops=np.concatenate([s.hops for s in kept]),
            lips=np.concatenate([s.lips for s in kept]),
            heads=np.concatenate([s.heads for s in kept], axis=1),
        )
    return {"sessions": len(kept), "hours": float(frames.sum() / FPS / 3600), "megabytes": path.stat().st_size / 1e6}
