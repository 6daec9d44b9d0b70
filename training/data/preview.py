"""Contact sheets of training data: `python -m training.data.preview --out sheet.png --show portraits|controls|speech`.

    --show portraits   faces with their landmarks drawn
    --show controls    rows of faces, columns of controls at their extremes (ARKit names), moved by the rig
    --show speech      a sentence: lips and head driven by its phonemes (needs espeak-ng)

Faces are painted ones, those of a folder (--portraits DIR) or one photograph (--portrait me.jpg, by the landmarks in
me.landmarks.json if that is there). --write-landmarks FILE saves what was found in a photograph, to be corrected.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from engine.media.pose import parse_pose
from engine.portrait.framing import FramedPortrait, frame_given, frame_portrait
from engine.portrait.landmark_file import NEEDED, landmarks_beside
from engine.portrait.landmarks import carried
from ground.errors import MediaError, RequestError, one_line_errors
from ground.motion import INDEX
from models.codecs.rig import own_state, render
from training.arguments import at_least, spoken
from training.data import sheets
from training.data.faces.folder import load, read_notes
from training.data.synthetic.corpus import speaking_frames
from training.data.synthetic.phonemes import Speech, Synthesiser, Voice
from training.data.synthetic.portraits import paint_portrait
from training.data.synthetic.tracks import FPS, HeadStyle, head_tracks, loudness
from training.data.synthetic.visemes import lip_tracks

Image = NDArray[np.uint8]
SIZE = 256
SENTENCE = "Bob's mother made five warm plum pies for you."


def _sides(name: str, value: float = 1.0) -> dict[str, float]:
    return {f"{name}{side}": value for side in ("Left", "Right")}


# One pose record a column, as a caller would send it. Lips press only when the jaw is shut.
COLUMNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("still", {}),
    ("yaw +0.4", {"yaw": 0.4}), ("yaw -0.4", {"yaw": -0.4}),
    ("pitch +0.3", {"pitch": 0.3}), ("pitch -0.3", {"pitch": -0.3}),
    ("roll +0.3", {"roll": 0.3}),
    ("jawOpen", {"blendshapes": {"jawOpen": 0.9}}),
    ("mouthPucker", {"blendshapes": {"mouthPucker": 1.0, "jawOpen": 0.2}}),
    ("mouthSmile", {"blendshapes": _sides("mouthSmile")}),
    ("mouthFrown", {"blendshapes": _sides("mouthFrown")}),
    ("mouthPress", {"blendshapes": {"jawOpen": 0.0, **_sides("mouthPress")}}),
    ("mouthUpperUp", {"blendshapes": {"jawOpen": 0.25, **_sides("mouthUpperUp")}}),
    ("eyeBlink", {"blendshapes": _sides("eyeBlink")}),
    ("eyeBlinkLeft", {"blendshapes": {"eyeBlinkLeft": 1.0}}),
    ("browInnerUp", {"blendshapes": {"browInnerUp": 1.0}}),
    ("browDown", {"blendshapes": _sides("browDown")}),
    ("eyeLookOutLeft", {"blendshapes": {"eyeLookOutLeft": 1.0}}),
    ("eyeLookUp", {"blendshapes": _sides("eyeLookUp")}),
    ("eyeLookDown", {"blendshapes": _sides("eyeLookDown")}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreviewFace:
    """rgb: uint8 [S, S, 3] in the canonical framing, and its landmarks."""

    name: str
    rgb: Image
    landmarks: dict[str, float]


def open_faces(folder: Path | None, photograph: Path | None, count: int, seed: int) -> list[PreviewFace]:
    """The one photograph, or ``count`` faces drawn by ``seed``: out of a folder, or painted."""
    if photograph is not None:
        framed = open_photograph(photograph)
        return [PreviewFace(f"{photograph.name} {framed.confidence:.2f}", framed.rgb, framed.landmarks)]
    if folder is None:
        numbers = range(seed, seed + count)
        painted = [paint_portrait(np.random.default_rng(number)) for number in numbers]
        return [PreviewFace(f"seed {n}", one.rgb, one.landmarks) for n, one in zip(numbers, painted, strict=True)]
    notes = sorted(read_notes(folder))
    if not notes:
        raise RequestError("few_portraits", f"--portraits: {folder} names no portrait")
    chosen = np.random.default_rng(seed).permutation(notes)[:count].tolist()
    return [PreviewFace(name, *known) for name, known in load(folder, chosen).items()]


def open_photograph(path: Path) -> FramedPortrait:
    rgb, given = read_picture(path), landmarks_beside(path)
    return frame_portrait(rgb, size=SIZE) if given is None else frame_given(rgb, given, size=SIZE)


def read_picture(path: Path) -> Image:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None  # it would warn by itself
    if picture is None:
        raise MediaError("no_picture", f"--portrait: {path} is no picture that can be read")
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def write_landmarks(path: Path, photograph: Path) -> None:
    """The landmarks of a photograph in its own units, ready to be corrected by hand."""
    rgb, framed = read_picture(photograph), open_photograph(photograph)
    back = cv2.invertAffineTransform(framed.crop.astype(np.float64))
    found = carried(framed.landmarks, np.asarray(back), (SIZE, SIZE), (rgb.shape[1], rgb.shape[0]))
    text = json.dumps({name: round(found[name], 4) for name in (*NEEDED, "mtilt")}, indent=1) + "\n"
    sheets.write(path, text.encode())


def show_portraits(faces: list[PreviewFace], columns: int) -> Image:
    """Every face with its landmarks drawn."""
    pictures = [sheets.marked(face.rgb, face.landmarks, 2 * SIZE) for face in faces]
    groups = range(0, len(faces), columns)
    names = [[face.name for face in faces[at : at + columns]] for at in groups]
    return sheets.sheet([pictures[at : at + columns] for at in groups], names)


def show_controls(faces: list[PreviewFace]) -> Image:
    """Rows of faces, columns of COLUMNS."""
    poses = [parse_pose(record).controls for _, record in COLUMNS]
    return sheets.sheet([move(face, poses) for face in faces], [name for name, _ in COLUMNS])


def move(face: PreviewFace, poses: list[dict[str, float]]) -> list[Image]:
    """A face at absolute controls by channel name; those not given stay as in the photograph."""
    controls = own_state(face.landmarks).repeat(len(poses), 1)
    for row, pose in zip(controls, poses, strict=True):
        for name, value in pose.items():
            row[INDEX[name]] = value
    small = np.ascontiguousarray(cv2.resize(face.rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    photo = torch.from_numpy(small).permute(2, 0, 1).float() / 255
    frames = (render(photo, face.landmarks, controls) * 255).round().to(torch.uint8)
    return [np.asarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]


def show_speech(faces: list[PreviewFace], speech: Speech, columns: int, every: int, seed: int) -> Image:
    """Every ``every``-th frame of a sentence with its phoneme, one block of rows for each face."""
    frames = int(speech.phonemes[-1].end * FPS)
    decibels = loudness(speech.sound, frames)
    rng = np.random.default_rng(seed)
    tracks = head_tracks(decibels, speaking_frames(speech.phonemes, frames), rng, HeadStyle())
    tracks[:, :5] = lip_tracks(speech.phonemes, frames / FPS, FPS)
    chosen = list(range(0, frames, every))
    poses = [{name: float(tracks[t, i]) for name, i in INDEX.items()} for t in chosen]
    words = [f"{t / FPS:.2f} s  {_phoneme(speech, (t + 0.5) / FPS)}" for t in chosen]
    rows: list[list[Image]] = []
    captions: list[list[str]] = []
    for face in faces:
        pictures = move(face, poses)
        rows += [pictures[at : at + columns] for at in range(0, len(chosen), columns)]
        captions += [words[at : at + columns] for at in range(0, len(chosen), columns)]
    return sheets.sheet(rows, captions)


def _phoneme(speech: Speech, seconds: float) -> str:
    return next((p.name for p in speech.phonemes if p.start <= seconds < p.end), "_")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the sheet to write, .png or .jpg")
    parser.add_argument("--show", choices=("portraits", "controls", "speech"), default="portraits")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--portraits", type=Path, help="folder of portraits with landmarks.json; none: painted ones")
    source.add_argument("--portrait", type=Path, help="one photograph")
    parser.add_argument("--count", type=at_least(1), help="faces; default 24, moved 6, speaking 1")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--text", type=spoken, default=SENTENCE, help="what is said")
    parser.add_argument("--columns", type=at_least(1), help="pictures in a row; default 6, speaking 10")
    parser.add_argument("--every", type=at_least(1), default=2, help="show each so manieth frame of the sentence")
    parser.add_argument("--write-landmarks", type=Path, help="save those of the photograph here")
    args = parser.parse_args(arguments)
    if args.write_landmarks and not args.portrait:
        parser.error("--write-landmarks needs --portrait, the photograph they are of")
    if args.out.suffix.lower() not in sheets.FORMATS:
        parser.error(f"--out: the sheet must end in {' or '.join(sheets.FORMATS)}, not {args.out.name!r}")
    with one_line_errors("training.data.preview"):
        show(args)


def show(args: argparse.Namespace) -> None:
    count = args.count or {"portraits": 24, "controls": 6, "speech": 1}[args.show]
    faces = open_faces(args.portraits, args.portrait, count, args.seed)
    if args.write_landmarks:
        write_landmarks(args.write_landmarks, args.portrait)
    if args.show == "portraits":
        picture = show_portraits(faces, args.columns or 6)
    elif args.show == "controls":
        picture = show_controls(faces)
    else:
        speech = Synthesiser().speak(args.text, Voice("gmw/en"))
        picture = show_speech(faces, speech, args.columns or 10, args.every, args.seed)
    sheets.write(args.out, sheets.encoded(picture, args.out.suffix.lower()))
    print(f"{args.out}: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    main()
