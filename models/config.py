"""Frozen descriptions of models: the transformer's shape, and what a call needs to know about its content.

One dataclass pair describes every family; presets are a base plus ``dataclasses.replace``. Plain data, no torch.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ground.errors import RequestError

Prediction = Literal["flow", "x0"]


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """How a speech encoder's features become the tokens that the blocks attend to, latent by latent.

    layers, width: hidden states of the encoder, stacked, of a video frame. window: video frames seen around each
    (odd). stride: video frames of a latent (a clip's first latent is one frame). hidden: width inside the projection.
    tokens: of one latent, as wide as the transformer.
    """

    layers: int = 12
    width: int = 768
    window: int = 5
    stride: int = 4
    hidden: int = 512
    tokens: int = 32

    @property
    def entries(self) -> int:
        """Stacked features that a later latent sees: half the window on either side of its first and last frame, and
        one of every frame. A clip's first latent sees ``window`` of them."""
        return self.stride + self.window - 1


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Shape of one ``CausalWanDiT`` (Wan2.1 block structure).

    latent_channels: z. inpainting: the input carries the condition latent and a mask channel (1 = given) beside
    the noisy latent. reference_channels: r, the codec's reference features (0 for Wan). text_dim: width of the text
    encoder, None = no text cross-attention. drive_dim, drive_tokens: width and number of driving tokens of one latent
    frame, 0 = none: 640 values of log-mel, ``visemes`` estimates of the lips (``models.encoders.visemes``, 0 = none),
    16 given controls and their mask; drive_blocks: after which blocks they are attended. audio: the drive is a speech
    encoder's features, attended inside every block in the text's place. prediction: what the head predicts.
    """

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    latent_channels: int = 16
    inpainting: bool = True
    reference_channels: int = 0
    text_dim: int | None = 4096
    drive_dim: int = 0
    visemes: int = 0
    drive_tokens: int = 0
    drive_blocks: tuple[int, ...] = ()
    audio: AudioConfig | None = None
    frequency_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    prediction: Prediction = "flow"

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def condition_channels(self) -> int:
        """Condition latent and mask, and reference features."""
        return (self.latent_channels + 1 if self.inpainting else 0) + self.reference_channels

    @property
    def drive_shape(self) -> tuple[int, int]:
        """[n, d] of one latent frame's drive, as the transformer takes it."""
        if self.audio is not None:
            return self.audio.entries, self.audio.layers * self.audio.width
        return self.drive_tokens, self.drive_dim

    @property
    def in_dim(self) -> int:
        """2z + 1 + r with the mask-inpainting input, z + r without."""
        return self.latent_channels + self.condition_channels

    @property
    def rope_split(self) -> tuple[int, int, int]:
        """Head channels that rotate with time, height and width: 44/42/42 for 128, the same rule for others."""
        spatial = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * spatial, spatial, spatial


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Shape of Wan2.1's autoencoder and of the tiny decoder of its latents; the defaults are the published ones.

    width, multiples: channels of the stages, from the pictures inwards. blocks: residual blocks a stage (one more in
    the decoder). in_time: which of the encoder's downsamplings are in time too. tiny_widths: of the tiny decoder.
    at_once: latents that the autoencoder takes at a time; more of them take more memory and give the same.
    """

    width: int = 96
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    in_time: tuple[bool, ...] = (False, True, True)
    tiny_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class LTXConfig:
    """Shape of LTX-Video's autoencoder (32x in space, 8x in time); the defaults are the published ones."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: tuple[int, ...] = (4, 3, 3, 3, 4)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model as a call sees it: its transformer, its pictures, its clock and its noise schedule.

    latent_size: (height, width) of a latent. pixel_size: (width, height) of a frame. frames_per_latent: frames one
    latent stands for; the first of a stream gives one. shift, steps: the few-step schedule (``engine.rollout.flow``).
    trained_latents: length of a training clip, from which the reference's index follows. running_ahead: the default of
    ``RolloutSpec``. rollout, chunk, knot, window, sink: likewise, its own. codec: what turns pictures into latents
    and back: ``motion``, ``wan``, ``wan-tiny`` (Wan2.1's encoder with the tiny decoder), ``wan-clips`` and
    ``ltx-clips`` (chunks that are clips by themselves, see ``models.codecs.clip``), empty = nothing (throughput only).
    pixels_per_latent: how many a latent's pixel is wide and high. vae: shape of Wan2.1's, ltx: of LTX-Video's.
    weights: whose weights it runs with, empty = its own. unverified: what of all this nobody
    has yet held against the published files.
    """

    name: str
    dit: DiTConfig
    fps: int
    latent_size: tuple[int, int]
    pixel_size: tuple[int, int]
    codec: str
    frames_per_latent: int = 4
    shift: float = 5.0
    steps: tuple[int, ...] = (1000, 750, 500, 250)
    trained_latents: int = 21
    running_ahead: str = "countdown"
    rollout: str = "knot_forcing"
    chunk: int = 3
    knot: int = 1
    window: int = 6
    sink: int = 0
    pixels_per_latent: int = 8
    weights: str = ""
    vae: VAEConfig = VAEConfig()
    ltx: LTXConfig = LTXConfig()
    unverified: tuple[str, ...] = ()

    @property
    def makes_clips(self) -> bool:
        """Chunks are clips by themselves (``models.codecs.clip``)."""
        return self.codec.endswith("-clips")

    def frames_of(self, latents: int) -> int:
        """Pictures of a stream's first latents."""
        return 1 + (latents - 1) * self.frames_per_latent

    @property
    def tokens_per_latent(self) -> int:
        _, height, width = self.dit.patch
        return (self.latent_size[0] // height) * (self.latent_size[1] // width)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of one latent frame."""
        return (self.dit.latent_channels, *self.latent_size)

    def at_size(self, width: int, height: int) -> "ModelConfig":
        """The same model at another picture size (pixels).

        A video latent's pixel is 8 (LTX: 32), a token twice that. A motion latent stays as it is: the photograph alone
        grows. Raises RequestError for a size that the patches do not divide, or that the rig does not make.
        """
        cell = self.pixels_per_latent
        token = cell * self.dit.patch[1]
        if width <= 0 or height <= 0 or width % token or height % token:
            raise RequestError("invalid_size", f"width and height must be multiples of {token}, not {width}x{height}")
        if self.codec != "motion":
            return replace(self, pixel_size=(width, height), latent_size=(height // cell, width // cell))
        low, high = MOTION_SIDES
        if width != height or not low <= width <= high:
            raise RequestError("invalid_size", f"{self.name} makes squares of {low} to {high}, not {width}x{height}")
        return replace(self, pixel_size=(width, height))


MOTION_SIDES = (128, 1024)

EMBEDDED = ModelConfig(
    name="embedded",
    dit=DiTConfig(
        dim=256, layers=6, heads=4, ffn_dim=1024, reference_channels=20, text_dim=None,
        drive_dim=677, visemes=5, drive_tokens=4, drive_blocks=(0, 2, 4),
        prediction="x0",
    ),
    fps=25,
    latent_size=(2, 2),
    pixel_size=(256, 256),
    codec="motion",
    running_ahead="constant",
)  # fmt: skip

EMBEDDED_384 = replace(EMBEDDED.at_size(384, 384), name="embedded-384", weights=EMBEDDED.name)
EMBEDDED_512 = replace(EMBEDDED.at_size(512, 512), name="embedded-512", weights=EMBEDDED.name)

WAN21_T2V_1_3B = DiTConfig(dim=1536, layers=30, heads=12, ffn_dim=8960, inpainting=False)

WAN21_1_3B = ModelConfig(
    name="wan2.1-1.3b",
    dit=replace(
        WAN21_T2V_1_3B,
        inpainting=True,
        drive_dim=672,
        drive_tokens=EMBEDDED.dit.drive_tokens,
        drive_blocks=(0, 4, 8, 12, 16, 20, 24, 28),
    ),
    fps=25,
    latent_size=(60, 104),
    pixel_size=(832, 480),
    codec="wan",
)

WAN21_14B = replace(
    WAN21_1_3B,
    name="wan2.1-14b",
    dit=replace(
        WAN21_1_3B.dit, dim=5120, layers=40, heads=40, ffn_dim=13824, drive_blocks=(0, 4, 8, 12, 16, 20, 24, 28, 32, 36)
    ),
)

# Text to video without a portrait: what Wan2.1 itself, Self Forcing and LongLive publish. Nothing drives them, so they
# take no calls: they are for throughput, and a start for training. Wan2.1 itself is not distilled: its pictures want
# fifty steps and guidance, which no rollout here does.
WAN21_T2V = ModelConfig(
    name="wan2.1-t2v-1.3b",
    dit=WAN21_T2V_1_3B,
    fps=16,
    latent_size=(60, 104),
    pixel_size=(832, 480),
    codec="wan",
    rollout="self_forcing",
    window=21,
)
WAN21_T2V_14B = replace(
    WAN21_T2V, name="wan2.1-t2v-14b", dit=replace(WAN21_T2V.dit, dim=5120, layers=40, heads=40, ffn_dim=13824)
)
SELF_FORCING = replace(WAN21_T2V, name="self-forcing")
# The sink stands where its authors' configuration for videos without an end has it, right before the window; in their
# other one it stays at the video's start, ever further away.
LONGLIVE = replace(WAN21_T2V, name="longlive", window=12, sink=3)

FLASHHEAD_PRO = ModelConfig(
    name="flashhead-pro",
    dit=replace(WAN21_T2V_1_3B, text_dim=None, reference_channels=WAN21_T2V_1_3B.latent_channels, audio=AudioConfig()),
    fps=25,
    latent_size=(64, 64),
    pixel_size=(512, 512),
    codec="wan-clips",
    rollout="overlap_chunks",
    chunk=7,
    knot=2,
    unverified=(
        "colours: matched by mean and deviation of each picture's Lab channels; that it is Lab was not checked",
        "the voice's window at a chunk's end: the last frame is repeated for the two that have not been heard",
        "a chunk's first 5 frames are never shown, those of the first chunk either",
    ),
)

FLASHHEAD_LITE = replace(
    FLASHHEAD_PRO,
    name="flashhead-lite",
    dit=replace(
        FLASHHEAD_PRO.dit, latent_channels=128, reference_channels=128, audio=AudioConfig(stride=8)
    ),
    latent_size=(16, 16),
    codec="ltx-clips",
    frames_per_latent=8,
    pixels_per_latent=32,
    chunk=3,
    unverified=(
        *FLASHHEAD_PRO.unverified[:2],
        "a chunk's first 9 frames (2 latents) are never shown: that motion is 2 latents here too is by Pro's rule",
        "the patch of 2x2 latent pixels is Pro's; a config.json beside the weights that says otherwise is refused",
        "the pictures' decoder is asked without noise, and at timestep 0 if it takes one",
    ),
)  # fmt: skip

CONFIGS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        EMBEDDED, EMBEDDED_384, EMBEDDED_512, WAN21_1_3B, WAN21_14B, WAN21_T2V, WAN21_T2V_14B, SELF_FORCING, LONGLIVE,
        FLASHHEAD_PRO, FLASHHEAD_LITE,
    )
}  # fmt: skip


def find_config(name: str) -> ModelConfig:
    if name not in CONFIGS:
        raise RequestError(
            "unknown_model",
            f"unknown model {name!r}: choose one of {', '.join(CONFIGS)} (`knotcast models list` says more)",
            param="model",
        )
    return CONFIGS[name]
