"""Training state on disk: safetensors only, complete enough that a resumed run repeats the uninterrupted one
exactly."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Ema = dict[str, Tensor]


def save(
    path: Path, step: int, model: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer,
    generator: torch.Generator, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Write atomically: a run that is killed leaves the checkpoint before."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    names = [name for name, _ in model.named_parameters()]
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{names[index]}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["generator"] = generator.get_state()
    metadata = {"step": str(step), "numpy": json.dumps(rng.bit_generator.state)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, partial, metadata)
    os.replace(partial, path)


def restore(
    path: Path, model: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer,
    generator: torch.Generator, rng: np.random.Generator,
) -> int:  # fmt: skip
    """Fill everything in place; return the step."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    model.load_state_dict(_under(tensors, "model."))
    ema.update(_under(tensors, "ema."))
    names = [name for name, _ in model.named_parameters()]
    state = {
        index: {key: tensors[f"optimiser.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for index, name in enumerate(names)
        if f"optimiser.{name}.step" in tensors
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    rng.bit_generator.state = json.loads(metadata["numpy"])
    return int(metadata["step"])


def averaged_weights(path: Path) -> Ema:
    """The moving average of a checkpoint, by the model's own names."""
    return _under(load_file(path), "ema.")


def export(weights: Ema, path: Path, metadata: dict[str, str]) -> float:
    """Write bf16 weights for the engine; return the size in MiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}, path, metadata)
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    return path.stat().st_size / 2**20


def _under(tensors: Ema, prefix: str) -> Ema:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
