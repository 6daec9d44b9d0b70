"""Forced alignment: phoneme times of human recordings, from espeak-ng readings of the same text.

First one reading is warped in time onto the recording (dynamic time warping on log-mel features), which finds every
sound to about a video frame. Then a hidden Markov model walks the phonemes through the recording within a corridor
about that path: two states a phoneme, Gaussians that begin as those of several synthetic readers and are estimated
anew from the recordings of a language, a few times over (Viterbi training). Pauses are taken from the loudness.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.errors import RequestError
from models.encoders.mel import StreamingLogMel
from training.data.synthetic.phonemes import SILENCE, Phoneme, Speech
from training.data.synthetic.sound import SAMPLE_RATE, import_librosa
from training.data.synthetic.visemes import join_silences

FloatArray = NDArray[np.float64]
_HOP_S, _MIDDLE_S = 0.01, 0.0125  # of the features: their step, and where the first one's window has its middle
_PAUSE_DB = -38.0  # below the recording's loud parts
_PAUSE_S = 0.18
_BAND, _BAND_HOPS = 0.18, 60  # how far the path may leave the diagonal, as a share of the length, and at least
_STEPS, _STEP_COSTS = np.array([[1, 1], [1, 0], [0, 1]]), np.array([1.0, 1.15, 1.15])
_STATES = 3  # of a phoneme, left to right
_GAP_S = 0.1  # a shorter silence of a reading is none
_CORRIDOR_S = 0.18  # how far a phoneme may stray from where the warped reading has it
_CEPSTRA = 14
_PRIOR_FRAMES = 20.0  # how much the estimate before counts against the frames found
_ROUNDS = 6


def align(recordings: Sequence[NDArray[np.float32]], readings: Sequence[Sequence[Speech]]) -> list[tuple[Phoneme, ...]]:
    """Phonemes of `recordings` (16 kHz mono) in one language, each from several readings of its text by synthetic
    voices; the first reading's phonemes count. Raises RequestError ``bad_voices`` for one too short for its text."""
    names = sorted({p.name for several in readings for one in several for p in one.phonemes} - {SILENCE})
    base = {name: 1 + _STATES * i for i, name in enumerate(names)}  # state 0 is silence
    heard = [
        _Heard(sound, _warped(sound, several[0]), base) for sound, several in zip(recordings, readings, strict=True)
    ]
    examples = [(_cepstra(one.sound), _states_of(one.phonemes, base)) for several in readings for one in several]
    # A synthetic reader's pause is empty; what silence sounds like here the recordings know.
    examples += [(one.features, np.where(one.quiet, 0, -1)) for one in heard]
    model = prior = _Gaussians.estimate(examples, 1 + _STATES * len(names), None)
    for _ in range(_ROUNDS):
        paths = [one.walk(model) for one in heard]
        found = [(one.features, one.states[path]) for one, path in zip(heard, paths, strict=True)]
        model = _Gaussians.estimate(found, len(prior.mean), prior)
    times = [one.phonemes(one.walk(model), len(sound)) for one, sound in zip(heard, recordings, strict=True)]
    return [with_pauses(phonemes, sound) for phonemes, sound in zip(times, recordings, strict=True)]


def _warped(recording: NDArray[np.float32], reading: Speech) -> list[Phoneme]:
    mel = StreamingLogMel()
    ours, theirs = _features(mel.whole(recording)), _features(mel.whole(reading.sound))
    path = warp_path(ours, theirs)
    reading_s, recording_s = path[:, 1] * _HOP_S + _MIDDLE_S, path[:, 0] * _HOP_S + _MIDDLE_S
    keep = np.r_[True, np.diff(reading_s) > 0]
    edges = [p.start for p in reading.phonemes] + [reading.phonemes[-1].end]
    moved = np.interp(edges, reading_s[keep], recording_s[keep])
    moved[0], moved[-1] = 0.0, len(recording) / SAMPLE_RATE
    moved = np.maximum.accumulate(moved)
    times = zip(reading.phonemes, moved[:-1], moved[1:], strict=True)
    return [Phoneme(p.name, float(a), float(b)) for p, a, b in times]


def _features(hops: NDArray[np.float32]) -> NDArray[np.float32]:
    normal = (hops - hops.mean(0)) / (hops.std(0) + 1e-3)
    slope = np.gradient(normal, axis=0)
    return np.concatenate([normal, 2.0 * slope], axis=1).astype(np.float32)


