"""Dry run of a rollout without a model: its passes, which depend on no value."""

import torch

from engine.rollout.base import Pass, Rollout


def rehearse(
    rollout: Rollout, chunks: int, shape: tuple[int, int, int] = (1, 1, 1), reference_index: int | None = None
) -> list[list[Pass]]:
    """The passes of each chunk of a call, answered with zeros. shape: [C, h, w] of a latent. reference_index: where the
    reference stands at first, None = where the rollout puts it."""
    state = rollout.new_state(torch.zeros(shape), torch.zeros(1, *shape[1:]), 0)
    if reference_index is not None:
        state.reference_index = reference_index
    found: list[list[Pass]] = []
    for _ in range(chunks):
        denoise, answer = rollout.denoise(state, torch.zeros(rollout.drive_latents, 1, 1)), None
        found.append([])
        while True:
            try:
                work = denoise.send(answer)
            except StopIteration:
                break
            found[-1].append(work)
            answer = None if work.is_commit else torch.zeros_like(work.latents)
    return found
