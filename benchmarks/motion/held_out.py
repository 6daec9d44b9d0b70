"""Held-out voices and faces of the motion benchmarks, with their true lips and heads.

Needs libespeak-ng, and soundfile for human recordings.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.motion.motion_figures import FloatArray
from engine.portrait.framing import frame_portrait
from engine.portrait.landmarks import Image, carried
from engine.portrait.portrait import Portrait
from ground.errors import MediaError, RequestError
from models.codecs.motion import FEATURE_STATISTICS
from models.codecs.rig_mouth import TEETH_FROM
from training.data.faces.folder import held_out_landmarks, pictures
from training.data.synthetic import festival, flite
from training.data.synthetic.corpus import held_out_sentences, join, pause, speaking_frames
from training.data.synthetic.phonemes import SAMPLE_RATE, Speech, Synthesiser, Voice
from training.data.synthetic.recordings import for_testing, human_speeches, read_recordings
from training.data.synthetic.tracks import FPS, HeadStyle, head_tracks, loudness
from training.data.synthetic.visemes import LIP_CHANNELS, lip_tracks

SAMPLES = Path(__file__).resolve().parents[2] / "client_web" / "samples"
VOICES = (Voice("en-us", 170), Voice("gmw/en", 145), Voice("en-us", 135), Voice("gmw/en", 185))
LIPS = slice(0, len(LIP_CHANNELS))
AVERAGE_FACE = {name: mean for name, (mean, _) in FEATURE_STATISTICS.items() if name != "open"}


@dataclass(frozen=True, slots=True)
class Case:
    """A held-out voice and its true lips [T, 5] at 25 frames a second."""

    name: str
    speech: Speech
    lips: FloatArray

    @property
    def frames(self) -> int:
        return len(self.lips)


def case(name: str, speech: Speech) -> Case:
    frames = int(len(speech.sound) / SAMPLE_RATE * FPS)
    return Case(name, speech, lip_tracks(speech.phonemes, frames / FPS, FPS))


def synthetic_cases(espeak: Synthesiser) -> list[Case]:
    """Held-out sentences in plain voices at three speeds."""
    plan = (("en", "gmw/en", 150), ("en", "en-us", 175), ("en", "gmw/en", 120), ("de", "de", 150), ("es", "es", 160))
    out = []
    for language, voice, wpm in plan:
        parts = [pause(0.5)]
        for sentence in held_out_sentences(language):
            parts += [espeak.speak(sentence, Voice(voice, wpm)), pause(0.7)]
        out.append(case(f"{voice} {wpm} wpm", join(parts)))
    return out


def flite_cases() -> list[Case]:
    """Held-out sentences in flite's held-out voice. Empty where flite is not installed."""
    try:
        program = flite.Flite()
    except MediaError as error:
        print(f"  flite's voice left out: {error.message}", file=sys.stderr)
        return []
    parts = [pause(0.5)]
    for sentence in held_out_sentences("en"):
        parts += [program.speak(sentence, flite.HELD_OUT), pause(0.7)]
    return [case(f"flite {flite.HELD_OUT}", join(parts))]


def festival_cases() -> list[Case]:
    """Held-out Spanish and Italian sentences in Festival's held-out voice. Empty where Festival or its voices are not
    installed."""
    try:
        program = festival.Festival()
    except MediaError as error:
        print(f"  Festival's voice left out: {error.message}", file=sys.stderr)
        return []
    sentences = held_out_sentences("es") + held_out_sentences("it")
    said = [part for speech in program.read(sentences, festival.HELD_OUT) for part in (speech, pause(0.7))]
    return [case(f"festival {festival.HELD_OUT.name}", join([pause(0.5), *said]))]


def silent_case(seconds: float) -> Case:
    """A case of silence."""
    return case("silence", pause(seconds))


def human_cases(espeak: Synthesiser, voices: Path) -> list[Case]:
    """The held-out readers; their true lips come from an aligner. Raises RequestError."""
    recordings = read_recordings(voices, for_testing)
    return [
        case(Path(recording.name).stem, join([pause(0.5), speech]))
        for recording, speech in zip(recordings, human_speeches(espeak, recordings), strict=True)
    ]


