"""Task of the base model: bidirectional flow matching of a whole clip with mask inpainting.

The sequence is the reference at its index in the future, then the clip's latents. A reference that is shown is clean
and told so, as in the engine's reference pass; one that is withheld is noise like the rest. A given prefix is a
condition (channels and mask) whose own noise stays noise, exactly as the causal rollout's knot.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.dit.attention import BlockMask
from models.dit.transformer import CausalWanDiT
from training.clips import ClipBatch, DropoutConfig, withhold
from training.noise import Draws, add_noise, to_x0
from training.sequence import ExposureConfig


@dataclass(frozen=True, slots=True)
class WholeClip:
    """Inputs of a forward without its noise, the reference first: target, condition, drive [B, 1 + F, ...]. shown [B]:
    whether the reference is given."""

    target: Tensor
    condition: Tensor
    drive: Tensor
    positions: Tensor
    shown: Tensor
    text: Tensor | None

    def sigmas(self, sigma: Tensor) -> Tensor:
        """One level a clip [B] to one a frame [B, 1 + F]; a shown reference has none."""
        level = sigma[:, None].expand(-1, self.target.shape[1]).clone()
        level[:, 0] = torch.where(self.shown, 0.0, level[:, 0])
        return level


def build(batch: ClipBatch, exposure: ExposureConfig, dropout: DropoutConfig, draws: Draws) -> WholeClip:
    """Draw what is exposed and what is withheld."""
    batch = withhold(batch, dropout, draws)
    size, frames = batch.latents.shape[:2]
    shown = draws.rand() >= dropout.reference
    exposed = draws.rand() < exposure.prefix
    length = 1 + draws.randint(min(exposure.prefix_latents, frames - 1))
    return lay_out(batch, shown, torch.where(exposed, length, 0))


def lay_out(batch: ClipBatch, shown: Tensor, prefix: Tensor) -> WholeClip:
    """shown [B] bool, prefix [B]: how many first latents are given."""
    latents = batch.latents
    size, frames, channels, height, width = latents.shape
    reference = latents.new_zeros(size, channels, height, width) if batch.portrait is None else batch.portrait
    target = torch.cat([reference[:, None], latents], 1)
    at = torch.arange(frames, device=latents.device)
    given = torch.cat([shown[:, None], at < prefix[:, None]], 1).to(latents.dtype)[:, :, None, None, None]
    features = (batch.features * shown[:, None])[:, None, :, None, None].expand(-1, 1 + frames, -1, height, width)
    mask = given.expand(-1, -1, 1, height, width)
    return WholeClip(
        target=target,
        condition=torch.cat([target * given, mask, features], 2),
        drive=torch.cat([torch.zeros_like(batch.drive[:, :1]), batch.drive], 1),
        positions=torch.cat([batch.reference[:, None], at.expand(size, -1)], 1),
        shown=shown,
        text=batch.text,
    )


def conditioned(batch: ClipBatch) -> WholeClip:
    """The clip with its reference given and no prefix, for generating a whole clip."""
    size, device = len(batch.latents), batch.latents.device
    return lay_out(
        batch, torch.ones(size, dtype=torch.bool, device=device), torch.zeros(size, dtype=torch.long, device=device)
    )


def unconditioned(batch: ClipBatch, without: tuple[str, ...]) -> WholeClip:
    """The same with the named conditions (text, drive, reference) withheld."""
    if "drive" in without:
        batch = replace(batch, drive=torch.zeros_like(batch.drive))
    if "text" in without and batch.text is not None:
        batch = replace(batch, text=torch.zeros_like(batch.text))
    clip = conditioned(batch)
    if "reference" in without:
        clip = lay_out(batch, torch.zeros_like(clip.shown), torch.zeros_like(batch.reference))
    return clip


def predict(model: CausalWanDiT, clip: WholeClip, noisy: Tensor, sigma: Tensor) -> Tensor:
    """noisy [B, 1 + F, ...] (a shown reference is put in clean), sigma [B]; returns x0 of the clip [B, F, ...]."""
    sigmas = clip.sigmas(sigma)
    noisy = torch.cat(
        [torch.where(clip.shown[:, None, None, None], clip.target[:, 0], noisy[:, 0])[:, None], noisy[:, 1:]], 1
    )
    out: Tensor = model(noisy, sigmas, clip.condition, clip.drive, clip.text, BlockMask(), clip.positions)
    return to_x0(out, noisy, sigmas, model.config.prediction)[:, 1:]


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance. scale 1 uses the conditioned model alone."""

    scale: float = 1.0
    without: tuple[str, ...] = ("text", "drive")


@torch.no_grad()
def guided(model: CausalWanDiT, batch: ClipBatch, noisy: Tensor, sigma: Tensor, guidance: Guidance) -> Tensor:
    """Guided x0 [B, F, ...] of noisy [B, 1 + F, ...]: moved away from the prediction without conditions."""
    with_all = predict(model, conditioned(batch), noisy, sigma)
    if guidance.scale == 1.0:
        return with_all
    without = predict(model, unconditioned(batch, guidance.without), noisy, sigma)
    return without + guidance.scale * (with_all - without)


@torch.no_grad()
def walk(
    model: CausalWanDiT, batch: ClipBatch, sigmas: list[float], noise: Tensor, guidance: Guidance
) -> tuple[list[Tensor], Tensor]:
    """Euler steps from noise [B, 1 + F, ...] down `sigmas` (the last is 0): the states of the clip [B, F, ...] before
    each step, and the end."""
    x, end, states = noise, noise[:, 1:], []
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        states.append(x[:, 1:])
        end = guided(model, batch, x, x.new_full((len(x),), sigma), guidance)
        clean = torch.cat([_reference(batch, x), end], 1)
        x = clean + (following / sigma) * (x - clean)
    return states, end


def _reference(batch: ClipBatch, like: Tensor) -> Tensor:
    return torch.zeros_like(like[:, :1]) if batch.portrait is None else batch.portrait[:, None]


def noised(clip: WholeClip, sigma: Tensor, draws: Draws) -> Tensor:
    """The clip's own latents, the reference among them, at noise level sigma [B]."""
    return add_noise(clip.target, draws.randn(*clip.target.shape[1:]), sigma[:, None].expand(clip.target.shape[:2]))
