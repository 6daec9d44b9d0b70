"""Prepared clips on disk: how one is written, and how random windows of them are read.

A clip is a square H.264 picture at the content's frame rate, a FLAC of 16 kHz mono and a safetensors file of where the
face is; frame n goes with samples n * rate / fps and on. The folder's manifest.jsonl says what there is. Needs PyAV
and soundfile.
"""

import io
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ground.errors import MediaError
from training.data.synthetic.sound import import_soundfile
from training.data.video.decode import SOUND_RATE, import_av

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Sound = NDArray[np.float32]

MANIFEST = "manifest.jsonl"
WINDOW = 85  # frames of the training clip: 22 latents, of which the first stands for one frame
LANDMARKS = (
    "mx", "my", "mw", "curve", "mtilt", "lt", "ut", "th", "exl", "eyl", "exr", "eyr", "ea", "eb", "bh", "cx", "rx",
    "chin", "cy", "ry",
)  # fmt: skip
_ENCODER = {"crf": "14", "preset": "veryfast", "threads": "1"}


class ClipWriter:
    """Writes one clip picture by picture; `close` makes it whole."""

    def __init__(self, path: Path, *, size: int, fps: int) -> None:
        av = import_av()
        self._file = av.open(str(path), "w")
        self._video = self._file.add_stream("libx264", rate=fps, options=_ENCODER)
        self._video.width = self._video.height = size
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.gop_size = fps  # a window anywhere costs at most a second of decoding
        context.max_b_frames = 0
        self._frames = 0

    def write(self, picture: Image) -> None:
        """uint8 [size, size, 3]."""
        frame = import_av().VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = self._frames
        self._file.mux(self._video.encode(frame))
        self._frames += 1

    def close(self) -> None:
        self._file.mux(self._video.encode(None))
        self._file.close()


def write_sound(path: Path, sound: Sound) -> None:
    """float32 [m] at 16 kHz, 16 bit FLAC. Raises OSError."""
    coded = io.BytesIO()  # libsndfile is silent about a full disk
    import_soundfile().write(coded, np.clip(sound, -1, 1), SOUND_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(coded.getvalue())


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The face in each of n frames; NaN where it was not found. eyes [n, 2, 2]: their centres, -1..1 of the clip's
    picture. landmarks [n, 20]: LANDMARKS of engine.portrait, each frame in the canonical framing about its own eyes,
    as a photograph's are. turn [n, 2]: yaw and pitch of the head, radians."""

    eyes: Floats
    landmarks: Floats
    turn: Floats

    def part(self, first: int, frames: int) -> "FaceTrack":
        return FaceTrack(*(track[first : first + frames] for track in (self.eyes, self.landmarks, self.turn)))


def write_faces(path: Path, faces: FaceTrack) -> None:
    """A tensor for each field; the landmarks' names stand in the file's metadata. Raises OSError."""
    tensors = {"eyes": faces.eyes, "landmarks": faces.landmarks, "turn": faces.turn}
    path.write_bytes(save(tensors, metadata={"landmarks": " ".join(LANDMARKS)}))


@dataclass(frozen=True, slots=True)
class Clip:
    """A line of the manifest, as far as reading needs it."""

    path: Path
    sound: Path
    faces: Path
    frames: int
    fps: int
    size: int


@dataclass(frozen=True, slots=True)
class Window:
    """frames: uint8 [T, H, W, 3]. sound: float32 [T * 16000 / fps], of the same time. first: its place in the clip."""

    frames: Image
    sound: Sound
    faces: FaceTrack
    clip: Clip
    first: int

    @property
    def reference(self) -> Image:
        """The photograph that the window is to be generated from: its last frame [H, W, 3]."""
        return np.asarray(self.frames[-1])


class ClipFolder:
    """The clips of a folder that training.data.video.prepare made."""

    def __init__(self, folder: Path) -> None:
        """Raises MediaError ``no_clips``."""
        try:
            lines = (folder / MANIFEST).read_text().splitlines()
        except OSError as error:
            raise MediaError(
                "no_clips", f"no {MANIFEST} in {folder.name!r}: make it with training.data.video.prepare"
            ) from error
        entries = [json.loads(line) for line in lines]
        self.clips = [
            Clip(folder / e["clip"], folder / e["sound"], folder / e["faces"], e["frames"], e["fps"], e["size"])
            for e in entries
        ]

    def window(self, rng: np.random.Generator, frames: int = WINDOW) -> Window:
        """A window of so many frames, every possible one as likely; the same rng gives the same windows.

        Raises MediaError ``no_clips`` if no clip is that long.
        """
        places = np.array([max(0, clip.frames - frames + 1) for clip in self.clips], np.int64)
        if not places.sum():
            raise MediaError("no_clips", f"no clip has {frames} frames: prepare longer ones or ask for fewer")
        place = int(rng.integers(places.sum()))
        ends = np.cumsum(places)
        index = int(np.searchsorted(ends, place, side="right"))
        return read_window(self.clips[index], place - int(ends[index] - places[index]), frames)


def read_window(clip: Clip, first: int, frames: int) -> Window:
    """Frames first .. first + frames - 1 of a clip and their sound. Raises MediaError ``broken_clip``."""
    assert first >= 0 and first + frames <= clip.frames, (first, frames, clip.frames)
    pictures, sound = _read_pictures(clip, first, frames), read_sound(clip, first, frames)
    try:
        faces = FaceTrack(**load_file(clip.faces)).part(first, frames)
    except (OSError, SafetensorError, TypeError) as error:
        raise MediaError("broken_clip", f"{clip.faces.name} cannot be read: prepare its source again") from error
    if len(pictures) != frames:
        raise MediaError("broken_clip", f"{clip.path.name} is shorter than its manifest says: prepare its source again")
    return Window(np.stack(pictures), sound, faces, clip, first)


def read_sound(clip: Clip, first: int, frames: int) -> Sound:
    """The sound of frames first .. first + frames - 1. Raises MediaError ``broken_clip``."""
    soundfile, step = import_soundfile(), SOUND_RATE // clip.fps
    try:
        sound, _ = soundfile.read(clip.sound, start=first * step, frames=frames * step, dtype="float32")
    except soundfile.SoundFileError as error:
        raise MediaError("broken_clip", f"{clip.sound.name} cannot be read: prepare its source again") from error
    if len(sound) != frames * step:
        raise MediaError(
            "broken_clip", f"{clip.sound.name} is shorter than its manifest says: prepare its source again"
        )
    return np.asarray(sound, np.float32)


def _read_pictures(clip: Clip, first: int, frames: int) -> list[Image]:
    av, pictures = import_av(), list[Image]()
    try:
        with av.open(str(clip.path)) as file:
            stream = file.streams.video[0]
            stream.thread_count = 1
            file.seek(int(Fraction(first, clip.fps) / stream.time_base), stream=stream)
            for frame in file.decode(stream):
                number = round(frame.pts * stream.time_base * clip.fps)
                if number >= first:
                    pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == frames:
                    break
    except (OSError, ValueError, av.FFmpegError) as error:
        raise MediaError("broken_clip", f"{clip.path.name} cannot be read: prepare its source again") from error
    return pictures
