"""`knotcast animate`: a portrait, a recording and perhaps poses to an MP4, through the same pool and worker as a
call.

The voice is pushed without a deadline, so the worker makes chunks as fast as the frame ring is read; pictures go
straight to the encoder and nothing but the recording itself grows with the length.
"""

import asyncio
import json
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

from cli.mp4 import Mp4Writer
from engine.config import EngineConfig
from engine.decimate import DRIVE_RATE, PLAYOUT_RATE, decimate
from engine.errors import RequestError
from engine.framing import FramedPortrait
from engine.messages import ModelInfo, Rollout
from engine.pool import LocalPool
from engine.pose import read_poses
from engine.stream_client import EngineStream, StreamSpec
from engine.wav import read_wav
from engine.worker_client import WORKER_COMMAND
from server.picture_reader import read_portrait

Poses = list[tuple[float, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class AnimateJob:
    """What the command line asks for. seconds None = as long as the voice."""

    portrait: Path
    audio: Path
    out: Path
    pose: Path | None
    engine: EngineConfig
    rollout: Rollout
    seed: int
    seconds: float | None
    report: Path | None


@dataclass(slots=True)
class Figures:
    """Measured while the video is made; ``began`` is when the stream stood open and the drive was there."""

    began: float
    first_chunk_ms: float = 0.0
    chunk_frames: int = 0
    chunk_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    peak_rss_mb: float = 0.0


def animate(job: AnimateJob) -> None:
    """Check every input, then make the video. Raises AvatarError; a video that failed half way is removed."""
    console = Console(stderr=True)
    if job.out.suffix.lower() != ".mp4":
        raise RequestError("invalid_output", f"the video must end in .mp4, not {job.out.name!r}")
    for path in (job.out, job.report):
        if path is not None and not path.parent.is_dir():
            raise RequestError("invalid_output", f"there is no folder {str(path.parent)!r} for {path.name}")
    voice = read_wav(job.audio)
    portrait = read_portrait(read_file(job.portrait))
    poses = read_file(job.pose).decode(errors="replace").splitlines() if job.pose else []
    for warning in portrait.warnings:
        console.print(f"portrait: {warning}")
    seconds = voice.seconds if job.seconds is None else job.seconds
    asyncio.run(render(job, portrait, voice.pcm[: round(seconds * PLAYOUT_RATE)], poses, seconds, console))


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError("file_not_found", f"cannot read the file {path.name!r}") from error


async def render(
    job: AnimateJob,
    portrait: FramedPortrait,
    voice: NDArray[np.int16],
    pose_lines: list[str],
    seconds: float,
    console: Console,
) -> None:
    pool = LocalPool(job.engine, command=(*WORKER_COMMAND, "--log-level", "warning"))
    with console.status(f"starting the model {job.engine.model}"):
        await pool.start()
    try:
        info = pool.info
        poses = list(read_poses(pose_lines, info.fps))
        frames = math.ceil(round(info.fps * seconds, 6))
        spec = StreamSpec(
            stream="animate", portrait=portrait.rgb, landmarks=dict(portrait.landmarks),
            confidence=portrait.confidence, seed=job.seed, rollout=job.rollout, live=False,
        )  # fmt: skip
        lease = await pool.acquire(spec)
        try:
            figures = Figures(time.perf_counter())
            push_drive(lease.stream, voice, poses, frames, info)
            await write_video(job.out, lease.stream, voice, frames, info, figures, console)
        finally:
            await lease.release()
    except BaseException:
        job.out.unlink(missing_ok=True)
        raise
    finally:
        await pool.close()
    report = make_report(job, figures, frames, info)
    console.print(f"{job.out}: {frames} frames, {report['realtime_factor']} x real time")
    if job.report is not None:
        job.report.write_text(json.dumps(report, indent=1) + "\n")


def push_drive(stream: EngineStream, voice: NDArray[np.int16], poses: Poses, frames: int, info: ModelInfo) -> None:
    """Everything at once, then silence for as far as the last chunk looks ahead."""
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
            figures.peak_rss_mb = max(figures.peak_rss_mb, resident_mb())
            pictures = chunk.frames[: frames - done]
            video.write(pictures, voice)
            done += len(pictures)
            progress.update(bar, completed=done)


def resident_mb() -> float:
    """Resident memory of this process and its workers."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_info().rss for process in processes) / 2**20


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
        "peak_rss_mb": round(figures.peak_rss_mb, 1),
        "model": info.name,
        "rollout": job.rollout.strategy or "default",
        "seed": job.seed,
        "device": info.device,
        "dtype": info.dtype,
        "torch": info.torch,
        "cpu": info.cpu,
        "cores": os.cpu_count(),
    }
