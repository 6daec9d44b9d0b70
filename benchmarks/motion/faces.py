"""Faces that are taken and how they move: refusals, motion in the right places, the mouth read back from pictures.

    python -m benchmarks.motion.faces FOLDER

For every picture of a folder: the reason of a refusal, or the confidence, and figures of two seconds in which the head
is held still while mouth, lids and brows move by known controls (no network takes part). "inside": share of the
motion's energy that lies in the parts of the mesh that ought to move (lips, chin, lids, brows), in %. "opening r",
"opening x": correlation and slope of the mouth's opening, read by the mesh from each finished picture, with the opening
asked for. "still dB": PSNR of the rest of the picture. "shifted": the same figures when the mouth's landmark is moved
by 8 % of the face's width: a negative control, in which less of the motion lies inside and the mouth opens less.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.motion.command import make_parser
from benchmarks.motion.motion_figures import FloatArray
from benchmarks.motion.picture_figures import ROUNDING, Pictures
from benchmarks.motion.rendered import relative_to, show
from benchmarks.motion.report import Row, measuring, print_report
from engine.portrait.face_nets import Detection
from engine.portrait.face_reading import LOOKS, FaceReading, followed, read_face
from engine.portrait.framing import find_faces
from engine.portrait.mesh_points import (
    CHIN,
    LEFT_BROW,
    LEFT_LIDS,
    LIPS_OUTER,
    RIGHT_BROW,
    RIGHT_LIDS,
)
from engine.portrait.portrait import Portrait
from ground.errors import AvatarError, RequestError
from ground.motion import INDEX
from models.codecs.motion import MotionCodec
from server.portraits.reader import read_portrait

Mask = NDArray[np.bool_]

FRAMES = 50
SHIFT = 0.08  # of the face's width
JAW_LINE = (149, 176, 148, CHIN, 377, 400, 378)  # the chin's lower edge
GROWN = 0.06  # by which the moving parts are enlarged, in widths of the face: skin moves with them
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def talking(own: FloatArray) -> FloatArray:
    """Absolute controls [FRAMES, 16]: three openings a second with changing shapes, a blink, raised brows, a still
    head."""
    clock = np.arange(FRAMES) / 25
    controls = np.tile(own, (FRAMES, 1))
    open_ = 0.5 - 0.5 * np.cos(2 * np.pi * 3 * clock)
    controls[:, INDEX["jaw"]] = own[INDEX["jaw"]] * (1 - open_) + 0.7 * open_
    controls[:, INDEX["pucker"]] = 0.4 * np.sin(2 * np.pi * clock) ** 2
    controls[:, INDEX["smile"]] = 0.3 * np.sin(2 * np.pi * 0.5 * clock)
    for lid in ("blinkL", "blinkR"):
        controls[:, INDEX[lid]] = np.exp(-(((clock - 1.0) / 0.08) ** 2))
    controls[:, INDEX["brow"]] = 0.5 * np.exp(-(((clock - 1.5) / 0.2) ** 2))
    return controls


def moving_parts(faces: Sequence[FaceReading], size: int) -> Mask:
    """Where a face held still may move, [S, S]: the hulls of lips and chin and of each eye with its brow, in any of the
    readings."""
    mask = np.zeros((size, size), np.uint8)
    for face in faces:
        for part in ((*LIPS_OUTER, *JAW_LINE), (*LEFT_LIDS, *LEFT_BROW), (*RIGHT_LIDS, *RIGHT_BROW)):
            hull = cv2.convexHull(face.points[list(part), :2].astype(np.float32))
            cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    reach = max(1, round(2 * GROWN * float(np.ptp(faces[0].points[:, 0]))))
    return np.asarray(cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0)


def share_inside(pictures: Pictures, mask: Mask) -> float:
    """Share of the motion's energy inside a mask, 0..1; NaN without motion."""
    varies = pictures.astype(np.float32).var(0).sum(-1)
    return float(varies[mask].sum() / varies.sum()) if varies.any() else float("nan")


def readings(pictures: Pictures, found: Detection) -> list[FaceReading]:
    """The mesh in every picture."""
    faces = []
    for picture in pictures:
        faces.append(read_face(picture, found, LOOKS[:2]))
        found = followed(faces[-1])
    return faces


def openings(faces: Sequence[FaceReading]) -> FloatArray:
    """Gap between the lips in every picture, in widths of the mouth."""
    gaps = []
    for face in faces:
        across = np.linalg.norm(face.points[291, :2] - face.points[61, :2])
        gaps.append(np.linalg.norm(face.points[14, :2] - face.points[13, :2]) / across)
    return np.array(gaps)


def figures(portrait: Portrait, size: int) -> Row:
    """What the module's docstring lists, of one portrait that was taken."""
    codec = MotionCodec(size=size)
    photo = np.asarray(cv2.resize(portrait.rgb, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    faces = find_faces(photo)
    if not faces:
        return {"found": "lost in its own crop"}
    own = codec.encode_reference(portrait).payload.own.numpy().astype(np.float64)
    asked = talking(own)

    def moved(one: Portrait) -> tuple[Pictures, FloatArray, list[FaceReading]]:
        pictures, given = show(codec, one, relative_to(codec, one, asked))
        return pictures, given[:, INDEX["jaw"]], readings(pictures, faces[0])

    pictures, jaw, seen = moved(portrait)
    mask = moving_parts([seen[0], seen[int(jaw.argmax())]], size)
    marks = portrait.landmarks
    aside, jaw_aside, seen_aside = moved(
        replace(portrait, landmarks=marks | {"mx": marks["mx"] + SHIFT * 2 * marks["rx"]})
    )
    error = float(((pictures[:, ~mask].astype(np.float32) - photo[~mask]) ** 2).mean())
    return {
        "inside": round(100 * share_inside(pictures, mask), 1),
        "opening r": round(float(np.corrcoef(openings(seen), jaw)[0, 1]), 3),
        "opening x": round(float(np.polyfit(jaw, openings(seen), 1)[0]), 3),
        "still dB": round(10 * float(np.log10(255**2 / max(error, ROUNDING))), 1),
        "shifted": round(100 * share_inside(aside, mask), 1),
        "shifted r": round(float(np.corrcoef(openings(seen_aside), jaw_aside)[0, 1]), 3),
        "shifted x": round(float(np.polyfit(jaw_aside, openings(seen_aside), 1)[0]), 3),
    }


def row(path: Path, size: int) -> Row:
    began = time.perf_counter()
    try:
        portrait = read_portrait(path.read_bytes())
    except AvatarError as error:
        return {"found": error.code}
    took = 1000 * (time.perf_counter() - began)
    about = {"found": "yes", "confidence": portrait.confidence, "ms": round(took)}
    return {**about, **figures(portrait, size), "warnings": " ".join(portrait.warnings)}


def main(words: list[str] | None = None) -> None:
    parser = make_parser("faces", __doc__)
    parser.add_argument("folder", type=Path, help="pictures, searched in their order")
    parser.add_argument("--size", type=int, default=256, help="side of the rendered pictures")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    arguments = parser.parse_args(words)
    with measuring("faces"):
        found = sorted(path for path in arguments.folder.glob("*") if path.suffix.lower() in PICTURES)
        if not found:
            raise RequestError("no_pictures", f"no picture ({', '.join(PICTURES)}) in {arguments.folder}")
        rows = {path.name: row(path, arguments.size) for path in found[:: arguments.every]}
        print_report({"faces": rows}, as_json=arguments.json, folder=str(arguments.folder))


if __name__ == "__main__":
    main()
