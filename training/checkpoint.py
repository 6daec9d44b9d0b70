"""Training state on disk: safetensors only, complete enough that a resumed run repeats the uninterrupted one
exactly. Tensors are whole, however many processes wrote or read them.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.parallel import placed, whole

Ema = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done, and seconds they took."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a step changes; filled in place. networks, optimisers: by name, ``model`` among them."""

    networks: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    ema: Ema
    generator: torch.Generator
    rng: np.random.Generator

    def save(self, path: Path, progress: Progress, *, write: bool = True) -> None:
        """Write atomically: a run that is killed leaves the checkpoint before. All processes call, one writes."""
        tensors = {f"ema.{name}": whole(value) for name, value in self.ema.items()}
        for network, model in self.networks.items():
            tensors |= {f"{network}.{name}": whole(value) for name, value in model.state_dict().items()}
            names = [name for name, _ in model.named_parameters()]
            for index, state in self.optimisers[network].state_dict()["state"].items():
                prefix = f"{_optimiser(network)}{names[index]}."
                tensors |= {prefix + key: whole(torch.as_tensor(value)) for key, value in state.items()}
        if not write:
            return
        tensors["generator"] = self.generator.get_state()
        metadata = {
            "step": str(progress.step),
            "seconds": str(progress.seconds),
            "numpy": json.dumps(self.rng.bit_generator.state),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial, metadata
        )
        os.replace(partial, path)

    def restore(self, path: Path) -> Progress:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        self.ema.update({name: placed(value, self.ema[name]) for name, value in _under(tensors, "ema.").items()})
        for network, model in self.networks.items():
            own = model.state_dict()
            model.load_state_dict({k: placed(v, own[k]) for k, v in _under(tensors, f"{network}.").items()})
            self.restore_optimiser(network, _under(tensors, _optimiser(network)))
        self.generator.set_state(tensors["generator"])
        self.rng.bit_generator.state = json.loads(metadata["numpy"])
        return Progress(int(metadata["step"]), float(metadata.get("seconds", 0.0)))

    def restore_optimiser(self, network: str, tensors: Ema) -> None:
        optimiser, state = self.optimisers[network], {}
        for index, (name, parameter) in enumerate(self.networks[network].named_parameters()):
            if f"{name}.step" in tensors:
                moments = {key: placed(tensors[f"{name}.{key}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
                state[index] = {"step": tensors[f"{name}.step"], **moments}
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def averaged_weights(path: Path) -> Ema:
    """The moving average of a checkpoint, by the model's own names."""
    return _under(load_file(path), "ema.")


def export(weights: Ema, path: Path, metadata: dict[str, str]) -> float:
    """Write bf16 weights for the engine; return the size in MiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}, path, metadata)
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    return path.stat().st_size / 2**20


def _optimiser(network: str) -> str:
    return "optimiser." if network == "model" else f"{network}_optimiser."


def _under(tensors: Ema, prefix: str) -> Ema:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
