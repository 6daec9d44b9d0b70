"""Any published format to a file of a model's folder: read, named, checked against the model, written once."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import RequestError
from models.checkpoints.fit import require
from models.checkpoints.folders import DIT, model_folder
from models.checkpoints.lora import is_adapter, merge, open_adapter
from models.checkpoints.names import transformer_name
from models.checkpoints.parts import Part, ignored_in, kind_of, parts_of
from models.checkpoints.reading import Checkpoint, open_checkpoint
from models.checkpoints.writing import write
from models.config import CONFIGS, ModelConfig


@dataclass(frozen=True, slots=True)
class Conversion:
    """lora: an adapter to merge into the transformer, alpha: of its scale where it does not say so itself. dtype: of
    what is written, None = as it is."""

    source: Path
    model: str
    lora: Path | None = None
    alpha: float | None = None
    dtype: torch.dtype | None = None


def convert(job: Conversion, models_dir: str = "") -> Path:
    """The file written. Nothing is written of what does not fit. Raises EngineError, RequestError."""
    if job.model not in CONFIGS:
        raise RequestError("unknown_model", f"unknown model {job.model!r}: choose one of {', '.join(CONFIGS)}")
    config = CONFIGS[job.model]
    checkpoint, part = fitted(read_source(job), config)
    path = model_folder(config.weights or config.name, models_dir) / part.file
    write(checkpoint, path, job.dtype, {"model": config.name, "source": job.source.name})
    return path


def read_source(job: Conversion) -> Checkpoint:
    """By official names, with the adapter in it."""
    checkpoint = open_checkpoint(job.source)
    if is_adapter(checkpoint.tensors):
        raise RequestError(
            "adapter_alone", f"{job.source.name} is an adapter: name the checkpoint it belongs to, and this with --lora"
        )
    checkpoint = checkpoint.renamed(kind_of(checkpoint.tensors)[1])
    if job.lora is None:
        return checkpoint
    return merge(checkpoint, open_adapter(job.lora, transformer_name, job.alpha))


def fitted(checkpoint: Checkpoint, config: ModelConfig) -> tuple[Checkpoint, Part]:
    """Only what the model uses, and the part of it that this is."""
    file = kind_of(checkpoint.tensors)[0]
    parts = {part.file: part for part in parts_of(config)}
    part = parts.get(file, Part(file, None) if file != DIT and config.codec not in ("wan", "wan-tiny") else None)
    if part is None:
        raise RequestError(
            "wrong_part", f"{config.name} has no use for {checkpoint.label}, a {file}: it wants {', '.join(parts)}"
        )
    if part.wanted is None:
        return checkpoint, part
    require(checkpoint, part.wanted, ignored_in(part, checkpoint.tensors), config.name)
    used = {name: info for name, info in checkpoint.tensors.items() if name in part.wanted}
    return Checkpoint(checkpoint.label, used, checkpoint.read), part
