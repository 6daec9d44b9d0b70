"""The transformer: Wan2.1's keys and sizes, rotary law, purity, what the drive and the mask do."""

import pytest
import torch

from models.config import EMBEDDED, WAN21_1_3B, WAN21_T2V_1_3B, DiTConfig
from models.dit.attention import BlockMask, rotary_angles, rotate
from models.dit.transformer import CausalWanDiT, randomise_
from tests.toy import TOY


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of Wan2.1-T2V-1.3B, written down from the published checkpoint's index."""
    d, ffn = 1536, 8960
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (d, 16, 1, 2, 2), "patch_embedding.bias": (d,),
        "text_embedding.0.weight": (d, 4096), "text_embedding.0.bias": (d,),
        "text_embedding.2.weight": (d, d), "text_embedding.2.bias": (d,),
        "time_embedding.0.weight": (d, 256), "time_embedding.0.bias": (d,),
        "time_embedding.2.weight": (d, d), "time_embedding.2.bias": (d,),
        "time_projection.1.weight": (6 * d, d), "time_projection.1.bias": (6 * d,),
        "head.head.weight": (64, d), "head.head.bias": (64,), "head.modulation": (1, 2, d),
    }  # fmt: skip
    for n in range(30):
        block = f"blocks.{n}."
        shapes[block + "modulation"] = (1, 6, d)
        shapes |= {block + "norm3." + part: (d,) for part in ("weight", "bias")}
        for attention in ("self_attn.", "cross_attn."):
            for linear in "qkvo":
                shapes |= {block + attention + linear + ".weight": (d, d), block + attention + linear + ".bias": (d,)}
            shapes |= {block + attention + norm + ".weight": (d,) for norm in ("norm_q", "norm_k")}
        shapes |= {block + "ffn.0.weight": (ffn, d), block + "ffn.0.bias": (ffn,)}
        shapes |= {block + "ffn.2.weight": (d, ffn), block + "ffn.2.bias": (d,)}
    return shapes


def test_wan_keys_shapes_and_size() -> None:
    dit = CausalWanDiT.on_meta(WAN21_T2V_1_3B)
    ours = {key: tuple(value.shape) for key, value in dit.state_dict().items()}
    assert ours == official_shapes()
    assert len(ours) == 825
    assert sum(p.numel() for p in dit.parameters()) == 1_418_996_800


def test_the_inpainting_input_adds_seventeen_channels() -> None:
    assert WAN21_1_3B.dit.in_dim == 33
    assert EMBEDDED.dit.in_dim == 2 * 16 + 1 + 20
    dit = CausalWanDiT.on_meta(WAN21_1_3B.dit)
    keys = dit.state_dict().keys()
    assert set(official_shapes()) <= set(keys)
    assert all(key.startswith("drive_") for key in set(keys) - set(official_shapes()))
    assert dit.patch_embedding.weight.numel() - 1536 * 64 == 104_448


def test_rope_splits_as_wan_does() -> None:
    assert WAN21_T2V_1_3B.rope_split == (44, 42, 42)
    for head_dim, split in ((64, (24, 20, 20)), (48, (16, 16, 16)), (40, (16, 12, 12))):
        assert DiTConfig(dim=2 * head_dim, layers=1, heads=2, ffn_dim=8).rope_split == split


