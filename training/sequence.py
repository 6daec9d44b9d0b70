"""Causal teacher forcing in one forward: a clip's whole rollout as one sequence of latents under a block mask.

The sequence is the reference, then the clean latents of every chunk but the last (what the cache would hold), then for
each chunk its c + k noisy latents, which overlap the next chunk's. Masks, positions and conditions are those of the
engine's passes (engine.rollout), so one gradient step trains what seven chunks of rollout ask of the network.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ground.config import RolloutSpec
from models.dit.attention import BlockMask, FrameRuns
from models.dit.transformer import CausalWanDiT
from training.attended import ChunkContext, contexts_of
from training.clips import ClipBatch
from training.noise import Draws, to_x0


@dataclass(frozen=True, slots=True)
class ExposureConfig:
    """What the network is shown of the past. Standard deviations are of latents, the noise is not told to the
    network. prefix: probability per clip that its first latents are given (bidirectional), and at most how many."""

    knot_given: float = 0.84
    knot_noise: float = 0.05
    context_noise: float = 0.025
    prefix: float = 0.0
    prefix_latents: int = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a clip's chunks in the sequence. c: latents that a chunk emits; k: latents denoised beyond."""

    spec: RolloutSpec
    chunks: int

    @property
    def chunk(self) -> int:
        return self.spec.chunk

    @property
    def span(self) -> int:
        """Noisy latents of a chunk, c + k."""
        return self.contexts[0].span

    @property
    def contexts(self) -> tuple[ChunkContext, ...]:
        return contexts_of(self.spec, self.chunks)

    @property
    def knot(self) -> int:
        """Latents that a chunk is given of the one before."""
        return self.contexts[-1].given

    @property
    def clean(self) -> int:
        return self.spec.chunk * (self.chunks - 1)

    @property
    def latents(self) -> int:
        """Of a clip: all that is emitted, and the last knot."""
        return self.chunks * self.chunk + self.span - self.chunk

    @property
    def starts(self) -> Tensor:
        """First latent of each chunk."""
        return torch.arange(self.chunks) * self.spec.chunk

    @property
    def order(self) -> Tensor:
        """Clip latent of each noisy latent: 0 1 2 3, 3 4 5 6, ..."""
        return (self.starts[:, None] + torch.arange(self.span)).flatten()

    @property
    def moving(self) -> bool:
        """Whether the reference stands at another index for every chunk; each chunk then sees its own copy."""
        return self.contexts[0].reference is not None

    @property
    def context(self) -> int:
        """Frames before the noisy ones: reference and clean latents."""
        return (self.chunks if self.moving else 1) + self.clean

    def reference_positions(self, index: Tensor) -> Tensor:
        """[B, copies]: where the rollout puts the reference for each chunk, or the clip's own index [B]."""
        if not self.moving:
            return index[:, None]
        return torch.tensor([each.reference for each in self.contexts], device=index.device).expand(len(index), -1)


@dataclass(frozen=True, slots=True)
class Sequence:
    """Inputs of a forward, except the noisy latents. context: references and clean latents, [B, N, ...]; noisy:
    condition, drive and positions of the noisy latents [B, M, ...]; target: their clean values [B, M, C, h, w]."""

    layout: Layout
    context_latents: Tensor
    context_condition: Tensor
    context_drive: Tensor
    context_positions: Tensor
    noisy_condition: Tensor
    noisy_drive: Tensor
    noisy_positions: Tensor
    target: Tensor
    text: Tensor | None


@cache
def frame_mask(layout: Layout) -> Tensor:
    """[N + M, N + M] bool, True = may attend. A reference sees itself; clean and noisy chunks see the reference and the
    clean latents that their rollout shows them, and themselves."""
    copies = layout.context - layout.clean
    kind = torch.tensor([0] * copies + [1] * layout.clean + [2] * layout.chunks * layout.span)
    chunk = torch.cat(
        [
            torch.arange(copies),
            torch.arange(layout.chunks - 1).repeat_interleave(layout.chunk),
            torch.arange(layout.chunks).repeat_interleave(layout.span),
        ]
    )
    latent = torch.cat([torch.zeros(copies).long(), torch.arange(layout.clean), layout.order])
    itself = (kind[:, None] == kind) & (chunk[:, None] == chunk)
    attended = torch.zeros(layout.chunks, layout.latents, dtype=torch.bool)
    for number, context in enumerate(layout.contexts):
        attended[number, list(context.past)] = True
    past = (kind == 1) & attended[chunk][:, latent]
    shown = torch.tensor([context.sees_reference for context in layout.contexts])[chunk, None]
    own_copy = (kind == 0) & shown & ((chunk[:, None] == chunk) if layout.moving else True)
    return itself | ((past | own_copy) & (kind[:, None] > 0))


def as_seen(mask: Tensor, latents: Tensor) -> Tensor | FrameRuns:
    """A frame mask in attention's form: as runs, for frames of many tokens (latents [B, F, C, h, w])."""
    return FrameRuns.of(mask) if latents.shape[-1] * latents.shape[-2] > 64 else mask.to(latents.device)


