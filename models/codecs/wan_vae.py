"""Streaming video autoencoder of Wan2.1 (z = 16, 8x in space, 4x in time), with the official parameter names.

A stream's first frame is one latent, and each further group of four frames is another. A call takes any number of
latents and processes a few at a time; the split into calls does not change the result. Tensors are [1, C, T, H, W]
inside, channels last in memory: convolutions are fastest there, and the norm reads contiguous rows. Needs torch only;
independent of portraits.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codecs.carry import Carry, StreamState, in_parts
from models.config import VAEConfig

# Statistics of latents of Wan2.1's training videos (wan/modules/vae.py). A normalised latent is (z - mean) / deviation.
MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
DEVIATION = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

LATENT_CHANNELS = len(MEAN)
FRAMES_PER_LATENT = 4
TINY = 1e-24  # epsilon of the norms: only prevents division by zero for a row of zeros


class ChannelRMSNorm(nn.Module):
    """Root mean square norm over channels. gamma has the official shape, [C, 1, 1, 1] or [C, 1, 1]."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * dims))

    def forward(self, x: Tensor) -> Tensor:
        gamma = self.gamma.flatten()
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, TINY).movedim(-1, 1)


class CausalConv3d(nn.Conv3d):
    """3x3x3 convolution, padded in space and causal in time: each frame sees itself and the two frames before it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:  # type: ignore[override]
        x = carry.lead(x, 2, dim=2)
        if x.device.type != "cpu":
            return super().forward(x)
        # On a CPU a narrow fp32 conv3d takes up to 15 times as long as a conv2d over three frames joined as channels.
        frames, weight = _frames(x), self.weight.transpose(1, 2).flatten(1, 2)
        beside = torch.cat([frames[:-2], frames[1:-1], frames[2:]], 1)
        return _video(F.conv2d(beside, weight, self.bias, padding=1))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": ChannelRMSNorm(channels, 3),
                "2": CausalConv3d(channels, out),
                "3": ChannelRMSNorm(out, 3),
                "6": CausalConv3d(out, out),
            }
        )
        self.shortcut = nn.Conv3d(channels, out, 1) if channels != out else nn.Identity()
        self.compiled: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        """Run the compiled layers if there are any. The first part of a stream has other shapes and runs uncompiled."""
        if self.compiled is None or carry.fresh:
            return self.layers(x, carry)
        given = (x, carry.take(), carry.take())
        y, *tails = self.compiled(*(_video(_frames(each)) for each in given))  # gives single frames the same strides
        for tail in tails:
            carry.keep(tail.clone())  # the compiler elides the copies inside and returns views
        return y

    def compile_layers(self) -> None:
        """Compile the block, which fuses the operations between its convolutions. Blocks of one shape share a
        compilation."""
        self.compiled = torch.compile(self.step, fullgraph=True, dynamic=False)

    def step(self, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the block as a function of tensors only, for compilation. Takes the two tails of the call before; returns
        the output and the next two tails."""
        carry = Carry(StreamState((first, second)))
        y = self.layers(x, carry)
        assert carry.state.tails is not None
        first, second = carry.state.tails
        return y, first, second

    def layers(self, x: Tensor, carry: Carry) -> Tensor:
        y = self.residual["2"](F.silu(self.residual["0"](x)), carry)
        y = self.residual["6"](F.silu(self.residual["3"](y)), carry)
        return y + self.shortcut(x)  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Single-head attention over the positions of each frame. Frames do not attend to each other; there is no state."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        frames = _frames(x)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)[:, None]  # [T, 1, HW, 3C]
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return x + _video(self.proj(attended[:, 0].transpose(1, 2).unflatten(2, frames.shape[2:])))


class Downsample(nn.Module):
    """Downsampling: halves height and width, and with `in_time` the number of frames, except for a stream's first
    frame."""

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if in_time else None

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        x = _video(self.resample["1"](F.pad(_frames(x), (0, 1, 0, 1))))
        if self.time_conv is None:
            return x
        first = x[:, :, :1]
        if not carry.fresh:
            x = torch.cat([carry.take(), x], 2)
        carry.keep(x[:, :, -1:].clone())
        return _after(first, self.time_conv(x) if x.shape[2] > 2 else None, carry)


class Upsample(nn.Module):
    """Upsampling: doubles height and width, halves the channels, and with `in_time` doubles the frames.

    A stream's first frame stays single, and the frames after it are doubled without it as history, as in Wan2.1's code.
    """

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3, padding=1)})
        self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if in_time else None
        self.compiled: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        if self.time_conv is not None:
            first = x[:, :, :1]
            x = carry.lead(x[:, :, int(carry.fresh) :], 2, dim=2)
            x = _after(first, self._doubled(x) if x.shape[2] > 2 else None, carry)
        grow = self.grow if self.compiled is None or carry.fresh else self.compiled
        return _video(grow(_frames(x)))

    def compile_layers(self) -> None:
        """Compile `grow`."""
        self.compiled = torch.compile(self.grow, fullgraph=True, dynamic=False)

    def grow(self, frames: Tensor) -> Tensor:
        """Upsample frames [T, C, H, W] to [T, C/2, 2H, 2W]."""
        grown: Tensor = self.resample["1"](F.interpolate(frames, scale_factor=2.0, mode="nearest-exact"))
        return grown

    def _doubled(self, x: Tensor) -> Tensor:
        """Double the frames. The convolution returns each pair as two halves of its channels."""
        assert self.time_conv is not None
        pairs = _frames(self.time_conv(x)).movedim(1, -1).unflatten(-1, (2, -1))  # [T, H, W, 2, C]
        return _video(pairs.movedim(3, 1).flatten(0, 1).contiguous().movedim(-1, 1))


