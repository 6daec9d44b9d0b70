"""Diversity, seams and long-term behaviour of the embedded model with the voice alone, beside the random process of its
training data.

(a) Spread of head and blinks over seeds. (b) Seams by use of the knot: jerk across the chunk boundary (J0) and the next
two boundaries of latents (J1, J2), and steps there over steps within latents; raw, and as shown after the codec's
smoothing (models/codecs/deblocking.py). (c) First against last span of a long roll, by position of the reference, and
the pulse of its jumps. (d) Number of denoising steps. Read jerk beside the spread, because a head that hardly moves has
little jerk. Intervals are 95 % over seeds of one trained model, by the jackknife.

    python -m benchmarks.motion.generator --keep runs/generator --json > generator.json
    python -m benchmarks.motion.generator --sections d --weights student.safetensors --teacher causal.safetensors
    python -m benchmarks.motion.generator --sections c --references constant --spans 60 --long-seeds 4  # an hour
    python -m benchmarks.motion.generator --quick
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.motion import motion_figures as figures
from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import held_out_faces, long_speech, truth
from benchmarks.motion.motion_figures import FloatArray, estimate
from benchmarks.motion.report import Report, Row, Section, measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel
from benchmarks.motion.variants import KNOTS, LEGEND, OWN, REFERENCES, STEPS, RolloutVariant
from training.arguments import at_least, new_folder
from training.data.synthetic.phonemes import Synthesiser

ANGLES = ("yaw", "pitch", "roll")
LIPS = ("jaw", "pucker", "smile", "press")
SECTIONS = "abcd"


def spread_row(tracks: FloatArray) -> Row:
    return {
        **{f"{name} sd over seeds": estimate(figures.sd_over_seeds(name), tracks) for name in ("yaw", "pitch")},
        "yaw r of seeds": estimate(figures.seed_correlation("yaw"), tracks),
        "blinks/min": estimate(figures.blinks_a_minute, tracks),
        "interval CV": estimate(figures.blink_interval_variation, tracks),
        "coincidence": estimate(figures.blink_coincidence, tracks),
        "counts/binomial": estimate(figures.blink_dispersion, tracks),
    }


def jerk_row(raw: FloatArray, shown: FloatArray, data: FloatArray) -> Row:
    return {
        **figures.jerk_ratios(raw, data),
        **figures.step_ratios(raw),
        **{f"shown {name}": step for name, step in figures.step_ratios(shown).items()},
        "shown all": figures.jerk_ratios(shown, data)["all"],
        **{f"{name} sd": estimate(figures.sd(name), raw) for name in ("yaw", "pitch")},
    }


def steps_row(tracks: FloatArray, data: FloatArray) -> Row:
    jerk = figures.jerk_ratios(tracks, data)
    return {
        **{name: jerk[name] for name in ("J0", "J1", "all")},
        **{f"{name} sd": estimate(figures.sd(name), tracks) for name in ("yaw", "pitch", "jaw")},
        "blinks/min": estimate(figures.blinks_a_minute, tracks),
    }


def drift_row(tracks: FloatArray, span: int) -> Row:
    first, last = tracks[..., :span, :], tracks[..., -span:, :]
    return {
        **{f"{name} sd first": estimate(figures.sd(name), first) for name in ("yaw", "pitch", "jaw")},
        **{f"{name} var last/first": estimate(figures.variance_ratio(name, span), tracks) for name in ANGLES},
        **{name: estimate(figures.variance_ratio(name, span), tracks) for name in LIPS},
        **{f"{name} shift deg": estimate(figures.shift_degrees(name, span), tracks) for name in ANGLES},
        "blinks/min first": estimate(figures.blinks_a_minute, first),
        "last": estimate(figures.blinks_a_minute, last),
        "still s": round(figures.longest_stillness(tracks), 2),
    }


def pulse_row(tracks: FloatArray) -> Row:
    return {
        **{f"{name} sd": estimate(figures.sd(name), tracks) for name in ("yaw", "pitch")},
        **{f"{name} mean deg": estimate(figures.mean_degrees(name), tracks) for name in ("yaw", "pitch")},
        **{f"{name} peak": estimate(figures.pulse(name), tracks) for name in ("yaw", "pitch")},
        **{f"{name} phase": estimate(figures.phase_ratio(name), tracks) for name in ("yaw", "pitch")},
    }


class Experiment:
    """Sections of the report for one voice and one face with several seeds."""

    def __init__(
        self, candidate: BenchModel, espeak: Synthesiser, face: dict[str, float], seeds: int, seconds: float
    ) -> None:
        self.candidate, self.espeak, self.face, self.seeds, self.seconds = candidate, espeak, face, seeds, seconds
        self.speech = long_speech(espeak, seconds + 1)

    def tracks(self, variant: RolloutVariant, candidate: BenchModel | None = None, *, raw: bool = False) -> FloatArray:
        return (candidate or self.candidate).seeds_of(
            variant, self.speech, self.face, self.seeds, self.seconds, raw=raw
        )

    def data(self) -> FloatArray:
        return truth(self.speech, self.seeds, self.tracks(OWN).shape[1])

    def spread(self) -> Section:
        return {"data": spread_row(self.data()), "model": spread_row(self.tracks(OWN))}

    def knots(self) -> Section:
        data = self.data()
        rows = {v.label: jerk_row(self.tracks(v, raw=True), self.tracks(v), data) for v in KNOTS}
        return {"data": jerk_row(data, data, data)} | rows

    def steps(self, teacher: BenchModel | None) -> Section:
        """Section d. teacher: the causal model before ODE regression and distillation."""
        data = self.data()
        rows = {"data": steps_row(data, data)} | {v.name: steps_row(self.tracks(v, raw=True), data) for v in STEPS}
        if teacher is not None:
            rows |= {f"causal teacher, {v.name}": steps_row(self.tracks(v, teacher, raw=True), data) for v in STEPS}
        return rows

    def references(self, spans: int, seeds: int, names: Sequence[str]) -> Report:
        """Section c: drift, and the pulse of the reference's jumps. spans: length of the rolls, in `self.seconds`."""
        seconds, span = spans * self.seconds, int(self.seconds * figures.FPS)
        speech = long_speech(self.espeak, seconds + 1)
        chosen = [variant for variant in REFERENCES if variant.name in names]
        rolled = {v.label: self.candidate.seeds_of(v, speech, self.face, seeds, seconds) for v in chosen}
        frames = next(iter(rolled.values())).shape[1]
        tracks = {"data": truth(speech, seeds, frames)} | rolled
        return {
            f"(c) the reference: first {self.seconds:.0f} s against the last of {seconds:.0f} s": {
                name: drift_row(track, span) for name, track in tracks.items()
            },
            "(c) the pulse: power at 3.36 s over its neighbours', least over greatest variance by phase": {
                name: pulse_row(track) for name, track in tracks.items()
            },
        }


