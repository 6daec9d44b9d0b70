"""Lips and heads from the voice alone, beside the phonemes' lips and the heads of the training data's process.

    python -m benchmarks.motion.voice_only [--weights dit.safetensors] [--voices DIR] [--portraits FILE] [--json]

Voices (plain espeak-ng, and where installed one of flite's and one of Festival's, which are made of people's
recordings), sentences, readers and portraits are held out. Human readers need --voices; their true lips come from an
aligner. Lips: one call a voice, with a face and a seed of its own. Heads: one voice and face with several seeds,
speaking and silent. The first table has the viseme estimates that the transformer gets, by the estimator alone and with
the call's level and speaker adaptation.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.motion import motion_figures as figures
from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import (
    Case,
    festival_cases,
    flite_cases,
    human_cases,
    lengthened,
    silent_case,
    synthetic_cases,
    truth,
)
from benchmarks.motion.lip_figures import lip_figures
from benchmarks.motion.motion_figures import BLINK, FloatArray, estimate
from benchmarks.motion.report import Report, Row, Section, measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel, drive
from benchmarks.motion.variants import OWN
from ground.motion import FRAMES_PER_LATENT, SCALES
from models.encoders.mel import LogMelConfig
from models.encoders.visemes import HISTORY, VISEMES, VisemeEstimator
from training.arguments import at_least
from training.data.faces.folder import held_out_landmarks
from training.data.synthetic.phonemes import Synthesiser
from training.data.synthetic.tracks import FPS

HEAD = ("yaw", "pitch", "roll")


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


def listening_row(tracks: FloatArray) -> Row:
    return {
        **{f"{name} sd": estimate(figures.sd(name), tracks) for name in HEAD},
        "nods/min": estimate(figures.nods_a_minute, tracks),
        "blinks/min": estimate(figures.blinks_a_minute, tracks),
    }


def run(arguments: argparse.Namespace) -> Report:
    espeak, candidate = Synthesiser(), BenchModel(arguments.weights)
    faces = held_out_landmarks(arguments.portraits)
    cases = synthetic_cases(espeak) + flite_cases() + festival_cases()
    cases += human_cases(espeak, arguments.voices) if arguments.voices else []
    own = [faces[i % len(faces)] for i in range(len(cases))]
    made = candidate.roll(OWN, cases, own, range(len(cases)), arguments.seconds)
    lips: Section = {one.name: rounded(lip_figures(motion, one)) for one, motion in zip(cases, made, strict=True)}
    told: Section = {one.name: rounded(told_lips(one, candidate.estimator, arguments.seconds)) for one in cases}
    long = lengthened(cases[0], arguments.seconds + 1)
    heads = candidate.seeds_of(OWN, long, faces[0], arguments.seeds, arguments.seconds)
    data = truth(long, arguments.seeds, heads.shape[1])
    silent = silent_case(arguments.seconds + 1)
    listening = candidate.seeds_of(OWN, silent, faces[0], arguments.seeds, arguments.seconds)
    listener = truth(silent, arguments.seeds, listening.shape[1])
    return {
        "what the transformer is told of lips (d' of spread and rounded vowels)": told,
        "lips against their phonemes": lips,
        "heads (sd in rad, jerk over the data's)": {"model": head_row(heads, data), "data": head_row(data, data)},
        "heads that listen (nods: dips of 0.04 rad)": {
            "model": listening_row(listening),
            "data": listening_row(listener),
        },
    }


def told_lips(one: Case, estimator: VisemeEstimator, seconds: float) -> dict[str, float]:
    """Lip figures of the estimates: by the estimator alone, and ("told") after the level and speaker adaptation."""
    size, ahead = LogMelConfig().token_size, FRAMES_PER_LATENT - 1  # a call's first latent begins before it
    frames = min(one.frames, int(seconds * FPS))
    tokens = drive(one, None, frames // FRAMES_PER_LATENT + 2, estimator).flatten(0, 1)[: ahead + frames]
    silence = torch.full((1, HISTORY, size), LogMelConfig().silence)
    alone = estimator(torch.cat([silence, tokens[None, :, :size]], 1))[0]
    made = {"alone": alone, "told": tokens[:, size : size + VISEMES]}
    motion = {name: (rows[ahead:] * torch.tensor(SCALES[:VISEMES])).numpy() for name, rows in made.items()}
    return {
        f"{figure}, {name}": value
        for name, rows in motion.items()
        for figure, value in lip_figures(rows, one).items()
        if figure in ("jaw r", "pucker r", "smile r", "press r", "jaw amplitude", "vowels apart")
    }


def rounded(found: Mapping[str, float]) -> Row:
    return {name: round(value, 3) for name, value in found.items()}


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser("voice_only", __doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped weights")
    parser.add_argument("--voices", type=Path, help="folder of human recordings with transcripts.json")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: painted faces")
    parser.add_argument("--seconds", type=at_least(8.0), default=40.0)
    parser.add_argument("--seeds", type=at_least(2), default=8, help="of the heads")
    arguments = parser.parse_args(words)
    about = {"weights": arguments.weights.name, "seeds": arguments.seeds, "seconds": arguments.seconds}
    with measuring("voice_only"):
        print_report(run(arguments), as_json=arguments.json, **about)


if __name__ == "__main__":
    main()
