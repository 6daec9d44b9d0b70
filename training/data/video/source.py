"""Worker process for one source video, which it cuts into clips and refusals: `python -m training.data.video.source`.

A job comes as a line of JSON on stdin, progress goes as lines of JSON to stdout, and what was made lies in the folder
the job names: clips and source.json. Ends when its parent does. A file that hangs or kills it costs one source.
"""

import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.portrait.landmarks import canonical_crop
from ground.errors import MediaError
from training.data.video import decode
from training.data.video.clips import ClipWriter, FaceTrack, write_faces, write_sound
from training.data.video.quality import Finding, QualityLimits, Stretch, flatness, loudness, new_pictures, span_findings
from training.data.video.shots import ShotDetector
from training.data.video.spans import Span, find_spans
from training.data.video.sync import sync
from training.data.video.track import FaceTracker, outside, table

Doubles = NDArray[np.float64]
Tell = Callable[[int, int], None]  # frames read and written, and how many that will be (a guess)

RECORD = "source.json"
CANNOT_WRITE = 3  # exit status
LOOK_AT = 1920  # longest side of the pictures in which faces are followed
MEMORY_LIMIT = 8 * 2**30
_TELL_EVERY = 25


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """fps must divide 16000. size: side of the square picture, pixels."""

    fps: int = 25
    size: int = 256
    limits: QualityLimits = field(default_factory=QualityLimits)


@dataclass(frozen=True, slots=True)
class Examined:
    """What pass one found: readings by frame (pixels of the full picture) and the sound, as long as the picture."""

    source: decode.Source
    readings: dict[str, Doubles]
    shots: list[tuple[int, int]]
    sound: decode.Sound


def process(path: Path, out: Path, form: ClipFormat, tell: Tell) -> dict[str, Any]:
    """Write the clips of a source into a folder; return {"seconds", "clips", "rejected"}, entries for the manifests
    without the source's name. What is wrong with the file is a refusal; raises OSError if clips cannot be written."""
    try:
        return _made(examine(path, form, tell), out, form, tell)
    except MediaError as error:
        for left in out.iterdir():  # a file that could be decoded a moment ago
            left.unlink()
        return {"seconds": 0.0, "clips": [], "rejected": [{"reason": error.code, "message": error.message}]}


def _made(examined: Examined, out: Path, form: ClipFormat, tell: Tell) -> dict[str, Any]:
    """Judge, write, and record."""
    count = len(examined.readings["face"])
    spans, refused = find_spans(examined.readings, examined.shots, form.limits, form.fps, form.size)
    good: list[tuple[Span, dict[str, float]]] = []
    for span in spans:
        findings, figures = _judged(examined, span, form)
        refused += [Stretch(span.first, span.end, finding) for finding in findings[:1]]
        good += [] if findings else [(span, figures)]
    clips = _write(examined, good, out, form, tell)
    rejected = [_refusal(stretch, form.fps) for stretch in sorted(refused, key=lambda s: s.first)]
    return {"seconds": round(count / form.fps, 3), "clips": clips, "rejected": rejected}


def examine(path: Path, form: ClipFormat, tell: Tell) -> Examined:
    """Pass one: shots, face and sound. Raises MediaError."""
    source = decode.probe(path)
    if not source.has_sound:
        raise MediaError("no_sound", "the file holds no sound")
    shots, tracker, readings = ShotDetector(), FaceTracker(), []
    width = source.width
    guess = round(source.seconds * form.fps)
    for number, picture in decode.frames(source, form.fps, longest_side=LOOK_AT):
        readings.append(tracker.add(picture, jumped=shots.add(picture)))
        width = picture.shape[1]
        if number % _TELL_EVERY == 0:
            tell(number, 2 * max(guess, number))
    if not readings:
        raise MediaError("unreadable", "no picture could be decoded")
    tell(len(readings), 2 * len(readings))
    values = table(readings)
    values["eyes"] = (values["eyes"] + 0.5) * (source.width / width) - 0.5
    wanted = len(readings) * decode.SOUND_RATE // form.fps
    heard = decode.sound(source)[:wanted]
    return Examined(source, values, shots.shots(), np.pad(heard, (0, wanted - len(heard))))


