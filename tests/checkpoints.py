"""Tiny random checkpoints in the formats in which the large ones are published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.codecs.wan import build_decoder, build_encoder
from models.config import ModelConfig
from models.dit.transformer import CausalWanDiT, randomise_
from tests.tiny_models import T2V_TINY_TEST

State = dict[str, Tensor]


def random_state(config: ModelConfig = T2V_TINY_TEST, seed: int = 0) -> State:
    """Weights of a transformer, by official names."""
    dit = CausalWanDiT(config.dit)
    randomise_(dit, seed)
    return {name: value.detach().contiguous() for name, value in dit.state_dict().items()}


def vae_state(config: ModelConfig = T2V_TINY_TEST) -> State:
    parts = build_encoder("cpu", torch.float32, config.vae), build_decoder("wan", "cpu", torch.float32, config.vae)
    return {name: value.contiguous() for part in parts for name, value in part.state_dict().items()}


def official(folder: Path, state: State) -> Path:
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    return folder / "diffusion_pytorch_model.safetensors"


def shards(folder: Path, state: State) -> Path:
    """As the 14B models are published: numbered files and an index, named by their folder."""
    names = sorted(state)
    place = {name: f"diffusion_pytorch_model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in set(place.values()):
        save_file({name: state[name] for name in names if place[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": place}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def diffusers_model(config: ModelConfig = T2V_TINY_TEST) -> Any:
    from diffusers import WanTransformer3DModel

    dit = config.dit
    return WanTransformer3DModel(
        patch_size=dit.patch, num_attention_heads=dit.heads, attention_head_dim=dit.head_dim,
        in_channels=dit.in_dim, out_channels=dit.latent_channels, text_dim=dit.text_dim, freq_dim=dit.frequency_dim,
        ffn_dim=dit.ffn_dim, num_layers=dit.layers,
    )  # fmt: skip


def self_forcing(folder: Path, state: State) -> Path:
    """``self_forcing_dmd.pt``: the averaged generator counts, not the last one, nor the critic."""
    other = {f"model.{name}": torch.zeros_like(value) for name, value in state.items()}
    averaged = {f"model.{name}": value for name, value in state.items()}
    torch.save({"generator": other, "critic": other, "generator_ema": averaged}, folder / "self_forcing_dmd.pt")
    return folder / "self_forcing_dmd.pt"


def wrapped(folder: Path, state: State) -> Path:
    """A trainer's, as FSDP, activation checkpointing and torch.compile leave the names."""
    names = {}
    for name, value in state.items():
        inner = name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module.")
        names[f"_fsdp_wrapped_module.model._orig_mod.{inner}"] = value
    torch.save({"generator": names}, folder / "longlive_base.pt")
    return folder / "longlive_base.pt"


def bare(folder: Path, state: State) -> Path:
    """Without a dictionary around it, under DistributedDataParallel, in torch's old format."""
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save(named, folder / "model.pth", _use_new_zipfile_serialization=False)
    return folder / "model.pth"


FORMATS: dict[str, Callable[[Path, State], Path]] = {
    write.__name__: write for write in (official, shards, self_forcing, wrapped, bare)
}
