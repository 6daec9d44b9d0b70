"""Benchmark of a preset under a memory limit: chunks to I420 in host memory by a worker's own runner.

    python -m benchmarks.speed.small_card --preset balanced --gib 8

Prints one JSON object: whether it runs within the limit, and the peak in GiB or the reason. Tensors may take the card's
memory less the share of the CUDA context and libraries (`models.memory`). On the CPU there is no limit.
"""

import argparse
import json
from typing import Any

import torch

from benchmarks.speed.chunks import ChunkMaker, Screen, memory_mb, rollout_of
from benchmarks.speed.parts import WARM_UP
from engine.worker.graphs import is_out_of_memory
from engine.worker.runner import ModelRunner
from ground.config import PRESETS, EngineConfig
from ground.errors import EngineError, one_line_errors
from models.memory import GIB, OVERHEAD
from models.registry import choose_device
from training.arguments import at_least


def run(config: EngineConfig, gib: int) -> dict[str, Any]:
    """Run as many chunks of one call as it takes to meet every shape of pass."""
    device = choose_device(config.device)
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (gib * GIB - OVERHEAD) / whole))
    try:
        runner = ModelRunner.start(config)
        screen = Screen(runner.codec)
        call = ChunkMaker(runner, 0, rollout_of(runner.config), screen.reference)
        for _ in range(WARM_UP + 2):
            screen.show(call.denoise())
    except (RuntimeError, EngineError) as lack:
        if not isinstance(lack, EngineError) and not is_out_of_memory(lack):
            raise
        return {"holds": False, "error": str(lack).partition("\n")[0]}
    reserved = torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else 0.0
    return {
        "holds": True,
        "allocated_gib": round(memory_mb(device) / 1024, 2),
        "reserved_gib": round(reserved, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.speed.small_card", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="wan2.1-1.3b", help="of Wan2.1's latents; random weights")
    parser.add_argument("--preset", required=True, choices=PRESETS)
    parser.add_argument("--gib", type=at_least(1), required=True, help="memory of the card")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    config = EngineConfig(
        model=arguments.model, preset=arguments.preset, device=arguments.device, slots=1, random_weights=True
    )
    with one_line_errors("benchmarks.speed.small_card"):
        print(json.dumps(run(config, arguments.gib)))


if __name__ == "__main__":
    main()
