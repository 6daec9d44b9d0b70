"""Text conditioning: a prompt encoded once by umT5 and cached on disk, or a given embedding.

The result is [512, width]: one row per token, then zeros, which the transformer also attends to, without a mask
(Wan2.1). The encoder is large (11.4 GB in bf16) and is released after use.
"""

import hashlib
import html
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ground.errors import EngineError, RequestError
from models.encoders.pretrained import first_line, import_transformers, load_pretrained, read_config

log = logging.getLogger(__name__)

TOKENS = 512
FOLDER = "umt5-xxl"  # in the models folder
UNUSED = ("decoder.", "lm_head.")  # parts of umT5 that are not run
DTYPE = torch.bfloat16  # type in which Wan2.1 runs umT5


@dataclass(frozen=True, slots=True)
class TextSource:
    """Source of a model's text. prompt: text to encode. embedding: path of a file with an embedding. models_dir: folder
    that contains the text encoder. Without prompt and embedding the prompt is empty."""

    prompt: str = ""
    embedding: str = ""
    models_dir: str = ""


def embed_text(source: TextSource, width: int, *, random_weights: bool = False) -> Tensor:
    """Embedding [512, width] of a text source, on the CPU. Raises RequestError, EngineError.

    Wan2.1 encodes the empty prompt like any other (its one token is the end token), and so does this function. But if
    the encoder is not installed, and for random weights, the embedding of the empty prompt is 512 rows of zeros.
    """
    if source.prompt and source.embedding:
        raise RequestError("invalid_text", "give a prompt or a text embedding, not both", param="prompt")
    if source.embedding:
        return read_embedding(Path(source.embedding), width)
    prompt = clean_prompt(source.prompt)
    folder = Path(source.models_dir) / FOLDER if source.models_dir else None
    installed = folder is not None and (folder / "config.json").is_file()
    if prompt and not installed:
        raise EngineError(
            "encoder_missing",
            f"a prompt needs the text encoder: put umT5's config.json, weights (safetensors) and tokenizer into "
            f"{folder or FOLDER + ' in the models folder'}, or give an embedding with --text-embedding",
        )
    if folder is None or not installed or (random_weights and not prompt):
        if not random_weights:
            log.warning("no text encoder is installed: the empty prompt is zeros, which Wan2.1 was not trained on")
        return torch.zeros(TOKENS, width)
    return encode_prompt(prompt, folder, width)


def clean_prompt(text: str) -> str:
    """Clean a prompt as Wan2.1 does before tokenising: resolve HTML entities (twice, for doubly escaped text) and
    collapse whitespace. Wan2.1 also repairs wrongly decoded text by ftfy; this is omitted."""
    return " ".join(html.unescape(html.unescape(text)).split())


def read_embedding(path: Path, width: int) -> Tensor:
    """Read a safetensors file with one tensor [n <= 512, width], and pad it with zeros to 512 rows. Raises RequestError
    ``file_not_found``, ``invalid_text``."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise RequestError("file_not_found", f"there is no text embedding {path.name!r}", param="text_embedding")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            "invalid_text", f"{path.name!r} is not a readable safetensors file", param="text_embedding"
        ) from error
    shapes = [tuple(value.shape) for value in tensors.values()]
    fits = len(shapes) == 1 and len(shapes[0]) == 2 and 0 < shapes[0][0] <= TOKENS and shapes[0][1] == width
    if not fits:
        raise RequestError(
            "invalid_text",
            f"{path.name!r} must hold one tensor [1 to {TOKENS}, {width}], not {shapes or 'none'}",
            param="text_embedding",
        )
    (embedding,) = tensors.values()
    if not embedding.is_floating_point() or not embedding.float().isfinite().all():
        raise RequestError("invalid_text", f"{path.name!r} must hold finite floats", param="text_embedding")
    return padded(embedding.float())


def padded(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_zeros(TOKENS - len(rows), rows.shape[1])])


def encode_prompt(prompt: str, folder: Path, width: int, dtype: torch.dtype = DTYPE) -> Tensor:
    """Embedding [512, width] of a cleaned prompt, from the folder's cache if it contains the prompt. umT5 runs on the
    CPU: it runs once per prompt, and the GPU's memory belongs to the video model."""
    config = read_config(folder, "umt5")
    if config.get("d_model") != width:
        raise EngineError(
            "encoder_mismatch", f"the model attends to text of width {width}; {folder} gives {config.get('d_model')}"
        )
    kept = folder / "cache" / f"{cache_key(prompt, folder, dtype)}.safetensors"
    if kept.is_file():
        try:
            return read_embedding(kept, width)
        except RequestError:
            log.warning("%s cannot be read and is computed again", kept.name)
    embedding = run_encoder(prompt, folder, dtype)
    try:
        keep(embedding, kept)
    except OSError as error:
        log.warning("the prompt's embedding cannot be cached: %s", error)
    return padded(embedding)


def cache_key(prompt: str, folder: Path, dtype: torch.dtype) -> str:
    """Cache key of a prompt for an encoder folder: hashes the contents of small files, and name, size and modification
    time of weights."""
    digest = hashlib.sha256(f"{dtype}\0{prompt}\0".encode())
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        facts = path.stat()
        digest.update(f"{path.name}\0{facts.st_size}\0".encode())
        digest.update(str(facts.st_mtime_ns).encode() if path.suffix == ".safetensors" else path.read_bytes())
    return digest.hexdigest()[:32]


def run_encoder(prompt: str, folder: Path, dtype: torch.dtype) -> Tensor:
    """Embedding [n, width] in fp32; n counts the prompt's tokens with the end token, at most 512. The prompt is not
    padded: Wan2.1's encoder masks padding, so it does not affect a token's row."""
    transformers = import_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, ArithmeticError, ImportError, LookupError, RuntimeError) as error:
        raise EngineError(
            "encoder_broken",
            f"the tokenizer in {folder} cannot be read (tokenizer.json and its config): {first_line(error)}",
        ) from error
    tokens = tokenizer(prompt, truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
    if tokens.shape[1] == TOKENS:
        log.warning("the prompt is truncated to %d tokens", TOKENS)
    encoder = load_pretrained(transformers.UMT5EncoderModel, folder, torch.device("cpu"), dtype, UNUSED)
    with torch.inference_mode():
        states: Tensor = encoder(tokens).last_hidden_state
    return states[0].float().clone()


def keep(embedding: Tensor, path: Path) -> None:
    """Write an embedding atomically: the file appears complete or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    save_file({"text": embedding.contiguous()}, partial)
    os.replace(partial, path)
