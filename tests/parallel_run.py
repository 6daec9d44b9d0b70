"""Runs every stage at tiny size, in as many processes as torchrun starts: `-m tests.parallel_run FOLDER`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from models.dit.transformer import CausalWanDiT
from tests.clips import TINY, NoiseClips
from training.configs import PRESETS, StageConfig
from training.parallel import World, joined
from training.trainer import Trainer

STAGES = ("base", "causal", "causal-ode", "distill")
RUNS = (*STAGES, "fine-tune")


def tiny(name: str) -> StageConfig:
    return replace(
        PRESETS[f"{name}-smoke"], model=TINY, batch=4, accumulate=2, dtype="float32", sheet_every=0, chunks=3
    )


def trainer(name: str, folder: Path, world: World) -> Trainer:
    config = tiny(name)

    def network(seed: int) -> CausalWanDiT:
        torch.manual_seed(seed)
        return CausalWanDiT(config.model.dit)

    teacher = network(2) if config.needs_teacher else None
    networks = {network_name: network(seed) for seed, network_name in enumerate(config.networks)}
    return Trainer(config, networks, teacher, NoiseClips(), folder / name, world)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as world:
        for name in RUNS:
            trainer(name, Path(sys.argv[1]), world).run()
