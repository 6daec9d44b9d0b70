"""What the engine does on this machine: chunks per second of one model, denoise only and with decode.

Runs on a bare GPU machine: needs torch, numpy, OpenCV and safetensors, none of the server's packages.

    python -m benchmarks.engine --model embedded --json
    python -m benchmarks.engine --model wan2.1-1.3b --random-weights --size 832x480 --json
    python -m benchmarks.engine --chunks 2000 --json

The last one tells whether a long call stays flat in time and memory.
The commit of each chunk is joined with the next chunk's first pass (as in a call); the same chunks with the commit
run apart are the baseline of the same run, interleaved. Figures exclude loading and warm-up.
"""

import argparse
import json
import platform
import re
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import one_line_errors
from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.strategies import default_spec, make_rollout
from engine.runner import ModelRunner, SlottedPass
from models.attention import kernel_for
from models.codec import Portrait
from models.config import ModelConfig
from models.dit import CausalWanDiT
from models.motion_codec import FEATURE_STATISTICS
from models.registry import load_model
from training.arguments import at_least


class Call:
    """One call's worth of state that makes chunk after chunk of the same length."""

    def __init__(self, runner: ModelRunner, slot: int, rollout: Rollout) -> None:
        self.runner, self.slot, self.rollout = runner, slot, rollout
        config = runner.config
        self.reference = None
        features = torch.zeros(config.dit.reference_channels, *config.latent_size, device=runner.device)
        latent = torch.zeros(config.latent_shape, device=runner.device)
        if runner.model.codec is not None:
            self.reference = runner.encode_reference(Portrait(grey_face(), average_landmarks()))
            latent, features = self.reference.latent, self.reference.features
            self.decoder = runner.codec.initial_state()
        self.state: RolloutState = rollout.new_state(latent, features, seed=0)
        self.held: Pass | None = None

    def denoise(self, joined: bool) -> Tensor:
        config = self.runner.config.dit
        drive = torch.zeros(
            self.rollout.drive_latents, config.drive_tokens, config.drive_dim, device=self.runner.device
        )
        latents, self.held = self.runner.make_chunk(self.slot, self.rollout, self.state, drive, self.held)
        if not joined and self.held is not None:
            self.runner.run([SlottedPass(self.slot, self.held)])
            self.held = None
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        assert self.reference is not None
        frames, self.decoder = self.runner.decode(latents, self.reference, self.decoder)
        return self.runner.to_i420(frames)


TEXT_TOKENS = 512  # always all of them (Wan2.1)
NOT_PER_TOKEN = r"text_embedding|time_|drive_embedding|modulation|cross_attn\.[kv]\.|drive_injectors\..*\.[kv]\."


def average_landmarks() -> dict[str, float]:
    """A benchmark needs a face's geometry, not a face."""
    return {name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}


