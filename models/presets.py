"""Presets of video models (size, steps, decoder), best picture first. All run in bf16.

A preset replaces fields of a model's config. The embedded model has no presets: each of its sizes is a separate model.
"""

from dataclasses import dataclass, replace

from ground.errors import RequestError
from models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset. width, height: pixels. steps: timesteps of the denoising, a subset of those that the model was
    distilled to. decoder: name of a codec, as in ``ModelConfig``."""

    name: str
    width: int
    height: int
    steps: tuple[int, ...]
    decoder: str


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quality", 832, 480, (1000, 750, 500, 250), "wan"),
        Preset("balanced", 512, 512, (1000, 750, 500, 250), "wan-tiny"),
        Preset("realtime", 384, 384, (1000, 750, 500, 250), "wan-tiny"),
    )
}


def has_presets(config: ModelConfig) -> bool:
    """Whether the model has presets: those with Wan2.1's latents do."""
    return config.codec in {preset.decoder for preset in PRESETS.values()}


def with_preset(config: ModelConfig, name: str) -> ModelConfig:
    """Apply a preset to a model's config; an empty name applies none. Raises RequestError ``unknown_preset``,
    ``no_presets``."""
    if not name:
        return config
    if name not in PRESETS:
        raise RequestError(
            "unknown_preset", f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}", param="preset"
        )
    if not has_presets(config):
        raise RequestError(
            "no_presets",
            f"the model {config.name} has no presets: they are for models of Wan2.1's latents",
            param="preset",
        )
    preset = PRESETS[name]
    return replace(config.at_size(preset.width, preset.height), steps=preset.steps, codec=preset.decoder)
