"""Estimate of a video model's GPU memory, calculated before anything is loaded.

Weights and decoding are counted on the meta device, where tensors have sizes but no memory. The size of the cache is a
product of its dimensions. The peak of a forward pass is estimated: on an H200 (1.3B, bf16) it grew by 68.5 kB a token
between 832x480 and 512x512, which is 22.3 values per channel; the plan assumes 24.

Measured on that GPU with its memory limited: ``realtime`` and ``balanced`` ran in 8 GiB (4.6 and 5.7 GiB allocated, 5.5
and 6.8 reserved), ``quality`` in 24 GiB (14.9 allocated, 19.2 reserved). ``quality`` ran out of memory in 16 GiB, at a
time when the compiled decoder's peak was 5.6 GB above that of the plain decoder, mostly because its states kept too
much. Its plan is 13.2 GiB; it has not been run in 16 GiB since.

The plan counts the plain decoder. The compiled decoder also holds a block's inputs, up to 1 GB at that size, until the
block has run; the planned workspace must cover them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ground.errors import EngineError
from models.codecs.carry import StreamState
from models.codecs.wan import DECODERS, on_meta
from models.codecs.wan_vae import WanEncoder
from models.config import ModelConfig
from models.dit.float8 import in_float8
from models.dit.transformer import CausalWanDiT
from models.presets import PRESETS, with_preset

GIB = 2**30
BYTES = 2  # per bf16 value
TEXT_TOKENS = 512
PASS_VALUES = 24  # values per token and channel that a pass holds at its peak
OVERHEAD = GIB // 2  # the CUDA context and libraries' workspaces
WORKSPACE = {"wan": 2.0, "wan-tiny": 1.0}  # times the peak of decoding; large convolutions over time double it


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Planned memory in bytes.

    weights: all weights and the encoded text. cache: key-value caches of all calls. state: streaming decoder states of
    all calls. working: the largest of three phases that never overlap, a pass, decoding, and loading beyond the
    weights. overhead: CUDA context and libraries.
    """

    weights: int
    cache: int
    state: int
    working: int
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.state + self.working + self.overhead

    def fits(self, memory: int) -> bool:
        """Whether the plan fits. memory: free bytes of the device before the process starts."""
        return self.total <= memory


class Peak(TorchDispatchMode):
    """Context manager that records the peak size, in bytes, of the tensors created inside. Also counts tensors on the
    meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                reference = StorageWeakRef(made.untyped_storage())
                self._held[reference.cdata] = (reference, made.untyped_storage().nbytes())
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._held.values()))
        return out


@torch.inference_mode()
def decoding(config: ModelConfig, latents: int) -> tuple[int, int]:
    """Bytes at the peak of decoding a chunk in the middle of a call, and bytes of a call's decoder state. The decoder
    runs on the meta device."""
    decoder = on_meta(DECODERS[config.codec], config.vae).to(torch.bfloat16)
    chunk = torch.empty(latents, *config.latent_shape, device="meta")
    state = StreamState()
    for _ in range(2):
        _, state = decoder(chunk, state)
    with Peak() as peak:
        decoder(chunk, state)
    return peak.bytes, sum(tail.numel() for tail in state.tails or ()) * BYTES


def plan(config: ModelConfig, slots: int, float8: bool = False) -> MemoryPlan:
    """Plan the memory of a video model in bf16 for ``slots`` calls, whose passes may all run as one batch.

    float8: the blocks' linear layers have 8 bits; no such pass was measured.
    """
    dit = config.dit
    network = CausalWanDiT.on_meta(dit).to(torch.bfloat16)
    in_bf16 = bytes_of(network)
    if float8:
        in_float8(network.blocks)
    codec = (on_meta(WanEncoder, config.vae), on_meta(DECODERS[config.codec], config.vae))
    weights = bytes_of(network) + sum(bytes_of(part.to(torch.bfloat16)) for part in codec)
    text = 0 if dit.text_dim is None else dit.layers * 2 * TEXT_TOKENS * dit.dim * BYTES
    token = dit.dim * BYTES
    held = PASS_VALUES * token + (dit.ffn_dim if float8 else 0)  # float8: the widest layer's input in 8 bits
    frames = 2 * config.chunk + config.knot  # a clean chunk joined with the next one's first step
    cached = int(dit.inpainting) + config.window - config.chunk  # the reference and past latents
    peak, state = decoding(config, config.chunk)
    return MemoryPlan(
        weights=weights + text,
        cache=slots * cached * config.tokens_per_latent * dit.layers * 2 * token,
        state=slots * state,
        working=max(
            int(WORKSPACE[config.codec] * peak),
            slots * frames * config.tokens_per_latent * held,
            in_bf16 - bytes_of(network),  # loading holds the bf16 weights, while nothing else runs
        ),
    )


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's state dict."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def largest_fitting(config: ModelConfig, slots: int, memory: int, float8: bool = False) -> str:
    """Name of the best preset that fits into ``memory`` bytes, empty if none does."""
    return next((name for name in PRESETS if plan(with_preset(config, name), slots, float8).fits(memory)), "")


def check(config: ModelConfig, slots: int, free: int, float8: bool = False) -> None:
    """Check that a model fits. free: free bytes of the device after the CUDA context was created. Raises EngineError
    ``device_too_small``."""
    needed = plan(config, slots, float8).total - OVERHEAD
    if needed <= free:
        return
    smaller = largest_fitting(config, slots, free + OVERHEAD, float8)
    way = f"use --preset {smaller}" if smaller else "no preset fits: use fewer slots, or a larger card"
    raise EngineError(
        "device_too_small",
        f"{config.name} at {config.pixel_size[0]}x{config.pixel_size[1]} with {slots} calls needs about "
        f"{needed / GIB:.1f} GiB of device memory, but {free / GIB:.1f} GiB are free: {way}",
    )


def describe(config: ModelConfig, slots: int, float8: bool = False, cards: tuple[int, ...] = (8, 12, 16, 24)) -> str:
    """Table of the plan for each preset and of the best preset for each card size, in GiB. Raises RequestError
    ``no_presets``."""
    lines = [f"{config.name}, {slots} calls, GiB", f"{'preset':10}{'weights':>9}{'cache':>9}{'working':>9}{'total':>9}"]
    for name in PRESETS:
        made = plan(with_preset(config, name), slots, float8)
        figures = (made.weights, made.cache, made.state + made.working, made.total)
        lines.append(f"{name:10}" + "".join(f"{figure / GIB:9.1f}" for figure in figures))
    lines += [f"{card} GiB: {largest_fitting(config, slots, card * GIB, float8) or 'none fits'}" for card in cards]
    return "\n".join(lines)