def held_out_faces(landmarks: Path | None) -> list[dict[str, float]]:
    """Landmarks of the held-out portraits; without a file, those of one average face."""
    return [AVERAGE_FACE] if landmarks is None else held_out_landmarks(landmarks)


@dataclass(frozen=True, slots=True)
class HeldOutFace:
    """A held-out portrait, framed. found: with estimated landmarks, as in a call. known: with true landmarks."""

    name: str
    found: Portrait
    known: Portrait

    @property
    def toothy(self) -> bool:
        return self.known.landmarks["th"] > TEETH_FROM


def read_face(name: str, rgb: Image, landmarks: Mapping[str, float] | None) -> HeldOutFace:
    """Frame a square picture, and transform its true landmarks into the crop. Raises RequestError (no face)."""
    framed = frame_portrait(rgb)
    side, crop = rgb.shape[0], framed.rgb.shape[0]
    true = framed.landmarks
    if landmarks is not None:
        true = carried(landmarks, framed.crop.astype(np.float64), (side, side), (crop, crop))
    return HeldOutFace(name, framed, Portrait(framed.rgb, true))


def held_out_portraits(landmarks: Path | None, count: int) -> list[HeldOutFace]:
    """Held-out portraits, if possible half with closed lips and half with teeth; without a file, the samples. Raises
    MediaError."""
    if landmarks is None:
        return [read_face(path.stem, read_picture(path), None) for path in sorted(SAMPLES.glob("*.jpg"))[:count]]
    if not landmarks.exists():
        raise MediaError("no_portraits", f"no {landmarks}: give a landmarks.json beside its pictures")
    held_out = pictures(landmarks, 0)[1]
    closed = [name for name, (_, known) in held_out.items() if known["th"] <= TEETH_FROM]
    toothy = [name for name in held_out if name not in closed]
    few = min(len(closed), count // 2)
    faces = []
    for name in sorted(closed[:few] + toothy[: count - few]):
        try:
            faces.append(read_face(name, *held_out[name]))
        except RequestError as error:
            print(f"  {name} left out: {error.message}", file=sys.stderr)
    return faces


def read_picture(path: Path) -> Image:
    """RGB [H, W, 3]. Raises MediaError."""
    picture = cv2.imread(str(path))
    if picture is None:
        raise MediaError("no_picture", f"cannot read {path}")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def long_speech(espeak: Synthesiser, seconds: float, seed: int = 11) -> Case:
    """Held-out English sentences in plain voices, in random order with random pauses, so that nothing is periodic."""
    rng = np.random.default_rng(seed)
    sentences, parts, samples = held_out_sentences("en"), [pause(0.5)], 0
    while samples < seconds * SAMPLE_RATE:
        for i in rng.permutation(len(sentences)):
            voice = VOICES[rng.integers(len(VOICES))]
            parts += [espeak.speak(sentences[i], voice), pause(rng.uniform(0.3, 2.5))]
        samples = sum(len(part.sound) for part in parts)
    return case("held-out sentences", join(parts))


def lengthened(one: Case, seconds: float) -> Case:
    """The same voice, repeated until it is long enough."""
    times = int(np.ceil(seconds * SAMPLE_RATE / len(one.speech.sound)))
    parts: list[Speech] = [one.speech, pause(0.8)] * times
    return case(one.name, join(parts))


def truth(one: Case, seeds: int, frames: int) -> FloatArray:
    """Controls that the process of the training data generates for a voice [seeds, frames, 16], relative to a straight
    photograph: random heads, and lips by the phonemes."""
    assert frames <= one.frames, f"{one.name} is shorter than the roll"
    decibels = loudness(one.speech.sound, one.frames)
    speaking = speaking_frames(one.speech.phonemes, one.frames)
    rng = np.random.default_rng(5)
    heads = np.stack([head_tracks(decibels, speaking, rng, HeadStyle()) for _ in range(seeds)])[:, :frames]
    heads[..., LIPS] = one.lips[:frames]
    return heads
