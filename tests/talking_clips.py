"""Talking heads rendered from a sample portrait, with lips that say what is heard, and files made of them."""

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from engine.portrait.framing import FramedPortrait, frame_portrait
from ground.motion import INDEX
from models.codecs.rig import prepare_rig
from training.data.synthetic.phonemes import Phoneme
from training.data.synthetic.tracks import HeadStyle, head_tracks, loudness
from training.data.synthetic.visemes import lip_tracks

Frames = NDArray[np.uint8]
Sound = NDArray[np.float32]

SAMPLES = Path(__file__).resolve().parent.parent / "client_web" / "samples"
RATE = 16_000
TOP, SIDE = 32, 64  # what is added around the portrait, pixels
# What sentence.wav says: espeak-ng's phonemes and their ends in seconds, aligned by training.data.synthetic.alignment.
SAID = (
    "_:0.01 f:0.10 r:0.15 0:0.20 m:0.31 f:0.40 e@:0.57 r:0.62 @:0.67 s:0.77 t:0.88 k:0.92 r:0.99 i::1.09 tS:1.17 "
    "3:1.30 z:1.45 w:1.54 i::1.61 d:1.67 I2:1.75 z:1.83 aI@:2.07 r-:2.13 I:2.16 N:2.29 k:2.37 r:2.43 i::2.60 s:2.78 "
    "_:3.22 D:3.27 a:3.42 t:3.48 D:3.54 e@:3.70 b:3.80 aI:4.00 b:4.07 j:4.11 u::4.26 t:4.31 i:4.40 z:4.48 r:4.55 "
    "oU:4.79 z:4.88 m:4.98 aI:5.16 t:5.21 n:5.30 E:5.38 v:5.45 a#:5.51 d:5.59 aI:6.04 _:6.06"
)


@lru_cache
def sentence() -> Sound:
    return soundfile.read(SAMPLES / "sentence.wav", dtype="float32")[0]


@lru_cache
def portrait(number: int) -> FramedPortrait:
    return frame_portrait(np.ascontiguousarray(cv2.imread(str(SAMPLES / f"portrait_{number}.jpg"))[..., ::-1]))


def talking(number: int, fps: float, seconds: float, **offsets: float) -> Frames:
    """Frames [n, 320, 384, 3] of a portrait that says the sentence and moves its head; offsets add to its controls."""
    ends = [part.rsplit(":", 1) for part in SAID.split()]
    starts = [0.0, *(float(end) for _, end in ends)]
    said = [Phoneme(name, start, float(end)) for (name, end), start in zip(ends, starts[:-1], strict=True)]
    fine = lip_tracks(said, 6.06, 200.0)
    middles = (np.arange(int(seconds * fps)) + 0.5) / fps
    known = int(6.06 * 25)
    head = head_tracks(loudness(sentence(), known), np.ones(known, bool), np.random.default_rng(0), HeadStyle())
    controls = np.stack([np.interp(middles * 25 - 0.5, np.arange(known), track) for track in head.T], 1)
    controls[:, :5] = fine[np.minimum((middles * 200).astype(int), len(fine) - 1)]
    for name, offset in offsets.items():
        controls[:, INDEX[name]] += offset
    photo = torch.from_numpy(portrait(number).rgb.copy()).permute(2, 0, 1).float() / 255
    rig = prepare_rig(photo, portrait(number).landmarks)
    rendered = [rig.render(part) for part in torch.from_numpy(controls).float().split(25)]
    faces = (torch.cat(rendered) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.pad(faces, ((0, 0), (TOP, TOP), (SIDE, SIDE), (0, 0)), mode="edge")


def write(
    path: Path, frames: Frames, sound: Sound | None, *, times: NDArray[np.float64] | None = None, fps: float = 25,
    sound_at: float = 0.0, sound_rate: int = RATE, turned: int = 0,
) -> Path:  # fmt: skip
    """A file whose frame i is shown from times[i] seconds on. turned: degrees a player is told to turn it."""
    clock = Fraction(1, 90_000)
    with av.open(str(path), "w") as file:
        options = {"crf": "16", "preset": "ultrafast", "threads": "1"}
        video = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt, video.time_base, video.codec_context.time_base = "yuv420p", clock, clock
        if turned:
            video.set_display_rotation(turned)
        audio = file.add_stream("aac", rate=sound_rate, layout="mono") if sound is not None else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            at = number / fps if times is None else times[number]
            frame.pts, frame.time_base = round(at / clock), clock
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for start in range(0, len(sound), 1024) if audio is not None else ():
            block = (np.clip(sound[start : start + 1024], -1, 1) * 32767).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            piece.sample_rate, piece.time_base = sound_rate, Fraction(1, sound_rate)
            piece.pts = start + round(sound_at * sound_rate)
            file.mux(audio.encode(piece))
        if audio is not None:
            file.mux(audio.encode(None))
    return path


def later(sound: Sound, seconds: float) -> Sound:
    """The same sound, shifted, as long as before."""
    shift = round(seconds * RATE)
    moved = np.roll(sound, shift)
    moved[:shift] = 0 if shift > 0 else moved[:shift]
    moved[len(moved) + shift :] = 0 if shift < 0 else moved[len(moved) + shift :]
    return moved
