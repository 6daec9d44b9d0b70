"""Lip tracks from phonemes: a viseme table with dominance blending (coarticulation).

A sound has targets and, for each, a dominance: how strongly it insists. Targets are blended by smoothed dominance
(after M. Cohen and D. Massaro, 1993): a t lets the lips of its vowel pass, a w does not, and p, b, m close them
whatever stands beside. Knows no audio and no head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.phonemes import SILENCE, Phoneme

FloatArray = NDArray[np.float64]
LIP_CHANNELS = ("jaw", "pucker", "smile", "press", "upper")
_RATE = 200  # points a second of the fine track
_REST_S = 0.15  # a shorter gap between words is no rest for the mouth


@dataclass(frozen=True, slots=True)
class Viseme:
    """Targets (units of ground.motion) and dominance of a sound: of the jaw, and of the lips' shape."""

    jaw: float
    pucker: float = 0.0
    smile: float = 0.0
    upper: float = 0.0
    jaw_dominance: float = 1.0
    lip_dominance: float = 1.0
    closes: bool = False


REST = Viseme(0.0)
_CLOSED = Viseme(0.0, 0.0, 0.0, 0.0, 4.0, 0.25, closes=True)
_TABLE: dict[str, Viseme] = {
    "A A: A~ a a: & &~ a@ A@ aa": Viseme(0.70, 0.0, 0.08, 0.10),
    "a# V 0# 3_": Viseme(0.58, 0.0, 0.05, 0.08),
    "aI3 aI@ aU@": Viseme(0.68, 0.0, 0.12, 0.10),
    "0 O O: O@ O~ Q W~": Viseme(0.62, 0.48, -0.05, 0.05),
    "o o: o@ o~": Viseme(0.42, 0.65, -0.05, 0.0),
    "{ E E: E# E~ e@ e: e": Viseme(0.42, -0.05, 0.34, 0.15),
    "I I2 I# IR i2 i@ i@3": Viseme(0.34, -0.08, 0.36, 0.14),
    "i i: iU": Viseme(0.30, -0.12, 0.50, 0.16),
    "u u: U U@ U~ w2": Viseme(0.28, 0.82, -0.10, 0.0),
    "y y: Y Y: 2: Wy": Viseme(0.28, 0.78, 0.0, 0.0),
    "9 W": Viseme(0.42, 0.60, 0.0, 0.0),
    "3 3: @L @r": Viseme(0.34, 0.16, 0.05, 0.06, 0.9, 0.7),
    "@ @- @2 @5 E2 ; *": Viseme(0.32, 0.05, 0.06, 0.05, 0.6, 0.4),
    "w W2": Viseme(0.24, 0.90, -0.10, 0.0, 1.1, 2.0),
    "t d n l t2 t# t[ n- n^ l^ D T R2 r- ?": Viseme(0.17, 0.0, 0.10, 0.08, 0.9, 0.25),
    "s z ts ts2 dz": Viseme(0.10, -0.03, 0.20, 0.16, 1.3, 0.5),
    "S Z tS dZ C tC ;S": Viseme(0.14, 0.48, 0.0, 0.22, 1.3, 1.2),
    "k g N x h X Q^ R": Viseme(0.22, 0.0, 0.05, 0.05, 0.5, 0.12),
    "j": Viseme(0.22, -0.05, 0.28, 0.10, 0.7, 0.6),
    "r r/": Viseme(0.20, 0.28, 0.0, 0.06, 0.8, 0.7),
    "f v": Viseme(0.06, 0.0, 0.05, 0.34, 2.6, 1.0),
    "B": Viseme(0.05, 0.05, 0.0, 0.0, 2.5, 0.4),
    "p b m pF": _CLOSED,
}
_VISEMES: dict[str, Viseme] = {name: viseme for names, viseme in _TABLE.items() for name in names.split()}
# Glides move: (first part, second part, share of the first).
_GLIDES: dict[str, tuple[str, str, float]] = {
    "aI": ("a", "I", 0.70), "aU": ("a", "U", 0.68), "eI": ("E", "I", 0.55),
    "EI": ("E", "I", 0.55), "OI": ("O:", "I", 0.55),
    "OY": ("O:", "Y", 0.55), "oU": ("o", "u", 0.5), "@U": ("3", "u", 0.4), "U@": ("U", "@", 0.5),
    "aI@": ("a", "@", 0.6),
    "aI3": ("a", "3", 0.6), "i@": ("I", "@", 0.55), "e@": ("E", "@", 0.6), "oI": ("o", "I", 0.5), "VU": ("a", "U", 0.6),
    "U~": ("a", "U", 0.5), "&U~": ("a", "U", 0.5), "iU": ("i", "U", 0.5), "eU": ("E", "U", 0.5), "aU@": ("a", "U", 0.5),
}  # fmt: skip
_DEFAULT = Viseme(0.25, 0.0, 0.05, 0.05, 0.5, 0.2)


