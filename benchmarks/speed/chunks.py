"""Chunk timing without a call: time, floating-point operations, memory, and the machine's peak rates.

Shared by the benchmarks of the engine's speed. Runs on a bare GPU machine.
"""

import gc
import math
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.portrait.portrait import Portrait
from engine.rollout.base import Pass, Rollout, RolloutState
from engine.rollout.strategies import early_jump, own_rollout
from engine.worker.i420 import to_i420
from engine.worker.runner import ModelRunner, SlottedPass
from models.codecs.base import Codec, Reference
from models.codecs.motion import FEATURE_STATISTICS
from models.codecs.wan import DECODERS
from models.config import ModelConfig
from models.dit.transformer import CausalWanDiT
from models.registry import LoadedModel, build_codec

TEXT_TOKENS = 512  # always all of them (Wan2.1)
NOT_PER_TOKEN = (
    r"text_embedding|audio_|time_|drive_embedding|drive_place|modulation|cross_attn\.[kv]\.|drive_injectors\..*\.[kv]\."
)


def rollout_of(config: ModelConfig, strategy: str = "") -> Rollout:
    """The model's own rollout, or that of a strategy. Its reference jumps for the first time in chunk 2, so that the
    warm-up meets this shape of pass too."""
    return early_jump(own_rollout(config, strategy), config)


class ChunkMaker:
    """State of one call, which makes chunks of equal length one after the other."""

    def __init__(self, runner: ModelRunner, slot: int, rollout: Rollout, reference: Reference) -> None:
        self.runner, self.slot, self.rollout = runner, slot, rollout
        self.state: RolloutState = rollout.new_state(reference.latent, reference.features, seed=0)
        self.held: Pass | None = None

    def denoise(self, joined: bool = True) -> Tensor:
        """Clean latents of the next chunk. joined: its commit runs with the next chunk's first pass, else at once."""
        config = self.runner.config.dit
        drive = torch.zeros(self.rollout.drive_latents, *config.drive_shape, device=self.runner.device)
        latents, self.held = self.runner.make_chunk(self.slot, self.rollout, self.state, drive, self.held)
        if not joined and self.held is not None:
            self.runner.run([SlottedPass(self.slot, self.held)])
            self.held = None
        return latents


@torch.inference_mode()
def reference_of(codec: Codec[Any]) -> Reference:
    """Reference of a grey face."""
    return codec.encode_reference(Portrait(grey_face(), average_landmarks()))


def no_reference(model: LoadedModel) -> Reference:
    """Reference of zeros, for a model without a codec."""
    config = model.config
    latent = torch.zeros(config.latent_shape, device=model.device)
    return Reference(latent, latent.new_zeros(config.dit.reference_channels, *config.latent_size), payload=None)


class Screen:
    """Decoding of one call's latents to I420 in host memory."""

    def __init__(self, codec: Codec[Any]) -> None:
        self.codec, self.reference, self.state = codec, reference_of(codec), codec.initial_state()

    @torch.inference_mode()
    def show(self, latents: Tensor) -> np.ndarray:
        """Decode the next chunk: pictures [N, H*3/2, W]."""
        frames, self.state = self.codec.decode(latents, self.reference, self.state)
        return to_i420(frames)


def codecs_of(model: LoadedModel) -> Iterator[tuple[str, Codec[Any]]]:
    """Every decoder of the model's latents, by name, each made when it is asked for."""
    if model.config.codec in DECODERS:
        yield from ((kind, codec_of(model, kind)) for kind in DECODERS)
    elif model.codec is not None:
        yield model.config.codec, model.codec


def codec_of(model: LoadedModel, kind: str) -> Codec[Any]:
    """A decoder by name. If the model was loaded without it, it has random weights."""
    if model.codec is not None and kind == model.config.codec:
        return model.codec
    made = build_codec(replace(model.config, codec=kind), model.device, model.dtype, None)
    assert made is not None
    return made


def average_landmarks() -> dict[str, float]:
    """Landmarks of the average face, in units of half the picture's width."""
    return {name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}


def grey_face(size: int = 256) -> np.ndarray:
    """uint8 [size, size, 3]: grey noise, a texture for the decoder."""
    return np.random.default_rng(0).integers(64, 192, (size, size, 3), dtype=np.uint8)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Milliseconds of the work, and its result. The device's queue is empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began), result


def in_turn(
    works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, ends: float = math.inf
) -> Iterator[dict[str, float]]:
    """Milliseconds of each work, interleaved; every other round runs in reverse order. After ``ends`` (seconds of the
    monotonic clock) no round begins but the first."""
    for index in range(rounds):
        if index and time.monotonic() > ends:
            return
        yield {name: timed(works[name], device)[0] for name in list(works)[:: 1 if index % 2 else -1]}


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of this machine in this run: a large square matrix product, best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(timed(lambda: a @ a, device)[0] for _ in range(10)) / 1e9


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a copy on the device, bytes read plus bytes written; best of ten."""
    source = torch.empty(2**31 if device.type == "cuda" else 2**24, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(timed(lambda: target.copy_(source), device)[0] for _ in range(10)) / 1e6


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Peak rates of this machine, for comparison with the figures of the same run."""
    return {
        "matmul_tflops": round(matmul_tflops(device, dtype), 3),
        "copy_gb_per_second": round(copy_bandwidth(device), 1),
    }


def chunk_flops(config: ModelConfig, rollout: Rollout) -> float:
    """Floating-point operations of one chunk in the steady state, two a multiply-add: the denoising steps and the
    clean pass. Without the weights that are not applied to every latent token (AdaLN's projection, keys and values of
    the text and of the drive): they are about one per cent, or cached.
    """
    per_token = sum(
        parameter.numel()
        for name, parameter in CausalWanDiT.on_meta(config.dit).named_parameters()
        if name.endswith("weight") and parameter.dim() > 1 and not re.search(NOT_PER_TOKEN, name)
    )

    def one_pass(frames: int, keys: int) -> float:
        queries, width = frames * config.tokens_per_latent, config.dit.dim * config.dit.layers
        attended = keys * config.tokens_per_latent + (TEXT_TOKENS if config.dit.text_dim is not None else 0)
        return 2.0 * queries * (per_token + 2 * attended * width)

    spec, own, cached = rollout.spec, rollout.drive_latents, rollout.cached_frames
    clean = one_pass(spec.chunk, spec.chunk + cached) if cached else 0.0
    return len(spec.steps) * one_pass(own, own + cached) + clean


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU's tensors since ``new_peak``; on the CPU, of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def new_peak(device: torch.device) -> None:
    """Free unused memory, and reset the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
