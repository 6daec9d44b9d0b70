"""Lips against their phonemes and heads against the data, with voice only.

    python -m benchmarks.voice_only [--weights dit.safetensors] [--voices DIR] [--portraits landmarks.json] [--json]

Voices (plain espeak-ng, never trained on), sentences, readers and portraits are held out. Human readers need --voices;
their truth is an aligned espeak reading. One call a voice, each with a face and a seed of its own; the heads are one
voice and face with several seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import motion_figures as figures
from benchmarks.held_out import (
    LIPS,
    Case,
    human_cases,
    lengthened,
    make_voices,
    synthetic_cases,
    truth,
)
from benchmarks.motion_figures import BLINK, FloatArray, estimate
from benchmarks.report import Report, Row, Section, print_report
from benchmarks.rolls import SHIPPED, Candidate
from benchmarks.variants import OWN
from training.faces import held_out_landmarks
from training.synthetic.phonemes import SILENCE
from training.synthetic.tracks import FPS
from training.synthetic.visemes import LIP_CHANNELS, join_silences

HEAD = ("yaw", "pitch", "roll")


def lip_figures(motion: FloatArray, one: Case) -> dict[str, float]:
    """Of one call [T, 16]: correlation of each lip channel with its truth, the jaw's amplitude and lag in frames, lips
    at p b m and in pauses."""
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
    }


def head_row(tracks: FloatArray, data: FloatArray) -> Row:
    jerk = figures.jerk_ratios(tracks, data)
    return {
        **{f"{name} sd": estimate(figures.sd(name), tracks) for name in HEAD},
        **{f"{name} mean (degrees)": estimate(figures.mean_degrees(name), tracks) for name in HEAD},
        "blinks/min": estimate(figures.blinks_a_minute, tracks),
        "blink peak": estimate(lambda rows: float(np.percentile(rows[..., BLINK], 99)), tracks),
        **{f"jerk {name}": jerk[name] for name in ("J0", "J1", "all")},
        "yaw r of seeds": estimate(figures.seed_correlation("yaw"), tracks),
    }


def run(arguments: argparse.Namespace) -> Report:
    maker, candidate = make_voices(arguments.voices), Candidate(arguments.weights)
    faces = held_out_landmarks(arguments.portraits)
    cases = synthetic_cases(maker) + (human_cases(maker, arguments.voices) if arguments.voices else [])
    own = [faces[i % len(faces)] for i in range(len(cases))]
    made = candidate.roll(OWN, cases, own, range(len(cases)), arguments.seconds)
    lips: Section = {one.name: rounded(lip_figures(motion, one)) for one, motion in zip(cases, made, strict=True)}
    long = lengthened(cases[0], arguments.seconds + 1)
    heads = candidate.seeds_of(OWN, long, faces[0], arguments.seeds, arguments.seconds)
    data = truth(long, arguments.seeds, heads.shape[1])
    return {
        "lips against their phonemes": lips,
        "heads (sd in rad, jerk over the data's)": {"model": head_row(heads, data), "data": head_row(data, data)},
    }


def rounded(found: Mapping[str, float]) -> Row:
    return {name: round(value, 3) for name, value in found.items()}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.voice_only"
    )
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped ones")
    parser.add_argument("--voices", type=Path, help="folder of human recordings with transcripts.json")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: painted faces")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seeds", type=int, default=8, help="of the heads")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args(words)
    if arguments.seeds < 2 or arguments.seconds < 8:
        parser.error("at least 2 seeds and 8 seconds")
    about = {"weights": arguments.weights.name, "seeds": arguments.seeds, "seconds": arguments.seconds}
    print_report("voice_only", lambda: run(arguments), as_json=arguments.json, **about)


if __name__ == "__main__":
    main()
