"""Talking heads to training clips: sound and picture stay together, every rule refuses what breaks it and nothing else,
an interrupted run ends as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file

from engine.drive.buffer import DriveBuffer
from engine.portrait.face_nets import detect
from engine.portrait.face_reading import LOOKS, followed, read_face
from engine.portrait.framing import eye_centres, frame_portrait
from engine.portrait.landmarks import CROP, EYE_X, EYE_Y, canonical_crop
from ground.errors import AvatarError, MediaError, RequestError
from models.codecs.carry import StreamState
from models.codecs.wan import build_encoder
from models.config import WAN21_1_3B
from tests.checkpoints import vae_state
from tests.talking_clips import RATE, SIDE, TOP, Frames, Sound, later, portrait, sentence, talking, write
from tests.tiny_models import WAN_TINY_TEST
from training.data.video import decode, prepare
from training.data.video.clips import (
    LANDMARKS,
    Clip,
    ClipFolder,
    ClipWriter,
    FaceTrack,
    read_window,
    write_faces,
    write_sound,
)
from training.data.video.encode import check, example
from training.data.video.encode import run as encode_clips
from training.data.video.folder import opened
from training.data.video.prepare import Preparation, Totals, find_sources, parsed, summary
from training.data.video.progress import Lines
from training.data.video.shots import ShotDetector
from training.data.video.source import ClipFormat, process
from training.latents import LatentFolder, write_clip

SECONDS, FPS = 4.0, 25
COUNT = int(SECONDS * FPS)
FORM = ClipFormat()
SHORT = replace(FORM, limits=replace(FORM.limits, shortest_s=1.2))  # where nothing depends on the length
PART = 40  # frames


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def base() -> Frames:
    return talking(1, FPS, SECONDS)


@pytest.fixture(scope="module")
def voice() -> Sound:
    return sentence()[: int(SECONDS * RATE)]


def run(tmp_path: Path, frames: Frames, sound: Sound | None, form: ClipFormat = FORM) -> tuple[list[dict], list[dict]]:
    """Clips and refusals of one file."""
    path = write(tmp_path / "source.mp4", frames, sound)
    out = tmp_path / "out"
    out.mkdir()
    record = process(path, out, form, lambda done, total: None)
    return record["clips"], record["rejected"]


def shifted(frames: Frames, x: int) -> Frames:
    move = np.array([[1, 0, x], [0, 1, 0]], np.float32)
    return np.stack([cv2.warpAffine(f, move, f.shape[1::-1], borderMode=cv2.BORDER_REPLICATE) for f in frames])


def other_person(count: int) -> Frames:
    still = np.pad(portrait(2).rgb, ((TOP, TOP), (SIDE, SIDE), (0, 0)), mode="edge")
    return still[None].repeat(count, 0)


# --- time ---


def flashes(count: int, fps: float, at: NDArray[np.float64]) -> tuple[Frames, Sound, NDArray[np.float64]]:
    """Dark pictures that light up for 40 ms and more after every time in `at`, beeps of 40 ms at these times."""
    times = np.arange(count) / fps
    lit = (times[:, None] >= at - 1e-9) & (times[:, None] < at + 0.08)
    frames = np.full((count, 64, 64, 3), 20, np.uint8)
    frames[lit.any(1)] = 235
    clock = np.arange(int(count / fps * RATE)) / RATE
    on = ((clock[:, None] >= at) & (clock[:, None] < at + 0.04)).any(1)
    return frames, (0.5 * on * np.sin(2 * np.pi * 1000 * clock)).astype(np.float32), times


def onsets(frames: list[Frames], sound: Sound) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times at which pictures light up and beeps begin."""
    bright = np.array([f.mean() for f in frames]) > 128
    loud = np.convolve(abs(sound), np.ones(32) / 32, "same") > 0.1
    return tuple(np.flatnonzero(np.diff(on.astype(int)) == 1) + 1 for on in (bright, loud))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fps", "vary", "sound_at", "sound_rate"),
    [(25, 0.0, 0.0, RATE), (30, 0.0, 0.0, 48_000), (30_000 / 1001, 0.012, 0.0, 44_100), (30, 0.0, 0.25, RATE)],
)
def test_sound_and_picture_stay_together(
    tmp_path: Path, fps: float, vary: float, sound_at: float, sound_rate: int
) -> None:
    """At 25 fps, 30 fps, a variable rate about 29.97, and with a sound that starts late."""
    at = np.array([0.6, 1.3, 2.12, 3.0])
    frames, sound, times = flashes(int(SECONDS * fps), fps, at)
    times = times + vary * np.random.default_rng(0).uniform(-1, 1, len(times)) * (np.arange(len(times)) > 0)
    sound = sound[int(sound_at * RATE) :]
    if sound_rate != RATE:
        clock = np.arange(int(len(sound) * sound_rate / RATE)) / sound_rate
        sound = np.interp(clock, np.arange(len(sound)) / RATE, sound).astype(np.float32)
    path = write(tmp_path / "f.mp4", frames, sound, times=times, fps=fps, sound_at=sound_at, sound_rate=sound_rate)
    source = decode.probe(path)
    shown = [picture for _, picture in decode.frames(source, FPS)]
    assert abs(len(shown) - COUNT) <= 1
    lit, heard = onsets(shown, decode.sound(source))
    assert len(lit) == len(heard) == len(at)
    assert np.abs(heard / RATE - at).max() < 0.004
    assert np.abs(lit / FPS - at).max() <= 1 / FPS
    assert abs((lit / FPS - at).mean()) < 0.6 / FPS


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    at = np.array([0.6, 3.0])
    frames, sound, _ = flashes(COUNT, FPS, at)
    import av

    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=FPS), file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for start in range(0, len(sound), 800):
            if not 1.0 <= start / RATE < 2.5:
                block = (sound[start : start + 800] * 32767).astype(np.int16)[None]
                piece = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                piece.sample_rate, piece.pts = RATE, start
                file.mux(audio.encode(piece))
        file.mux(audio.encode(None))
    source = decode.probe(path)
    lit, heard = onsets([p for _, p in decode.frames(source, FPS)], decode.sound(source))
    assert np.abs(heard / RATE - at).max() < 0.004 and np.abs(lit / FPS - at).max() <= 1 / FPS


