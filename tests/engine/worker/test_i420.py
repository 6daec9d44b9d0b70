"""Pictures to I420: torch's arithmetic gives OpenCV's bytes."""

import cv2
import numpy as np
import torch

from engine.worker.i420 import on_device, to_i420


def test_torch_and_opencv_agree_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8))
    frames[2] = torch.tensor([255, 0, 255])  # the ends of the range
    theirs = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420) for frame in frames.numpy()])
    assert np.array_equal(on_device(frames).numpy(), theirs)
    assert np.array_equal(to_i420(frames), theirs)
    assert to_i420(frames).shape == (3, 24, 24)