def run(arguments: argparse.Namespace) -> Report:
    """Sections of rows of figures, by title."""
    espeak, candidate = Synthesiser(), BenchModel(arguments.weights, arguments.keep)
    teacher = None if arguments.teacher is None else BenchModel(arguments.teacher, arguments.keep)
    face = held_out_faces(arguments.portraits)[0]
    experiment = Experiment(candidate, espeak, face, arguments.seeds, arguments.seconds)
    report: Report = {}
    if "a" in arguments.sections:
        report["(a) spread over seeds (rad)"] = experiment.spread()
    if "b" in arguments.sections:
        report["(b) jerk over the data's, by use of the knot"] = experiment.knots()
    if "c" in arguments.sections:
        report |= experiment.references(arguments.spans, arguments.long_seeds, arguments.references)
    if "d" in arguments.sections:
        report["(d) steps"] = experiment.steps(teacher)
    return report


def sections(text: str) -> str:
    """Type of an argument: letters of sections."""
    if not text or set(text) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"give one or more of {', '.join(SECTIONS)}, not {text!r}")
    return text


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("generator", __doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped weights")
    parser.add_argument("--teacher", type=Path, help="the causal weights before ODE regression, for (d)")
    parser.add_argument("--portraits", type=Path, help="landmarks.json; default: an average face")
    parser.add_argument("--seeds", type=at_least(2), default=20)
    parser.add_argument("--seconds", type=at_least(1.0), default=60.0, help="of a roll, and of a span of (c)")
    parser.add_argument("--spans", type=at_least(2), default=10, help="length of the rolls of (c), in spans")
    parser.add_argument("--long-seeds", type=at_least(2), default=10, help="seeds of (c)")
    names = [variant.name for variant in REFERENCES]
    parser.add_argument("--references", nargs="+", choices=names, default=names, help="rows of (c)")
    parser.add_argument("--sections", type=sections, default=SECTIONS, help="which of a, b, c, d")
    parser.add_argument("--keep", type=new_folder, help="folder for finished rolls, to continue an interrupted run")
    parser.add_argument("--quick", action="store_true", help="3 seeds of 8 s: a trial whose figures mean nothing")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.seeds, arguments.long_seeds, arguments.seconds, arguments.spans = 3, 3, 8.0, 3
    if "c" in arguments.sections and arguments.spans * arguments.seconds < 21:
        parser.error("the rolls of (c) must last at least 21 s, six cycles of the reference: more --seconds or --spans")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    about = {"weights": arguments.weights.name, "seeds": arguments.seeds, "seconds": arguments.seconds}
    with measuring("generator"):
        print_report(run(arguments), as_json=arguments.json, note=LEGEND, **about)


if __name__ == "__main__":
    main()
