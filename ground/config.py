"""Frozen settings of the engine: which model on which device, and how its latents are rolled out.

Plain data: nothing here reads the environment or a file, and nothing is changed after it is built.
"""

from dataclasses import dataclass, replace

from ground.errors import RequestError

STRATEGIES = ("knot_forcing", "self_forcing", "overlap_chunks")
RUNNING_AHEAD = ("constant", "countdown")


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How one call's latents are rolled out (Knot Forcing, Algorithm 1; Self Forcing with the same fields).

    chunk: latents emitted together (c). knot: latents denoised ahead and shared with the next chunk (k); of
    overlap_chunks, latents that the chunk before has shown, which begin the next and are not shown again.
    window: latents attended, chunk included, knot and reference not (L): L - c past latents are cached (of
    overlap_chunks, none).
    sink: of these, the call's first latents stay attended for good (self_forcing; LongLive's frame sink).
    steps: indices into the schedule's 1000-point grid, high noise first.
    running_ahead: ``countdown`` is the paper's rule (the reference jumps ``stride`` ahead when the rollout comes
    near, its distance counts down in between); ``constant`` keeps it ``start`` latents ahead of the chunk.
    reference: a portrait is pinned in front of the past; without, there is only the text.
    start, stride: n0 = N_train + k and s = N_train for a model trained on N_train latents.
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
        if self.strategy not in STRATEGIES:
            raise RequestError(
                "unknown_rollout", f"unknown rollout {self.strategy!r}: choose one of {', '.join(STRATEGIES)}",
                param="rollout",
            )  # fmt: skip
        if self.running_ahead not in RUNNING_AHEAD:
            raise RequestError("invalid_rollout", f"running_ahead must be one of {', '.join(RUNNING_AHEAD)}")
        if not self.overlaps and not 0 <= self.knot <= self.chunk < self.window:
            raise RequestError("invalid_rollout", "a rollout needs 0 <= knot <= chunk < window")
        if self.overlaps and not 0 < self.knot <= self.chunk:
            raise RequestError("invalid_rollout", "chunks that overlap need 0 < knot <= chunk")
        if self.sink and not (self.strategy == "self_forcing" and 0 < self.sink <= self.context - self.chunk):
            raise RequestError(
                "invalid_rollout", "a sink is self_forcing's, and leaves a past chunk's room in the window"
            )
        if not self.steps or list(self.steps) != sorted(set(self.steps), reverse=True) or self.steps[-1] <= 0:
            raise RequestError("invalid_rollout", "steps must be positive and strictly falling")
        if self.steps[0] > 1000:
            raise RequestError("invalid_rollout", "steps index a grid of 1000 points")
        if self.start < self.chunk + self.knot or self.stride < self.chunk:
            raise RequestError(
                "invalid_rollout", "the reference must start at least chunk + knot ahead and jump by at least chunk"
            )

    @property
    def overlaps(self) -> bool:
        """Each chunk is a clip by itself, which begins with the last pictures of the one before."""
        return self.strategy == "overlap_chunks"

    @property
    def context(self) -> int:
        """Past latents attended (L - c)."""
        return 0 if self.overlaps else self.window - self.chunk

    def cached_frame(self, latent: int) -> int:
        """Where a past latent lies among a call's cached frames: behind the reference the sink, then a ring."""
        in_ring = max(0, latent - self.sink) % (self.context - self.sink)
        return int(self.reference) + min(latent, self.sink) + in_ring

    @property
    def ahead(self) -> int:
        """Latents whose drive a chunk needs beyond those it emits."""
        return 0 if self.overlaps else self.knot

    def emitted_frames(self, index: int, frames_per_latent: int) -> int:
        """Pictures of a stream's chunk number ``index``. A stream's first latent shows one, every later one all of its
        own; where chunks overlap, that latent is never among the emitted."""
        return self.chunk * frames_per_latent - (frames_per_latent - 1 if index == 0 and not self.overlaps else 0)


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
