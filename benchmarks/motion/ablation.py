"""Ablation of Knot Forcing's components: lips, heads, blinks and seams of the embedded model, by switches.

Voice only, with held-out voices and portraits and several seeds. Lips are compared with the phonemes' lip tracks, human
and synthetic voices separately. Heads, blinks and raw jerk (J) are compared with the random process of the training
data. "shown step": the step left at chunk boundaries (0) and at the next latent (1) after the codec's smoothing.
"flicker": VBench's temporal flickering in % (100 = nothing moves) of the first voice's first ten seconds on a sample
portrait. All rows use the same weights, except those of `--weights`, which adds a fine-tuned variant. Rows marked * use
a span or window that the weights were not trained with, so they show the effect of a switch and not of training with
it.

    python -m benchmarks.motion.ablation --voices VOICES --portraits landmarks.json --keep runs/ablation --json
    python -m benchmarks.motion.ablation --weights "k = 0=runs/k0/dit.safetensors"

The paper's claim for running ahead is less drift of appearance. A warp of one photograph cannot drift in appearance, so
only drift of motion is measured (`benchmarks.motion.generator`, section c).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.motion import motion_figures as figures
from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import (
    held_out_faces,
    held_out_portraits,
    human_cases,
    lengthened,
    synthetic_cases,
    truth,
)
from benchmarks.motion.lip_figures import lip_figures
from benchmarks.motion.motion_figures import Estimate, FloatArray, estimate
from benchmarks.motion.rendered import relative_to, show
from benchmarks.motion.report import Row, Section, measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel
from benchmarks.motion.variants import COMPONENTS, LEGEND, RolloutVariant
from benchmarks.motion.video_quality import temporal_flickering
from ground.errors import RequestError
from models.codecs.motion import MotionCodec
from training.arguments import at_least, new_folder
from training.data.synthetic.phonemes import Synthesiser

LIPS = ("jaw", "pucker", "smile")
SHOWN = 250  # frames that are rendered


class RollBench:
    """Voices by kind and a held-out face for each seed; rolls of a variant as [seeds, voices, frames, 16]."""

    def __init__(self, recordings: Path | None, faces: list[dict[str, float]], seeds: int, seconds: float) -> None:
        espeak = Synthesiser()
        kinds = {"synthetic": synthetic_cases(espeak)}
        if recordings is not None:
            kinds["human"] = human_cases(espeak, recordings)
        self.kinds = {kind: [lengthened(one, seconds + 1) for one in cases] for kind, cases in kinds.items()}
        self.cases = [one for cases in self.kinds.values() for one in cases]
        self.seeds, self.seconds = seeds, seconds
        self.faces = [faces[i % len(faces)] for i in range(seeds)]
        self.codec, self.portrait = MotionCodec(), held_out_portraits(None, 1)[0].found

    def tracks(self, variant: RolloutVariant, candidate: BenchModel, *, raw: bool = False) -> FloatArray:
        voices = len(self.cases)
        flat = candidate.roll(
            variant, self.cases * self.seeds, [face for face in self.faces for _ in range(voices)],
            range(self.seeds * voices), self.seconds, raw=raw,
        )  # fmt: skip
        return flat.reshape(self.seeds, voices, *flat.shape[1:])

    def data(self, frames: int) -> FloatArray:
        return np.stack([truth(one, self.seeds, frames) for one in self.cases], axis=1)

    def lips(self, tracks: FloatArray) -> Row:
        """Correlation with the phonemes' lip tracks: mean over the voices of a kind, interval over seeds."""
        row: Row = {}
        for kind, cases in self.kinds.items():
            found = [[lip_figures(tracks[s, self.cases.index(one)], one) for one in cases] for s in range(self.seeds)]
            for name in LIPS if kind == "synthetic" else LIPS[:1]:
                row[f"{name} r {kind}"] = over_seeds([[f[f"{name} r"] for f in seed] for seed in found])
            row[f"jaw at p b m {kind}"] = over_seeds([[f["jaw at p b m"] for f in seed] for seed in found])
        return row

    def row(self, tracks: FloatArray, raw: FloatArray, data: FloatArray) -> Row:
        jerk, steps = figures.jerk_ratios(raw, data), figures.step_ratios(tracks)
        return self.lips(tracks) | {
            **{f"{name} sd": estimate(figures.sd(name), tracks) for name in ("yaw", "pitch")},
            **{name: jerk[name] for name in ("J0", "J1", "all")},
            **{f"shown {name}": steps[name] for name in ("step 0", "step 1")},
            "blinks/min": estimate(figures.blinks_a_minute, tracks),
            "flicker": estimate(lambda scores: float(scores.mean()), self.flicker(tracks[:, 0])),
        }

    def flicker(self, tracks: FloatArray) -> FloatArray:
        """VBench's temporal flickering [seeds], in %, of one voice's tracks [seeds, frames, 16]."""
        pictures = (show(self.codec, self.portrait, relative_to(self.codec, self.portrait, t[:SHOWN])) for t in tracks)
        return np.array([100 * temporal_flickering(list(frames)) for frames, _ in pictures])


