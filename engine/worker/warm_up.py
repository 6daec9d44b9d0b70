"""Warm-up of a worker: chunks of a grey face and silence fill caches and buffers and measure the cost of a chunk.

The figures go to the gateway with ``Ready``.
"""

from pathlib import Path
from time import perf_counter

import psutil
import torch

from engine.drive.buffer import lookahead_ms
from engine.rollout.base import Pass, Rollout
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import early_jump, own_rollout
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import ModelInfo, OpenStream, RolloutRequest
from engine.worker.runner import ModelRunner, SlottedPass
from engine.worker.stream import Stream, portrait_of
from ground.config import EngineConfig
from models.codecs.base import Reference
from models.codecs.motion import FEATURE_STATISTICS

CHUNKS = 4  # the first reads an empty window, the second brings the first commit to be joined
SHAPES = 5  # chunks in which every shape of pass occurs once the reference jumps in the third


def warm_up(runner: ModelRunner, config: EngineConfig) -> ModelInfo:
    """Make some chunks in slot 0. Raises EngineError ``no_codec`` for a model that makes no pictures."""
    model, rollout = runner.config, own_rollout(runner.config)
    width, height = model.pixel_size
    frames = rollout.emitted_frames(1, model.frames_per_latent)
    opened = OpenStream(
        stream="warm-up", epoch=0, portrait=bytes([128]) * (width * height * 3), width=width, height=height,
        landmarks={name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}, confidence=1.0, seed=0,
        rollout=RolloutRequest(), first_frame=0,
    )  # fmt: skip
    if runner.prepares_shapes:
        meet_shapes(runner, runner.encode_reference(portrait_of(opened)), config.slots)
    with FrameRing.create(frames, width, height) as ring:
        stream = Stream(opened, 0, ring, runner)
        stream.encode()
        cost = min(_chunk_seconds(stream))
    return ModelInfo(
        name=model.name, width=width, height=height, fps=model.fps, chunk_frames=frames,
        first_chunk_frames=rollout.emitted_frames(0, model.frames_per_latent),
        drive_ahead_frames=rollout.ahead * model.frames_per_latent,
        lookahead_ms=lookahead_ms(model), slots=config.slots, device=str(runner.device),
        dtype=runner.model.dtype_name, torch=str(torch.__version__), cpu=_cpu_name(),
        warmup_chunk_ms=1000 * cost, memory_mb=_memory_mb(runner.device), rollouts=list(runner.rollouts),
    )  # fmt: skip


def meet_shapes(runner: ModelRunner, reference: Reference, slots: int) -> None:
    """Run every shape of pass of the model's own rollout, in every size of batch: the reference's pass and its jump,
    commits joined and, of one call, apart."""
    rollout = early_jump(own_rollout(runner.config), runner.config)
    for calls in range(1, slots + 1):
        _roll(runner, rollout, reference, calls, joined=True)
    _roll(runner, rollout, reference, 1, joined=False)


def _roll(runner: ModelRunner, rollout: Rollout, reference: Reference, calls: int, *, joined: bool) -> None:
    """Some chunks of so many calls in step, each in its slot."""
    drive = torch.zeros(rollout.drive_latents, *runner.config.dit.drive_shape, device=runner.device)
    states = [rollout.new_state(reference.latent, reference.features, seed) for seed in range(calls)]
    held: list[Pass | None] = [None] * calls
    for _ in range(SHAPES):
        jobs = [ChunkJob(rollout.denoise(state, drive), commit) for state, commit in zip(states, held, strict=True)]
        while jobs[0].latents is None:
            passes = [SlottedPass(slot, job.next_pass) for slot, job in enumerate(jobs) if job.next_pass is not None]
            for job, answer in zip(jobs, runner.run(passes), strict=True):
                job.answer(answer)
        held = [job.held for job in jobs]
        if not joined and (commit := held[0]) is not None:
            runner.run([SlottedPass(0, commit)])
            held = [None]


def _chunk_seconds(stream: Stream) -> list[float]:
    """Seconds of each of the last chunks. Chunks are joined with their commits, as with a file."""
    seconds = []
    for _ in range(CHUNKS):
        began = perf_counter()
        stream.begin(began)
        while not stream.finished:
            stream.run_pending()
        chunk = stream.emit().chunk
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
