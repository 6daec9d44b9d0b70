"""Presets of the training stages. A preset is a base plus `dataclasses.replace`; docs/training.md has the table.

The names of presets: what is trained, and for which machine. `smoke` is a run of a few steps for a test.
"""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ground.config import RolloutSpec
from ground.errors import RequestError
from models.config import EMBEDDED, WAN21_1_3B, ModelConfig
from training.bidirectional import Guidance
from training.clips import DropoutConfig
from training.dataset import ClipConfig
from training.losses import LossConfig
from training.ode import OdeConfig
from training.sequence import ExposureConfig


@dataclass(frozen=True, slots=True)
class CriticConfig:
    """rate: of the critic, which is trained every step; generator_every: the generator at every n-th. levels: least and
    largest noise level of the scores."""

    rate: float = 4e-7
    generator_every: int = 5
    levels: tuple[float, float] = (0.02, 0.98)


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage of one model.

    stage: ``base`` trains the bidirectional model, ``causal`` the causal one by `method`, ``distill`` the causal one by
    its own rollouts. method: of the causal stage; ``fine_tune`` goes on with a finished model (of `ode` it
    takes `reuse` alone). rollout, chunks: what the causal model is to be rolled out with, and for how long in training.
    hours: the run ends here even if steps are left. accumulate: pieces a batch is worked through in. rate .. clip:
    AdamW; warm: share of the steps over which the rate rises, final_rate: what it falls to. ema: decay of the averaged
    weights, which are the result. schedule: share of noise levels taken from those of the rollout. guidance: of the
    base model, where it teaches. recompute: trade time for memory in backward. dtype: of the autocast; ``auto`` is bf16
    where the processor computes in it (elsewhere it is three times slower than fp32). seed: of weights, noise and
    clips; another in each stage, or each would meet the same clips in the same order. workers: processes that prepare
    clips, 0 = the trainer itself. given: in the distillation, weight of the pull to values that the drive tells.
    """

    stage: Literal["base", "causal", "distill"]
    steps: int
    batch: int
    rate: float
    hours: float
    method: Literal["teacher_forcing", "ode", "fine_tune"] = "teacher_forcing"
    model: ModelConfig = EMBEDDED
    rollout: RolloutSpec = RolloutSpec()
    chunks: int = 7
    accumulate: int = 1
    final_rate: float = 0.03
    warm: float = 0.06
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.997
    schedule: float = 0.5
    recompute: bool = False
    dtype: str = "auto"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    save_every: int = 100
    sheet_every: int = 500
    clips: ClipConfig = field(default_factory=ClipConfig)
    exposure: ExposureConfig = ExposureConfig()
    dropout: DropoutConfig = DropoutConfig()
    loss: LossConfig = LossConfig()
    ode: OdeConfig = OdeConfig()
    critic: CriticConfig = CriticConfig()
    guidance: Guidance = Guidance()
    given: float = 2.0

    def __post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise RequestError(
                "invalid_config", f"a batch of {self.batch} does not divide into {self.accumulate} pieces"
            )
        assert self.method == "teacher_forcing" or self.save_every % self.ode.reuse == 0, "a path is not saved"

    @property
    def identity(self) -> dict[str, str]:
        """Identity of a run; a folder holds one run. Steps, hours, pieces and other settings of the machine may change
        on the way."""
        method = {"method": self.method} if self.stage == "causal" else {}
        return {
            "stage": self.stage,
            **method,
            "model": self.model.name,
            "size": "{}x{}".format(*self.model.pixel_size),
            "rollout": json.dumps(asdict(self.rollout)),
            "chunks": str(self.chunks),
            "batch": str(self.batch),
            "seed": str(self.seed),
        }

    @property
    def networks(self) -> tuple[str, ...]:
        return ("model", "critic") if self.stage == "distill" else ("model",)

    @property
    def needs_teacher(self) -> bool:
        return self.stage == "distill" or self.method != "teacher_forcing"


_DROPPED = DropoutConfig(text=0.1, drive=0.1, reference=0.1, both=0.1)
_AHEAD = ClipConfig(reference_ahead=(22, 44))
_EXPOSED = ExposureConfig(prefix=0.3, prefix_latents=8)

BASE = StageConfig(
    stage="base", steps=2800, batch=32, rate=1e-3, hours=2.0, schedule=0.0, clips=_AHEAD, exposure=_EXPOSED,
    dropout=_DROPPED,
)  # fmt: skip
CAUSAL = StageConfig(stage="causal", steps=1400, batch=32, rate=1e-3, hours=3.0, seed=10)
CAUSAL_ODE = replace(
    CAUSAL, method="ode", steps=440, rate=4e-4, ema=0.99, hours=1.5, loss=LossConfig(cap=1.5, blinks=3.0), seed=20
)
FINE_TUNE = replace(CAUSAL_ODE, method="fine_tune", steps=1000, rate=5e-4, ema=0.995, seed=50)
DISTILL = StageConfig(
    stage="distill", steps=500, batch=32, rate=1e-4, hours=2.0, betas=(0.0, 0.999), ema=0.99, final_rate=1.0,
    clips=_AHEAD, critic=CriticConfig(rate=2e-4), seed=30,
)  # fmt: skip

WAN_BASE = StageConfig(
    stage="base", model=WAN21_1_3B, steps=10_000, batch=64, accumulate=8, rate=1e-5, hours=336.0, betas=(0.9, 0.999),
    final_rate=0.1, warm=0.02, ema=0.9995, schedule=0.0, recompute=True, sheet_every=0, clips=_AHEAD, exposure=_EXPOSED,
    dropout=_DROPPED,
)  # fmt: skip
WAN_CAUSAL = replace(WAN_BASE, stage="causal", steps=3000, hours=168.0, schedule=0.5, dropout=DropoutConfig(), seed=10)
WAN_CAUSAL_ODE = replace(
    WAN_CAUSAL, method="ode", rate=2e-6, ema=0.99, hours=168.0, guidance=Guidance(6.0),
    ode=OdeConfig(teacher="base", paths=48), seed=20,
)  # fmt: skip
WAN_DISTILL = replace(
    WAN_CAUSAL, stage="distill", rate=2e-6, betas=(0.0, 0.999), clip=10.0, final_rate=1.0, warm=0.0, ema=0.99,
    guidance=Guidance(4.0), critic=CriticConfig(rate=4e-7), seed=30,
)  # fmt: skip

WAN_TINY = replace(
    WAN21_1_3B, name="wan-tiny", latent_size=(4, 4), pixel_size=(32, 32),
    dit=replace(
        WAN21_1_3B.dit, dim=48, layers=2, heads=2, ffn_dim=96, text_dim=24, drive_dim=16, drive_tokens=2,
        drive_blocks=(0,), frequency_dim=32,
    ),
)  # fmt: skip
"""The shape of Wan2.1 with its text, at a size for a dry run."""


def _smoke(config: StageConfig) -> StageConfig:
    return replace(
        config, steps=4, batch=2, accumulate=1, save_every=2, log_every=1, sheet_every=4,
        ode=replace(config.ode, reuse=2, spread_clips=2, paths=4),
        critic=replace(config.critic, generator_every=2),
    )  # fmt: skip


def _h200(config: StageConfig, steps: int, hours: float, batch: int = 256) -> StageConfig:
    """To cut a batch from the corpus takes a core longer than a step takes: several do it. fp32: so small a network
    waits for its launches, of which an autocast makes more. No sheets: a bare machine's OpenCV may be 5, which lacks
    what finds the sample portrait's face."""
    return replace(config, batch=batch, steps=steps, hours=hours, workers=6, dtype="float32", sheet_every=0)


