"""Rendering of controls by the codec's rig."""

import numpy as np
import torch

from benchmarks.motion.motion_figures import FloatArray
from benchmarks.motion.picture_figures import Pictures
from engine.portrait.portrait import Portrait
from ground.motion import SCALES
from models.codecs.motion import MotionCodec


def show(codec: MotionCodec, portrait: Portrait, relative: FloatArray) -> tuple[Pictures, FloatArray]:
    """Render controls relative to the photograph [T, 16]: pictures [T, S, S, 3] and their absolute controls."""
    reference = codec.encode_reference(portrait)
    absolute = codec.controls(torch.from_numpy(relative / np.array(SCALES)).float(), reference.payload)
    return codec.render(absolute, reference).numpy(), absolute.numpy().astype(np.float64)


def relative_to(codec: MotionCodec, portrait: Portrait, controls: FloatArray) -> FloatArray:
    """Absolute controls [T, 16] as differences from the photograph's own state."""
    return controls - np.asarray(codec.encode_reference(portrait).payload.own.numpy(), np.float64)
