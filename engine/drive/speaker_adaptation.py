"""Speaker adaptation: a correction of the viseme estimates of rounded and spread vowels, learned from the call's own
voice.

Rounded and spread vowels lie apart in anybody's spectrum, but not in everybody's at the same place. So a rule is made
of the call itself, by self-training: frames that the estimator hears as more rounded, or as more spread, than this
call's others teach a linear discriminant (R. A. Fisher, 1936) of their cepstra, and the rule has a say in which they
are: the more, the less the estimator tells them apart, for what it doubts it puts in the middle. It follows what the
call has said so far, so it needs no look-ahead; with a new worker it begins anew. Knows no clock.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ground.motion import INDEX, SCALES
from models.encoders.mel import LogMelConfig

FloatArray = NDArray[np.float32]
Precise = NDArray[np.float64]

_JAW, _PUCKER, _SMILE = (INDEX[name] for name in ("jaw", "pucker", "smile"))
_OPEN = 0.12 / SCALES[_JAW]  # wider than in a closure, a hiss or a rest
_BY_PUCKER = 0.6  # of a correction; the corners make the rest
_CEPSTRA = 20
_SPREAD_HOPS = 2.0  # standard deviation of the weights of hops about a frame's middle
KEPT = 500  # open frames that teach, the last ones
BEGIN = 18  # so many there must be
EVERY = 6  # so many more, and the rule is made anew
_ROUNDS = 2
USUAL = 0.378  # deviation of widths where the mouth is open: root mean square of the corpus's sessions, known lips
_LEAST = 0.01  # where there is anything to learn
_SHARES = 0.2, 0.6  # of the rule beside the estimator: where widths differ as usual, and at most
_BY_LACK = 0.7  # share more for every USUAL that they lack over what they have
_HALF = 20  # after so many frames the rule has half its share
_SHRINKAGE = 0.1  # of the covariance towards equal variances
_FURTHEST = 3.0  # standard deviations of the call's own widths


class SpeakerAdaptation:
    """One call's."""

    def __init__(self, features: LogMelConfig | None = None) -> None:
        self._to_cepstra = _cepstra(features or LogMelConfig())
        self._points = np.zeros((KEPT, _CEPSTRA))
        self._widths = np.zeros(KEPT)
        self._seen = 0
        self._rule: _Rule | None = None

    def __call__(self, tokens: FloatArray, visemes: FloatArray) -> FloatArray:
        """The next frames' features [T, token_size] and visemes [T, VISEMES], over their scales, to visemes with this
        call's vowels; the same however many frames come at once."""
        points, lips = tokens.astype(np.float64) @ self._to_cepstra, visemes.astype(np.float64)
        widths = SCALES[_SMILE] * lips[:, _SMILE] - SCALES[_PUCKER] * lips[:, _PUCKER]
        adapted = visemes.copy()
        for frame, (point, width, jaw) in enumerate(zip(points, widths, lips[:, _JAW], strict=True)):
            if jaw > _OPEN:
                self._learn(point, width)
            if self._rule is not None:
                further = (self._rule.width(point, width) - width) * min(max(jaw / _OPEN, 0.0), 1.0)
                adapted[frame, _PUCKER] -= _BY_PUCKER * further / SCALES[_PUCKER]
                adapted[frame, _SMILE] += (1 - _BY_PUCKER) * further / SCALES[_SMILE]
        return adapted

    def _learn(self, point: Precise, width: float) -> None:
        self._points[self._seen % KEPT], self._widths[self._seen % KEPT] = point, width
        self._seen += 1
        if self._seen >= BEGIN and self._seen % EVERY == 0:
            points, widths = self._points[: self._seen], self._widths[: self._seen]
            self._rule = _Rule.of(points, widths) if widths.std() > _LEAST else None


@dataclass(frozen=True, slots=True)
class _Rule:
    """The width of lips, smile less pucker, by a frame's cepstra and by the width that was estimated."""

    middle: float
    by_estimate: float
    by_cepstra: Precise
    offset: float
    furthest: float

    @classmethod
    def of(cls, points: Precise, widths: Precise) -> "_Rule":
        """Of frames [N, CEPSTRA] and what was estimated of them [N]. Lips move as far as they did."""
        middle, deviation = float(widths.mean()), float(widths.std())
        estimated = (widths - middle) / deviation
        share = min(max(_SHARES[0] + _BY_LACK * (USUAL / deviation - 1), _SHARES[0]), _SHARES[1])
        share *= len(widths) / (len(widths) + _HALF)
        told = estimated
        for _ in range(_ROUNDS):
            axis = _discriminant(points, told)
            axis /= (points @ axis).std() + 1e-6
            offset = float((points @ axis).mean())
            told = (1 - share) * estimated + share * (points @ axis - offset)
            further = 1 / float(told.std())
            told *= further
        part = share * further * deviation
        return cls(middle, (1 - share) * further, part * axis, part * offset, _FURTHEST * deviation)

    def width(self, point: Precise, estimated: float) -> float:
        moved = self.by_estimate * (estimated - self.middle) + float(point @ self.by_cepstra) - self.offset
        return self.middle + min(max(moved, -self.furthest), self.furthest)


def _discriminant(points: Precise, told: Precise) -> Precise:
    """The axis [CEPSTRA] along which frames lie apart best that are told as rounded (below 0, the mean) and as
    spread; the surer, the more they count."""
    sure = np.tanh(told)
    within = np.zeros((_CEPSTRA, _CEPSTRA))
    means = []
    for weight in (np.maximum(-sure, 0), np.maximum(sure, 0)):
        mean = weight @ points / weight.sum()
        within += (points - mean).T @ (weight[:, None] * (points - mean))
        means.append(mean)
    within /= np.abs(sure).sum()
    within += (_SHRINKAGE * np.trace(within) / _CEPSTRA + 1e-6) * np.eye(_CEPSTRA)
    axis: Precise = np.linalg.solve(within, means[1] - means[0])
    return axis


def _cepstra(config: LogMelConfig) -> Precise:
    """[token_size, CEPSTRA]: of a token's log-mel, weighted about the middle of its frame, the first cosines."""
    middles = np.arange(-config.hops_before, config.hops_from) + config.window / (2 * config.hop)
    weights = np.exp(-0.5 * ((middles - config.hops_per_frame / 2) / _SPREAD_HOPS) ** 2)
    bands = (np.arange(config.mels) + 0.5) / config.mels
    cosines = np.cos(np.pi * np.arange(_CEPSTRA) * bands[:, None]) * np.sqrt(2 / config.mels)
    return np.kron(weights[:, None] / weights.sum(), cosines)
