"""Frame number stamp: it survives the video codec, and pictures without one are recognised."""

from fractions import Fraction

import numpy as np
import pytest
from aiortc.codecs.vpx import Vp8Decoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame
from av import VideoFrame

from server.call.stamp import read_stamp, stamp
from server.rtc.encoders import BitrateRange, SteadyVp8Encoder


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 * 3 // 2, width // 8))
    return np.kron(noise, np.ones((8, 8))).astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (512, 512), (832, 480)])
@pytest.mark.parametrize("number", [0, 1, 77_777, (1 << 20) - 1])
def test_a_number_is_read_back(width: int, height: int, number: int) -> None:
    image = picture(width, height)
    stamp(image, number)
    assert read_stamp(image[:height]) == number


def test_a_picture_without_one_has_none() -> None:
    assert all(read_stamp(picture(256, 256, seed)[:256]) is None for seed in range(200))
    for level in (0, 16, 128, 235, 255):
        assert read_stamp(np.full((256, 256), level, np.uint8)) is None


def test_it_survives_vp8_at_a_low_bitrate() -> None:
    encoder, decoder = SteadyVp8Encoder(BitrateRange(250_000, 250_000)), Vp8Decoder()
    read = []
    for number in range(40):
        image = picture(256, 256)
        image[:200, :200] = (image[:200, :200] // 2 + number) % 220
        stamp(image, number * 999)
        frame = VideoFrame.from_ndarray(image, format="yuv420p")
        frame.pts, frame.time_base = number * 1920, Fraction(1, 48_000)
        payloads, timestamp = encoder.encode(frame)
        data = b"".join(vp8_depayload(payload) for payload in payloads)
        for shown in decoder.decode(JitterFrame(data=data, timestamp=timestamp)):
            read.append(read_stamp(shown.to_ndarray()[:256]))
    assert sum(number == i * 999 for i, number in enumerate(read)) >= 38
