"""The transformer against diffusers' WanTransformer3DModel on equal random weights, in fp32."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import DiTConfig
from models.dit.attention import BlockMask
from models.dit.transformer import CausalWanDiT, randomise_

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages say of themselves when they are imported
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

CONFIG = DiTConfig(dim=256, layers=2, heads=2, ffn_dim=192, latent_channels=4, inpainting=False, text_dim=20)
CLOSE = 1e-5  # measured: 1.4e-6


def theirs(config: DiTConfig, state: dict[str, Tensor]) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        patch_size=config.patch, num_attention_heads=config.heads, attention_head_dim=config.head_dim,
        in_channels=config.in_dim, out_channels=config.latent_channels, text_dim=config.text_dim,
        freq_dim=config.frequency_dim, ffn_dim=config.ffn_dim, num_layers=config.layers, eps=config.eps,
    ).eval()  # fmt: skip
    model.load_state_dict(convert_wan_transformer_to_diffusers(dict(state)))
    return model


@pytest.mark.parametrize("inpainting", [False, True])
@pytest.mark.parametrize("sigma", [1.0, 0.625, 0.0])
def test_one_forward_is_theirs(inpainting: bool, sigma: float) -> None:
    config = replace(CONFIG, inpainting=inpainting)
    dit = CausalWanDiT(config)
    randomise_(dit, seed=3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, config.in_dim, 6, 8, generator=generator)
    text = torch.randn(1, 512, 20, generator=generator)
    text[:, 9:] = 0
    condition = x[None, :, 4:] if inpainting else None
    with torch.no_grad():
        given = dit.encode_text(text), BlockMask(), torch.arange(3)[None]
        ours = dit(x[None, :, :4], torch.full((1, 3), sigma), condition, None, *given)[0]
        wanted = theirs(config, dit.state_dict())(
            x.transpose(0, 1)[None], torch.tensor([1000 * sigma]), text, return_dict=False
        )[0][0].transpose(0, 1)
    error = (ours - wanted).abs().max().item()
    print(f"sigma {sigma}: max abs error {error:.1e}")
    assert wanted.std() > 0.5
    assert error < CLOSE
