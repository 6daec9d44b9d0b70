"""`knotcast animate`: a portrait, a recording and perhaps poses to an MP4, through the same pool and worker as a
call.

The voice is pushed without a deadline, so the worker makes chunks as fast as the frame ring is read; pictures go
straight to the encoder and nothing but the recording itself grows with the length.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.mp4 import Mp4Writer, reason
from engine.media.decimate import decimate
from engine.media.pose import read_poses
from engine.media.sound import read_sound
from engine.pool.client import WORKER_COMMAND
from engine.pool.local import LocalPool
from engine.pool.stream import EngineStream, StreamSpec
from engine.portrait.landmark_file import file_beside, landmarks_beside
from engine.portrait.portrait import Portrait
from engine.portrait.portrait_warnings import WORDING
from engine.wire.messages import ModelInfo, RolloutRequest
from ground.config import EngineConfig
from ground.errors import MediaError, RequestError
from ground.units import DRIVE_RATE, PLAYOUT_RATE
from server.portraits.reader import read_portrait

Poses = list[tuple[float, dict[str, float]]]

MAX_PORTRAIT_BYTES = 64 * 2**20
MAX_POSE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class AnimateJob:
    """What the command line asks for. seconds None = as long as the voice."""

    portrait: Path
    audio: Path
    out: Path
    pose: Path | None
    engine: EngineConfig
    rollout: RolloutRequest
    seed: int
    seconds: float | None
    report: Path | None


@dataclass(slots=True)
class Figures:
    """Measurements of the run. began: when the stream was open and the drive had been pushed."""

    began: float
    first_chunk_ms: float = 0.0
    chunk_frames: int = 0
    chunk_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)


def animate(job: AnimateJob) -> None:
    """Check every input, then make the video; an existing file of that name stays until the new one is complete. Raises
    AvatarError."""
    console = Console(stderr=True)
    logging.getLogger("engine").setLevel(logging.ERROR)  # a lost worker is told by the error that ends the command
    check_output(job.out, ".mp4")
    if job.report is not None:
        check_output(job.report)
    voice = read_sound(job.audio)
    portrait = read_portrait(read_file(job.portrait, MAX_PORTRAIT_BYTES), landmarks_beside(job.portrait))
    lines = read_file(job.pose, MAX_POSE_BYTES).decode(errors="replace").splitlines() if job.pose else []
    poses = list(read_poses(lines, fps=1))  # by the second, as the model's fps is not known yet
    better = f" Landmarks in {file_beside(job.portrait).name} win over the estimate."
    for warning in portrait.warnings:
        hint = better if warning == "low_confidence" else ""
        console.print(f"portrait: {warning}: {WORDING[warning]}{hint}", markup=False)
    seconds = voice.seconds if job.seconds is None else job.seconds
    sound = voice.pcm[: round(seconds * PLAYOUT_RATE)]
    report = asyncio.run(render(job, portrait, sound, poses, seconds, console))
    console.print(f"{job.out}: {report['frames']} frames, {report['realtime_factor']} x real time")
    if job.report is not None:
        try:
            job.report.write_text(json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise MediaError("write_failed", f"cannot write {job.report.name!r}: {reason(error)}") from error


def check_output(path: Path, suffix: str = "") -> None:
    if suffix and path.suffix.lower() != suffix:
        raise RequestError("invalid_output", f"the video must end in {suffix}, not {path.name!r}")
    if path.is_dir():
        raise RequestError("invalid_output", f"{path.name!r} is a folder: name a file to write")
    if not path.parent.is_dir():
        raise RequestError("invalid_output", f"there is no folder {str(path.parent)!r} for {path.name}")


def read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise RequestError("file_not_found", f"cannot read the file {path.name!r}: {reason(error)}") from error
    if len(data) > limit:
        raise RequestError("file_too_large", f"{path.name!r} is larger than {limit // 2**20} MiB")
    return data


async def render(
    job: AnimateJob,
    portrait: Portrait,
    voice: NDArray[np.int16],
    poses: Poses,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    """The report of a finished video. poses: (seconds, controls)."""
    pool = LocalPool(job.engine, command=(*WORKER_COMMAND, "--log-level", "error"))
    with console.status(f"starting the model {job.engine.model}"):
        await pool.start()
    try:
        info = pool.info
        frames = math.ceil(round(info.fps * seconds, 6))
        spec = StreamSpec(
            stream="animate", portrait=portrait, seed=job.seed, rollout=job.rollout, live=False,
        )  # fmt: skip
        lease = await pool.acquire(spec)
        try:
            figures = Figures(time.perf_counter())
            push_drive(lease.stream, voice, [(at * info.fps, controls) for at, controls in poses], frames, info)
            await write_video(job.out, lease.stream, voice, frames, info, figures, console)
            return make_report(job, figures, frames, info)
        finally:
            await lease.release()
    finally:
        await pool.close()


def push_drive(stream: EngineStream, voice: NDArray[np.int16], poses: Poses, frames: int, info: ModelInfo) -> None:
    """Push the whole voice and all poses, then silence for the lookahead of the last chunk."""
    stream.set_deadline(0, 0.0)
    for frame, controls in poses:
        stream.push_pose(controls, frame)
    beyond = frames + info.chunk_frames + info.drive_ahead_frames + 1
    samples = math.ceil(beyond * DRIVE_RATE / info.fps + info.lookahead_ms * DRIVE_RATE / 1000)
    drive = decimate(voice)
    stream.push_voice(np.concatenate([drive, np.zeros(max(0, samples - len(drive)), np.int16)]), 0)


async def write_video(
    path: Path,
    stream: EngineStream,
    voice: NDArray[np.int16],
    frames: int,
    info: ModelInfo,
    figures: Figures,
    console: Console,
) -> None:
    """Exactly ``frames`` pictures and the voice below them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Mp4Writer(path, width=info.width, height=info.height, fps=info.fps) as video,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("frames", total=frames)
        done = 0
        while done < frames:
            chunk = await stream.next_chunk()
            figures.first_chunk_ms = figures.first_chunk_ms or 1000 * (time.perf_counter() - figures.began)
            figures.chunk_ms.append(chunk.chunk_ms)
            figures.decode_ms.append(chunk.decode_ms)
            pictures = chunk.frames[: frames - done]
            video.write(pictures, voice)
            done += len(pictures)
            progress.update(bar, completed=done)