def _ablation(chunks: int = 7, **rollout: Any) -> StageConfig:
    """A short fine-tune of the finished model for another rollout, so that no rollout is judged untrained."""
    return replace(CAUSAL_ODE, steps=100, hours=0.5, chunks=chunks, rollout=RolloutSpec(**rollout), seed=40)


PRESETS: dict[str, StageConfig] = {
    "base-cpu": BASE,
    "causal-cpu": CAUSAL,
    "causal-ode-cpu": CAUSAL_ODE,
    "fine-tune-cpu": FINE_TUNE,
    "distill-cpu": DISTILL,
    "self-forcing-cpu": replace(DISTILL, rollout=RolloutSpec(strategy="self_forcing", knot=0)),
    "ablation-own": _ablation(),
    "ablation-k0": _ablation(knot=0),
    "ablation-k2": _ablation(knot=2, chunks=6),
    "ablation-l9": _ablation(window=9),
    "ablation-self-forcing": _ablation(strategy="self_forcing", knot=0),
    "base-h200": _h200(BASE, 4000, 0.11),
    "causal-h200": _h200(CAUSAL, 4000, 0.13),
    "causal-ode-h200": _h200(CAUSAL_ODE, 800, 0.07),
    "distill-h200": _h200(DISTILL, 800, 0.14, batch=64),
    "wan-1.3b-base": WAN_BASE,
    "wan-1.3b-causal": WAN_CAUSAL,
    "wan-1.3b-causal-ode": WAN_CAUSAL_ODE,
    "wan-1.3b-distill": WAN_DISTILL,
}
_STAGES = ("base", "causal", "causal-ode", "distill")
PRESETS |= {f"{name}-smoke": _smoke(PRESETS[f"{name}-cpu"]) for name in (*_STAGES, "fine-tune")} | {
    f"wan-{name}-smoke": replace(_smoke(PRESETS[f"wan-1.3b-{name}"]), model=WAN_TINY) for name in _STAGES
}


def find_preset(name: str, stage: str) -> StageConfig:
    """Raises RequestError for an unknown name, or one of another stage."""
    fitting = sorted(known for known, config in PRESETS.items() if config.stage == stage)
    if name not in fitting:
        raise RequestError("unknown_config", f"unknown config {name!r} of {stage}: choose one of {', '.join(fitting)}")
    return PRESETS[name]


def with_size(config: StageConfig, size: str | None) -> StageConfig:
    """The same for pictures of WIDTHxHEIGHT, None = as they are. Raises RequestError where the model makes no such."""
    if size is None:
        return config
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None:
        raise RequestError("invalid_size", f"a size is WIDTHxHEIGHT, like 480x480, not {size!r}")
    return replace(config, model=config.model.at_size(int(sides[1]), int(sides[2])))
