"""Rollout interface: a generator that yields passes, is sent predictions and returns the clean latents of one chunk.

It owns no model, no device and no clock; its noise comes from the generator in its state. So a strategy is about a
hundred lines, is tested against a toy oracle in closed form, and passes of different calls that share a shape run as
one batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.rollout.flow import FewStepSchedule
from ground.config import RolloutSpec
from ground.errors import RequestError
from models.config import ModelConfig

REFERENCE_SLOT = 0  # pinned frame of the cache


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One run of the transformer over F latent frames of one call.

    latents [F, C, h, w]; sigmas: noise level per frame; condition [F, C+1+r, h, w] (condition latent, mask with 1 =
    given, reference features); drive [F, n, d]; positions: temporal position per frame, relative to ``origin``, the
    latent index of window position 0. reads: (cached frame, position) attended besides the own frames. commits: for
    each own frame the cached frame that takes its keys and values, -1 = none. mask: [F, K + F] which frames see
    which, None = all see all. Nothing is predicted for the clean frames that a pass commits; a commit pass (all frames
    clean) is answered with None.
    """

    latents: Tensor
    sigmas: tuple[float, ...]
    condition: Tensor
    drive: Tensor
    positions: tuple[int, ...]
    origin: int
    reads: tuple[tuple[int, int], ...]
    commits: tuple[int, ...] = ()
    mask: tuple[tuple[bool, ...], ...] | None = None

    @property
    def frames(self) -> int:
        return self.latents.shape[0]

    @property
    def is_commit(self) -> bool:
        return bool(self.commits) and not any(self.sigmas)

    @property
    def clean(self) -> int:
        """Number of leading frames that are committed and not predicted; the answer is for the others."""
        return sum(sigma == 0.0 for sigma in self.sigmas) if self.commits else 0

    @property
    def kept(self) -> tuple[int, ...]:
        """Own frames that are written to the cache."""
        return tuple(own for own, frame in enumerate(self.commits) if frame >= 0)

    @property
    def shape_key(self) -> tuple[object, ...]:
        """Passes with equal keys have equal shapes and can run as one batch."""
        return (tuple(self.latents.shape), len(self.reads), self.clean, self.kept, self.mask)


@dataclass(slots=True)
class RolloutState:
    """Everything one call's rollout remembers; its size does not grow with the call.

    reference: [C, h, w] clean reference latent; features: [r, h, w], or [F, r, h, w] where they differ by latent of a
    chunk. next_latent: i, index of the next latent to emit. reference_index: n, where in time the reference stands.
    knot: [k, C, h, w] or None, what a chunk hands to the next. generator: the call's noise.
    """

    reference: Tensor
    features: Tensor
    generator: torch.Generator
    reference_index: int
    next_latent: int = 0
    knot: Tensor | None = None


Denoise = Generator[Pass, Tensor | None, Tensor]