def _cepstra(sound: NDArray[np.float32]) -> FloatArray:
    """Mel cepstra and their slopes `[hops, 28]`, each of zero mean and unit variance over the sound."""
    hops = StreamingLogMel().whole(sound).astype(np.float64)
    bands = hops.shape[1]
    cosines = np.cos(np.pi * np.arange(_CEPSTRA)[:, None] * (np.arange(bands) + 0.5) / bands)
    cepstra = hops @ cosines.T
    cepstra = (cepstra - cepstra.mean(0)) / (cepstra.std(0) + 1e-6)
    slope = np.gradient(cepstra, axis=0)
    return np.concatenate([cepstra, 0.8 * slope / (slope.std(0) + 1e-6)], axis=1)


def _states_of(phonemes: Sequence[Phoneme], base: dict[str, int]) -> NDArray[np.intp]:
    """The state of every hop of a reading, whose phonemes are cut into equal parts; -1 in its pauses."""
    out = np.full(max(0, round((phonemes[-1].end - _MIDDLE_S) / _HOP_S)), -1)
    for p in phonemes:
        if p.name != SILENCE:
            cuts = np.linspace(p.start, p.end, _STATES + 1)
            hops = [max(0, round((t - _MIDDLE_S) / _HOP_S)) for t in cuts]
            for part, (a, b) in enumerate(zip(hops, hops[1:], strict=False)):
                out[a:b] = base[p.name] + part
    return out


@dataclass(frozen=True, slots=True)
class _Gaussians:
    """One for each state, with independent dimensions: mean and variance `[states, dimensions]`."""

    mean: FloatArray
    variance: FloatArray

    @classmethod
    def estimate(
        cls, examples: Sequence[tuple[FloatArray, NDArray[np.intp]]], states: int, prior: "_Gaussians | None"
    ) -> "_Gaussians":
        """Of features and their states (-1: not told); rarely seen ones stay near the prior (without one, near all
        sound)."""
        pairs = [(f[: len(s)], s[: len(f)]) for f, s in examples]
        features, state = np.concatenate([f for f, _ in pairs]), np.concatenate([s for _, s in pairs])
        prior = prior or cls(*(np.tile(x, (states, 1)) for x in (features.mean(0), features.var(0))))
        seen = (state[None] == np.arange(states)[:, None]).astype(np.float64)
        count = seen.sum(1)[:, None] + _PRIOR_FRAMES
        mean = (seen @ features + _PRIOR_FRAMES * prior.mean) / count
        square = seen @ features**2 - 2 * mean * (seen @ features) + seen.sum(1)[:, None] * mean**2
        return cls(mean, np.maximum((square + _PRIOR_FRAMES * prior.variance) / count, 0.05))

    def log_likelihood(self, features: FloatArray) -> FloatArray:
        """`[hops, states]`, but for a constant."""
        distance = features**2 @ (1 / self.variance).T - 2 * features @ (self.mean / self.variance).T
        likelihood: FloatArray = -0.5 * (distance + (self.mean**2 / self.variance + np.log(self.variance)).sum(1))
        return likelihood


