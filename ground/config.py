"""Frozen settings of the engine: which model on which device, and how its latents are rolled out.

Plain data: nothing here reads the environment or a file, and nothing is changed after it is built.
"""

from dataclasses import dataclass, replace

from ground.errors import RequestError

RUNNING_AHEAD = ("constant", "countdown")


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How one call's latents are rolled out: numbers, whose meaning is the strategy's (``engine.rollout``).

    strategy: name in ``engine.rollout.strategies``. chunk: latents emitted together (c). knot: latents shared by two
    chunks (k). window: latents attended, chunk included, knot and reference not (L). sink: of these, the call's first
    latents that stay attended for good. steps: indices into the schedule's 1000-point grid, high noise first.
    running_ahead: how the reference keeps its distance (``countdown`` or ``constant``). start, stride: n0, the
    reference's first index, and s, how far it jumps. reference: a portrait is cached in front of the past; without,
    there is only the text.

    Only what holds for every strategy is checked here; the rest by the strategy. Raises RequestError
    ``invalid_rollout``.
    """

    strategy: str = "knot_forcing"
    chunk: int = 3
    knot: int = 1
    window: int = 6
    sink: int = 0
    steps: tuple[int, ...] = (1000, 750, 500, 250)
    running_ahead: str = "countdown"
    start: int = 22
    stride: int = 21
    reference: bool = True

    def __post_init__(self) -> None:
        if self.running_ahead not in RUNNING_AHEAD:
            raise RequestError("invalid_rollout", f"running_ahead must be one of {', '.join(RUNNING_AHEAD)}")
        if self.chunk < 1 or min(self.knot, self.window, self.sink) < 0:
            raise RequestError("invalid_rollout", "a rollout needs chunk > 0, and no number below 0")
        if not self.steps or list(self.steps) != sorted(set(self.steps), reverse=True) or self.steps[-1] <= 0:
            raise RequestError("invalid_rollout", "steps must be positive and strictly falling")
        if self.steps[0] > 1000:
            raise RequestError("invalid_rollout", "steps index a grid of 1000 points")


PRESETS = ("quality", "balanced", "realtime")  # of video models (models/presets.py), best picture first


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one worker process runs.

    model: name of the model, see ``models.registry``. device: ``cpu``, ``cuda`` or ``auto``. dtype: ``bfloat16``,
    ``float32``, ``auto`` (bf16 where the machine has it) or ``float8`` (bf16, a video model's linear layers in 8-bit
    floats). slots: calls one worker can hold at once.
    threads: CPU threads for torch, 0 = half the cores. random_weights: for tests and throughput figures.
    prompt: what a model that attends to text is told; text: or a file with its embedding.
    models_dir: folder of the models that are not in the package, empty = ``~/.cache/knotcast/models``.
    preset: one of a video model, empty = the size and steps that it comes with.
    """

    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 2
    threads: int = 0
    random_weights: bool = False
    prompt: str = ""
    text: str = ""
    models_dir: str = ""
    preset: str = ""

    @property
    def lower(self) -> "EngineConfig | None":
        """One preset lower, where less memory is needed; None below the last. A video model's own is the best."""
        following = PRESETS[PRESETS.index(self.preset or PRESETS[0]) + 1 :]
        return replace(self, preset=following[0]) if following else None
