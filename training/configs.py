"""Stages of training the embedded model, as data. A preset is a base plus `dataclasses.replace`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from training.dataset import ClipConfig
from training.losses import LossConfig
from training.sequence import ExposureConfig


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One stage. `base` trains from noise by teacher forcing, `distil` regresses a teacher's paths.

    schedule: share of noise levels taken from the four of the rollout. paths, reuse: for distillation, steps of the
    teacher and how many student steps one path serves; spread_clips, spread_limit: clips on which its missing spread is
    measured, and the most it is stretched by. warm: share of the steps over which the rate rises. dtype: of the
    autocast; ``auto`` is bf16 where the processor computes in it (elsewhere it is three times slower than fp32).
    """

    stage: Literal["base", "distil"] = "base"
    steps: int = 2800
    batch: int = 32
    rate: float = 1e-3
    final_rate: float = 0.03
    warm: float = 0.06
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.997
    schedule: float = 0.5
    paths: int = 12
    reuse: int = 4
    spread_clips: int = 96
    spread_limit: float = 1.5
    dtype: str = "auto"
    seed: int = 0
    log_every: int = 10
    save_every: int = 100
    clips: ClipConfig = field(default_factory=ClipConfig)
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    loss: LossConfig = field(default_factory=LossConfig)


BASE = TrainConfig()
DISTIL = replace(BASE, stage="distil", steps=440, rate=4e-4, ema=0.99, loss=LossConfig(cap=1.5, blinks=3.0))
PRESETS: dict[str, TrainConfig] = {
    "base-cpu": BASE,
    "distil-cpu": DISTIL,
    "base-smoke": replace(BASE, steps=4, batch=2, save_every=2, log_every=1),
    "distil-smoke": replace(DISTIL, steps=4, batch=2, save_every=2, log_every=1, spread_clips=2),
}
