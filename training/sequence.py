"""Causal teacher forcing in one forward: the whole rollout of a clip as one sequence of latents under a block mask.

The sequence is the reference, then the clean latents of every chunk but the last (what the cache would hold), then for
each chunk its c + k noisy latents, which overlap the next chunk's. Masks, positions and conditions are those of Knot
Forcing's passes (engine.rollout.knot_forcing), so one gradient step trains what seven chunks of rollout ask of the
network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import BlockMask
from models.dit import CausalWanDiT
from training.dataset import ClipBatch

CHUNK, KNOT, CHUNKS = 3, 1, 7
SPAN = CHUNK + KNOT
CLEAN = CHUNK * (CHUNKS - 1)


@dataclass(frozen=True, slots=True)
class ExposureConfig:
    """What the network is shown of the past. Standard deviations are of latents, the noise is not told to the
    network."""

    knot_given: float = 0.84
    knot_noise: float = 0.05
    context_noise: float = 0.025


@dataclass(frozen=True, slots=True)
class Sequence:
    """Everything of a forward but the noisy latents. context: reference and clean latents, [B, 19, ...]; noisy:
    condition, drive and positions of the noisy latents [B, 28, ...]; target: their clean values [B, 28, 16, 2, 2]."""

    context_latents: Tensor
    context_condition: Tensor
    context_drive: Tensor
    context_positions: Tensor
    noisy_condition: Tensor
    noisy_drive: Tensor
    noisy_positions: Tensor
    target: Tensor


def noisy_latents() -> Tensor:
    """Clip latent of each noisy latent, [28]: 0 1 2 3, 3 4 5 6, ..."""
    return (torch.arange(CHUNKS)[:, None] * CHUNK + torch.arange(SPAN)).flatten()


def frame_mask() -> Tensor:
    """[47, 47] bool, True = may attend. The reference sees itself; clean and noisy chunks see the reference, the clean
    latents of the chunk before and themselves."""
    kind = torch.cat([torch.tensor([0]), torch.ones(CLEAN), torch.full((CHUNKS * SPAN,), 2.0)]).long()
    chunk = torch.cat(
        [
            torch.tensor([-9]),
            torch.arange(CHUNKS - 1).repeat_interleave(CHUNK),
            torch.arange(CHUNKS).repeat_interleave(SPAN),
        ]
    )
    itself = (kind[:, None] == kind) & (chunk[:, None] == chunk)
    past = (kind == 1) & (chunk == chunk[:, None] - 1)
    return itself | past | ((kind == 0) & (kind[:, None] > 0))


MASK = frame_mask()


def build(batch: ClipBatch, exposure: ExposureConfig, generator: torch.Generator) -> Sequence:
    """Draw what is exposed and lay a batch out as one sequence."""
    latents, drive = batch.latents, batch.drive
    size, _, channels, height, width = latents.shape
    features = batch.features[:, None, :, None, None].expand(-1, CHUNKS * SPAN, -1, height, width)
    given = torch.rand(size, CHUNKS, generator=generator) < exposure.knot_given
    given[:, 0] = False

    def noise(like: Tensor, deviation: float) -> Tensor:
        amount = torch.rand(size, 1, 1, 1, 1, generator=generator) * 2 * deviation
        return torch.randn(like.shape, generator=generator) * amount

    clean = latents[:, :CLEAN] + noise(latents[:, :CLEAN], exposure.context_noise)
    order = noisy_latents()
    knots = latents[:, 0 : CHUNKS * CHUNK : CHUNK]
    knots = knots + noise(knots, exposure.knot_noise)
    clean_condition = _condition(clean[:, ::CHUNK], given[:, :-1], CHUNK, features)
    noisy_condition = _condition(knots, given, SPAN, features)
    reference = latents.new_zeros(size, 1, channels, height, width)
    own = torch.cat([reference, reference.new_ones(size, 1, 1, height, width), features[:, :1]], dim=2)
    positions = torch.arange(CLEAN).expand(size, -1)
    return Sequence(
        context_latents=torch.cat([reference, clean], 1),
        context_condition=torch.cat([own, clean_condition], 1),
        context_drive=torch.cat([torch.zeros_like(drive[:, :1]), drive[:, :CLEAN]], 1),
        context_positions=torch.cat([batch.reference[:, None], positions], 1),
        noisy_condition=noisy_condition,
        noisy_drive=drive[:, order],
        noisy_positions=order.expand(size, -1),
        target=latents[:, order],
    )


def _condition(knots: Tensor, given: Tensor, span: int, features: Tensor) -> Tensor:
    """[B, chunks * span, C + 1 + r, h, w]: a given knot in slot 0 of its chunk, features everywhere."""
    size, chunks, channels, height, width = knots.shape
    out = knots.new_zeros(size, chunks, span, channels + 1, height, width)
    shown = given[:, :, None, None, None].to(knots.dtype)
    out[:, :, 0, :channels] = knots * shown
    out[:, :, 0, channels:] = shown
    return torch.cat([out.flatten(1, 2), features[:, : chunks * span]], dim=2)


def predict(model: CausalWanDiT, sequence: Sequence, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """One forward over the whole sequence; noisy [B, 28, 16, 2, 2], sigmas [B, 28]; returns x0 [B, 28, 16, 2, 2]."""
    size, context = sequence.context_positions.shape
    out: Tensor = model(
        torch.cat([sequence.context_latents, noisy], 1),
        torch.cat([sigmas.new_zeros(size, context), sigmas], 1),
        torch.cat([sequence.context_condition, sequence.noisy_condition], 1),
        torch.cat([sequence.context_drive, sequence.noisy_drive], 1),
        None,
        BlockMask(MASK.to(noisy.device)),
        torch.cat([sequence.context_positions, sequence.noisy_positions], 1),
    )
    return out[:, context:].float()


class RecordedContext:
    """A CacheView that keeps the context's keys and values of one forward and shows them to the following ones."""

    def __init__(self, positions: Tensor) -> None:
        context = positions.shape[1]
        self.positions: Tensor | None = None
        self.mask: Tensor | None = MASK[:context, :context]
        self._recorded_positions = positions
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._noisy_mask = MASK[context:]

    def show(self) -> None:
        """From now on forwards are of noisy latents."""
        self.positions, self.mask = self._recorded_positions, self._noisy_mask

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._kept[layer]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.positions is None:
            assert layer == len(self._kept)
            self._kept.append((keys.flatten(1, 2), values.flatten(1, 2)))


@torch.no_grad()
def record(model: CausalWanDiT, sequence: Sequence) -> RecordedContext:
    """Run the context alone: what many forwards over the same clip can share."""
    view = RecordedContext(sequence.context_positions)
    model(
        sequence.context_latents, torch.zeros(sequence.context_positions.shape), sequence.context_condition,
        sequence.context_drive, None, view, sequence.context_positions,
    )  # fmt: skip
    view.show()
    return view


@torch.no_grad()
def predict_recorded(
    model: CausalWanDiT, sequence: Sequence, view: RecordedContext, noisy: Tensor, sigma: float
) -> Tensor:
    """x0 of the noisy latents at one noise level, with a recorded context; equals `predict`."""
    sigmas = torch.full(noisy.shape[:2], sigma)
    out: Tensor = model(
        noisy, sigmas, sequence.noisy_condition, sequence.noisy_drive, None, view, sequence.noisy_positions
    )
    return out.float()
