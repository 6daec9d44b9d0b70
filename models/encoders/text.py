"""Text conditioning: a prompt through umT5, encoded once and kept on disk, or a given embedding.

What comes out is [512, width]: one row a token, zeros beyond the prompt, which the transformer attends to without a
mask (Wan2.1). The encoder is large (11.4 GB in bf16) and is dropped as soon as it has answered.
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
UNUSED = ("decoder.", "lm_head.")  # of the whole umT5
DTYPE = torch.bfloat16  # in which Wan2.1 runs it


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where a model's text comes from: a prompt (encoded by what lies in ``models_dir``), or a file with its embedding.
    Neither: the empty prompt."""

    prompt: str = ""
    embedding: str = ""
    models_dir: str = ""


def embed_text(source: TextSource, width: int, *, random_weights: bool = False) -> Tensor:
    """[512, width] on the CPU. Raises RequestError or EngineError for what cannot be had.

    Wan2.1 encodes the empty prompt as any other (one token, the end). So is it here where the encoder is installed;
    where it is not, and for random weights, which mean nothing by any text, it is 512 zeros.
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
    """As Wan2.1 does before it tokenises: entities resolved (twice, for text that was escaped twice), every run of
    whitespace one space. Wan2.1 also mends wrongly decoded text by ftfy; that is left out."""
    return " ".join(html.unescape(html.unescape(text)).split())


def read_embedding(path: Path, width: int) -> Tensor:
    """A safetensors file with one tensor [n <= 512, width], zero-padded to 512 rows."""
    if not os.path.isfile(path):  # unlike Path's, False for a name that is too long
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
    """A clean prompt as umT5 sees it, from the folder's cache where it is there. Runs on the CPU: once for a prompt,
    and the card's memory is the video model's."""
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
            log.warning("%s cannot be read and is made again", kept.name)
    embedding = run_encoder(prompt, folder, dtype)
    try:
        keep(embedding, kept)
    except OSError as error:
        log.warning("the prompt's embedding cannot be kept: %s", error)
    return padded(embedding)


def cache_key(prompt: str, folder: Path, dtype: torch.dtype) -> str:
    """From the prompt and the encoder: small files by content, weights by name, size and time of change."""
    digest = hashlib.sha256(f"{dtype}\0{prompt}\0".encode())
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        facts = path.stat()
        digest.update(f"{path.name}\0{facts.st_size}\0".encode())
        digest.update(str(facts.st_mtime_ns).encode() if path.suffix == ".safetensors" else path.read_bytes())
    return digest.hexdigest()[:32]


def run_encoder(prompt: str, folder: Path, dtype: torch.dtype) -> Tensor:
    """[n, width] in fp32, n the prompt's tokens with the end token, at most 512. No padding is run: it is masked in
    Wan2.1's encoder, so a token's row does not depend on it."""
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
        log.warning("the prompt is cut off at %d tokens", TOKENS)
    encoder = load_pretrained(transformers.UMT5EncoderModel, folder, torch.device("cpu"), dtype, UNUSED)
    with torch.inference_mode():
        states: Tensor = encoder(tokens).last_hidden_state
    return states[0].float().clone()


def keep(embedding: Tensor, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    save_file({"text": embedding.contiguous()}, partial)
    os.replace(partial, path)
