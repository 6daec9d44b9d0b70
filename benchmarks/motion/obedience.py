"""Accuracy of the embedded model when all sixteen controls are given, on held-out portraits and voices.

Three of the controls are not in pose records, the head's shift and breath; without them pictures could not be compared.

The truth is the rig on the same portrait with its true landmarks and the given controls. Row "given" works as a call
does: framed photograph with estimated landmarks, controls given frame by frame, the model's own rollout, its codec. Two
rows separate the sources of error: with "true landmarks" the rollout's error is left, with "true controls" that of the
landmarks. "voice only" has no given controls. Rows "truth" and "still" (the photograph itself) give the figures of a
perfect and of a motionless face.

Figures: "lip" is the lower lip's movement in the pictures, less the nose's (benchmarks.motion.picture_figures); its
amplitude is a ratio of standard deviations. "mouth dB" is the PSNR gained over the photograph in a fixed box, where a
head one pixel away costs as much as a wrong mouth. "blink" is measured in the pictures too, between the true rig with
open and with shut lids at the generated head pose. The slopes of yaw, pitch and roll are those of decoded controls
against given ones. "background" covers the pixels that never move in the truth. "seam" is the change of the picture at
the first frame of a chunk, and of its other latents, over the change within latents. Means over portraits with 95 %
intervals. Needs libespeak-ng.

    python -m benchmarks.motion.obedience --portraits portraits/landmarks.json
    python -m benchmarks.motion.obedience --count 2 --seconds 4 --sheet sheet.png

Without --portraits it uses the sample portraits, with estimated landmarks in place of the true ones, which are unknown.
They are composites of faces of the training data.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.motion import picture_figures as figures
from benchmarks.motion.command import make_parser
from benchmarks.motion.held_out import Case, HeldOutFace, held_out_portraits, long_speech, truth
from benchmarks.motion.motion_figures import FloatArray, estimate
from benchmarks.motion.picture_figures import Pictures
from benchmarks.motion.rendered import relative_to, show
from benchmarks.motion.report import Row, Section, measuring, print_report
from benchmarks.motion.rolls import SHIPPED, BenchModel, chunks_of, drive, roll, shown
from ground.errors import MediaError
from ground.files import replacing
from ground.motion import INDEX
from models.codecs.motion import MotionCodec, reference_features
from training.arguments import at_least, new_file
from training.data.synthetic.phonemes import Synthesiser

TITLE = "all signals given, against the rig with true landmarks"
WANTED: Row = {
    "lip r": ">= 0.93", "lip lag": "0", "lip amplitude": "0.75-1.2", "mouth dB closed": ">= 8",
    "mouth dB toothy": ">= 4", "blink r": "", "blink amplitude": "0.7-1.2", "yaw slope": "0.9-1.1",
    "pitch slope": "0.9-1.1", "roll slope": "0.9-1.1", "background dB": ">= 38",
    "seam chunk": "truth's ±0.15", "seam latent": "truth's ±0.15",
}  # fmt: skip
ANGLES = ("yaw", "pitch", "roll")
TILE = 144


@dataclass(frozen=True, slots=True)
class Scene:
    """One portrait's truth: controls [T, 16], pictures [T, S, S, 3], the same with open and with shut lids, and its lip
    travel and lid closure [T]."""

    face: HeldOutFace
    controls: FloatArray
    pictures: Pictures
    opened: Pictures
    shut: Pictures
    travel: FloatArray
    lids: FloatArray


Values = dict[str, float]


def with_lids(codec: MotionCodec, face: HeldOutFace, controls: FloatArray, blink: float) -> Pictures:
    """Pictures of the true rig with absolute controls [T, 16], and both lids at ``blink``."""
    held = controls.copy()
    held[:, [INDEX["blinkL"], INDEX["blinkR"]]] = blink
    return show(codec, face.known, relative_to(codec, face.known, held))[0]


def scene_of(codec: MotionCodec, face: HeldOutFace, controls: FloatArray) -> Scene:
    """The truth for a face and absolute controls [T, 16]."""
    pictures = show(codec, face.known, relative_to(codec, face.known, controls))[0]
    opened, shut = (with_lids(codec, face, controls, blink) for blink in (0.0, 1.0))
    travel = figures.lip_travel(pictures, face.known.rgb, face.known.landmarks)
    return Scene(face, controls, pictures, opened, shut, travel, figures.shut_lids(pictures, opened, shut))


def lips(pictures: Pictures, scene: Scene) -> Values:
    made = figures.lip_travel(pictures, scene.face.known.rgb, scene.face.known.landmarks)
    return {
        "lip r": figures.correlation(made, scene.travel),
        "lip lag": figures.lag(made, scene.travel),
        "lip amplitude": float(made.std() / scene.travel.std()),
    }


def seams(pictures: Pictures) -> Values:
    return dict(zip(("seam chunk", "seam latent"), figures.seam_ratios(pictures), strict=True))


def others(pictures: Pictures, controls: FloatArray, lids: FloatArray, scene: Scene) -> Values:
    """All figures but those of the lips. controls: absolute, of the pictures. lids: their closure."""
    face = scene.face.known
    still = np.broadcast_to(face.rgb, pictures.shape)
    rows, columns = figures.mouth_box(face.landmarks).cut(len(face.rgb))
    before, after = (figures.psnr(p[:, rows, columns], scene.pictures[:, rows, columns]) for p in (still, pictures))
    blink = scene.controls[:, INDEX["blinkL"]]
    height = figures.blink_height(scene.lids, blink)
    unmoved = figures.never_moved(scene.pictures, face.rgb)
    return {
        "mouth dB toothy" if scene.face.toothy else "mouth dB closed": after - before,
        "blink r": float("nan") if np.isnan(height) else figures.correlation(lids, scene.lids),
        "blink amplitude": figures.blink_height(lids, blink) / height,
        **{f"{a} slope": figures.slope(controls[:, INDEX[a]], scene.controls[:, INDEX[a]]) for a in ANGLES},
        "background dB": figures.psnr(pictures, scene.pictures, unmoved),
    }


@dataclass(frozen=True, slots=True)
class Made:
    """Relative controls of the model for every face [faces, T, 16]: with estimated landmarks, with true landmarks, and
    from the voice alone."""

    found: FloatArray
    known: FloatArray
    heard: FloatArray


def roll_all(
    candidate: BenchModel, faces: Sequence[HeldOutFace], cases: Sequence[Case], given: Sequence[FloatArray], chunks: int
) -> Made:
    """Roll all calls out as one batch; each face has its own voice, controls and seed."""
    latents = 3 * chunks + 1
    told = [drive(one, controls, latents, candidate.estimator) for one, controls in zip(cases, given, strict=True)]
    heard = [drive(one, None, latents, candidate.estimator) for one in cases]
    found, known = (
        [reference_features(p.landmarks) for p in ps] for ps in ([f.found for f in faces], [f.known for f in faces])
    )
    rolled = roll(candidate.model, [*told, *told, *heard], [*found, *known, *found], [*range(len(faces))] * 3, chunks)
    motion = shown(rolled).astype(np.float64)
    return Made(*motion.reshape(3, len(faces), *motion.shape[1:]))


def measure(codec: MotionCodec, scene: Scene, made: Made, at: int) -> tuple[dict[str, Values], Pictures]:
    """Figures of one portrait by row, and the pictures of row "given"."""
    face = scene.face
    sources = {
        "given": (face.found, made.found[at]),
        "true landmarks": (face.known, made.known[at]),
        "true controls": (face.found, relative_to(codec, face.found, scene.controls)),
    }
    rows, seen = {}, {}
    for name, (portrait, relative) in sources.items():
        seen[name], controls = show(codec, portrait, relative)
        opened, shut = scene.opened, scene.shut
        if name != "true controls":
            opened, shut = (with_lids(codec, face, controls, blink) for blink in (0.0, 1.0))
        lids = figures.shut_lids(seen[name], opened, shut)
        rows[name] = lips(seen[name], scene) | others(seen[name], controls, lids, scene) | seams(seen[name])
    heard = show(codec, face.found, made.heard[at])[0]
    rows["voice only"] = lips(heard, scene) | seams(heard)
    still, rest = np.broadcast_to(face.known.rgb, scene.pictures.shape), np.zeros_like(scene.controls)
    rows["still"] = lips(still, scene) | others(still, rest, rest[:, 0], scene)
    rows["truth"] = lips(scene.pictures, scene) | others(scene.pictures, scene.controls, scene.lids, scene)
    rows["truth"] |= seams(scene.pictures)
    return rows, seen["given"]


def sheet_rows(scene: Scene, made: Pictures) -> Pictures:
    """Truth above result, at the frames with the most extreme controls."""

    def far(name: str, sign: int) -> int:
        return int((sign * scene.controls[:, INDEX[name]]).argmax())

    frames = [far("jaw", 1), far("jaw", -1), far("pucker", 1), far("press", 1), far("blinkL", 1), far("yaw", 1),
              far("yaw", -1), far("pitch", 1), far("pitch", -1), far("roll", 1)]  # fmt: skip
    rows = [
        np.concatenate([cv2.resize(p[at], (TILE, TILE), interpolation=cv2.INTER_AREA) for at in frames], axis=1)
        for p in (scene.pictures, made)
    ]
    return np.asarray(np.concatenate(rows), np.uint8)


def write_sheet(path: Path, rows: Sequence[Pictures]) -> None:
    done, picture = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
    assert done
    with replacing(path) as draft:
        draft.write_bytes(picture.tobytes())


def mean_rows(found: Sequence[Mapping[str, Values]]) -> Section:
    """Means over portraits with their intervals. A figure that a portrait lacks is left out of its mean."""
    section: Section = {"wanted": WANTED}
    for name in found[0]:
        row: Row = {}
        for column in WANTED:
            values = np.array([one[name].get(column, np.nan) for one in found])
            values = values[~np.isnan(values)]
            if len(values):
                row[column] = estimate(lambda some: float(some.mean()), values)
        section[name] = row
    return section


def run(arguments: argparse.Namespace) -> tuple[Section, list[Pictures]]:
    """Rows of figures, and rows of the sheet."""
    espeak, candidate = Synthesiser(), BenchModel(arguments.weights)
    codec, faces = MotionCodec(), held_out_portraits(arguments.portraits, arguments.count)
    if not faces:
        raise MediaError("no_portraits", "no portrait with a face was found: give other --portraits")
    chunks = chunks_of(arguments.seconds)
    frames = 12 * chunks - 3
    cases = [long_speech(espeak, arguments.seconds + 1.5, seed) for seed in range(len(faces))]
    given = [truth(one, seed + 1, one.frames)[seed] for seed, one in enumerate(cases)]
    print(f"  {len(faces)} portraits: rolling ...", file=sys.stderr, flush=True)
    made = roll_all(candidate, faces, cases, given, chunks)
    found, rows = [], []
    for at, face in enumerate(faces):
        print(f"  {face.name} ({at + 1} of {len(faces)})", file=sys.stderr, flush=True)
        scene = scene_of(codec, face, given[at][:frames])
        values, pictures = measure(codec, scene, made, at)
        found.append(values)
        rows.append(sheet_rows(scene, pictures))
    return mean_rows(found), rows


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser("obedience", __doc__)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="default: the shipped weights")
    parser.add_argument("--portraits", type=Path, help="landmarks.json beside its pictures; default: the samples")
    parser.add_argument("--count", type=at_least(1), default=12, help="portraits")
    parser.add_argument("--seconds", type=at_least(1.0), default=8.0, help="of each call")
    parser.add_argument("--sheet", type=new_file, help="write a PNG with truth above result here")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    about = {"weights": arguments.weights.name, "portraits": arguments.count, "seconds": arguments.seconds}
    with measuring("obedience"):
        section, rows = run(arguments)
        print_report({TITLE: section}, as_json=arguments.json, **about)
    if arguments.sheet is not None:
        write_sheet(arguments.sheet, rows)


if __name__ == "__main__":
    main()