def _after(first: Tensor, later: Tensor | None, carry: Carry) -> Tensor:
    """Prepend a stream's first frame to the results of later frames; later is None if there are none.

    An empty tensor is never joined: it has no memory layout, and the result would not stay channels last.
    """
    if later is None:
        return first
    return torch.cat([first, later], 2) if carry.fresh else later


def _frames(video: Tensor) -> Tensor:
    """View [1, C, T, H, W] as [T, C, H, W]."""
    return video[0].transpose(0, 1)


def _video(frames: Tensor) -> Tensor:
    """View [T, C, H, W] as [1, C, T, H, W]. The batch axis is added first, so that its stride is that of a whole video:
    torch infers the memory format from it, and would otherwise copy to channels first in every layer."""
    return frames[None].transpose(1, 2)


def _run(layers: Iterable[nn.Module], x: Tensor, carry: Carry) -> Tensor:
    for layer in layers:
        x = layer(x, carry)
    return x


class _Coder(nn.Module):
    """Common parts of encoder and decoder: input convolution, middle blocks with attention, output convolution."""

    def __init__(self, channels: int, first: int, middle: int, last: int, out: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(channels, first)
        self.middle = nn.ModuleList(
            [ResidualBlock(middle, middle), AttentionBlock(middle), ResidualBlock(middle, middle)]
        )
        self.head = nn.ModuleDict({"0": ChannelRMSNorm(last, 3), "2": CausalConv3d(last, out)})

    def finish(self, x: Tensor, carry: Carry) -> Tensor:
        return self.head["2"](F.silu(self.head["0"](x)), carry)  # type: ignore[no-any-return]


class Encoder(_Coder):
    """Encoder network, without `WanEncoder.conv1`: pictures to mean and log variance of their latents."""

    def __init__(self, config: VAEConfig) -> None:
        widths = [config.width * multiple for multiple in config.multiples]
        super().__init__(3, config.width, widths[-1], widths[-1], 2 * LATENT_CHANNELS)
        layers: list[nn.Module] = []
        channels = config.width
        for stage, width in enumerate(widths):
            layers += [ResidualBlock(channels if i == 0 else width, width) for i in range(config.blocks)]
            if stage < len(widths) - 1:
                layers.append(Downsample(width, config.in_time[stage]))
            channels = width
        self.downsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        x = _run(self.downsamples, self.conv1(x, carry), carry)
        return self.finish(_run(self.middle, x, carry), carry)


class Decoder(_Coder):
    """Decoder network, after `WanDecoder.conv2`: latents to pictures."""

    def __init__(self, config: VAEConfig) -> None:
        widths = [config.width * multiple for multiple in reversed(config.multiples)]
        super().__init__(LATENT_CHANNELS, widths[0], widths[0], widths[-1], 3)
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            layers += [ResidualBlock(channels if i == 0 else width, width) for i in range(config.blocks + 1)]
            if stage < len(widths) - 1:
                layers.append(Upsample(width, config.in_time[-1 - stage]))
            channels = width // 2
        self.upsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        x = _run(self.middle, self.conv1(x, carry), carry)
        return self.finish(_run(self.upsamples, x, carry), carry)


@lru_cache(maxsize=8)
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of latents, [16, 1, 1] in fp32; no checkpoint contains them. Cached on the device, as a
    transfer in every call would synchronise with it."""
    with torch.inference_mode(False):
        mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, DEVIATION))
    return mean, deviation


class WanEncoder(nn.Module):
    """Streaming encoder from pictures to normalised latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.at_once = config.at_once
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)

    def forward(self, pictures: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Encode RGB [N, 3, H, W] in 0..1 to normalised latents [F, 16, H/8, W/8] in fp32: the mean, without sampling.
        Also returns the next state. N = 4F, or 4F - 3 when the state is fresh."""
        fresh, step = state.tails is None, FRAMES_PER_LATENT * self.at_once
        assert (len(pictures) - fresh) % FRAMES_PER_LATENT == 0, "a latent is four pictures, a stream's first one"
        cuts = range(1 if fresh else step, len(pictures), step)
        return in_parts(self._latents, pictures.tensor_split(tuple(cuts)), state)

    def _latents(self, pictures: Tensor, carry: Carry) -> Tensor:
        x = (2 * pictures - 1).to(self.conv1.weight.dtype).contiguous(memory_format=torch.channels_last)
        moments = self.conv1(self.encoder(_video(x), carry))
        mean, deviation = statistics(x.device)
        return (_frames(moments).chunk(2, dim=1)[0].float() - mean) / deviation


class WanDecoder(nn.Module):
    """Streaming decoder from normalised latents to pictures."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.at_once = config.at_once
        self.decoder = Decoder(config)
        self.conv2 = nn.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    def forward(self, latents: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Decode normalised latents [F, 16, h, w] to RGB [N, 3, 8h, 8w] in 0..1, fp32. Also returns the next state.

        N = 4F, or 4F - 3 when the state is fresh."""
        return in_parts(self._pictures, latents.split(self.at_once), state)

    def compile_layers(self) -> None:
        """Compile all blocks, for inference on a GPU: the operations between convolutions take two fifths of the time
        and become one kernel each. Compilation takes about 15 s, at the second latent of the first stream."""
        torch._dynamo.config.recompile_limit = 64
        for layer in self.modules():
            if isinstance(layer, ResidualBlock | Upsample):
                layer.compile_layers()

    def _pictures(self, latents: Tensor, carry: Carry) -> Tensor:
        mean, deviation = statistics(latents.device)
        x = (latents.float() * deviation + mean).to(self.conv2.weight.dtype)
        x = self.decoder(self.conv2(_video(x.contiguous(memory_format=torch.channels_last))), carry)
        return _frames(x).float().add_(1).div_(2).clamp_(0, 1)
