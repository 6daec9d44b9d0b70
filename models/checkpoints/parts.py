"""Expected files of a model, each with the names and shapes of its tensors, derived from a config without weights.

Also identifies which file of a model a published checkpoint provides, by its tensor names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ground.errors import EngineError
from models.checkpoints.fit import Shapes, shapes_of
from models.checkpoints.folders import DIT, LTX, TINY, VAE, WAV2VEC
from models.checkpoints.headers import TensorInfo
from models.checkpoints.names import bare_name, ignored_prefixes, transformer_name
from models.checkpoints.wan_keys import official_name
from models.codecs.tiny_decoder import TinyDecoder
from models.codecs.wan import on_meta
from models.codecs.wan_vae import WanDecoder, WanEncoder
from models.config import ModelConfig
from models.dit.transformer import CausalWanDiT

Names = Callable[[str], str]
_NAMES: dict[str, Names] = {DIT: transformer_name, VAE: official_name}  # `bare_name` for all other files
# A tensor name that identifies each kind of file. The first match counts.
_MARKS = (
    (DIT, "patch_embedding.weight"),
    (VAE, "encoder.downsamples.0.residual.0.gamma"),
    (TINY, "decoder.22.weight"),
    (LTX, "encoder.conv_in.conv.weight"),
    (WAV2VEC, "wav2vec2.feature_extractor.conv_layers.0.conv.weight"),
    (WAV2VEC, "feature_extractor.conv_layers.0.conv.weight"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a model. wanted: names and shapes; None if the library that loads the file checks it. ignored:
    prefixes of further names that are allowed."""

    file: str
    wanted: Shapes | None
    ignored: tuple[str, ...] = ()


def kind_of(names: Mapping[str, TensorInfo]) -> tuple[str, Names]:
    """Identify which file of a model a checkpoint provides. Returns the file and the map to official names. Raises
    EngineError ``checkpoint_unknown``."""
    for file, mark in _MARKS:
        name = _NAMES.get(file, bare_name)
        if mark in {name(key) for key in names}:
            return file, name
    first = ", ".join(sorted(names)[:3])
    raise EngineError(
        "checkpoint_unknown", f"the checkpoint belongs to no known model: its tensors are {first or 'none'}"
    )


def parts_of(config: ModelConfig) -> tuple[Part, ...]:
    """Files of a model in the order of loading: the transformer, then the codec if it uses Wan2.1's autoencoder. Other
    codecs check their own files."""
    dit = Part(DIT, shapes_of(CausalWanDiT.on_meta(config.dit)))
    encoder = shapes_of(on_meta(WanEncoder, config.vae))
    if config.codec in ("wan", "wan-clips"):
        return (dit, Part(VAE, {**encoder, **shapes_of(on_meta(WanDecoder, config.vae))}))
    if config.codec == "wan-tiny":
        tiny = shapes_of(on_meta(TinyDecoder, config.vae))
        return (dit, Part(VAE, encoder, ("decoder.", "conv2.")), Part(TINY, tiny, ("encoder.",)))
    return (dit,)


def accepted_by(config: ModelConfig) -> tuple[Part, ...]:
    """Files that a model's folder may contain: its parts, and for Wan2.1's latents the optional tiny decoder."""
    parts = parts_of(config)
    if config.codec != "wan":
        return parts
    return (*parts, Part(TINY, shapes_of(on_meta(TinyDecoder, config.vae)), ("encoder.",)))


def ignored_in(part: Part, names: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    return part.ignored + (ignored_prefixes(names) if part.file == DIT else ())