def test_a_clip_held_sideways_is_upright(tmp_path: Path) -> None:
    mark = np.zeros((2, 64, 128, 3), np.uint8)
    mark[:, :16, :32] = 255  # upper left
    path = write(tmp_path / "turned.mp4", np.rot90(mark, -1, (1, 2)), None, turned=90)
    source = decode.probe(path)
    assert (source.width, source.height) == (128, 64)
    _, picture = next(decode.frames(source, FPS))
    assert picture.shape == (64, 128, 3) and picture[4:12, 4:28].min() > 200 and picture[40:, 40:].max() < 50


# --- what becomes a clip ---


CANONICAL = (np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]]) + 1) * (CROP / 2) - 0.5  # eye places in a crop, pixels


def eyes_through(frames: Sequence[Frames]) -> list[np.ndarray]:
    """Eye centres in each frame, where the one before says where to look."""
    found, eyes = detect(frames[0])[0], []
    for frame in frames:
        face = read_face(frame, found, LOOKS[:2])
        found = followed(face)
        eyes.append(eye_centres(face))
    return eyes


def test_a_talking_head_becomes_a_clip(tmp_path: Path, base: Frames, voice: Sound) -> None:
    (clip,), rejected = run(tmp_path, base, voice)
    assert rejected == []
    assert (clip["start_frame"], clip["frames"], clip["fps"], clip["size"]) == (0, COUNT, FPS, 256)
    assert clip["quality"]["sync_score"] > 0.35
    # The clip is the source under one similarity, in the framing that a photograph gets.
    eyes = eyes_through(base)
    middle = np.median(eyes, axis=0)
    wanted = np.stack([canonical_crop(frame, middle)[0] for frame in base])
    made = [p for _, p in decode.frames(decode.probe(tmp_path / "out" / clip["clip"]), FPS)]
    error = (np.stack(made).astype(float) - wanted) ** 2
    assert len(made) == COUNT and 10 * np.log10(255**2 / error.mean()) > 33
    seen_eyes = eyes_through(made)
    seen = np.median(seen_eyes, axis=0)
    assert np.abs(seen - CANONICAL).max() < 2.0
    track = FaceTrack(**load_file(tmp_path / "out" / clip["faces"]))
    assert track.eyes.shape == (COUNT, 2, 2) and track.turn.shape == (COUNT, 2)
    apart = []  # of eyes and of landmarks; a frame of a blink or of closing lips may be read otherwise after coding
    for number in range(0, COUNT, 10):
        seen, straight = seen_eyes[number], frame_portrait(base[number]).landmarks
        marks = track.landmarks[number] - [straight[name] for name in LANDMARKS]
        apart.append((np.abs((seen + 0.5) / 128 - 1 - track.eyes[number]).max(), np.abs(marks).max()))
    assert (np.median(apart, axis=0) < 0.02).all() and np.max(apart) < 0.06, apart
    photo = frame_portrait(made[-1])  # the reference of a clip, framed as an upload is
    assert np.abs(track.landmarks[-1] - [photo.landmarks[name] for name in LANDMARKS]).max() < 0.04
    heard, rate = soundfile.read(tmp_path / "out" / clip["sound"], dtype="float32")
    assert rate == RATE and len(heard) == COUNT * 640
    assert np.corrcoef(heard[:60_000], voice[:60_000])[0, 1] > 0.99