def test_scores_depend_on_relative_time_only() -> None:
    q, k = torch.randn(1, 8, 2, 128), torch.randn(1, 8, 2, 128)

    def scores(shift: int) -> torch.Tensor:
        at = torch.tensor([[5 + shift, 9 + shift]])
        angles = rotary_angles(at, (2, 2), (44, 42, 42))
        return torch.einsum("bqhd,bkhd->bhqk", rotate(q, angles), rotate(k, angles))

    torch.testing.assert_close(scores(0), scores(1000), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(rotate(q, rotary_angles(torch.tensor([[5, 9]]), (2, 2), (44, 42, 42))), q)


def toy_inputs(frames: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    dit = TOY.dit
    return (
        torch.randn(1, frames, 4, 4, 4, generator=generator),
        torch.full((1, frames), 0.7),
        torch.randn(1, frames, dit.condition_channels, 4, 4, generator=generator),
        torch.randn(1, frames, dit.drive_tokens, dit.drive_dim, generator=generator),
    )


def test_forward_changes_nothing_and_repeats() -> None:
    dit = CausalWanDiT(TOY.dit)
    randomise_(dit)
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    latents, sigmas, condition, drive = toy_inputs()
    at = torch.arange(4)[None]
    one = dit(latents, sigmas, condition, drive, None, BlockMask(), at)
    two = dit(latents, sigmas, condition, drive, None, BlockMask(), at)
    assert torch.equal(one, two) and one.shape == latents.shape
    assert all(torch.equal(value, before[key]) for key, value in dit.state_dict().items())


def test_untrained_injectors_add_nothing_and_trained_ones_stay_in_their_frame() -> None:
    latents, sigmas, condition, drive = toy_inputs()
    at = torch.arange(4)[None]
    fresh = CausalWanDiT(TOY.dit)
    silent = fresh(latents, sigmas, condition, None, None, BlockMask(), at)
    torch.testing.assert_close(fresh(latents, sigmas, condition, drive, None, BlockMask(), at), silent)
    randomise_(fresh)
    alone = BlockMask(torch.eye(4, dtype=torch.bool))  # no way from frame to frame but the drive
    base = fresh(latents, sigmas, condition, drive, None, alone, at)
    changed = drive.clone()
    changed[:, 2] += 1.0
    moved = (fresh(latents, sigmas, condition, changed, None, alone, at) - base).abs().amax((0, 2, 3, 4))
    assert moved[2] > 1e-3 and moved[[0, 1, 3]].max() == 0


@pytest.mark.parametrize("frame", [0, 2])
def test_each_frame_has_its_own_noise_level(frame: int) -> None:
    dit = CausalWanDiT(TOY.dit)
    randomise_(dit)
    latents, sigmas, condition, drive = toy_inputs()
    at, alone = torch.arange(4)[None], BlockMask(torch.eye(4, dtype=torch.bool))
    base = dit(latents, sigmas, condition, drive, None, alone, at)
    other = sigmas.clone()
    other[0, frame] = 0.1
    moved = (dit(latents, other, condition, drive, None, alone, at) - base).abs().amax((0, 2, 3, 4))
    assert moved[frame] > 1e-3 and moved.sum() == moved[frame]


def test_text_context_reaches_every_block() -> None:
    config = DiTConfig(dim=48, layers=2, heads=2, ffn_dim=96, latent_channels=4, text_dim=10)
    dit = CausalWanDiT(config)
    randomise_(dit)
    latents, sigmas, condition, _ = toy_inputs()
    text = torch.randn(1, 7, 10)
    at = torch.arange(4)[None]
    with_text = dit(latents, sigmas, condition[:, :, :5], None, dit.encode_text(text), BlockMask(), at)
    other = dit(latents, sigmas, condition[:, :, :5], None, dit.encode_text(text + 1), BlockMask(), at)
    assert (with_text - other).abs().max() > 1e-4
    context = dit.encode_text(text)  # one prompt serves a batch
    two = [torch.cat([x, x]) for x in (latents, sigmas, condition[:, :, :5], at)]
    batched = dit(two[0], two[1], two[2], None, context, BlockMask(), two[3])
    torch.testing.assert_close(batched[1:], with_text, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_kernel_equals_sdpa() -> None:
    from models.dit.attention import KERNELS, kernel_for, sdpa

    q = torch.randn(2, 4 * 64, 12, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(2, 8 * 64, 12, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    expected = sdpa(q, k, v)
    ran = []
    for name, kernel in KERNELS.items():
        try:
            out = kernel(q, k, v)
        except (ImportError, RuntimeError):
            continue
        torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)
        ran.append(name)
    assert kernel_for("cuda", torch.bfloat16) in [KERNELS[name] for name in ran]
