"""Wan2.1's autoencoder against diffusers' on equal random weights: streamed in any split equals whole, in fp32."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoints.wan_keys import official_name
from models.codecs.carry import Carry, StreamState
from models.codecs.wan import build_decoder, build_encoder, on_meta, random_part
from models.codecs.wan_vae import DEVIATION, MEAN, CausalConv3d, WanDecoder, WanEncoder
from models.config import VAEConfig
from models.memory import Peak

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages say of themselves when they are imported
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

LATENTS, FRAMES = 7, 25
CONFIG = VAEConfig(width=8, at_once=LATENTS)
CLOSE = 1e-5  # measured: 2e-6
STATISTICS = tuple(torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))


@pytest.fixture(scope="module")
def coders() -> tuple[WanEncoder, WanDecoder, AutoencoderKLWan]:
    """Ours and theirs with the same weights, brought over under the official names by diffusers' own converter."""
    encoder = build_encoder("cpu", torch.float32, CONFIG)
    decoder = build_decoder("wan", "cpu", torch.float32, CONFIG)
    assert isinstance(decoder, WanDecoder)
    for gamma in (value for part in (encoder, decoder) for name, value in part.named_parameters() if "gamma" in name):
        gamma.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    decoder.decoder.head["2"].weight.data.mul_(0.2)  # or the pictures would be cut off at black and white
    theirs = AutoencoderKLWan(base_dim=CONFIG.width).eval().requires_grad_(False)
    theirs.load_state_dict(convert_wan_vae_to_diffusers({**encoder.state_dict(), **decoder.state_dict()}))
    return encoder, decoder, theirs


def streamed(coder: WanEncoder | WanDecoder, parts: Sequence[Tensor]) -> Tensor:
    return streamed_state(coder, parts)[0]


def streamed_state(coder: WanEncoder | WanDecoder, parts: Sequence[Tensor]) -> tuple[Tensor, StreamState]:
    state, made = StreamState(), []
    for part in parts:
        out, state = coder(part, state)
        made.append(out)
    return torch.cat(made), state


def some_latents(seed: int = 0) -> Tensor:
    return torch.randn(LATENTS, 16, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 3, 1), (2, 5), (7,), (1, 6)])
def test_decoding_in_any_split_is_their_decoding(
    coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan], sizes: tuple[int, ...]
) -> None:
    _, decoder, theirs = coders
    mean, deviation = STATISTICS
    latents = some_latents()
    whole = theirs.decode((latents * deviation + mean).transpose(0, 1)[None]).sample[0].transpose(0, 1)
    assert whole.std() > 0.1 and (whole.abs() == 1).float().mean() < 0.05
    made = streamed(decoder, latents.split(list(sizes)))
    assert made.shape == (FRAMES, 3, 32, 48)
    assert (2 * made - 1 - whole).abs().max() < CLOSE


