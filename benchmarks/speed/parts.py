"""Ablation of the engine's speed: variants of executing the same passes, each interleaved with the textbook rollout.

Every variant has modules of its own on the same weights, so that fusing or compiling one does not change another.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.chunks import (
    ChunkMaker,
    Screen,
    chunk_flops,
    in_turn,
    memory_mb,
    new_peak,
    no_reference,
    percentiles,
    reference_of,
    rollout_of,
    timed,
)
from benchmarks.speed.textbook import TextbookRunner
from engine.worker.runner import Execution, ModelRunner
from models.codecs.base import Codec
from models.dit.attention import KERNELS, choose_kernel, kernel_for
from models.dit.float8 import in_float8
from models.dit.transformer import CausalWanDiT
from models.registry import LoadedModel

WARM_UP = 5  # least number of chunks in which every shape of pass occurs
CARDS = {"RTX 4090": 165.0, "RTX 5090": 210.0, "RTX 3090": 71.0}  # dense bf16 TFLOP/s with fp32 sums, data sheets


@dataclass(frozen=True, slots=True)
class Variant:
    """How passes are executed. execution: None = the textbook. joined: a commit runs with the next chunk's first pass.
    kernel: of attention, empty = the chosen one. float8: linear layers in 8-bit floats."""

    execution: Execution | None = Execution()
    joined: bool = True
    kernel: str = ""
    float8: bool = False


_PLAIN = Execution(graphs=False, fused=False, runs=False, spare=False)
_BEST = Execution(compiled=True)
# Most valuable first. "all but": the same as "all" without one part.
VARIANTS: dict[str, Variant] = {
    "graphs, fused": Variant(),
    "all (compiled too)": Variant(_BEST),
    "plain passes, joined": Variant(_PLAIN),
    "plain passes, apart": Variant(_PLAIN, joined=False),
    "all, linear layers in float8": Variant(_BEST, float8=True),
    "all but graphs": Variant(replace(_BEST, graphs=False)),
    "all but joined commits": Variant(_BEST, joined=False),
    "all but fused": Variant(replace(_BEST, fused=False)),
    "all but spared last block": Variant(replace(_BEST, spare=False)),
    "all but the chosen attention (plain SDPA)": Variant(_BEST, kernel="sdpa"),
    "fused, no graphs": Variant(Execution(graphs=False)),
    "fused, no graphs, joined under a mask": Variant(Execution(graphs=False, runs=False)),
}


class Bench:
    """One model at one size with its textbook baseline, which is warmed up once. strategy: of the rollout, empty = the
    model's own."""

    def __init__(self, model: LoadedModel, strategy: str = "") -> None:
        self.model = model
        self.rollout = rollout_of(model.config, strategy)
        spec = self.rollout.spec
        self.warm_up = max(WARM_UP, -(-self.rollout.context // spec.chunk) + 2)  # the window is full
        self.flops = chunk_flops(model.config, self.rollout)
        self.reference = no_reference(model) if model.codec is None else reference_of(model.codec)
        self.frames = spec.chunk * model.config.frames_per_latent
        self._baseline: Callable[[], Tensor] | None = None

    def twin(self) -> LoadedModel:
        """The model with a transformer of its own that shares the weights' memory until its projections are fused."""
        dit = CausalWanDiT.on_meta(self.model.config.dit)
        if self.model.float8:
            in_float8(dit.blocks)
        dit.load_state_dict(self.model.dit.state_dict(), assign=True)
        return replace(self.model, dit=dit.eval().requires_grad_(False))

    def runner(self, variant: Variant, slots: int = 1) -> ModelRunner:
        """A runner on a twin. variant: not the textbook."""
        assert variant.execution is not None
        model = self.twin()
        if variant.float8:
            in_float8(model.dit.blocks)
        return ModelRunner(model, slots=slots, frames=self.rollout.cached_frames, execution=variant.execution)

    def call(self, runner: ModelRunner, slot: int = 0) -> ChunkMaker:
        return ChunkMaker(runner, slot, self.rollout, self.reference)

    def start(self, variant: Variant) -> Callable[[], Tensor]:
        """A warmed-up function that makes the next chunk of a call, whose window is full."""
        if variant.execution is None:
            return self.warmed(self.textbook())
        return self.warmed(partial(self.call(self.runner(variant)).denoise, variant.joined))

    def warmed(self, chunk: Callable[[], Tensor]) -> Callable[[], Tensor]:
        for _ in range(self.warm_up):
            chunk()
        return chunk

    def textbook(self) -> Callable[[], Tensor]:
        runner = TextbookRunner(self.twin(), self.rollout.context)
        state = self.rollout.new_state(self.reference.latent, self.reference.features, 0)
        shape = self.model.config.dit.drive_shape
        drive = torch.zeros(self.rollout.drive_latents, *shape, device=self.model.device)
        return partial(runner.make_chunk, self.rollout, state, drive)

    @property
    def baseline(self) -> Callable[[], Tensor]:
        if self._baseline is None:
            self._baseline = self.start(Variant(execution=None))
        return self._baseline

    def best(self, report: dict[str, Any], label: str) -> str | None:
        """Name of the fastest variant in the report at this label; without 8-bit floats, whose peak rate is another
        one."""
        found = {name: report.get(f"{label}: {name}") for name, variant in VARIANTS.items() if not variant.float8}
        times = {name: entry["ms"]["p50"] for name, entry in found.items() if isinstance(entry, dict) and "ms" in entry}
        return min(times, key=lambda name: times[name]) if times else None

    def fps(self, times: list[float]) -> float:
        """Frames a second at the median of the chunks' milliseconds."""
        return 1000 * self.frames / float(np.median(times))

    def figures(self, times: list[float]) -> dict[str, Any]:
        return {
            "ms": percentiles(times),
            "fps": round(self.fps(times), 2),
            "realtime_factor": round(self.fps(times) / self.model.config.fps, 2),
            "tflops": round(self.flops / float(np.median(times)) / 1e9, 1),
        }


def compare(bench: Bench, variant: Variant, rounds: int) -> dict[str, Any]:
    """Figures of a variant, with its chunks and the baseline's interleaved."""
    device, dtype = bench.model.device, bench.model.dtype
    new_peak(device)  # without the graphs and caches of the variant before, also if it failed
    chosen = next(name for name, kernel in KERNELS.items() if kernel is kernel_for(device.type, dtype))
    if variant.kernel:
        choose_kernel(device.type, dtype, variant.kernel)
    try:
        works, began = {"baseline": bench.baseline}, time.monotonic()
        works["ours"] = bench.start(variant)
        started = time.monotonic() - began
        times = list(in_turn(works, device, rounds))
    finally:
        choose_kernel(device.type, dtype, chosen)
    ours, baseline = ([row[name] for row in times] for name in ("ours", "baseline"))
    return {**bench.figures(ours), **against(bench, ours, baseline), "start_s": round(started, 1)}


def against(bench: Bench, ours: list[float], baseline: list[float]) -> dict[str, Any]:
    """Figures of the baseline in the same rounds, and the ratio of the medians."""
    return {
        "baseline_ms": percentiles(baseline),
        "baseline_fps": round(bench.fps(baseline), 2),
        "faster": round(float(np.median(baseline) / np.median(ours)), 3),
    }


def pictures(
    bench: Bench, runner: ModelRunner, codec: Codec[Any], rounds: int, ends: float = math.inf
) -> dict[str, Any]:
    """Figures from noise to I420 in host memory, chunk after chunk of one call, interleaved with decoding alone; their
    drift over the call; and the first chunk of a call on a warm engine, with the encoding of its portrait. ends: as of
    ``in_turn``."""
    device = bench.model.device
    new_peak(device)
    runner.prepare(codec)

    def begin() -> tuple[Screen, ChunkMaker]:
        screen = Screen(codec)
        call = ChunkMaker(runner, 0, bench.rollout, screen.reference)
        screen.show(call.denoise())
        return screen, call

    screen, call = begin()
    latents = call.denoise()
    for _ in range(bench.warm_up):  # a stream's first latents have other shapes
        screen.show(call.denoise())
    works = {"whole": lambda: screen.show(call.denoise()), "decode": lambda: screen.show(latents)}
    rows, memory = [], []
    for row in in_turn(works, device, rounds, ends):
        rows.append(row)
        memory.append(memory_mb(device))
    whole, quarter = [row["whole"] for row in rows], max(1, len(rows) // 4)
    return {
        "decode_ms": percentiles([row["decode"] for row in rows]),
        "end_to_end_ms": percentiles(whole),
        "end_to_end_fps": round(bench.fps(whole), 2),
        "realtime_factor": round(bench.fps(whole) / bench.model.config.fps, 2),
        "first_chunk_ms": round(float(np.median([timed(begin, device)[0] for _ in range(3)])), 1),
        "chunks": len(whole),
        "p99_over_median": round(float(np.percentile(whole, 99) / np.median(whole)), 3),
        "last_quarter_over_first": round(float(np.median(whole[-quarter:]) / np.median(whole[:quarter])), 3),
        "memory_mb": round(memory[-1], 1),
        "memory_growth_mb": round(memory[-1] - memory[quarter - 1], 1),
    }


def consumer_cards(bench: Bench, fraction: float) -> dict[str, float]:
    """Predicted real-time factors by card, on the assumption that each reaches this fraction of the bf16 rate on its
    data sheet."""
    budget = bench.frames / bench.model.config.fps
    return {name: round(budget * fraction * tflops * 1e12 / bench.flops, 2) for name, tflops in CARDS.items()}