class Rollout(ABC):
    """A strategy: which passes make a chunk, and what that needs of the drive, the cache and the model.

    What is not abstract holds for chunks that attend to past chunks and need no drive beyond their own.
    """

    def __init__(self, spec: RolloutSpec, schedule: FewStepSchedule) -> None:
        """Raises RequestError ``invalid_rollout``."""
        self.check(spec)
        self.spec = spec
        self.schedule = schedule

    @classmethod
    @abstractmethod
    def misfit(cls, config: ModelConfig) -> str:
        """Reason why a model does not fit this strategy, as the end of a sentence that begins with its name; empty = it
        fits."""

    @classmethod
    @abstractmethod
    def check(cls, spec: RolloutSpec) -> None:
        """Raises RequestError ``invalid_rollout`` for fields that the strategy cannot work with."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Past latents that are cached."""

    @property
    def cached_frames(self) -> int:
        """Frames of one call in the cache: the reference, if there is one, and the past."""
        return int(self.spec.reference) + self.context

    @property
    def drive_latents(self) -> int:
        """Latents of drive that the next chunk needs, from ``state.next_latent`` on."""
        return self.spec.chunk

    @property
    def ahead(self) -> int:
        """Latents whose drive a chunk needs beyond those it emits."""
        return 0

    def emitted_frames(self, index: int, frames_per_latent: int) -> int:
        """Pictures of a stream's chunk number ``index``. A stream's first latent shows one, every later one all of its
        own."""
        return self.spec.chunk * frames_per_latent - (frames_per_latent - 1 if index == 0 else 0)

    def new_state(self, reference: Tensor, features: Tensor, seed: int) -> RolloutState:
        """Of a call; reference and features as in ``RolloutState``. ``state.reference_index`` may be set before the
        first chunk; a strategy that places the reference itself ignores it."""
        return RolloutState(reference, features, torch.Generator().manual_seed(seed), reference_index=0)

    @abstractmethod
    def denoise(self, state: RolloutState, drive: Tensor) -> Denoise:
        """Make one chunk: returns clean latents [c, C, h, w] and moves the state on. The last pass it asks for is the
        commit of these latents; the driver may hold that and ``join`` it with the next chunk's first pass."""


def refuse_unless(holds: bool, message: str) -> None:
    """Raises RequestError ``invalid_rollout``."""
    if not holds:
        raise RequestError("invalid_rollout", message)


def make_condition(given: Tensor | None, features: Tensor, frames: int, shape: tuple[int, ...]) -> Tensor:
    """[F, C+1+r, h, w]: the first ``len(given)`` frames carry the given latents and mask 1, the others zeros."""
    channels, height, width = shape
    condition = features.new_zeros(frames, channels + 1 + features.shape[0], height, width)
    condition[:, channels + 1 :] = features
    if given is not None:
        condition[: len(given), :channels] = given
        condition[: len(given), channels] = 1.0
    return condition


def reference_pass(state: RolloutState, drive: Tensor) -> Pass:
    """Cache the reference: alone, clean, given by its mask, with a null (all-zero) drive. It attends only to itself
    at one temporal position, so its keys may later be rotated to any index without another pass."""
    latent = state.reference[None]
    return Pass(
        latents=latent, sigmas=(0.0,), condition=make_condition(latent, state.features, 1, tuple(latent.shape[1:])),
        drive=torch.zeros_like(drive[:1]), positions=(0,), origin=state.next_latent, reads=(),
        commits=(REFERENCE_SLOT,),
    )  # fmt: skip


def join(commit: Pass, first: Pass) -> Pass:
    """One forward for the commit of a chunk and the first pass of the next: same result, one forward fewer.

    The committed frames see what they would have seen alone (never a noisy frame); the noisy frames see them as own
    frames instead of through the cache. The reference stands twice among the keys when the two passes read it at
    different positions, each copy seen by its own queries. The prediction is of the noisy frames.
    """
    shift = commit.origin - first.origin  # bring the commit's window positions into the first pass's
    committed = {slot for slot in commit.commits if slot >= 0}
    of_commit = [(slot, at + shift) for slot, at in commit.reads]
    of_first = [read for read in first.reads if read[0] not in committed]
    reads = list(dict.fromkeys(of_commit + of_first))
    clean_row = tuple(read in of_commit for read in reads) + (True,) * commit.frames + (False,) * first.frames
    kept = tuple(slot in {read[0] for read in first.reads} for slot in commit.commits)
    noisy_row = tuple(read in of_first for read in reads) + kept + (True,) * first.frames
    return replace(
        first,
        latents=torch.cat([commit.latents, first.latents]),
        sigmas=commit.sigmas + first.sigmas,
        condition=torch.cat([commit.condition, first.condition]),
        drive=torch.cat([commit.drive, first.drive]),
        positions=tuple(at + shift for at in commit.positions) + first.positions,
        reads=tuple(reads),
        commits=commit.commits + (-1,) * first.frames,
        mask=(clean_row,) * commit.frames + (noisy_row,) * first.frames,
    )
