"""The tiny decoder: its file's layout, TAEHV's arithmetic written a second time, and streamed equals whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.codecs.carry import StreamState
from models.codecs.tiny_decoder import TinyDecoder
from models.codecs.wan import build_decoder, on_meta
from models.config import VAEConfig

CONFIG = VAEConfig(tiny_widths=(32, 16, 8, 8))


@pytest.fixture(scope="module")
def decoder() -> TinyDecoder:
    decoder = build_decoder("wan-tiny", "cpu", torch.float32, CONFIG)
    assert isinstance(decoder, TinyDecoder)
    last = decoder.decoder["22"]
    last.bias.data.fill_(0.5)  # grey on average: little is cut off at black and white
    return decoder


def some_latents() -> Tensor:
    return 2 * torch.randn(7, 16, 4, 6, generator=torch.Generator().manual_seed(0))


def one_by_one(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """The whole clip, layer by layer in the published order (Clamp 0 .. conv 22), enlarged before it grows in time."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = weights[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, weights.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    x = conv("1", torch.tanh(latents / 3) * 3).relu()
    for stage, times in ((3, 1), (9, 2), (15, 2)):
        for block in range(stage, stage + 3):
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            y = conv(f"{block}.conv.2", conv(f"{block}.conv.0", torch.cat([x, past], 1)).relu()).relu()
            x = (conv(f"{block}.conv.4", y) + x).relu()
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = conv(f"{stage + 4}.conv", x)
        x = x.reshape(len(x) * times, -1, *x.shape[2:])
        x = conv(f"{stage + 5}", x)
    return conv("22", x.relu()).clamp(0, 1)[3:]


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 3, 1), (2, 5), (7,)])
def test_streamed_equals_whole(decoder: TinyDecoder, sizes: tuple[int, ...]) -> None:
    latents = some_latents()
    whole = one_by_one(decoder.state_dict(), latents)
    assert whole.shape == (25, 3, 32, 48) and whole.std() > 0.05
    assert ((whole == 0) | (whole == 1)).float().mean() < 0.2
    state, made = StreamState(), []
    for part in latents.split(list(sizes)):
        pictures, state = decoder(part, state)
        made.append(pictures)
        assert state.tails is not None
        assert [tuple(tail.shape[:2]) for tail in state.tails] == [(1, 32)] * 3 + [(1, 16)] * 3 + [(1, 8)] * 3
    assert (torch.cat(made) - whole).abs().max() < 1e-5  # measured: 4e-7


def test_two_calls_do_not_disturb_each_other(decoder: TinyDecoder) -> None:
    one, two = some_latents(), some_latents().flip(0)
    _, between = decoder(one[:3], StreamState())
    alone, _ = decoder(one[3:], between)
    decoder(two, StreamState())
    again, _ = decoder(one[3:], between)
    assert torch.equal(alone, again)


def test_names_and_shapes_of_the_published_file() -> None:
    """taew2_1: convolutions at 1, 8, 14, 20, 22, blocks with memory at 3-5, 9-11, 15-17, growth at 7, 13, 19."""
    shapes = {name: tuple(value.shape) for name, value in on_meta(TinyDecoder, VAEConfig()).state_dict().items()}
    plain = {
        "1": (256, 16, True),
        "8": (128, 256, False),
        "14": (64, 128, False),
        "20": (64, 64, False),
        "22": (3, 64, True),
    }
    wanted: dict[str, tuple[int, ...]] = {}
    for name, (out, channels, bias) in plain.items():
        wanted |= {f"decoder.{name}.weight": (out, channels, 3, 3)} | ({f"decoder.{name}.bias": (out,)} if bias else {})
    for first, width, times in ((3, 256, 1), (9, 128, 2), (15, 64, 2)):
        for block in range(first, first + 3):
            for layer, channels in ((0, 2 * width), (2, width), (4, width)):
                wanted[f"decoder.{block}.conv.{layer}.weight"] = (width, channels, 3, 3)
                wanted[f"decoder.{block}.conv.{layer}.bias"] = (width,)
        wanted[f"decoder.{first + 4}.conv.weight"] = (times * width, width, 1, 1)
    assert shapes == wanted