def over_seeds(values: Sequence[Sequence[float]]) -> Estimate:
    """Mean of values by seed (rows) and voice (columns), with its interval over seeds."""
    return estimate(lambda rows: float(rows.mean()), np.array(values, np.float64))


def run(arguments: argparse.Namespace) -> Section:
    """Rows of figures: the data, then every variant, then every variant with its own weights."""
    candidate = BenchModel(arguments.weights_file, arguments.keep)
    faces = held_out_faces(arguments.portraits)
    bench = RollBench(arguments.voices, faces, arguments.seeds, arguments.seconds)
    chosen = [(v.label, v, candidate) for v in COMPONENTS if not arguments.only or v.name in arguments.only]
    for name, path in arguments.weights:
        chosen.append((f"{name}, own weights", named(name), BenchModel(path, arguments.keep)))
    rows: Section = {}
    for label, variant, own in chosen:
        tracks = bench.tracks(variant, own)
        data = bench.data(tracks.shape[2])
        if not rows:
            rows["data"] = bench.row(data, data, data)
        rows[label] = bench.row(tracks, bench.tracks(variant, own, raw=True), data)
    return rows


def named(name: str) -> RolloutVariant:
    for variant in COMPONENTS:
        if variant.name == name:
            return variant
    raise RequestError("unknown_variant", f"no variant {name!r}: choose one of {', '.join(v.name for v in COMPONENTS)}")


def weights_of(text: str) -> tuple[str, Path]:
    """Type of an argument: NAME=PATH, where a name may contain an equals sign (k = 0=runs/k0/dit.safetensors)."""
    name, _, path = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError("give NAME=PATH, the name of a variant and its weights")
    return name, Path(path)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("ablation", __doc__)
    parser.add_argument("--weights-file", type=Path, default=SHIPPED, help="of all rows; default: the shipped weights")
    parser.add_argument(
        "--weights", type=weights_of, action="append", default=[], metavar="NAME=PATH",
        help="one more row: this variant with its own weights; may be repeated",
    )  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this row; may be repeated")
    parser.add_argument("--voices", type=Path, help="folder of human recordings with transcripts.json")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: an average face")
    parser.add_argument("--seeds", type=at_least(2), default=5)
    parser.add_argument("--seconds", type=at_least(8.0), default=40.0)
    parser.add_argument("--keep", type=new_folder, help="folder for finished rolls, to continue an interrupted run")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    about = {"seeds": arguments.seeds, "seconds": arguments.seconds}
    with measuring("ablation"):
        for name in arguments.only:
            named(name)
        report = {"components of Knot Forcing, voice only": run(arguments)}
        print_report(report, as_json=arguments.json, note=LEGEND, **about)


if __name__ == "__main__":
    main()