def build(batch: ClipBatch, layout: Layout, exposure: ExposureConfig, draws: Draws) -> Sequence:
    """Draw what is exposed and lay a batch out as one sequence."""
    latents, drive = batch.latents[:, : layout.latents], batch.drive[:, : layout.latents]
    size, _, channels, height, width = latents.shape
    features = batch.features[:, None, :, None, None].expand(-1, layout.chunks * layout.span, -1, height, width)
    given = draws.rand(layout.chunks) < exposure.knot_given
    given[:, 0] = False

    def noised(clean: Tensor, deviation: float) -> Tensor:
        amount = draws.rand(1, 1, 1, 1) * 2 * deviation
        return clean + draws.randn(*clean.shape[1:]) * amount

    clean = noised(latents[:, : layout.clean], exposure.context_noise)
    knots = latents.unfold(1, layout.chunk, layout.chunk)[:, : layout.chunks].movedim(-1, 2)[:, :, : layout.knot]
    knots = noised(knots.flatten(1, 2), exposure.knot_noise).view_as(knots)
    own_knots = clean.unflatten(1, (-1, layout.chunk))[:, :, : layout.knot]
    reference = latents.new_zeros(size, channels, height, width) if batch.portrait is None else batch.portrait
    references = reference[:, None].expand(-1, layout.context - layout.clean, -1, -1, -1)
    own = torch.cat([references, torch.ones_like(references[:, :, :1]), features[:, : references.shape[1]]], dim=2)
    positions = torch.arange(layout.clean, device=latents.device).expand(size, -1)
    order = layout.order.to(latents.device)
    return Sequence(
        layout=layout,
        context_latents=torch.cat([references, clean], 1),
        context_condition=torch.cat([own, _condition(own_knots, given[:, :-1], layout.chunk, features)], 1),
        context_drive=torch.cat([torch.zeros_like(drive[:, : references.shape[1]]), drive[:, : layout.clean]], 1),
        context_positions=torch.cat([layout.reference_positions(batch.reference), positions], 1),
        noisy_condition=_condition(knots, given, layout.span, features),
        noisy_drive=drive[:, order],
        noisy_positions=order.expand(size, -1),
        target=latents[:, order],
        text=batch.text,
    )


def _condition(knots: Tensor, given: Tensor, span: int, features: Tensor) -> Tensor:
    """[B, chunks * span, C + 1 + r, h, w]: given knots [B, chunks, k, C, h, w] in the first slots of their chunks,
    features everywhere."""
    size, chunks, knot, channels, height, width = knots.shape
    out = knots.new_zeros(size, chunks, span, channels + 1, height, width)
    shown = given[:, :, None, None, None, None].to(knots.dtype)
    out[:, :, :knot, :channels] = knots * shown
    out[:, :, :knot, channels:] = shown
    return torch.cat([out.flatten(1, 2), features[:, : chunks * span]], dim=2)


def predict(model: CausalWanDiT, sequence: Sequence, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """One forward over the whole sequence; noisy [B, M, C, h, w], sigmas [B, M]; returns x0 [B, M, C, h, w]."""
    size, context = sequence.context_positions.shape
    out: Tensor = model(
        torch.cat([sequence.context_latents, noisy], 1),
        torch.cat([sigmas.new_zeros(size, context), sigmas], 1),
        torch.cat([sequence.context_condition, sequence.noisy_condition], 1),
        torch.cat([sequence.context_drive, sequence.noisy_drive], 1),
        sequence.text,
        BlockMask(as_seen(frame_mask(sequence.layout), noisy)),
        torch.cat([sequence.context_positions, sequence.noisy_positions], 1),
    )
    return to_x0(out[:, context:], noisy, sigmas, model.config.prediction)


class RecordedContext:
    """A CacheView that keeps the context's keys and values of one forward and shows them to the following ones."""

    def __init__(self, sequence: Sequence) -> None:
        mask, context = frame_mask(sequence.layout), sequence.layout.context
        self.positions: Tensor | None = None
        self.mask = as_seen(mask[:context, :context], sequence.target)
        self._recorded_positions = sequence.context_positions
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._noisy_mask = as_seen(mask[context:], sequence.target)

    def show(self) -> None:
        """Switch to forwards of noisy latents."""
        self.positions, self.mask = self._recorded_positions, self._noisy_mask

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._kept[layer]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if self.positions is None:
            assert layer == len(self._kept)
            self._kept.append((keys.flatten(1, 2), values.flatten(1, 2)))


@torch.no_grad()
def record(model: CausalWanDiT, sequence: Sequence) -> RecordedContext:
    """Run the context alone, for many forwards over the same clip to share."""
    view = RecordedContext(sequence)
    model(
        sequence.context_latents, torch.zeros_like(sequence.context_positions, dtype=torch.float32),
        sequence.context_condition, sequence.context_drive, sequence.text, view, sequence.context_positions,
    )  # fmt: skip
    view.show()
    return view


@torch.no_grad()
def predict_recorded(
    model: CausalWanDiT, sequence: Sequence, view: RecordedContext, noisy: Tensor, sigma: float
) -> Tensor:
    """x0 of the noisy latents at one noise level, with a recorded context; equals `predict`."""
    sigmas = torch.full(noisy.shape[:2], sigma, device=noisy.device)
    out: Tensor = model(
        noisy, sigmas, sequence.noisy_condition, sequence.noisy_drive, sequence.text, view, sequence.noisy_positions
    )
    return to_x0(out, noisy, sigmas, model.config.prediction)
