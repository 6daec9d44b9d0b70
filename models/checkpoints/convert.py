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
from models.config import CONFIGS, ModelConfig


@dataclass(frozen=True, slots=True)
class Conversion:
    """Arguments of a conversion.

    source: checkpoint file or folder. model: name of the model to convert to. lora: adapter to merge into the
    transformer. alpha: the adapter's alpha if its configuration gives none. dtype: type of the written tensors; None
    keeps the types of the source. consumed: the source may be moved instead of copied.
    """

    source: Path
    model: str
    lora: Path | None = None
    alpha: float | None = None
    dtype: torch.dtype | None = None
    consumed: bool = False


def convert(job: Conversion, models_dir: str = "") -> Path:
    """Convert a checkpoint and return the path of the written file. A checkpoint that does not fit is refused before
    anything is written. Raises EngineError, RequestError."""
    if job.model not in CONFIGS and job.model not in KNOWN:
        raise RequestError("unknown_model", f"unknown model {job.model!r}: choose one of {', '.join(CONFIGS)}")
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
    """Move a file that needs no conversion to `path`; a safetensors header is checked first. Raises RequestError
    ``cannot_write``, EngineError ``checkpoint_broken``."""
    if source.suffix == ".safetensors":
        read_header(source)
    with replacing(path) as partial:
        os.replace(source, partial)


def read_source(job: Conversion) -> Checkpoint:
    """Open the source of a conversion under official names, with the adapter merged."""
    checkpoint = open_checkpoint(job.source)
    if is_adapter(checkpoint.tensors):
        raise RequestError(
            "adapter_alone", f"{job.source.name} is a LoRA adapter: convert its base model, and add this file by --lora"
        )
    checkpoint = checkpoint.renamed(kind_of(checkpoint.tensors)[1])
    if job.lora is None:
        return checkpoint
    return merge(checkpoint, open_adapter(job.lora, transformer_name, job.alpha))


def fitted(checkpoint: Checkpoint, config: ModelConfig | None) -> tuple[Checkpoint, Part]:
    """Reduce a checkpoint to the tensors that a model uses, and return it with the model's part that it provides.

    config: None keeps every tensor, for a published model without a config. Raises RequestError ``wrong_part``,
    EngineError ``checkpoint_mismatch``, ``checkpoint_unknown``.
    """
    file = kind_of(checkpoint.tensors)[0]
    if config is None or file in (LTX, WAV2VEC):
        return checkpoint, Part(file, None)
    parts = {part.file: part for part in accepted_by(config)}
    part = parts.get(file)
    if part is None or part.wanted is None:
        raise RequestError(
            "wrong_part", f"{checkpoint.label} is a {file}, but {config.name} consists of {', '.join(parts)}"
        )
    require(checkpoint, part.wanted, ignored_in(part, checkpoint.tensors), config.name)
    used = {name: info for name, info in checkpoint.tensors.items() if name in part.wanted}
    return Checkpoint(checkpoint.label, used, checkpoint.read), part
