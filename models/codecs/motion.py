"""Codec of the embedded model: the latent is motion, and the pictures are the photograph warped by the face rig.

A latent [16, 2, 2] holds sixteen controls for four frames (frame j at row j // 2, column j % 2). A value is the
control's difference from the photograph's own state, divided by the channel's scale; the photograph itself is the zero
latent. The decoder's state is the last two frames, for smoothing the steps between latents. Needs no weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from engine.portrait.portrait import Portrait
from ground.motion import CHANNELS, FRAMES_PER_LATENT, INDEX, JAW_SPAN, REFERENCE_FEATURES, SCALES
from models.codecs.base import Reference
from models.codecs.deblocking import deblock
from models.codecs.rig import Rig, own_state, prepare_rig

LATENT_SHAPE = (len(CHANNELS), 2, 2)

# Mean and standard deviation of each landmark over the training portraits, rounded.
FEATURE_STATISTICS: dict[str, tuple[float, float]] = {
    "cx": (0.005, 0.024), "cy": (0.045, 0.007), "rx": (0.439, 0.017), "ry": (0.624, 0.031),
    "mx": (0.002, 0.010), "my": (0.368, 0.035), "mw": (0.204, 0.014), "curve": (-0.055, 0.026),
    "lt": (0.047, 0.011), "ut": (0.025, 0.007), "th": (0.045, 0.025), "chin": (0.302, 0.027),
    "exl": (-0.210, 0.004), "eyl": (-0.100, 0.004), "exr": (0.210, 0.004), "eyr": (-0.100, 0.004),
    "ea": (0.091, 0.004), "eb": (0.029, 0.004), "bh": (0.095, 0.013), "open": (0.233, 0.129),
}  # fmt: skip

FEATURE_LIMIT = 4.0  # standard deviations; keeps unusual faces within the range that the network was trained on

MOUTH = ("jaw", "pucker", "smile", "press", "upper")
TRUSTED, DOUBTED = 0.6, 0.2  # landmark confidence from which the mouth moves fully, and below which it moves least
LEAST_MOUTH = 0.35  # gain of the mouth's controls at the lowest confidence


def reference_features(landmarks: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """Identity features [20], named by `ground.motion.REFERENCE_FEATURES`, with about zero mean and unit variance."""
    values = []
    for name in REFERENCE_FEATURES:
        value = landmarks["th"] / (JAW_SPAN * landmarks["mw"]) if name == "open" else landmarks[name]
        mean, deviation = FEATURE_STATISTICS[name]
        values.append((value - mean) / deviation)
    return np.clip(np.asarray(values, np.float32), -FEATURE_LIMIT, FEATURE_LIMIT)


def unpack_controls(latents: torch.Tensor) -> torch.Tensor:
    """Unpack latents [F, 16, 2, 2] to scaled controls [4F, 16] in time order."""
    return latents.flatten(2).transpose(1, 2).reshape(-1, latents.shape[1])


def pack_controls(controls: torch.Tensor) -> torch.Tensor:
    """Pack scaled controls [4F, 16] into latents [F, 16, 2, 2]; the inverse of `unpack_controls`."""
    latents = controls.reshape(-1, FRAMES_PER_LATENT, controls.shape[-1]).transpose(1, 2)
    return latents.reshape(-1, controls.shape[-1], 2, 2)


@dataclass(frozen=True, slots=True, eq=False)
class MotionState:
    """Decoder state of a call. last: smoothed scaled controls [2, 16] of the last two frames, None before the first."""

    last: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class MotionPayload:
    """Decoder data of a portrait. rig: its face rig. own: controls [16] of the photograph. gain: [16], factor on each
    channel's motion."""

    rig: Rig
    own: torch.Tensor
    gain: torch.Tensor


class MotionCodec:
    """The embedded model's codec. It is stateless; one object serves every call. size: side S of the pictures in
    pixels."""

    def __init__(self, device: torch.device | str = "cpu", size: int = 256) -> None:
        self.device, self.size = torch.device(device), size
        self._scale = torch.tensor(SCALES, device=self.device)
        self._low = torch.tensor([channel.low for channel in CHANNELS], device=self.device)
        self._high = torch.tensor([channel.high for channel in CHANNELS], device=self.device)

    def encode_reference(self, portrait: Portrait) -> Reference:
        """Encode a square portrait of any size: zero latent [16, 2, 2], features [20, 2, 2] and rig.

        At low landmark confidence the mouth moves less, so that a movement in the wrong place is less visible.
        """
        side = portrait.rgb.shape[0]
        assert portrait.rgb.shape == (side, side, 3) and portrait.rgb.dtype == np.uint8, portrait.rgb.shape
        rgb = cv2.resize(portrait.rgb, (self.size, self.size), interpolation=cv2.INTER_AREA)
        photo = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1).float() / 255
        features = torch.from_numpy(reference_features(portrait.landmarks)).to(self.device)
        trust = min(1.0, max(0.0, (portrait.confidence - DOUBTED) / (TRUSTED - DOUBTED)))
        gain = torch.ones(len(CHANNELS), device=self.device)
        gain[[INDEX[name] for name in MOUTH]] = LEAST_MOUTH + (1 - LEAST_MOUTH) * trust
        return Reference(
            latent=torch.zeros(LATENT_SHAPE, device=self.device),
            features=features[:, None, None].expand(-1, *LATENT_SHAPE[1:]).contiguous(),
            payload=MotionPayload(
                rig=prepare_rig(photo, portrait.landmarks), own=own_state(portrait.landmarks).to(self.device), gain=gain
            ),
        )

    def initial_state(self) -> MotionState:
        """The state before the first latent of a call."""
        return MotionState()

    def decode(
        self, latents: torch.Tensor, reference: Reference, state: MotionState
    ) -> tuple[torch.Tensor, MotionState]:
        """Decode latents [F, 16, 2, 2] to RGB uint8 [N, S, S, 3] on the CPU. Also returns the next state. N = 4F, or
        4F - 3 when the state is fresh."""
        assert latents.shape[1:] == LATENT_SHAPE, latents.shape
        if len(latents) == 0:
            return torch.empty((0, self.size, self.size, 3), dtype=torch.uint8), state
        scaled = deblock(unpack_controls(latents.to(self.device, torch.float32)), state.last)
        controls = self.controls(scaled, reference.payload)
        if state.last is None:
            controls = controls[FRAMES_PER_LATENT - 1 :]
        return self.render(controls, reference), MotionState(scaled[-2:])

    def controls(self, scaled: torch.Tensor, payload: MotionPayload) -> torch.Tensor:
        """Convert scaled controls [T, 16] to absolute controls within the channels' ranges.

        A range is extended to the photograph's own state where that lies outside, as with a mouth wide open.
        """
        low, high = torch.minimum(self._low, payload.own), torch.maximum(self._high, payload.own)
        return (payload.own + scaled * self._scale * payload.gain).clamp(low, high)

    def render(self, controls: torch.Tensor, reference: Reference) -> torch.Tensor:
        """Render absolute controls [T, 16] to RGB uint8 [T, S, S, 3] on the CPU."""
        payload: MotionPayload = reference.payload
        pictures = payload.rig.render(controls).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1)
        return pictures.contiguous().cpu()