def test_two_shots_are_two_clips_and_only_the_bad_part_is_lost(tmp_path: Path, base: Frames) -> None:
    other = (0.6 * base[:PART, :, ::-1]).astype(np.uint8)
    frames = np.concatenate([base[:PART], other, np.zeros_like(base[:10])])
    clips, rejected = run(tmp_path, frames, sentence()[: len(frames) * 640], SHORT)
    assert [(c["start_frame"], c["frames"]) for c in clips] == [(0, PART), (PART, PART)]
    assert {r["start_frame"] for r in rejected} == {2 * PART}


def broken(rule: str, base: Frames, voice: Sound) -> tuple[Frames, Sound | None]:
    """The talking head, spoilt in one way."""
    count = len(base)
    number = np.arange(count)
    match rule:
        case "no_face":
            return np.stack([cv2.GaussianBlur(f[:40], (0, 0), 5).repeat(8, 0) for f in base]), voice
        case "several_faces":
            return np.concatenate([base, other_person(count)], axis=2), voice
        case "face_too_small":
            return np.stack([cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for f in base]), voice
        case "face_leaves_the_picture":
            return shifted(base, 150), voice
        case "head_turned_away":
            return talking(2, FPS, count / FPS, yaw=0.9), voice
        case "too_dark":
            return (base * 0.13).astype(np.uint8), voice
        case "overexposed":
            return np.clip(base * 1.3 + 60, 0, 255).astype(np.uint8), voice
        case "blurred":
            return np.stack([cv2.GaussianBlur(f, (0, 0), 3) for f in base]), voice
        case "frozen":
            return base[np.minimum(number, 2)], voice
        case "low_frame_rate":
            return base[number // 2 * 2], voice
        case "moves_about":
            wide = np.pad(base, ((0, 0), (0, 0), (130, 130), (0, 0)), mode="edge")
            return np.concatenate([shifted(f[None], round(120 * np.sin(i / 8))) for i, f in enumerate(wide)]), voice
        case "framed_too_tightly":
            return base[:, 48:272, 100:280], voice
        case "cut":
            return np.concatenate([base[:18], other_person(18)]), voice
        case "too_short":
            return base[:25], voice[: 25 * 640]
        case "no_sound":
            return base, None
        case "silent":
            return base, voice * 0.002
        case "clipped_sound":
            return base, np.clip(30 * voice, -0.5, 0.5)
    raise AssertionError(rule)


RULES = (
    "no_face", "several_faces", "face_too_small", "face_leaves_the_picture", "head_turned_away", "too_dark",
    "overexposed", "blurred", "frozen", "low_frame_rate", "moves_about", "framed_too_tightly", "cut", "too_short",
    "no_sound", "silent", "clipped_sound",
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_refuses_what_breaks_it(rule: str, tmp_path: Path, base: Frames, voice: Sound) -> None:
    frames, sound = broken(rule, base[:PART], voice[: PART * 640])
    clips, rejected = run(tmp_path, frames, sound, SHORT)
    reasons = {refusal["reason"] for refusal in rejected}
    assert clips == [] and rule in reasons
    assert reasons <= {rule, "too_short"}  # what is left on either side of a bad stretch is short
    for refusal in rejected:
        assert refusal["reason"] == "no_sound" or refusal["value"] != refusal["limit"]


@pytest.mark.parametrize("shift", [-0.4, 0.4])
def test_a_shifted_sound_is_refused(shift: float, tmp_path: Path, base: Frames, voice: Sound) -> None:
    """And the true one is not: test_a_talking_head_becomes_a_clip."""
    clips, (refusal,) = run(tmp_path, base, later(voice, shift))
    assert clips == [] and refusal["reason"] == "out_of_sync"
    assert abs(refusal["value"] - 0.4) <= 0.081


def test_flashes_are_no_cuts_and_jumps_are(base: Frames) -> None:
    def shots(frames: Frames) -> list[tuple[int, int]]:
        detector = ShotDetector()
        for frame in frames:
            detector.add(frame)
        return detector.shots()

    flash = base.copy()
    flash[50:52] = 255
    assert shots(flash) == [(0, COUNT)]
    unlike = [float(np.abs(frame.astype(int) - base[19]).mean()) for frame in base[30:70]]
    later = 30 + int(np.argmax(unlike))
    assert shots(np.concatenate([base[:20], base[later:]])) == [(0, 20), (20, COUNT - later + 20)]
    assert shots(base[:1]) == [(0, 1)] and shots(base[:0]) == []


# --- broken files ---


def damaged(path: Path, kind: str, whole: bytes) -> Path:
    data = bytearray(whole)
    match kind:
        case "noise":
            data = bytearray(np.random.default_rng(0).bytes(5000))
        case "empty":
            data = bytearray()
        case "truncated":
            data = data[: len(data) // 2]
        case "flipped":
            middle = len(data) // 3
            data[middle : middle + 4000] = np.random.default_rng(1).bytes(4000)
        case "playlist":
            data = bytearray(b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["noise", "empty", "truncated", "flipped", "playlist"])
def test_a_broken_file_is_refused(kind: str, tmp_path: Path, base: Frames, voice: Sound) -> None:
    whole = write(tmp_path / "whole.mp4", base, voice).read_bytes()
    record = process(damaged(tmp_path / "b.mp4", kind, whole), tmp_path, FORM, lambda done, total: None)
    assert record["clips"] == [] and [r["reason"] for r in record["rejected"]] == ["unreadable"]
    assert record["rejected"][0]["message"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [("import time; time.sleep(60)", "timed_out"), ("import os, signal; os.kill(os.getpid(), 11)", "crashed")],
)
def test_a_file_that_hangs_or_kills_its_reader_costs_itself(script: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    stalled_s = 1.0 if reason == "timed_out" else 60.0
    job = Preparation(tmp_path / "in", tmp_path / "out", stalled_s=stalled_s, command=(sys.executable, "-c", script))
    totals = prepare.prepare(job, Lines())
    assert [(r["source"], r["reason"]) for r in totals.rejected] == [("a.mp4", reason)]
    noise = replace(
        job, stalled_s=60.0, command=(sys.executable, "-m", "training.data.video.source")
    )  # the next run tries again
    assert [r["reason"] for r in prepare.prepare(noise, Lines()).rejected] == ["unreadable"]


def test_a_full_disk_ends_the_job_and_blames_no_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    script = "import sys; print('cannot write clips: no space left on device', file=sys.stderr); sys.exit(3)"
    job = Preparation(tmp_path / "in", tmp_path / "out", command=(sys.executable, "-c", script))
    with pytest.raises(MediaError, match="no space left"):
        prepare.prepare(job, Lines())
    assert not list((tmp_path / "out" / "sources").iterdir())


# --- the job ---


def command(clips: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "training.data.video.prepare",
        str(clips),
        "--out",
        str(out),
        "--limit",
        "shortest_s=1.2",
    ]


def made(out: Path) -> dict[str, bytes]:
    """Everything in a prepared folder but times."""
    files = {str(p.relative_to(out)): p for p in sorted(out.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items()}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, base: Frames, voice: Sound) -> None:
    clips = tmp_path / "clips"
    (clips / "aa").mkdir(parents=True)
    write(clips / "a.mp4", base[:PART], voice[: PART * 640])
    elsewhere = write(tmp_path / "elsewhere.mov", base[:PART, :, ::-1], voice[: PART * 640])
    (clips / "aa" / "ä 日本.mov").symlink_to(elsewhere)
    (clips / os.fsdecode(b"d\xff.mp4")).write_bytes(b"no video at all")
    (clips / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (clips / "notes.txt").write_text("not a video")
    whole = subprocess.run(command(clips, tmp_path / "whole"), capture_output=True, text=True, check=True)
    assert "accepted" in whole.stdout and "unreadable" in whole.stdout
    interrupted = subprocess.Popen(command(clips, tmp_path / "parts"), stdout=subprocess.PIPE, text=True)
    assert interrupted.stdout
    for line in interrupted.stdout:
        if line.startswith("[1/3]"):
            break
    unfinished = tmp_path / "parts" / ".unfinished"
    deadline = time.monotonic() + 60
    while not list(unfinished.glob("*/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.002)  # the second source is being written
    interrupted.send_signal(signal.SIGKILL)
    interrupted.communicate()
    assert len(list((tmp_path / "parts" / "sources").iterdir())) == 1
    again = subprocess.run(command(clips, tmp_path / "parts"), capture_output=True, text=True, check=True)
    assert "3 sources, 1 finished before" in again.stdout
    assert made(tmp_path / "parts") == made(tmp_path / "whole")
    entries = [json.loads(line) for line in (tmp_path / "whole" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(e["source"] for e in entries) == ["a.mp4", "aa/ä 日本.mov"]

    folder = ClipFolder(tmp_path / "whole")
    windows = [folder.window(np.random.default_rng(seed), 30) for seed in (5, 5, 6)]
    assert np.array_equal(windows[0].frames, windows[1].frames) and windows[0].first == windows[1].first
    assert not np.array_equal(windows[0].frames, windows[2].frames)
    with pytest.raises(MediaError, match="no clip has 500 frames"):
        folder.window(np.random.default_rng(0), 500)

    os.utime(elsewhere, ns=(1, 1))  # changed since
    with opened(tmp_path / "whole", clips, SHORT) as prepared:
        assert [prepared.is_finished(s) for s in find_sources(clips)] == [True, False, True]
        with pytest.raises(RequestError, match="another run"), opened(tmp_path / "whole", clips, SHORT):
            pass
    with pytest.raises(RequestError, match="another size"), opened(tmp_path / "whole", clips, replace(SHORT, size=128)):
        pass
    with pytest.raises(RequestError, match="another clips"), opened(tmp_path / "whole", clips / "aa", SHORT):
        pass


def test_windows_hold_sound_and_picture_of_the_same_time(tmp_path: Path) -> None:
    """Frame n goes with samples 640 n and on, wherever the window begins."""
    writer = ClipWriter(tmp_path / "c.mp4", size=64, fps=FPS)
    for number in range(80):
        writer.write(np.full((64, 64, 3), 20 + 2 * number, np.uint8))
    writer.close()
    ramp = (np.arange(80 * 640) // 640 / 100).astype(np.float32)
    write_sound(tmp_path / "c.flac", ramp)
    numbered = np.arange(80, dtype=np.float32)[:, None]
    write_faces(tmp_path / "c.st", FaceTrack(numbered.repeat(4, 1).reshape(-1, 2, 2), numbered.repeat(20, 1), numbered))
    clip = Clip(tmp_path / "c.mp4", tmp_path / "c.flac", tmp_path / "c.st", 80, FPS, 64)
    for first in (0, 1, 24, 25, 26, 49, 63):
        window = read_window(clip, first, 17)
        assert window.frames.shape == (17, 64, 64, 3) and window.sound.shape == (17 * 640,)
        numbers = (window.frames.mean((1, 2, 3)) - 20) / 2
        assert np.abs(numbers - np.arange(first, first + 17)).max() < 0.9
        assert np.abs(window.sound * 100 - np.arange(first, first + 17).repeat(640)).max() < 0.1
        assert np.array_equal(window.faces.landmarks[:, 3], np.arange(first, first + 17))
        assert np.array_equal(window.reference, window.frames[-1])
    (tmp_path / "c.flac").unlink()
    with pytest.raises(MediaError, match="c.flac cannot be read"):
        read_window(clip, 0, 17)


def test_a_prepared_clip_becomes_an_example(tmp_path: Path, voice: Sound) -> None:
    """What training.latents reads back is the window's latents and the drive that a call over the clip would have."""
    writer = ClipWriter(tmp_path / "c.mp4", size=64, fps=FPS)
    for number in range(COUNT):
        writer.write(np.full((64, 64, 3), 2 * number, np.uint8))
    writer.close()
    write_sound(tmp_path / "c.flac", voice)
    write_faces(tmp_path / "c.st", FaceTrack(*(np.zeros((COUNT, n), np.float32) for n in (4, 20, 2))))
    clip = Clip(tmp_path / "c.mp4", tmp_path / "c.flac", tmp_path / "c.st", COUNT, FPS, 64)
    model = WAN21_1_3B.at_size(64, 64)

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        """Every fourth picture's brightness for a latent."""
        return pictures[::4].float().mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, *model.latent_shape)

    first, latents = 30, 15
    write_clip(tmp_path / "0.safetensors", example(clip, first, latents, model, encode))
    batch = LatentFolder(tmp_path, model, latents, (22, 23), seed=0).batch(0, 1)
    shown = first + 4 * torch.arange(latents)
    assert (batch.latents[0, :, 0, 0, 0] / 2 - shown).abs().max() < 1.5
    assert batch.portrait is not None and torch.equal(batch.portrait[0], batch.latents[0, -1])
    call = DriveBuffer(model)
    call.push_voice(np.round(voice * 32768).astype(np.int16), 0)
    heard = torch.from_numpy(call.take(0, COUNT // 4).tokens).flatten(0, 1)  # token i: frame i - 3
    # The same sound in other pieces: on some processors a product of other shape differs in its last bit.
    torch.testing.assert_close(batch.drive[0].flatten(0, 1), heard[first : first + 4 * latents], rtol=0, atol=1e-5)
    with pytest.raises(RequestError, match="50 fps"):
        check(replace(clip, fps=50), model)
    with pytest.raises(RequestError, match="prepare them alike"):
        check(replace(clip, size=80), model)


def test_a_prepared_folder_becomes_examples_and_goes_on_where_it_was(
    tmp_path: Path, voice: Sound, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Wan2.1's encoder, small, with random weights in the official format; every window by itself."""
    clips, out, vae = tmp_path / "clips", tmp_path / "out", tmp_path / "vae.safetensors"
    fps, size, count, latents = WAN_TINY_TEST.fps, 64, 43, 5
    (clips / "sources" / "a").mkdir(parents=True)
    entry = {name: f"sources/a/000.{end}" for name, end in (("clip", "mp4"), ("sound", "flac"), ("faces", "st"))}
    writer = ClipWriter(clips / entry["clip"], size=size, fps=fps)
    for number in range(count):
        writer.write(np.full((size, size, 3), 2 * number, np.uint8))
    writer.close()
    write_sound(clips / entry["sound"], voice[: count * RATE // fps])
    write_faces(clips / entry["faces"], FaceTrack(*(np.zeros((count, n), np.float32) for n in (4, 20, 2))))
    (clips / "manifest.jsonl").write_text(json.dumps({**entry, "frames": count, "fps": fps, "size": size}) + "\n")
    save_file(vae_state(WAN_TINY_TEST), vae)

    def run() -> None:
        encode_clips(clips, vae, out, WAN_TINY_TEST.name, latents, torch.device("cpu"))

    run()
    assert [path.name for path in sorted(out.glob("*.safetensors"))] == [
        "sources-a-000-000000.safetensors", "sources-a-000-000017.safetensors",
    ]  # fmt: skip
    model = WAN_TINY_TEST.at_size(size, size)
    read = LatentFolder(out, model, latents, (22, 23), seed=0).batch(0, 8)
    window = read_window(ClipFolder(clips).clips[0], 17, 17)
    pictures = torch.from_numpy(window.frames).permute(0, 3, 1, 2).float() / 255
    encoder = build_encoder("cpu", torch.float32, model.vae)
    whole = encoder(pictures, StreamState())[0]
    alone = encoder(pictures[-1:], StreamState())[0][0]
    assert read.portrait is not None
    assert min((each - whole).abs().max() for each in read.latents) < 1e-4
    assert min((each - alone).abs().max() for each in read.portrait) < 1e-4
    (out / "sources-a-000-000000.safetensors").unlink()
    before = (out / "sources-a-000-000017.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run()
    assert "2 examples, 1 of them were there" in capsys.readouterr().out and len(list(out.glob("*.safetensors"))) == 2
    assert (out / "sources-a-000-000017.safetensors").stat().st_mtime_ns == before
    for name, length, told in ((WAN_TINY_TEST.name, 22, "no clip has 85 frames"), ("embedded", 5, "wan2.1-1.3b")):
        with pytest.raises(AvatarError, match=told):
            encode_clips(clips, vae, out, name, length, torch.device("cpu"))
    with pytest.raises(RequestError, match="another latents"):
        encode_clips(clips, vae, out, WAN_TINY_TEST.name, 4, torch.device("cpu"))
    with pytest.raises(AvatarError, match="there is no checkpoint"):
        encode_clips(clips, tmp_path / "none.safetensors", out, WAN_TINY_TEST.name, latents, torch.device("cpu"))
    os.utime(clips / entry["clip"], ns=(2 * before, 2 * before))  # prepared again
    run()
    assert (out / "sources-a-000-000017.safetensors").stat().st_mtime_ns > before
    save_file({"x": torch.zeros(1)}, vae)
    with pytest.raises(AvatarError, match="its tensors are x"):
        run()


def test_bad_orders_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, told in (
        (["--fps", "30"], "divide 16000"),
        (["--size", "255"], "even"),
        (["--workers", "0"], "positive"),
        (["--limit", "shortest=2"], "NAME one of shortest_s, longest_s"),
        (["--limit", "yaw"], "NAME=VALUE"),
        (["--limit", "turned=nan"], "'nan' is no number"),
        (["--limit", "shortest_s=90"], "at most longest_s"),
    ):
        with pytest.raises(SystemExit):
            parsed([str(tmp_path), "--out", str(tmp_path / "o"), *wrong])
        assert told in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for folder, told in ((tmp_path / "none", "there is no folder"), (tmp_path / "empty", "no video in")):
        with pytest.raises(RequestError, match=told):
            find_sources(folder)
        ended = subprocess.run(command(folder, tmp_path / "o"), capture_output=True, text=True)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1) and told in ended.stderr
    with pytest.raises(RequestError, match="read as sources"):
        prepare.prepare(Preparation(tmp_path, tmp_path / "out"), Lines())
    with pytest.raises(MediaError, match="prepare"):
        ClipFolder(tmp_path)


def test_the_summary_counts_by_reason() -> None:
    refusals = [{"reason": "cut", "frames": 50}, {"reason": "cut", "frames": 100}, {"reason": "unreadable"}]
    lines = summary(Totals([{"frames": 1500, "fps": 25}], refusals))
    assert [line.split() for line in lines] == [
        ["accepted", "1", "clips", "1.0", "min"], ["cut", "2", "clips", "0.1", "min"],
        ["unreadable", "1", "clips", "0.0", "min"],
    ]  # fmt: skip
