"""Training checkpoints in safetensors: a resumed run repeats the uninterrupted one exactly. Tensors are whole, however
many processes wrote or read them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ground.errors import RequestError
from ground.files import replacing
from training.parallel import placed, whole
from training.stream import ClipStream

Ema = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done, and seconds they took."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a training step changes; filled in place. networks, optimisers: by name, ``model`` among them.
    run: identity of the run (`StageConfig.identity`, `training.start.origin`)."""

    networks: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    ema: Ema
    generator: torch.Generator
    stream: ClipStream
    run: dict[str, str]

    def save(self, path: Path, progress: Progress, *, write: bool = True) -> None:
        """Write atomically, so that a killed run leaves the checkpoint before. All processes call it, one writes. It
        gathers tensor by tensor, so that no device holds more than one of them whole.
        """
        kept: Ema = {}
        for name, value in self._tensors():
            tensor = whole(value)
            if write:
                kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if not write:
            return
        kept["generator"] = self.generator.get_state()
        metadata = {
            "step": str(progress.step),
            "seconds": str(progress.seconds),
            "batches": str(self.stream.number),
            **self.run,
        }
        with replacing(path) as partial:
            save_file(kept, partial, metadata)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors by their names in the file, sharded where they are."""
        yield from ((f"ema.{name}", value) for name, value in self.ema.items())
        for network, model in self.networks.items():
            yield from ((f"{network}.{name}", value) for name, value in model.state_dict().items())
            names = [name for name, _ in model.named_parameters()]
            for index, state in self.optimisers[network].state_dict()["state"].items():
                prefix = f"{_optimiser(network)}{names[index]}."
                yield from ((prefix + key, torch.as_tensor(value)) for key, value in state.items())

    def restore(self, path: Path) -> Progress:
        """Restore the state from a checkpoint. Raises RequestError ``other_run``, ``bad_checkpoint``."""
        with opened(path, ": delete it or choose another folder") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            self._check(path, metadata, names)
            for name, value in self.ema.items():
                self.ema[name] = placed(file.get_tensor(f"ema.{name}"), value)
            for network, model in self.networks.items():
                own = model.state_dict()
                model.load_state_dict({k: placed(file.get_tensor(f"{network}.{k}"), v) for k, v in own.items()})
                optimiser, state = self.optimisers[network], {}
                for index, (name, parameter) in enumerate(model.named_parameters()):
                    prefix = f"{_optimiser(network)}{name}."
                    if f"{prefix}step" in names:
                        moments = {k: placed(file.get_tensor(prefix + k), parameter) for k in ("exp_avg", "exp_avg_sq")}
                        state[index] = {"step": file.get_tensor(f"{prefix}step"), **moments}
                optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
            self.generator.set_state(file.get_tensor("generator"))
        self.stream.number = int(metadata.get("batches", 0))
        return Progress(int(metadata["step"]), float(metadata.get("seconds", 0.0)))

    def _check(self, path: Path, metadata: dict[str, str], names: set[str]) -> None:
        """Check that the checkpoint is this run's. Older files do not name their run; they must at least hold its
        networks."""
        other = [name for name, own in self.run.items() if metadata.get(name, own) != own]
        wanted = {f"{network}.{name}" for network, model in self.networks.items() for name in model.state_dict()}
        if other or (metadata and not wanted <= names):
            changed = " and ".join(other) or "stage"
            raise RequestError("other_run", f"{path.parent} holds a run of another {changed}: name another folder")
        if "step" not in metadata or not {"generator", *(f"ema.{name}" for name in self.ema)} <= names:
            raise RequestError(
                "bad_checkpoint", f"{path} is no checkpoint of a run: delete it or choose another folder"
            )


@contextmanager
def opened(path: Path, advice: str = "") -> Iterator[Any]:
    """Context of an open safetensors file. advice: what to do if it cannot be read. Raises RequestError
    ``no_checkpoint``, ``bad_checkpoint``."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise RequestError("no_checkpoint", f"there is no checkpoint {path}") from error
    except (OSError, SafetensorError) as error:
        raise RequestError("bad_checkpoint", f"{path} is torn or no safetensors file{advice}") from error


def averaged_weights(path: Path) -> tuple[Ema, dict[str, str]]:
    """The moving average of a checkpoint, by the model's own names, and the checkpoint's metadata; no weights of a file
    that holds no average. Raises RequestError ``no_checkpoint``, ``bad_checkpoint``."""
    with opened(path) as file:
        names = [name for name in file.keys() if name.startswith("ema.")]  # noqa: SIM118 (not a dict)
        return {name.removeprefix("ema."): file.get_tensor(name) for name in names}, file.metadata() or {}


def export(weights: Ema, path: Path, metadata: dict[str, str]) -> float:
    """Write bf16 weights for the engine; return the size in MiB."""
    with replacing(path) as partial:
        save_file({name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}, partial, metadata)
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
    return path.stat().st_size / 2**20


def _optimiser(network: str) -> str:
    return "optimiser." if network == "model" else f"{network}_optimiser."