def grey_face(size: int = 256) -> np.ndarray:
    """uint8 [size, size, 3]: texture enough that the decoder has work to do."""
    return np.random.default_rng(0).integers(64, 192, (size, size, 3), dtype=np.uint8)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Milliseconds, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began), result


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The ceiling of this machine in this run: a large square product, best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(timed(lambda: a @ a, device)[0] for _ in range(10)) / 1e9


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a copy on the device, read and written bytes together; the best of ten."""
    source = torch.empty(2**31 if device.type == "cuda" else 2**24, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(timed(lambda: target.copy_(source), device)[0] for _ in range(10)) / 1e6


def chunk_flops(config: ModelConfig, rollout: Rollout) -> float:
    """Floating-point operations of one chunk in the steady state, two a multiply-add: the denoising steps and the
    clean pass. Weights that are not applied to every latent token are left out (AdaLN's projection, keys and values
    of the text and of the drive): they are a per cent or are cached.
    """
    per_token = sum(
        parameter.numel()
        for name, parameter in CausalWanDiT.on_meta(config.dit).named_parameters()
        if name.endswith("weight") and parameter.dim() > 1 and not re.search(NOT_PER_TOKEN, name)
    )

    def one_pass(frames: int, keys: int) -> float:
        queries, width = frames * config.tokens_per_latent, config.dit.dim * config.dit.layers
        attended = keys * config.tokens_per_latent + (TEXT_TOKENS if config.dit.text_dim is not None else 0)
        return 2.0 * queries * (per_token + 2 * attended * width)

    spec, own = rollout.spec, rollout.drive_latents
    return len(spec.steps) * one_pass(own, own + spec.context + 1) + one_pass(spec.chunk, spec.window + 1)


def memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(runner: ModelRunner, rollout: Rollout, chunks: int, warmup: int) -> dict[str, Any]:
    """Interleave a call with joined commits and one with commits apart; decode only the first."""
    joined, apart = Call(runner, 0, rollout), Call(runner, 1, rollout)
    times: dict[str, list[float]] = {"joined": [], "apart": [], "decode": []}
    memory: list[float] = []
    for i in range(warmup + chunks):
        joined_ms, latents = timed(lambda: joined.denoise(joined=True), runner.device)
        apart_ms, _ = timed(lambda: apart.denoise(joined=False), runner.device)
        decode_ms = 0.0
        if runner.model.codec is not None:
            decode_ms = timed(partial(joined.decode, latents), runner.device)[0]
        if i >= warmup:
            for key, value in (("joined", joined_ms), ("apart", apart_ms), ("decode", decode_ms)):
                times[key].append(value)
            memory.append(memory_mb(runner.device))
    frames = rollout.spec.chunk * runner.config.frames_per_latent
    whole = [a + b for a, b in zip(times["joined"], times["decode"], strict=True)]
    denoise = float(np.median(times["joined"]))
    quarter = max(1, chunks // 4)
    report: dict[str, Any] = {
        "chunks": chunks,
        "frames_per_chunk": frames,
        "denoise_ms": percentiles(times["joined"]),
        "denoise_fps": round(1000 * frames / denoise, 2),
        "commit_apart_ms": percentiles(times["apart"]),
        "joined_over_apart": round(denoise / float(np.median(times["apart"])), 3),
        "last_quarter_over_first": round(float(np.median(whole[-quarter:]) / np.median(whole[:quarter])), 3),
        "memory_growth_mb": round(memory[-1] - memory[quarter - 1], 1),
        "chunk_tflop": round(chunk_flops(runner.config, rollout) / 1e12, 4),
        "denoise_tflops": round(chunk_flops(runner.config, rollout) / denoise / 1e9, 3),
    }
    if runner.model.codec is not None:
        report["decode_ms"] = percentiles(times["decode"])
        report["end_to_end_ms"] = percentiles(whole)
        report["end_to_end_fps"] = round(1000 * frames / float(np.median(whole)), 2)
        report["realtime_factor"] = round(report["end_to_end_fps"] / runner.config.fps, 2)
    return report


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_model(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        random_weights=arguments.random_weights,
        size=arguments.size,
    )
    rollout = make_rollout(default_spec(model.config, strategy=arguments.rollout), model.config)
    runner = ModelRunner(model, slots=2, context=rollout.spec.context)
    report = measure(runner, rollout, arguments.chunks, arguments.warmup)
    ceiling = matmul_tflops(model.device, model.dtype)
    return {
        "model": model.config.name,
        "random_weights": arguments.random_weights,
        "rollout": rollout.spec.strategy,
        "size": "x".join(map(str, model.config.pixel_size)),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "attention": kernel_for(model.device.type, model.dtype).__name__,
        **report,
        "matmul_tflops": round(ceiling, 3),
        "fraction_of_matmul": round(report["denoise_tflops"] / ceiling, 3),
        "memory_mb": round(memory_mb(model.device), 1),
    }


def pixels(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="knotcast bench engine", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--random-weights", action="store_true", help="throughput does not depend on the weights")
    parser.add_argument("--rollout", default="", help="knot_forcing or self_forcing")
    parser.add_argument("--size", type=pixels, help="WIDTHxHEIGHT in pixels, multiples of 16; default: the model's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=at_least(1), default=None, help="default: all cores")
    parser.add_argument("--chunks", type=at_least(1), default=60)
    parser.add_argument("--warmup", type=at_least(1), default=8)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    with one_line_errors("knotcast"):
        report = run(arguments)
    print(json.dumps(report) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in report.items()))


if __name__ == "__main__":
    main()