@pytest.mark.parametrize("sizes", [(25,), (1,) + (4,) * 6, (9, 12, 4), (1, 24)])
def test_encoding_in_any_split_is_their_encoding(
    coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan], sizes: tuple[int, ...]
) -> None:
    encoder, _, theirs = coders
    mean, deviation = STATISTICS
    pictures = torch.rand(FRAMES, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    whole = theirs.encode((2 * pictures - 1).transpose(0, 1)[None]).latent_dist.mode()[0].transpose(0, 1)
    made = streamed(encoder, pictures.split(list(sizes)))
    assert made.shape == (LATENTS, 16, 4, 6)
    assert (made * deviation + mean - whole).abs().max() < CLOSE


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_any_number_of_latents_at_a_time_gives_the_same(
    coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, decoder, _ = coders
    pictures = torch.rand(FRAMES, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    whole = decoder(some_latents(), StreamState())[0], encoder(pictures, StreamState())[0]
    lengths: list[int] = []
    for coder in (encoder, decoder):
        monkeypatch.setattr(coder, "at_once", at_once)
    hook = decoder.conv2.register_forward_pre_hook(lambda layer, given: lengths.append(given[0].shape[2]))
    made, kept = decoder(some_latents(), StreamState())
    hook.remove()
    assert max(lengths) == at_once and sum(lengths) == LATENTS
    assert (made - whole[0]).abs().max() < CLOSE
    assert (encoder(pictures, StreamState())[0] - whole[1]).abs().max() < CLOSE
    if at_once == 1:  # then a split changes nothing at all
        parts, state = [], StreamState()
        for part in some_latents().split([3, 3, 1]):
            out, state = decoder(part, state)
            parts.append(out)
        assert torch.equal(torch.cat(parts), made)
        assert all(torch.equal(a, b) for a, b in zip(state.tails or (), kept.tails or (), strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("kind", [WanEncoder, WanDecoder])
def test_many_latents_take_the_memory_of_one(kind: type[WanEncoder] | type[WanDecoder]) -> None:
    """But for what goes in and comes out, and for what is left of the state of the latent before."""
    coder = on_meta(kind, VAEConfig())
    shape = (4, 3, 128, 128) if kind is WanEncoder else (1, 16, 16, 16)
    _, state = coder(torch.empty(1, *shape[1:], device="meta"), StreamState())
    assert state.tails is not None
    peaks = []
    for latents in (1, 2, 8):
        given = torch.empty(latents * shape[0], *shape[1:], device="meta")
        with Peak() as peak:
            coder(given, state)
        peaks.append(peak.bytes)
    one_state, pictures = sum(tail.nbytes for tail in state.tails), 4 * 3 * 128 * 128 * 4
    assert peaks[1] - peaks[0] < one_state / 2 + pictures
    assert peaks[2] - peaks[1] <= 2 * 6 * pictures < one_state / 8


def without_copies(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    """A compiler that takes a copy of equal strides for idle, as torch's own does: it then hands out views."""
    copies = [node for node in graph.graph.nodes if node.target == "clone"]
    assert copies or not any(node.target is torch.cat for node in graph.graph.nodes)
    for node in copies:
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.recompile()
    return graph.forward


def test_compiled_layers_decode_the_same_and_keep_no_more(
    coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A latent at a time; all blocks of one shape share a compilation."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer, **options: compile_(layer, **options, backend=without_copies))
    decoder = build_decoder("wan", "cpu", torch.float32, replace(CONFIG, at_once=1))
    assert isinstance(decoder, WanDecoder)
    with torch.inference_mode():
        whole, kept = decoder(some_latents(), StreamState())
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        decoder.compile_layers()
        made, state = streamed_state(decoder, some_latents().split([2, 5]))
    assert 8 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 9
    assert (made - whole).abs().max() < CLOSE
    for tail, expected in zip(state.tails or (), kept.tails or (), strict=True):
        assert (tail - expected).abs().max() < CLOSE
        assert tail.untyped_storage().nbytes() == tail.nbytes


def test_two_calls_do_not_disturb_each_other(coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan]) -> None:
    encoder, decoder, _ = coders
    before = [vars(module).copy() for part in (encoder, decoder) for module in part.modules()]
    one, two = some_latents(1), some_latents(2)
    alone = [streamed(decoder, latents.split(3)) for latents in (one, two)]
    states, made = [StreamState(), StreamState()], [[], []]  # type: ignore[var-annotated]
    for parts in zip(one.split(3), two.split(3), strict=True):
        for call, part in enumerate(parts):
            kept = [tail.clone() for tail in states[call].tails or ()]
            out, following = decoder(part, states[call])
            made[call].append(out)
            assert all(torch.equal(a, b) for a, b in zip(kept, states[call].tails or (), strict=True)), (
                "a state is kept"
            )
            states[call] = following
    assert all(torch.equal(torch.cat(parts), whole) for parts, whole in zip(made, alone, strict=True))
    assert before == [vars(module) for part in (encoder, decoder) for module in part.modules()]


def test_the_state_does_not_grow(coders: tuple[WanEncoder, WanDecoder, AutoencoderKLWan]) -> None:
    encoder, decoder, _ = coders
    for coder, first, later in (
        (encoder, torch.rand(1, 3, 32, 48), torch.rand(4, 3, 32, 48)),
        (decoder, some_latents()[:1], some_latents()[:1]),
        (decoder, some_latents()[:3], some_latents()[:3]),
    ):
        _, state = coder(first, StreamState())
        sizes = []
        for _ in range(4):
            _, state = coder(later, state)
            assert state.tails is not None
            sizes.append([tuple(tail.shape) for tail in state.tails])
            assert all(tail.untyped_storage().nbytes() == tail.nbytes for tail in state.tails), (
                "nothing hangs on a view"
            )
        assert sizes == sizes[:1] * 4
    assert state.tails is not None and len(state.tails) == 32  # official: 33 causal convolutions, the last unused


def test_three_frames_beside_each_other_are_the_convolution_in_time() -> None:
    """A CPU takes the one, a GPU the other."""
    torch.manual_seed(0)
    convolution, x = CausalConv3d(4, 6), torch.randn(1, 4, 5, 8, 8)
    wanted = nn.Conv3d.forward(convolution, F.pad(x, (0, 0, 0, 0, 2, 0)))
    torch.testing.assert_close(convolution(x, Carry(StreamState())), wanted)


def test_names_and_shapes_at_full_size() -> None:
    """Ours are the official names; those of diffusers come to the same, and every one of either is there."""
    parts = (on_meta(WanEncoder, VAEConfig()), on_meta(WanDecoder, VAEConfig()))
    ours = {name: tuple(value.shape) for part in parts for name, value in part.state_dict().items()}
    with torch.device("meta"):
        theirs = {name: tuple(value.shape) for name, value in AutoencoderKLWan().state_dict().items()}
    assert {official_name(name): shape for name, shape in theirs.items()} == ours
    assert {official_name(name): shape for name, shape in ours.items()} == ours
    official = convert_wan_vae_to_diffusers(ours)
    assert official == theirs
    assert sum(p.numel() for p in parts[1].parameters()) == 73_295_603


@torch.inference_mode()
@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("kind", [WanDecoder, WanEncoder])
def test_channels_stay_last_in_memory(kind: type[WanEncoder] | type[WanDecoder], at_once: int) -> None:
    """Otherwise every layer copies its pictures to another order and back: half the time of decoding on a GPU. (A CPU's
    convolution in time lays channels first itself: the encoder's shortcut behind it is left out.)"""
    coder = random_part(on_meta(kind, replace(CONFIG, at_once=at_once)), "cpu", torch.float32)
    strange: list[str] = []

    def look(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        layout = torch.channels_last_3d if given[0].dim() == 5 else torch.channels_last
        if not given[0].is_contiguous(memory_format=layout):
            strange.append(name)

    for name, layer in coder.named_modules():
        left_out = name in ("decoder.conv1", "conv2", "encoder.downsamples.6.shortcut")
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and not left_out:
            layer.register_forward_pre_hook(partial(look, name))
    shape = (16, 4, 6) if kind is WanDecoder else (3, 32, 48)
    state = StreamState()
    for count in (3, 3) if kind is WanDecoder else (9, 12):
        _, state = coder(torch.rand(count, *shape), state)
    assert not strange
