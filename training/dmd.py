"""Distribution matching distillation (DMD): the gradient from the difference of two scores (arXiv:2311.18828).

Both scores are clean estimates of the same noised sample: one by a model of the real data, one by a critic that
follows what the generator makes. Where they differ the generator is pulled from the critic's to the real one's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""x0 of a noised sample [B, F, ...] at levels [B]."""


@torch.no_grad()
def pull(sample: Tensor, noisy: Tensor, sigma: Tensor, real: Score, fake: Score) -> Tensor:
    """g = (x0_fake - x0_real) / mean|x - x0_real| of each sample: the direction of descent of KL(fake || real)."""
    wanted = real(noisy, sigma)
    scale = (sample - wanted).abs().mean(tuple(range(1, sample.dim())), keepdim=True)
    return torch.nan_to_num((fake(noisy, sigma) - wanted) / scale.clamp(min=1e-8))


def matching_loss(sample: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient towards the sample is `gradient` over the number of values."""
    target = (sample - gradient).detach()
    return 0.5 * (sample - target).square().mean()