def _judged(examined: Examined, span: Span, form: ClipFormat) -> tuple[list[Finding], dict[str, float]]:
    """What is wrong with a span as a whole, and its figures for the manifest."""
    values = {name: column[span.frames] for name, column in examined.readings.items()}
    heard = _heard(examined.sound, span, form.fps)
    lips = sync(values["opening"], heard, form.fps, decode.SOUND_RATE)
    shape = (examined.source.height, examined.source.width)
    made_up = outside(shape, span.eyes, (-1.0, -1.0, 1.0, 1.0))
    findings = span_findings(values, heard, lips, made_up, form.limits)
    figures = {
        "eye_distance": float(np.hypot(*(span.eyes[1] - span.eyes[0]))),
        "face": float(np.nanmedian(values["face"])),
        "turned": float(np.nanmax(abs(values["yaw"]))),
        "nodded": float(np.nanmax(abs(values["pitch"]))),
        "light": float(np.nanmedian(values["light"])),
        "glare": float(np.nanmedian(values["glare"])),
        "sharpness": float(np.nanmedian(values["sharpness"])),
        "made_up": made_up,
        "new_pictures": new_pictures(values["change"], form.limits),
        "loud_db": loudness(heard),
        "flat": flatness(heard),
        "sync_score": lips.score,
    }
    return findings, {name: round(value, 4) for name, value in figures.items()}


def _heard(sound: decode.Sound, span: Span, fps: int) -> decode.Sound:
    step = decode.SOUND_RATE // fps
    return sound[span.first * step : span.end * step]


def _write(
    examined: Examined, good: list[tuple[Span, dict[str, float]]], out: Path, form: ClipFormat, tell: Tell
) -> list[dict[str, Any]]:
    """Pass two: decode once more, crop and encode the good spans."""
    chosen = np.full(len(examined.readings["face"]), -1)
    for index, (span, _) in enumerate(good):
        chosen[span.frames] = index
    entries: list[dict[str, Any]] = []
    pictures = decode.frames(examined.source, form.fps, wanted=lambda n: n < len(chosen) and chosen[n] >= 0)
    for number, picture in pictures if good else ():
        if number % _TELL_EVERY == 0:
            tell(len(chosen) + number, 2 * len(chosen))
        index = int(chosen[number])
        span, figures = good[index]
        name = f"{index:04d}"
        if number == span.first:
            writer = ClipWriter(out / f"{name}.mp4", size=form.size, fps=form.fps)
        crop, affine = canonical_crop(picture, span.eyes, form.size)
        writer.write(crop)
        if number == span.end - 1:
            writer.close()
            write_sound(out / f"{name}.flac", _heard(examined.sound, span, form.fps))
            write_faces(out / f"{name}.safetensors", _faces(examined.readings, span, affine, form.size))
            entries.append(_entry(name, span, form) | {"quality": figures})
    return entries


def _faces(readings: dict[str, Doubles], span: Span, affine: NDArray[np.float32], size: int) -> FaceTrack:
    """affine: pixels of the source to pixels of the clip."""
    placed = readings["eyes"][span.frames] @ affine[:, :2].T + affine[:, 2]
    turn = np.stack([readings["yaw"][span.frames], readings["pitch"][span.frames]], axis=1)
    tracks = ((placed + 0.5) * (2 / size) - 1, readings["landmarks"][span.frames], turn)
    return FaceTrack(*(np.ascontiguousarray(track, np.float32) for track in tracks))


def _entry(name: str, span: Span, form: ClipFormat) -> dict[str, Any]:
    return {
        "clip": f"{name}.mp4", "sound": f"{name}.flac", "faces": f"{name}.safetensors",
        "start_frame": span.first, "start_s": round(span.first / form.fps, 3), "frames": span.end - span.first,
        "fps": form.fps, "size": form.size,
    }  # fmt: skip


def _refusal(stretch: Stretch, fps: int) -> dict[str, Any]:
    assert stretch.finding is not None
    place = {
        "start_s": round(stretch.first / fps, 3),
        "start_frame": stretch.first,
        "frames": stretch.end - stretch.first,
    }
    return place | asdict(stretch.finding)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    form = ClipFormat(job["fps"], job["size"], QualityLimits(**job["limits"]))
    out = Path(job["out"])
    try:
        record = process(Path(job["path"]), out, form, _print_progress)
        (out / RECORD).write_text(json.dumps(record))
    except OSError as error:
        print(f"cannot write clips: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        sys.exit(CANNOT_WRITE)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _print_progress(done: int, total: int) -> None:
    print(json.dumps([done, total]), flush=True)


if __name__ == "__main__":
    main()
