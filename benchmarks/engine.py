"""What the engine does on this machine: chunks per second of one model, denoise only and with decode.

Runs on a bare GPU machine: needs torch, numpy, OpenCV and safetensors, none of the server's packages.

    python -m benchmarks.engine --model embedded --json
    python -m benchmarks.engine --model wan2.1-1.3b --random-weights --size 832x480 --json
    python -m benchmarks.engine --chunks 2000 --json
    python -m benchmarks.engine --ablation --json

The third tells whether a long call stays flat in time and memory, the last what each part of the speed is worth.
The commit of each chunk is joined with the next chunk's first pass (as in a call); the same chunks with the commit
run apart are the baseline of the same run, interleaved. Figures exclude loading and warm-up.
"""

import argparse
import json
import platform
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.chunks import Call, chunk_flops, copy_bandwidth, matmul_tflops, memory_mb, percentiles, timed
from benchmarks.speed import VARIANTS, Bench, compare, consumer_cards
from engine.errors import one_line_errors
from engine.rollout.base import Rollout
from engine.rollout.strategies import default_spec, make_rollout
from engine.runner import ModelRunner
from models.attention import kernel_for
from models.registry import LoadedModel, load_model
from training.arguments import at_least


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
        preset=arguments.preset,
    )
    rollout = make_rollout(default_spec(model.config, strategy=arguments.rollout), model.config)
    runner = ModelRunner(model, slots=2, context=rollout.spec.context)
    report = measure(runner, rollout, arguments.chunks, arguments.warmup)
    ceiling = matmul_tflops(model.device, model.dtype)
    if arguments.ablation:
        report["ablation"] = ablation(model, max(1, arguments.chunks // 10), ceiling)
    return {
        "model": model.config.name,
        "random_weights": arguments.random_weights,
        "rollout": rollout.spec.strategy,
        "size": "x".join(map(str, model.config.pixel_size)),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": model.dtype_name,
        "torch": torch.__version__,
        "attention": kernel_for(model.device.type, model.dtype).__name__,
        **report,
        "matmul_tflops": round(ceiling, 3),
        "fraction_of_matmul": round(report["denoise_tflops"] / ceiling, 3),
        "memory_mb": round(memory_mb(model.device), 1),
    }


def ablation(model: LoadedModel, rounds: int, ceiling: float) -> dict[str, Any]:
    """Every way to run the passes, its chunks in turn with those of a textbook rollout; one that does not run here (no
    compiler, no 8-bit floats) says why. Realtime factors of consumer cards assume that a card reaches the fraction of
    its data sheet's bf16 ceiling that the best way reaches here."""
    bench = Bench(model)
    found: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        try:
            found[name] = compare(bench, variant, rounds)
        except RuntimeError as reason:
            found[name] = {"error": str(reason).splitlines()[0]}
    bf16 = (entry for name, entry in found.items() if "tflops" in entry and not VARIANTS[name].float8)
    best = max((entry["tflops"] for entry in bf16), default=0.0)
    return {
        **found,
        "copy_gb_per_second": round(copy_bandwidth(model.device), 1),
        "predicted_realtime_factor": consumer_cards(bench, best / ceiling),
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
    parser.add_argument("--rollout", default="", help="default: the model's own")
    parser.add_argument("--size", type=pixels, help="WIDTHxHEIGHT in pixels, multiples of 16; default: the model's own")
    parser.add_argument("--preset", default="", help="quality, balanced or realtime; of a video model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32", "float8"])
    parser.add_argument("--threads", type=at_least(1), default=None, help="default: all cores")
    parser.add_argument("--chunks", type=at_least(1), default=60)
    parser.add_argument("--warmup", type=at_least(1), default=8)
    parser.add_argument("--ablation", action="store_true", help="each part of the speed, against a textbook rollout")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.ablation and arguments.dtype == "float8":
        parser.error("--ablation has a way in 8-bit floats of its own: leave out --dtype float8")
    with one_line_errors("knotcast"):
        report = run(arguments)
    print(json.dumps(report) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in report.items()))


if __name__ == "__main__":
    main()
