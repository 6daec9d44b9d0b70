"""Conversion of any published checkpoint format into a model's folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ground.errors import RequestError
from ground.files import replacing
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.fit import require
from models.checkpoints.folders import LTX, WAV2VEC, is_packaged, model_folder
from models.checkpoints.headers import read_header
from models.checkpoints.lora import is_adapter, merge, open_adapter
from models.checkpoints.manifest import KNOWN
from models.checkpoints.names import transformer_name
from models.checkpoints.parts import Part, accepted_by, ignored_in, kind_of
from models.checkpoints.reading import open_checkpoint
from models.checkpoints.writing import write
from models.config import CONFIGS, OFFERED, ModelConfig


@dataclass(frozen=True, slots=True)
class Conversion:
    """lora: an adapter to merge into the transformer, alpha: of its scale where it does not say so itself. dtype: of
    what is written, None = as it is. consumed: the source need not stay, and may simply move."""

    source: Path
    model: str
    lora: Path | None = None
    alpha: float | None = None
    dtype: torch.dtype | None = None
    consumed: bool = False


def convert(job: Conversion, models_dir: str = "") -> Path:
    """The file written. Nothing is written of what does not fit. Raises EngineError, RequestError."""
    if job.model not in CONFIGS and job.model not in KNOWN:
        raise RequestError("unknown_model", f"unknown model {job.model!r}: choose one of {', '.join(OFFERED)}")
    config = CONFIGS.get(job.model)
    checkpoint, part = fitted(read_source(job), config)
    if config is not None and is_packaged(config.weights or config.name):
        raise RequestError("packaged_model", f"{job.model} comes with its weights: convert to another model")
    name = (config.weights if config else "") or job.model
    path = model_folder(name, models_dir) / part.file
    movable = job.consumed and job.lora is None and job.source.suffix == ".safetensors"
    if movable and read_header(job.source) == dict(checkpoint.tensors):
        take(job.source, path)
        return path
    write(checkpoint, path, job.dtype, {"model": job.model, "source": job.source.name})
    return path


def take(source: Path, path: Path) -> None:
    """A file that is already what it should be, to its place. Raises RequestError ``cannot_write``, EngineError."""
    if source.suffix == ".safetensors":
        read_header(source)
    with replacing(path) as partial:
        os.replace(source, partial)


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


def fitted(checkpoint: Checkpoint, config: ModelConfig | None) -> tuple[Checkpoint, Part]:
    """Only what the model uses, and the part of it that this is. config: None = there is none yet, all is used."""
    file = kind_of(checkpoint.tensors)[0]
    if config is None or file in (LTX, WAV2VEC):
        return checkpoint, Part(file, None)
    parts = {part.file: part for part in accepted_by(config)}
    part = parts.get(file)
    if part is None or part.wanted is None:
        raise RequestError(
            "wrong_part", f"{config.name} has no use for {checkpoint.label}, a {file}: it wants {', '.join(parts)}"
        )
    require(checkpoint, part.wanted, ignored_in(part, checkpoint.tensors), config.name)
    used = {name: info for name, info in checkpoint.tensors.items() if name in part.wanted}
    return Checkpoint(checkpoint.label, used, checkpoint.read), part
