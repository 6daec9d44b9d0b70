"""Model registry: builds a transformer and its codec by name, and loads their weights onto a device.

Weights are safetensors only. Shapes are checked before memory is allocated; a checkpoint that does not fit is refused.
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ground.errors import EngineError, RequestError
from models.checkpoints.fit import require, shapes_of
from models.checkpoints.folders import DIT, LTX, LTX_CONFIG, TINY, VAE, WAV2VEC_CONFIG, model_folder
from models.checkpoints.names import ignored_prefixes
from models.checkpoints.parts import kind_of
from models.checkpoints.presence import missing
from models.checkpoints.reading import open_checkpoint
from models.codecs.base import Codec
from models.codecs.clip import ClipCodec, WanClips
from models.codecs.ltx import LtxClips
from models.codecs.motion import MotionCodec
from models.codecs.wan import DECODERS, WanCodec, build_decoder, build_encoder, finished, on_meta, random_part
from models.codecs.wan_vae import WanDecoder, WanEncoder
from models.config import ModelConfig, find_config
from models.dit.float8 import in_float8, require_float8
from models.dit.transformer import CausalWanDiT, TextContext, randomise_
from models.encoders.speech import SpeechEncoder
from models.encoders.text import TextSource, embed_text
from models.memory import check
from models.presets import with_preset
from models.published_config import check_published

log = logging.getLogger(__name__)
FLOAT8 = "float8"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device.

    codec: None if the model has no codec (throughput only). context: the encoded text, None without text attention.
    speech: encoder of the voice, None unless the transformer attends to its features. dtype: type of the activations
    and weights, except for weights in 8 bits. float8: whether the blocks' linear layers have 8-bit weights.
    """

    config: ModelConfig
    dit: CausalWanDiT
    codec: Codec[Any] | None
    context: TextContext | None
    device: torch.device
    dtype: torch.dtype
    speech: SpeechEncoder | None = None
    float8: bool = False

    @property
    def dtype_name(self) -> str:
        """Name of the dtype in the command line and the settings."""
        return FLOAT8 if self.float8 else str(self.dtype).removeprefix("torch.")


def choose_device(name: str) -> torch.device:
    """Parse a device: cpu, cuda, cuda:N, or auto for the first CUDA device, else the CPU. ``cuda:N`` becomes torch's
    current device. Raises RequestError ``unknown_device``, EngineError ``no_device``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RequestError(
            "unknown_device", f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N", param="device"
        )
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError("no_device", f"torch finds no device {name}: use cpu, or install a CUDA build of torch")
    if device.index is not None:
        torch.cuda.set_device(device)  # streams, graphs and measurements use the current device
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Choose the type of the activations. ``auto``: bf16 if the machine has instructions for it, else fp32. ``float8``:
    bf16, as only the weights of linear layers have 8 bits. Raises RequestError ``unknown_dtype``."""
    if name == "auto":
        native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32, FLOAT8: torch.bfloat16}
    if name not in dtypes:
        raise RequestError("unknown_dtype", f"unknown dtype {name!r}: choose one of auto, {', '.join(dtypes)}")
    return dtypes[name]


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    random_weights: bool = False,
    size: tuple[int, int] | None = None,
    models_dir: str = "",
    preset: str = "",
    text: TextSource = TextSource(),  # noqa: B008 (frozen)
    slots: int = 1,
) -> LoadedModel:
    """Build a model by name and load its weights.

    random_weights: seeded noise instead of a checkpoint, for tests and throughput figures. size: (width, height) in
    pixels; None keeps the model's own. models_dir: folder of the weights that are not shipped with the package. preset:
    see ``models.presets``. text: prompt or embedding for a model with text attention. slots: planned number of calls; a
    GPU without enough free memory for them is refused before loading. Raises RequestError, EngineError.
    """
    config = with_preset(find_config(name), preset)
    if size is not None:
        config = config.at_size(*size)
    place = choose_device(device)
    float8 = dtype == FLOAT8
    if float8:
        require_float8(config, place)
    if place.type == "cuda" and config.codec in DECODERS:
        check(config, slots, torch.cuda.mem_get_info(place)[0], float8)
    folder = None if random_weights else model_folder(config.weights or config.name, models_dir)
    return build_model(config, place, choose_dtype(dtype, place), folder, text, float8)


def build_model(
    config: ModelConfig,
    place: torch.device,
    kind: torch.dtype,
    folder: Path | None,
    text: TextSource = TextSource(),  # noqa: B008 (frozen)
    float8: bool = False,
) -> LoadedModel:
    """Build a model from any config. place: device. kind: type of the activations. folder: folder of the weights; None
    gives random weights. float8: convert the blocks' linear layers to 8-bit floats after loading. Raises RequestError,
    EngineError."""
    words = None
    if config.dit.text_dim is not None:  # before other weights are loaded: the text encoder is large as well
        words = embed_text(text, config.dit.text_dim, random_weights=folder is None)
    elif text.prompt or text.embedding:
        raise RequestError("no_text", f"the model {config.name} takes no text: leave out the prompt", param="prompt")
    if folder is None:
        dit = random_dit(config, place, kind)
    else:
        check_published(config, folder)
        dit = CausalWanDiT.on_meta(config.dit)
        load_weights(dit, folder / DIT, place, kind)
    dit.eval().requires_grad_(False)
    codec = build_codec(config, place, kind, folder)
    context = None
    if words is not None:
        with torch.inference_mode():
            context = dit.encode_text(words[None].to(device=place, dtype=kind))
    if float8:
        in_float8(dit.blocks)
    return LoadedModel(config, dit, codec, context, place, kind, build_speech(config, place, kind, folder), float8)


