"""Benchmark of the engine on this machine: speed of one model, denoising only and with decoding.

Runs on a bare GPU machine: needs torch, numpy, OpenCV and safetensors, none of the server's packages.

    python -m benchmarks.speed.engine --model embedded --json
    python -m benchmarks.speed.engine --model wan2.1-1.3b --random-weights --size 832x480 --json
    python -m benchmarks.speed.engine --chunks 2000 --json
    python -m benchmarks.speed.engine --ablation --json

The third shows drift of time and memory over a long call, the last the effect of each optimisation. As in a call, the
commit of each chunk is joined with the next chunk's first pass. Interleaved with these chunks, the same chunks run with
a separate commit, and for a model of Wan2.1's latents also in a textbook rollout (`benchmarks.speed.textbook`). Such a
model is measured with each of its decoders. Figures exclude loading and warm-up. With --dtype float8 the linear layers
of all variants, the textbook's too, are in 8 bits.
"""

import argparse
import json
import platform
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.speed.chunks import ceilings, codecs_of, in_turn, memory_mb, percentiles
from benchmarks.speed.parts import VARIANTS, Bench, Variant, against, compare, consumer_cards, pictures
from engine.worker.graphs import is_out_of_memory
from engine.worker.runner import choose_attention, execution_of
from ground.errors import EngineError, RequestError, one_line_errors
from models.dit.attention import kernel_for
from models.presets import has_presets
from models.registry import load_model
from training.arguments import at_least


def measure(bench: Bench, chunks: int) -> dict[str, Any]:
    """Pictures by every decoder first; then joined commits, separate commits and the baseline, interleaved. memory_mb:
    peak of an engine with two slots, without the baseline."""
    model = bench.model
    runner = bench.runner(Variant(execution_of(model)), slots=2)
    shown = {kind: pictures(bench, runner, codec, chunks) for kind, codec in codecs_of(model)}
    joined, apart = bench.call(runner), bench.call(runner, slot=1)
    works = {
        "joined": bench.warmed(joined.denoise),
        "apart": bench.warmed(partial(apart.denoise, joined=False)),
    }
    memory = max(memory_mb(model.device), *(each["memory_mb"] for each in shown.values()), 0.0)
    if has_presets(model.config):
        works["baseline"] = bench.baseline
    rows = list(in_turn(works, model.device, chunks))
    times = {name: [row[name] for row in rows] for name in works}
    denoise = float(np.median(times["joined"]))
    return {
        "chunks": chunks,
        "frames_per_chunk": bench.frames,
        "denoise_ms": percentiles(times["joined"]),
        "denoise_fps": round(bench.fps(times["joined"]), 2),
        "commit_apart_ms": percentiles(times["apart"]),
        "joined_over_apart": round(denoise / float(np.median(times["apart"])), 3),
        **(against(bench, times["joined"], times["baseline"]) if "baseline" in times else {}),
        **({"decoders": shown} if len(shown) > 1 else next(iter(shown.values()), {})),
        "chunk_tflop": round(bench.flops / 1e12, 4),
        "denoise_tflops": round(bench.flops / denoise / 1e9, 3),
        "memory_mb": round(memory, 1),
    }


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
    bench = Bench(model, arguments.rollout)
    if arguments.ablation and not bench.rollout.cached_frames:
        raise RequestError(
            "no_ablation", f"{model.config.name} has no textbook rollout to compare with: leave out --ablation"
        )
    choose_attention(model, bench.rollout)
    report = {**measure(bench, arguments.chunks), **ceilings(model.device, model.dtype)}
    report["fraction_of_matmul"] = round(report["denoise_tflops"] / report["matmul_tflops"], 3)
    if has_presets(model.config) and not model.float8:  # the peak rate of 8-bit floats is another one
        report["predicted_realtime_factor"] = consumer_cards(bench, report["fraction_of_matmul"])
    if arguments.ablation:
        report["ablation"] = ablation(bench, max(1, arguments.chunks // 10))
    return {
        "model": model.config.name,
        "random_weights": arguments.random_weights,
        "rollout": bench.rollout.spec.strategy,
        "size": "x".join(map(str, model.config.pixel_size)),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": model.dtype_name,
        "torch": torch.__version__,
        "attention": kernel_for(model.device.type, model.dtype).__name__,
        **report,
    }


def ablation(bench: Bench, rounds: int) -> dict[str, Any]:
    """Figures of every variant, interleaved with a textbook rollout. A variant that cannot run here (no compiler, no
    8-bit floats) has the reason as ``error``."""
    found: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        try:
            found[name] = compare(bench, variant, rounds)
        except RuntimeError as reason:
            found[name] = {"error": str(reason).partition("\n")[0]}
    return found


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
    parser.add_argument("--ablation", action="store_true", help="each optimisation, against a textbook rollout")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.ablation and arguments.dtype == "float8":
        parser.error("--ablation has its own variant in 8-bit floats: leave out --dtype float8")
    with one_line_errors("knotcast"):
        try:
            report = run(arguments)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise EngineError("out_of_memory", "the device is full: use a smaller --size or --preset") from error
    print(json.dumps(report) if arguments.json else "\n".join(f"{key:24} {value}" for key, value in report.items()))


if __name__ == "__main__":
    main()
