"""The codec of Wan2.1's latents: portraits of any size, pictures chunk by chunk, weights from files by either name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.drive.buffer import lookahead_ms
from engine.portrait.portrait import Portrait
from ground.errors import AvatarError
from ground.fitting import fit_picture
from models.codecs.wan import WanCodec, build_decoder, build_encoder
from models.config import EMBEDDED
from models.registry import build_codec
from tests.faces import LANDMARKS, drawn_face
from tests.tiny_models import WAN_TINY_TEST

SMALL = WAN_TINY_TEST.at_size(96, 64)
CPU = torch.device("cpu")


def codec_of(kind: str, dtype: torch.dtype = torch.float32) -> WanCodec:
    codec = build_codec(replace(SMALL, codec=kind), CPU, dtype, None)
    assert isinstance(codec, WanCodec)
    return codec


@pytest.mark.parametrize("kind", ["wan", "wan-tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_portrait_in_pictures_out(kind: str, dtype: torch.dtype) -> None:
    codec = codec_of(kind, dtype)
    with torch.inference_mode():
        reference = codec.encode_reference(Portrait(drawn_face(200), LANDMARKS))
        assert reference.latent.shape == (16, 8, 12) and reference.latent.dtype == torch.float32
        assert reference.features.shape == (0, 8, 12)
        latents = torch.randn(5, 16, 8, 12, generator=torch.Generator().manual_seed(0))
        first, state = codec.decode(latents[:3], reference, codec.initial_state())
        second, state = codec.decode(latents[3:], reference, state)
        nothing, same = codec.decode(latents[:0], reference, state)
    assert (len(first), len(second), len(nothing)) == (9, 8, 0) and same is state
    assert first.shape[1:] == second.shape[1:] == nothing.shape[1:] == (64, 96, 3)
    assert first.dtype == nothing.dtype == torch.uint8


def test_in_chunks_equals_whole_to_the_bit() -> None:
    codec = codec_of("wan")
    with torch.inference_mode():
        reference = codec.encode_reference(Portrait(drawn_face(96), LANDMARKS))
        latents = torch.randn(7, 16, 8, 12, generator=torch.Generator().manual_seed(0))
        whole, _ = codec.decode(latents, reference, codec.initial_state())
        state, parts = codec.initial_state(), []
        for chunk in latents.split([3, 3, 1]):
            frames, state = codec.decode(chunk, reference, state)
            parts.append(frames)
    assert whole.float().std() > 20
    assert torch.equal(torch.cat(parts), whole)  # latent by latent either way


def test_a_portrait_is_the_first_picture_of_a_stream() -> None:
    """Encoded as one: a latent of its own, and another face is another latent."""
    codec = codec_of("wan")
    with torch.inference_mode():
        one = codec.encode_reference(Portrait(drawn_face(96), LANDMARKS)).latent
        other = codec.encode_reference(Portrait(255 - drawn_face(96), LANDMARKS)).latent
        picture = torch.from_numpy(fit_picture(drawn_face(96), 96, 64)).permute(2, 0, 1)[None] / 255
        clip = torch.cat([picture, torch.rand(4, 3, 64, 96)])
        latents, _ = codec.encoder(clip, codec.initial_state())
    assert torch.allclose(latents[0], one, atol=1e-5) and not torch.allclose(one, other, atol=0.1)


def test_a_picture_is_fitted_whole_and_undistorted() -> None:
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 16:48] = 255
    assert fit_picture(square, 64, 64) is not square and np.array_equal(fit_picture(square, 64, 64), square)
    wide = fit_picture(square, 160, 64)
    assert np.array_equal(wide[:, 48:112], square) and not wide[:, :48].any()
    square[:, 0] = 7  # an edge is drawn out
    assert (fit_picture(square, 160, 64)[:, :48] == 7).all()
    tall = fit_picture(square, 32, 80)
    white = np.argwhere(tall[..., 0] > 200)
    assert tall.shape == (80, 32, 3) and np.ptp(white, axis=0).tolist() == [15, 15]


def save_codec(folder: Path, renamed: bool) -> WanCodec:
    """What ``build_codec`` is to find, made of noise; the tiny file with an encoder that is not ours."""
    config = SMALL.vae
    encoder, decoder = build_encoder(CPU, torch.float32, config), build_decoder("wan", CPU, torch.float32, config)
    state = {key: value.contiguous() for part in (encoder, decoder) for key, value in part.state_dict().items()}
    if renamed:
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        state = convert_wan_vae_to_diffusers(state)
    tiny = build_decoder("wan-tiny", CPU, torch.float32, config).state_dict()
    folder.mkdir()
    save_file(state, folder / "vae.safetensors")
    save_file(
        {key: value.contiguous() for key, value in tiny.items()} | {"encoder.0.weight": torch.zeros(3)},
        folder / "tiny.safetensors",
    )
    return WanCodec(encoder, decoder, SMALL.pixel_size)


@pytest.mark.parametrize("renamed", [False, True], ids=["official", "diffusers"])
def test_weights_from_files(tmp_path: Path, renamed: bool) -> None:
    saved = save_codec(tmp_path / SMALL.name, renamed)
    loaded = build_codec(SMALL, CPU, torch.float32, tmp_path / SMALL.name)
    assert isinstance(loaded, WanCodec)
    for ours, theirs in ((loaded.encoder, saved.encoder), (loaded.decoder, saved.decoder)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    tiny = build_codec(replace(SMALL, codec="wan-tiny"), CPU, torch.float32, tmp_path / SMALL.name)
    assert isinstance(tiny, WanCodec) and not any(p.is_meta for p in tiny.decoder.parameters())
    other = replace(SMALL, vae=replace(SMALL.vae, width=8))
    with pytest.raises(AvatarError, match="does not fit"):
        build_codec(other, CPU, torch.float32, tmp_path / SMALL.name)


def test_what_a_latent_hears_beyond_its_end_follows_the_frame_rate() -> None:
    assert lookahead_ms(EMBEDDED) == pytest.approx(55.0)
    assert lookahead_ms(WAN_TINY_TEST) == pytest.approx(32.5)