def viseme(name: str) -> Viseme:
    """The viseme of a phoneme; an unknown variant of a known sound (longer name) falls back to that sound."""
    return next((_VISEMES[n] for n in (name, name[:2], name[:1]) if n in _VISEMES), _DEFAULT)


def is_known(name: str) -> bool:
    """Whether the tables hold this very name, without falling back."""
    return name == SILENCE or name in _GLIDES or name in _VISEMES


@dataclass(frozen=True, slots=True)
class Blend:
    """How wide the blending windows are (full width of a raised cosine, seconds) and how early lips begin."""

    jaw_s: float = 0.12
    lips_s: float = 0.20
    lips_early_s: float = 0.03
    closing_s: float = 0.055
    opening_s: float = 0.055


def lip_tracks(phonemes: Sequence[Phoneme], seconds: float, fps: float, blend: Blend | None = None) -> FloatArray:
    """Lip controls `[frames, 5]` in the order of LIP_CHANNELS, one row for the middle of each frame."""
    blend = blend or Blend()
    points = int(seconds * _RATE) + 1
    target, weight = np.zeros((points, 4)), np.zeros((points, 4))
    weight[:] = 1.0
    gate, press = np.zeros(points), np.zeros(points)
    for start, end, wanted in _segments(phonemes):
        a, b = round(start * _RATE), max(round(end * _RATE), round(start * _RATE) + 1)
        target[a:b] = wanted.jaw, wanted.pucker, wanted.smile, wanted.upper
        weight[a:b] = wanted.jaw_dominance, *(wanted.lip_dominance,) * 3
        if wanted.closes:
            bump = _closure(np.arange(points) / _RATE, start, end, blend)
            gate, press = np.maximum(gate, bump), np.maximum(press, bump)
    blended = np.empty_like(target)
    for channel in range(4):
        kernel = _raised_cosine(blend.jaw_s if channel == 0 else blend.lips_s)
        pad = len(kernel) // 2
        top, bottom = (
            np.convolve(np.pad(x[:, channel], pad, mode="edge"), kernel, "valid") for x in (target * weight, weight)
        )
        blended[:, channel] = top / np.maximum(bottom, 1e-6)
    early = round(blend.lips_early_s * _RATE)
    blended[: points - early, 1:] = blended[early:, 1:]
    blended[:, 0] *= 1 - gate
    blended[:, 3] *= 1 - 0.8 * gate
    fine = np.column_stack([blended[:, 0], blended[:, 1], blended[:, 2], 0.85 * press, blended[:, 3]])
    frames = int(seconds * fps + 1e-6)  # frames / fps * fps may come out a little less
    middles = np.minimum(((np.arange(frames) + 0.5) / fps * _RATE).astype(int), points - 1)
    at_frames: FloatArray = fine[middles]
    return at_frames


def _segments(phonemes: Sequence[Phoneme]) -> list[tuple[float, float, Viseme]]:
    """Phonemes with their glides split and short gaps given to no one (very low dominance, so neighbours decide)."""
    out = []
    for p in join_silences(phonemes):
        glide = _GLIDES.get(p.name) or (_GLIDES.get(p.name[:2]) if p.name not in _VISEMES else None)
        if p.name == SILENCE:
            gap = Viseme(0.12, 0.0, 0.0, 0.0, 0.25, 0.1) if p.end - p.start < _REST_S else REST
            out.append((p.start, p.end, gap))
        elif glide:
            first, second, share = glide
            middle = p.start + share * (p.end - p.start)
            out += [(p.start, middle, viseme(first)), (middle, p.end, viseme(second))]
        else:
            out.append((p.start, p.end, viseme(p.name)))
    return out


def join_silences(phonemes: Sequence[Phoneme]) -> list[Phoneme]:
    """Neighbouring silences become one, so that its length is known."""
    out: list[Phoneme] = []
    for p in phonemes:
        if out and p.name == SILENCE == out[-1].name:
            out[-1] = Phoneme(SILENCE, out[-1].start, p.end)
        else:
            out.append(p)
    return out


def _closure(t: FloatArray, start: float, end: float, blend: Blend) -> FloatArray:
    """1 while the lips are shut: from the start of the sound to shortly after its middle, with soft edges."""
    shut_until = max(0.5 * (start + end) + 0.02, start + 0.7 * (end - start))
    rising = np.clip((t - start + blend.closing_s) / blend.closing_s, 0, 1)
    falling = np.clip((shut_until + blend.opening_s - t) / blend.opening_s, 0, 1)
    x: FloatArray = np.minimum(rising, falling)
    smooth: FloatArray = x * x * (3 - 2 * x)
    return smooth


@lru_cache(maxsize=16)
def _raised_cosine(width_s: float) -> FloatArray:
    size = max(3, round(width_s * _RATE) | 1)
    kernel = np.hanning(size + 2)[1:-1]
    normal: FloatArray = kernel / kernel.sum()
    return normal
