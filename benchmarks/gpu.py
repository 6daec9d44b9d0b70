"""Everything that a GPU machine is asked once, most valuable first: `python -m benchmarks.gpu --seconds 180 --out DIR`.

Needs torch, numpy, OpenCV and safetensors. Writes DIR/gpu.json anew after every step; a step that fails leaves its
traceback's last lines there, one that found no time left "not run", and the others go on.
"""

import argparse
import json
import logging
import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.chunks import copy_bandwidth, matmul_tflops, memory_mb, percentiles, timed
from benchmarks.speed import VARIANTS, Bench, Variant, compare, consumer_cards, endurance
from engine.i420 import to_i420
from models.attention import choose_fastest
from models.carry import StreamState
from models.config import CONFIGS, WAN21_14B, ModelConfig, VAEConfig
from models.registry import LoadedModel, build_model, choose_device, choose_dtype
from models.wan_codec import DECODERS, build_decoder

log = logging.getLogger(__name__)


class Journal:
    """The report as it grows, and the time that is left."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.report = path, {}  # type: Path, dict[str, Any]
        self.ends = time.monotonic() + seconds

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """What the work gives, None where it failed or was not run."""
        if time.monotonic() > self.ends:
            self.keep(name, "not run")
            print(f"{name}: not run", flush=True)
            return None
        began = time.monotonic()
        try:
            result = work()
        except Exception:
            log.exception("%s failed", name)
            self.keep(name, {"error": traceback.format_exc().strip().splitlines()[-6:]})
            result = None
        else:
            self.keep(name, result)
        print(f"{name} ({time.monotonic() - began:.1f} s): {json.dumps(self.report[name])}", flush=True)
        return result

    def keep(self, name: str, result: Any) -> None:
        self.report[name] = result
        self.path.write_text(json.dumps(self.report, indent=1))


def random_model(config: ModelConfig, device: torch.device) -> LoadedModel:
    """A video's decoders are measured by themselves."""
    model = build_model(config, device, choose_dtype("auto", device), None)
    return model if config.codec == "motion" else replace(model, codec=None)


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "matmul_tflops": round(matmul_tflops(device, choose_dtype("auto", device)), 1),
        "copy_gb_per_second": round(copy_bandwidth(device), 1),
    }


def attention(bench: Bench) -> dict[str, float]:
    """Milliseconds of the kernels at the shapes of a denoising step; the best is used in all that follows."""
    model, spec = bench.model, bench.rollout.spec
    tokens, own = model.config.tokens_per_latent, bench.rollout.drive_latents
    dit = model.config.dit
    keys = (own + spec.context + 1) * tokens
    times = choose_fastest(model.device.type, model.dtype, own * tokens, keys, dit.heads, dit.head_dim)
    return {name: round(ms, 3) for name, ms in times.items()}


def decode(bench: Bench, variant: Variant, kind: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of one chunk's pictures (I420 in host memory), and of the whole way to them from noise."""
    model = bench.model
    decoder = build_decoder(kind, model.device, model.dtype, model.config.vae)
    engine = bench.start(variant)
    state = StreamState()

    @torch.inference_mode()
    def pictures(latents: Tensor) -> np.ndarray:
        nonlocal state
        made, state = decoder(latents, state)
        return to_i420(made.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1))

    latents = engine()
    for _ in range(2):  # a stream's first latents have shapes of their own
        pictures(latents)
    alone = [timed(partial(pictures, latents), model.device)[0] for _ in range(rounds)]
    whole = [timed(lambda: pictures(engine()), model.device)[0] for _ in range(rounds)]
    frames = bench.rollout.spec.chunk * model.config.frames_per_latent
    fps = round(1000 * frames / float(np.median(whole)), 2)
    return {"decode_ms": percentiles(alone), "end_to_end_ms": percentiles(whole), "end_to_end_fps": fps}


