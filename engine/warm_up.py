"""A worker's first chunks, of a grey face and silence: they fill caches and buffers, and tell what a chunk costs here.

The figures go to the gateway with ``Ready``; nothing is decided from them here.
"""

from pathlib import Path
from time import perf_counter

import psutil
import torch

from engine.config import EngineConfig
from engine.drive import lookahead_ms
from engine.frame_ring import FrameRing
from engine.messages import ModelInfo, OpenStream, Rollout
from engine.rollout.strategies import default_spec
from engine.runner import ModelRunner
from engine.stream import Stream
from models.motion_codec import FEATURE_STATISTICS

CHUNKS = 4  # the first reads an empty window, the second and third still fill it


def warm_up(runner: ModelRunner, config: EngineConfig) -> ModelInfo:
    """Make some chunks in slot 0. Raises EngineError ``no_codec`` for a model that makes no pictures."""
    model, spec = runner.config, default_spec(runner.config)
    width, height = model.pixel_size
    frames = spec.emitted_frames(1, model.frames_per_latent)
    opened = OpenStream(
        stream="warm-up", epoch=0, portrait=bytes([128]) * (width * height * 3), width=width, height=height,
        landmarks={name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}, confidence=1.0, seed=0,
        rollout=Rollout(), first_frame=0, ring_frames=frames,
    )  # fmt: skip
    with FrameRing.create(frames, width, height) as ring:
        cost = min(_chunk_seconds(Stream(opened, 0, ring, runner)))
    return ModelInfo(
        name=model.name, width=width, height=height, fps=model.fps, chunk_frames=frames,
        first_chunk_frames=spec.emitted_frames(0, model.frames_per_latent),
        drive_ahead_frames=spec.ahead * model.frames_per_latent,
        lookahead_ms=lookahead_ms(model), slots=config.slots, device=str(runner.device),
        dtype=str(runner.dtype).removeprefix("torch."), torch=str(torch.__version__), cpu=_cpu_name(),
        warmup_chunk_ms=1000 * cost, memory_mb=_memory_mb(runner.device),
    )  # fmt: skip


def _chunk_seconds(stream: Stream) -> list[float]:
    """What each of the last chunks took. Chunks are joined with their commits, as with a file."""
    seconds = []
    for _ in range(CHUNKS):
        began = perf_counter()
        stream.begin(began)
        while not stream.finished:
            stream.run_pending()
        chunk = stream.emit()
        stream.frames_read(chunk.first_frame + chunk.frames)
        seconds.append(perf_counter() - began)
    return seconds[CHUNKS // 2 :]


def _memory_mb(device: torch.device) -> float:
    """Memory of the device, or of the process where they are one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
