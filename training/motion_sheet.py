"""Sheet of a motion sample: its controls as tracks beside the clip's own, and the sample portrait moved by them."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.portrait.framing import frame_portrait
from ground.motion import CHANNELS, NAMES
from models.codecs.base import Reference
from models.codecs.motion import MotionCodec, unpack_controls

PORTRAIT = Path(__file__).resolve().parents[1] / "client_web" / "samples" / "portrait_1.jpg"
WIDTH, ROW, FRAMES = 1024, 44, 8
TRUTH, MADE, INK = (190, 190, 190), (60, 60, 200), (40, 40, 40)


def draw(made: Tensor, truth: Tensor) -> NDArray[np.uint8]:
    """BGR picture of made and true latents [F, 16, 2, 2]."""
    return np.concatenate([tracks(made, truth), faces(made)])


def tracks(made: Tensor, truth: Tensor) -> NDArray[np.uint8]:
    """A row a control, over its range; grey is the clip, red the sample."""
    picture = np.full((ROW * len(NAMES), WIDTH, 3), 255, np.uint8)
    for row, (name, channel) in enumerate(zip(NAMES, CHANNELS, strict=True)):
        for latents, colour in ((truth, TRUTH), (made, MADE)):
            values = unpack_controls(latents)[:, row].numpy() * channel.scale
            share = np.clip((values - channel.low) / (channel.high - channel.low), -0.1, 1.1)
            x = np.linspace(0, WIDTH - 1, len(values))
            y = ROW * row + (ROW - 6) * (1 - share) + 3
            cv2.polylines(picture, [np.stack([x, y], 1).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
        cv2.putText(picture, name, (4, ROW * row + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return picture


def faces(made: Tensor) -> NDArray[np.uint8]:
    """The sample portrait at evenly spaced frames, two rows of four."""
    codec = MotionCodec()
    pictures, _ = codec.decode(made, portrait(), codec.initial_state())
    chosen = pictures[torch.linspace(0, len(pictures) - 1, FRAMES).long()].numpy()[..., ::-1]
    rows = [np.concatenate(list(chosen[at : at + FRAMES // 2]), axis=1) for at in (0, FRAMES // 2)]
    return np.ascontiguousarray(np.concatenate(rows))


@cache
def portrait() -> Reference:
    picture = cv2.imread(str(PORTRAIT))
    assert picture is not None, PORTRAIT
    framed = frame_portrait(np.ascontiguousarray(picture[..., ::-1]))
    return MotionCodec().encode_reference(framed)