def at_size(journal: Journal, bench: Bench, label: str, rounds: int, variants: list[str]) -> None:
    """All steps of one model at one size."""
    journal.step(f"{label}: attention ms", partial(attention, bench))
    compared(journal, bench, label, rounds, variants)
    best = bench.best(journal.report, label)
    if best is not None and "matmul_tflops" in journal.report.get("machine", {}):
        ceiling = journal.report["machine"]["matmul_tflops"]
        fraction = journal.report[f"{label}: {best}"]["tflops"] / ceiling
        cards = partial(consumer_cards, bench, fraction)
        journal.step(f"{label}: predicted realtime factor, at {fraction:.2f} of a card's ceiling", cards)
        for kind in DECODERS if bench.model.config.codec != "motion" else ():
            journal.step(f"{label}: decoder {kind}, {best}", partial(decode, bench, VARIANTS[best], kind, 2 * rounds))
    journal.keep(f"{label}: memory_mb", round(memory_mb(bench.model.device), 1))


def compared(journal: Journal, bench: Bench, label: str, rounds: int, variants: list[str]) -> None:
    for name in variants:
        journal.step(f"{label}: {name}", partial(compare, bench, VARIANTS[name], rounds))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = choose_device(arguments.device)
    journal = Journal(arguments.out / "gpu.json", arguments.seconds)
    journal.step("machine", partial(machine, device))
    rounds, every = arguments.rounds, list(VARIANTS)
    wan, large, embedded = CONFIGS["wan2.1-1.3b"], WAN21_14B.at_size(512, 512), CONFIGS["embedded"]
    sizes = [wan.at_size(832, 480), wan.at_size(512, 512)]
    if arguments.tiny:
        sizes, large, embedded = [tiny(config) for config in sizes], tiny(large), embedded.at_size(128, 128)
    model = journal_model(journal, "load 1.3B", sizes[0], device)
    if model is not None:
        large_picture, square = (Bench(replace(model, config=size)) for size in sizes)
        at_size(journal, large_picture, "1.3B 832x480", rounds, every[:4])
        at_size(journal, square, "1.3B 512x512", rounds, every[:2])
        compared(journal, large_picture, "1.3B 832x480", rounds, every[4:5])
        best = square.best(journal.report, "1.3B 512x512")
        if best is not None:
            ends = min(journal.ends, time.monotonic() + arguments.seconds / 6)
            lasting = partial(endurance, square, VARIANTS[best], arguments.chunks, ends)
            journal.step(f"1.3B 512x512: many chunks, {best}", lasting)
        compared(journal, large_picture, "1.3B 832x480", max(1, rounds // 2), every[5:])
    small = journal_model(journal, "load embedded", embedded, device)
    if small is not None:
        at_size(journal, Bench(small), "embedded", 4 * rounds, [every[1], every[2]])
    giant = journal_model(journal, "load 14B", large, device)
    if giant is not None:
        at_size(journal, Bench(giant), "14B 512x512", max(1, rounds // 2), every[1:2])
    return journal.report


def journal_model(journal: Journal, name: str, config: ModelConfig, device: torch.device) -> LoadedModel | None:
    """The model, and seconds in the journal instead of it."""
    made: list[LoadedModel] = []

    def load() -> str:
        began = time.monotonic()
        made.append(random_model(config, device))
        return f"{time.monotonic() - began:.1f} s"

    journal.step(name, load)
    return made[0] if made else None


def tiny(config: ModelConfig) -> ModelConfig:
    """The same steps at a size for a test without a GPU."""
    dit = replace(
        config.dit, dim=48, layers=2, heads=2, ffn_dim=96, text_dim=24, drive_dim=16, drive_tokens=2,
        drive_blocks=(0,), frequency_dim=32,
    )  # fmt: skip
    return replace(config, dit=dit, latent_size=(4, 4), vae=VAEConfig(width=4, tiny_widths=(32, 16, 16, 16)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="no step begins later")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=6, help="timed chunks of each variant, and of the baseline")
    parser.add_argument("--chunks", type=int, default=1000, help="of the long measurement, as far as time allows")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
