"""Presets of video models: how large, in how many steps, by which decoder and in which precision, best picture first.

A base plus ``dataclasses.replace``. The embedded model has none: its sizes are models of their own.
"""

from dataclasses import dataclass, replace

from engine.errors import RequestError
from models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """width, height in pixels. steps: a part of the schedule that the model was distilled to. decoder: a codec's name
    in ``ModelConfig``. dtype: as in ``EngineConfig``."""

    name: str
    width: int
    height: int
    steps: tuple[int, ...]
    decoder: str
    dtype: str


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quality", 832, 480, (1000, 750, 500, 250), "wan", "bfloat16"),
        Preset("balanced", 512, 512, (1000, 750, 500, 250), "wan-tiny", "bfloat16"),
        Preset("realtime", 384, 384, (1000, 500), "wan-tiny", "bfloat16"),
    )
}


def with_preset(config: ModelConfig, name: str) -> ModelConfig:
    """The model as a preset has it; an empty name leaves it as it is. Raises RequestError."""
    if not name:
        return config
    if name not in PRESETS:
        raise RequestError("unknown_preset", f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    if config.codec == "motion":
        raise RequestError("no_presets", f"the model {config.name} has no presets: they are for video models")
    preset = PRESETS[name]
    return replace(config.at_size(preset.width, preset.height), steps=preset.steps, codec=preset.decoder)