def build_speech(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, folder: Path | None
) -> SpeechEncoder | None:
    """Load wav2vec2, or build it with random weights in the shape that the transformer's audio input requires. None for
    a model without audio input. Raises EngineError."""
    audio = config.dit.audio
    if audio is None:
        return None
    if folder is not None:
        return SpeechEncoder.load((folder / WAV2VEC_CONFIG).parent, device, dtype)
    heads = 12 if audio.width % 12 == 0 else 4
    return SpeechEncoder.random(
        device, dtype, hidden_size=audio.width, num_hidden_layers=audio.layers, num_attention_heads=heads,
        intermediate_size=4 * audio.width, conv_dim=(min(512, 2 * audio.width),) * 7,
    )  # fmt: skip


def build_codec(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, folder: Path | None
) -> Codec[Any] | None:
    """Build the codec that the config names; None if it names none. Wan2.1's autoencoder is read from
    ``vae.safetensors`` (official or diffusers' names), the tiny decoder from ``tiny.safetensors`` (TAEHV's names),
    LTX's from ``ltx-vae.safetensors``. folder: None gives random weights."""
    if config.codec == "motion":
        return MotionCodec(device, config.pixel_size[0])
    if config.codec == "wan-clips":
        return ClipCodec(wan_clips(config, device, dtype, folder), config, device)
    if config.codec == "ltx-clips":
        return ClipCodec(ltx_clips(config, device, dtype, folder), config, device)
    if config.codec not in DECODERS:
        return None
    if folder is None:
        encoder = build_encoder(device, dtype, config.vae)
        return WanCodec(encoder, build_decoder(config.codec, device, dtype, config.vae), config.pixel_size)
    encoder, decoder = load_encoder(config, folder / VAE, device, dtype), on_meta(DECODERS[config.codec], config.vae)
    if config.codec == "wan":
        load_weights(decoder, folder / VAE, device, dtype, part=("decoder.", "conv2."))
    else:
        load_weights(decoder, folder / TINY, device, dtype, part=("decoder.",))
    return WanCodec(encoder, finished(decoder), config.pixel_size)


def load_encoder(config: ModelConfig, path: Path, device: torch.device, dtype: torch.dtype) -> WanEncoder:
    """Load only the encoder of Wan2.1's autoencoder. Raises the errors of ``load_weights``."""
    encoder = on_meta(WanEncoder, config.vae)
    load_weights(encoder, path, device, dtype, part=("encoder.", "conv1."))
    return finished(encoder)


def wan_clips(config: ModelConfig, device: torch.device, dtype: torch.dtype, folder: Path | None) -> WanClips:
    decoder = on_meta(WanDecoder, config.vae)
    if folder is None:
        return WanClips(build_encoder(device, dtype, config.vae), random_part(decoder, device, dtype))
    load_weights(decoder, folder / VAE, device, dtype, part=("decoder.", "conv2."))
    return WanClips(load_encoder(config, folder / VAE, device, dtype), finished(decoder))


def ltx_clips(config: ModelConfig, device: torch.device, dtype: torch.dtype, folder: Path | None) -> LtxClips:
    if folder is None:
        return LtxClips.random(config.ltx, device, dtype)
    vae = LtxClips.empty(config.ltx, folder / LTX_CONFIG)
    load_weights(vae, folder / LTX, device, dtype)
    return LtxClips(vae.eval().requires_grad_(False))


def random_dit(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> CausalWanDiT:
    """Transformer with seeded random weights of a trained model's scale, drawn on the target device. Reproducible on
    the CPU."""
    dit = CausalWanDiT.on_meta(config.dit).to(dtype).to_empty(device=device)
    randomise_(dit)
    return dit


def load_weights(
    module: nn.Module, path: Path, device: torch.device, dtype: torch.dtype, part: tuple[str, ...] = ("",)
) -> None:
    """Load a module on the meta device from a file or its shards. Names, shapes and types are compared before anything
    is read.

    part: prefixes of the official names that belong to the module; other tensors of the file are skipped. Raises
    EngineError ``checkpoint_missing``, ``checkpoint_broken``, ``checkpoint_mismatch``.
    """
    try:
        checkpoint = open_checkpoint(path, str(device))
    except EngineError as error:
        if error.code != "checkpoint_missing":
            raise
        raise missing(path.parent, path.name) from error
    checkpoint = checkpoint.renamed(kind_of(checkpoint.tensors)[1])
    mine = {name: info for name, info in checkpoint.tensors.items() if name.startswith(part)}
    checkpoint = replace(checkpoint, tensors=mine)
    wanted = shapes_of(module)
    require(checkpoint, wanted, ignored_prefixes(mine), path.parent.name)
    state = {name: checkpoint.read(name).to(dtype) for name in wanted}
    module.load_state_dict(state, assign=True)
    log.info("loaded %s: %d tensors on %s %s", path.name, len(state), device, dtype)