class _Heard:
    """One recording and the states its phonemes go through, with a silence that may be left out before, between and
    after them. quiet: hops that are surely silent. states: which Gaussian each is. allowed: at which hops, by where a
    warped reading has the phonemes."""

    def __init__(self, sound: NDArray[np.float32], warped: Sequence[Phoneme], base: dict[str, int]) -> None:
        self.features = _cepstra(sound)
        at = np.arange(len(self.features)) * _HOP_S + _MIDDLE_S

        def during(phonemes: Sequence[Phoneme], beyond: float) -> NDArray[np.bool_]:
            """Hops in each of them, or so many seconds from it `[hops, phonemes]`."""
            starts, ends = (np.array([getattr(p, side) for p in phonemes]) for side in ("start", "end"))
            return (at[:, None] > starts - beyond) & (at[:, None] < ends + beyond)

        spoken = [p for p in warped if p.name != SILENCE]
        pauses = [p for p in warped if p.name == SILENCE and p.end - p.start > _GAP_S]
        loud = np.resize(~quiet_hops(sound), len(at))
        self.names = [p.name for p in spoken]
        if len(at) < _STATES * len(spoken):
            seconds = len(sound) / SAMPLE_RATE
            raise RequestError("bad_voices", f"{seconds:.1f} s are too short for the {len(spoken)} sounds of the text")
        self.quiet = ~loud | during(pauses, -0.04).any(1)
        chain = [[0, *range(base[name], base[name] + _STATES)] for name in self.names]
        self.states = np.array([state for link in chain for state in link] + [0])
        # From the last state of a phoneme one may go to the first of the next without the silence between.
        self.skips = np.arange(len(self.states)) % (_STATES + 1) == 1
        self.allowed = np.repeat(during(spoken, _CORRIDOR_S), _STATES + 1, axis=1)
        self.allowed = np.pad(self.allowed, ((0, 0), (0, 1)))
        ends = (at < spoken[0].end) | (at > spoken[-1].start)  # the warped reading fills the recording to its ends
        self.allowed[:, self.states == 0] = (~loud | ends | during(pauses, _CORRIDOR_S).any(1))[:, None]

    def walk(self, model: _Gaussians) -> NDArray[np.intp]:
        """The likeliest way through the states (Viterbi): the place in `states` at every hop. A state has three ways in
        at most, so this takes time in proportion to the states, where a dense transition matrix takes their square."""
        likelihood = np.where(self.allowed, model.log_likelihood(self.features)[:, self.states], -1e4)
        places = np.arange(len(self.states))
        score = np.full(len(places), -np.inf)
        score[:2] = likelihood[0, :2]
        came = np.zeros(likelihood.shape, np.int8)
        for hop in range(1, len(likelihood)):
            step = np.r_[-np.inf, score[:-1]]
            skip = np.where(self.skips, np.r_[-np.inf, -np.inf, score[:-2]], -np.inf)
            ways = np.stack([score, step, skip])
            came[hop] = ways.argmax(0)
            score = ways[came[hop], places] + likelihood[hop]
        path = np.zeros(len(likelihood), np.intp)
        place = len(places) - 1 - int(score[-2] > score[-1])
        for hop in range(len(path) - 1, -1, -1):
            path[hop] = place
            place -= int(came[hop, place])
        return path

    def phonemes(self, path: NDArray[np.intp], samples: int) -> list[Phoneme]:
        """A walk as phonemes that cover the recording; what is silence between them is told."""
        link, part = np.divmod(path, _STATES + 1)
        begins = np.flatnonzero(np.r_[True, (np.diff(link) != 0) | (np.diff(part == 0))])
        edges = [0.0, *(begins[1:] * _HOP_S + _MIDDLE_S), samples / SAMPLE_RATE]
        named = [SILENCE if part[hop] == 0 else self.names[link[hop]] for hop in begins]
        return [Phoneme(n, float(a), float(b)) for n, a, b in zip(named, edges[:-1], edges[1:], strict=True) if b > a]


def warp_path(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.intp]:
    """Cheapest monotone path `[steps, 2]` of index pairs from (0, 0) to the ends, within a band about the diagonal
    (dynamic time warping)."""
    _, path = import_librosa().sequence.dtw(
        a.T, b.T, metric="euclidean", step_sizes_sigma=_STEPS, weights_mul=_STEP_COSTS,
        global_constraints=True, band_rad=min(1.0, max(_BAND, _BAND_HOPS / min(len(a), len(b)))),
    )  # fmt: skip
    return np.asarray(path[::-1], np.intp)


def quiet_hops(recording: NDArray[np.float32]) -> NDArray[np.bool_]:
    """For every 10 ms whether it lies in a pause: much quieter than the loud parts, for long enough."""
    step = SAMPLE_RATE // 100
    count = len(recording) // step
    power = (recording[: count * step].reshape(count, step) ** 2).mean(1)
    decibels = 10 * np.log10(np.convolve(power, np.ones(5) / 5, "same") + 1e-9)
    quiet = decibels < np.percentile(decibels, 95) + _PAUSE_DB
    edges = np.flatnonzero(np.diff(np.r_[0, quiet.astype(int), 0]))
    out = np.zeros(count, bool)
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        out[a:b] = (b - a) * _HOP_S >= _PAUSE_S
    return out


def with_pauses(phonemes: Sequence[Phoneme], recording: NDArray[np.float32]) -> tuple[Phoneme, ...]:
    """Cut silence into phonemes where the recording is quiet for long enough to be a pause."""
    edges = np.flatnonzero(np.diff(np.r_[0, quiet_hops(recording).astype(int), 0])) * _HOP_S
    out = list(phonemes)
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        cut: list[Phoneme] = []
        for p in out:
            pieces = [(p.start, min(p.end, a)), (max(p.start, b), p.end)]
            cut += [Phoneme(p.name, s, e) for s, e in pieces if e - s > 1e-6]
        out = sorted([*cut, Phoneme(SILENCE, a, b)], key=lambda p: p.start)
    return tuple(join_silences(out))
