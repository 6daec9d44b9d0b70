"""Lip figures: agreement of lip tracks with the true lips of the phonemes."""

import numpy as np

from benchmarks.motion.held_out import LIPS, Case
from benchmarks.motion.motion_figures import FloatArray
from training.data.synthetic.phonemes import SILENCE
from training.data.synthetic.tracks import FPS
from training.data.synthetic.visemes import LIP_CHANNELS, join_silences, viseme


def lip_figures(motion: FloatArray, one: Case) -> dict[str, float]:
    """Figures of one call [T, 16]: correlation of each lip channel with its truth; the jaw's amplitude (ratio of
    standard deviations) and lag in frames; jaw and press in the middle of p, b and m; jaw in pauses; and
    ``vowels_apart``."""
    frames = min(len(motion), one.frames)
    made, truth = motion[:frames, LIPS], one.lips[:frames]
    jaw, press = made[:, LIP_CHANNELS.index("jaw")], made[:, LIP_CHANNELS.index("press")]
    true_jaw = truth[:, LIP_CHANNELS.index("jaw")]
    lags = {s: float(np.corrcoef(np.roll(jaw, -s)[5:-5], true_jaw[5:-5])[0, 1]) for s in range(-4, 5)}
    middles = [int((p.start + p.end) / 2 * FPS) for p in one.speech.phonemes if p.name in ("p", "b", "m")]
    closed = [frame for frame in middles if frame < frames]
    rests = [p for p in join_silences(one.speech.phonemes) if p.name == SILENCE and p.end - p.start > 0.4]
    resting = [f for p in rests for f in range(int((p.start + 0.16) * FPS), int((p.end - 0.16) * FPS)) if f < frames]
    correlations = {f"{n} r": float(np.corrcoef(made[:, i], truth[:, i])[0, 1]) for i, n in enumerate(LIP_CHANNELS)}
    return correlations | {
        "jaw amplitude": float(jaw.std() / true_jaw.std()),
        "jaw lag": float(max(lags, key=lambda s: lags[s])),
        "jaw at p b m": float(jaw[closed].mean()),
        "press at p b m": float(press[closed].mean()),
        "jaw in pauses": float(jaw[resting].mean()),
        "vowels apart": vowels_apart(made, one),
    }


def vowels_apart(lips: FloatArray, one: Case) -> float:
    """d' (difference of means over the pooled standard deviation) of the lips' width, smile less pucker, between the
    middles of spread vowels and those of rounded vowels and w. lips: [T, 5]. NaN with fewer than eight of a kind."""
    width = lips[:, LIP_CHANNELS.index("smile")] - lips[:, LIP_CHANNELS.index("pucker")]
    at = [(viseme(p.name), int((p.start + p.end) / 2 * FPS)) for p in one.speech.phonemes if p.name != SILENCE]
    spread = width[[frame for wanted, frame in at if wanted.smile > 0.3 and frame < len(width)]]
    rounded = width[[frame for wanted, frame in at if wanted.pucker >= 0.6 and frame < len(width)]]
    if min(len(spread), len(rounded)) < 8:
        return float("nan")
    return float((spread.mean() - rounded.mean()) / np.sqrt((spread.var() + rounded.var()) / 2))
