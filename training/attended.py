"""What each chunk of a rollout attends to and is given, read from the rollout's own passes.

So a strategy is trained on one sequence (`training.sequence`) without being known to it. A strategy whose chunks cannot
lie in one sequence is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from engine.rollout.base import Pass
from engine.rollout.flow import FewStepSchedule
from engine.rollout.rehearsal import rehearse
from engine.rollout.strategies import find_strategy
from ground.config import RolloutSpec
from ground.errors import RequestError

UNSET = 10**6  # an index to which no rollout moves the reference
REFERENCE = -1


@dataclass(frozen=True, slots=True)
class ChunkContext:
    """What one chunk attends to. past: clean latents. sees_reference: whether it attends to the reference; reference:
    at which index, None = where the clip's own stands. span: latents denoised together. given: how many of them carry
    a condition."""

    past: frozenset[int]
    sees_reference: bool
    reference: int | None
    span: int
    given: int


@cache
def contexts_of(spec: RolloutSpec, chunks: int) -> tuple[ChunkContext, ...]:
    """Raises RequestError ``invalid_config`` for a strategy whose clean latents see other latents than its noisy ones,
    or that shows a latent at another index than its own."""
    rollout = find_strategy(spec.strategy)(spec, FewStepSchedule((1.0,), "x0"))
    cached: dict[int, int] = {}  # latent by cached frame
    found = []
    for number, passes in enumerate(rehearse(rollout, chunks, reference_index=UNSET)):
        first = number * spec.chunk
        own = [work for work in passes if work.reads or not work.is_commit]
        for work in passes[: len(passes) - len(own)]:
            cached.update((frame, REFERENCE) for frame in work.commits)
        noisy, commit = own[0], own[-1]
        if not commit.is_commit:
            raise _unfit(spec)
        context = _context(spec, noisy, cached, first)
        if _context(spec, commit, cached, first).past != context.past:
            raise _unfit(spec)
        cached.update((frame, first + at) for at, frame in enumerate(commit.commits) if frame >= 0)
        found.append(context)
    return tuple(found)


def _context(spec: RolloutSpec, work: Pass, cached: dict[int, int], first: int) -> ChunkContext:
    read = {cached[frame]: work.origin + at for frame, at in work.reads}
    at = read.pop(REFERENCE, None)
    own = [work.origin + at for at in work.positions]
    if any(latent != index for latent, index in read.items()) or not _follow(own, first):
        raise _unfit(spec)
    given = int(work.condition[:, work.latents.shape[1], 0, 0].sum())
    return ChunkContext(frozenset(read), at is not None, None if at == UNSET else at, work.frames, given)


def _follow(indices: Sequence[int], first: int) -> bool:
    return list(indices) == list(range(first, first + len(indices)))


def _unfit(spec: RolloutSpec) -> RequestError:
    return RequestError("invalid_config", f"the chunks of {spec.strategy} cannot be trained as one sequence")
