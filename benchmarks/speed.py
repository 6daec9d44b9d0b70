"""What each part of the engine's speed is worth: ways to run the same passes, each interleaved with the textbook's.

Every variant has its own view of the same weights, so that fusing or compiling one changes no other.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.chunks import Call, chunk_flops, percentiles, timed
from benchmarks.textbook import TextbookRunner
from engine.rollout.strategies import default_spec, make_rollout
from engine.runner import Execution, ModelRunner
from models.attention import KERNELS, choose_kernel, kernel_for
from models.dit import CausalWanDiT
from models.float8 import in_float8
from models.registry import LoadedModel

WARM_UP = 5  # chunks, in which every shape of pass occurs
CARDS = {"RTX 4090": 165.0, "RTX 5090": 210.0, "RTX 3090": 71.0}  # dense bf16 TFLOP/s with fp32 sums, data sheets


@dataclass(frozen=True, slots=True)
class Variant:
    """execution None: the textbook. joined: commits ride with the next chunk's first pass. kernel: '' = the chosen.
    float8: linear layers in 8-bit floats."""

    execution: Execution | None = Execution()
    joined: bool = True
    kernel: str = ""
    float8: bool = False


_PLAIN = Execution(graphs=False, fused=False, runs=False, spare=False)
_BEST = Execution(compiled=True)
# Most valuable first. What "all" is compared with: the same with one part taken away.
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
    """One model at one size, and its textbook baseline, warmed up once."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        spec = default_spec(model.config)
        # The reference jumps for the first time in chunk 2, so that this shape too is met while warming up.
        self.rollout = make_rollout(replace(spec, start=2 * spec.chunk + spec.knot), model.config)
        self.flops = chunk_flops(model.config, self.rollout)
        self._baseline: Callable[[], Tensor] | None = None

    def twin(self) -> LoadedModel:
        """A module of its own on the same memory, until its projections are fused."""
        dit = CausalWanDiT.on_meta(self.model.config.dit)
        dit.load_state_dict(self.model.dit.state_dict(), assign=True)
        return replace(self.model, dit=dit.eval().requires_grad_(False))

    def start(self, variant: Variant) -> Callable[[], Tensor]:
        """Makes the next chunk of a call whose window is full."""
        if variant.execution is None:
            chunk = self.textbook()
        else:
            model = self.twin()
            if variant.float8:
                in_float8(model.dit.blocks)
            context = self.rollout.spec.context
            runner = ModelRunner(model, slots=1, context=context, execution=variant.execution)
            chunk = partial(Call(runner, 0, self.rollout).denoise, variant.joined)
        for _ in range(WARM_UP):
            chunk()
        return chunk

    def textbook(self) -> Callable[[], Tensor]:
        config, device = self.model.config, self.model.device
        runner = TextbookRunner(self.twin(), self.rollout.spec.context)
        features = torch.zeros(config.dit.reference_channels, *config.latent_size, device=device)
        state = self.rollout.new_state(torch.zeros(config.latent_shape, device=device), features, 0)
        drive = torch.zeros(self.rollout.drive_latents, config.dit.drive_tokens, config.dit.drive_dim, device=device)
        return partial(runner.make_chunk, self.rollout, state, drive)

    @property
    def baseline(self) -> Callable[[], Tensor]:
        if self._baseline is None:
            self._baseline = self.start(Variant(execution=None))
        return self._baseline

    def best(self, report: dict[str, Any], label: str) -> str | None:
        """The fastest variant that was measured at this label; 8-bit floats have another ceiling."""
        found = {name: report.get(f"{label}: {name}") for name, variant in VARIANTS.items() if not variant.float8}
        times = {name: entry["ms"]["p50"] for name, entry in found.items() if isinstance(entry, dict) and "ms" in entry}
        return min(times, key=lambda name: times[name]) if times else None

    def figures(self, times: list[float]) -> dict[str, Any]:
        median = float(np.median(times))
        frames = self.rollout.spec.chunk * self.model.config.frames_per_latent
        return {
            "ms": percentiles(times),
            "fps": round(1000 * frames / median, 2),
            "realtime_factor": round(1000 * frames / median / self.model.config.fps, 2),
            "tflops": round(self.flops / median / 1e9, 1),
        }


def compare(bench: Bench, variant: Variant, rounds: int) -> dict[str, Any]:
    """Chunks of a variant and of the baseline in turn, every other round in the other order."""
    free()
    device, dtype = bench.model.device, bench.model.dtype
    chosen = next(name for name, kernel in KERNELS.items() if kernel is kernel_for(device.type, dtype))
    if variant.kernel:
        choose_kernel(device.type, dtype, variant.kernel)
    try:
        baseline, began = bench.baseline, time.monotonic()
        chunk = bench.start(variant)
        started = time.monotonic() - began
        times: tuple[list[float], list[float]] = ([], [])
        for index in range(rounds):
            for which in (0, 1) if index % 2 else (1, 0):
                times[which].append(timed((baseline, chunk)[which], device)[0])
    finally:
        choose_kernel(device.type, dtype, chosen)
    before, after = bench.figures(times[0]), bench.figures(times[1])
    faster = round(float(np.median(times[0]) / np.median(times[1])), 3)
    del chunk
    free()
    return {
        **after,
        "baseline_ms": before["ms"],
        "baseline_fps": before["fps"],
        "faster": faster,
        "start_s": round(started, 1),
    }


def endurance(bench: Bench, variant: Variant, chunks: int, ends: float) -> dict[str, Any]:
    """Does the time of a chunk stay what it is? As many chunks as the time (monotonic seconds) lets be."""
    chunk = bench.start(variant)
    times: list[float] = []
    while len(times) < chunks and (not times or time.monotonic() < ends):
        times.append(timed(chunk, bench.model.device)[0])
    tail = float(np.percentile(times, 99) / np.median(times))
    quarter = max(1, len(times) // 4)
    drift = float(np.median(times[-quarter:]) / np.median(times[:quarter]))
    return {"chunks": len(times), **bench.figures(times), "p99_over_median": round(tail, 3), "drift": round(drift, 3)}


def consumer_cards(bench: Bench, fraction: float) -> dict[str, float]:
    """Realtime factors, on the assumption that a card reaches the same fraction of its own bf16 ceiling, and that its
    ceiling is its data sheet's."""
    frames = bench.rollout.spec.chunk * bench.model.config.frames_per_latent
    budget = frames / bench.model.config.fps
    return {name: round(budget * fraction * tflops * 1e12 / bench.flops, 2) for name, tflops in CARDS.items()}


def free() -> None:
    """Graphs and caches of the variant before, also if it failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