def peak_mb() -> float:
    """The sum over this process and its workers of the most memory each ever held."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(OSError, psutil.Error):
            status = Path(f"/proc/{process.pid}/status").read_text()
            total += int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return total


def make_report(job: AnimateJob, figures: Figures, frames: int, info: ModelInfo) -> dict[str, Any]:
    """realtime_factor: seconds of video over seconds from the open stream to the closed file, so with denoising,
    decoding and encoding, without the model's start.
    """
    wall = time.perf_counter() - figures.began

    def percentiles(values: list[float]) -> dict[str, float]:
        return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}

    return {
        "frames": frames,
        "fps": info.fps,
        "seconds": round(frames / info.fps, 3),
        "chunks": len(figures.chunk_ms),
        "chunk_frames": info.chunk_frames,
        "chunk_ms": percentiles(figures.chunk_ms),
        "decode_ms": percentiles(figures.decode_ms),
        "first_chunk_ms": round(figures.first_chunk_ms, 1),
        "realtime_factor": round(frames / info.fps / wall, 2),
        "peak_rss_mb": round(peak_mb(), 1),
        "model": info.name,
        "rollout": job.rollout.strategy or "default",
        "seed": job.seed,
        "device": info.device,
        "dtype": info.dtype,
        "torch": info.torch,
        "cpu": info.cpu,
        "cores": os.cpu_count(),
    }
