"""Files that a model needs, each with its expected tensors, told from a config without weights.

Also tells what a stranger's checkpoint is a part of, by its names.
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
_NAMES: dict[str, Names] = {DIT: transformer_name, VAE: official_name}  # others: `bare_name`
# A name that tells a kind, in the order in which they are asked.
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
    """One file of a model. wanted: names and shapes, None = it is handed to a library that looks for itself. ignored:
    how names begin that may be there besides."""

    file: str
    wanted: Shapes | None
    ignored: tuple[str, ...] = ()


def kind_of(names: Mapping[str, TensorInfo]) -> tuple[str, Names]:
    """Which file of a model a checkpoint could become, and the map of its names. Raises EngineError
    ``checkpoint_unknown``."""
    for file, mark in _MARKS:
        name = _NAMES.get(file, bare_name)
        if mark in {name(key) for key in names}:
            return file, name
    first = ", ".join(sorted(names)[:3])
    raise EngineError("checkpoint_unknown", f"no model here is made of tensors like {first or 'none at all'}")


def parts_of(config: ModelConfig) -> tuple[Part, ...]:
    """The transformer and its codec, in the order of loading. A codec that is not Wan2.1's looks after itself."""
    dit = Part(DIT, shapes_of(CausalWanDiT.on_meta(config.dit)))
    encoder = shapes_of(on_meta(WanEncoder, config.vae))
    if config.codec in ("wan", "wan-clips"):
        return (dit, Part(VAE, {**encoder, **shapes_of(on_meta(WanDecoder, config.vae))}))
    if config.codec == "wan-tiny":
        tiny = shapes_of(on_meta(TinyDecoder, config.vae))
        return (dit, Part(VAE, encoder, ("decoder.", "conv2.")), Part(TINY, tiny, ("encoder.",)))
    return (dit,)


def accepted_by(config: ModelConfig) -> tuple[Part, ...]:
    """What may lie in a model's folder: its parts, and the tiny decoder that a model of Wan2.1's latents may use."""
    parts = parts_of(config)
    if config.codec != "wan":
        return parts
    return (*parts, Part(TINY, shapes_of(on_meta(TinyDecoder, config.vae)), ("encoder.",)))


def ignored_in(part: Part, names: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    return part.ignored + (ignored_prefixes(names) if part.file == DIT else ())
