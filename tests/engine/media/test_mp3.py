"""MP3 parsing: the length is that of the frames that are there, whatever a header says or lacks."""

import io

import numpy as np
import pytest
import soundfile

from engine.media.mp3 import after_id3, find_frame, mp3_parts, parse_frame
from tests.caller import wav_bytes

RATES = [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]


def mp3(seconds: float, rate: int = 24_000, channels: int = 1) -> bytes:
    n = np.arange(round(seconds * rate))
    tone = 0.3 * np.sin(2 * np.pi * 300 * n / rate * (1 + 0.1 * np.sin(n / rate)))
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(n)) * (n % rate < rate // 2)
    return wav_bytes(np.stack([tone + noise] * channels, axis=1), rate, "MPEG_LAYER_III", "MP3")


def without_tag(data: bytes) -> bytes:
    frame = parse_frame(data, 0)
    assert frame is not None and data[frame.tag_at : frame.tag_at + 4] in (b"Xing", b"Info")
    return data[frame.size :]


def lengths(data: bytes, seconds: float = 1000.0) -> list[int]:
    return [soundfile.info(io.BytesIO(part)).frames for part in mp3_parts(data, seconds)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_frames_follow_each_other_to_the_end(rate: int, channels: int) -> None:
    data = mp3(1.0, rate, channels)
    at = count = 0
    while at < len(data):
        frame = parse_frame(data, at)
        assert frame is not None and frame.rate == rate
        at, count = at + frame.size, count + 1
    assert at == len(data) and (count - 1) * frame.samples >= rate
    assert lengths(data) == [rate]
    assert lengths(data + data) == [rate, rate]


@pytest.mark.parametrize("rate", RATES)
def test_a_stream_without_its_count_is_counted(rate: int) -> None:
    bare = without_tag(mp3(4.0, rate))
    frame = parse_frame(bare, 0)
    assert frame is not None
    (length,) = lengths(bare)
    assert 4 * rate <= length < 4 * rate + 4 * frame.samples
    assert lengths(bare + bare)[0] >= 8 * rate


def test_a_cut_stream_has_the_length_of_what_is_there() -> None:
    data = mp3(10.0)
    (length,) = lengths(data[: len(data) // 2])
    assert 100_000 < length < 140_000
    (part,) = mp3_parts(data[: len(data) // 2], 100.0)
    assert len(soundfile.read(io.BytesIO(part))[0]) == length


def test_tags_and_junk_between_frames_are_passed_over() -> None:
    data = mp3(1.0)
    tag = b"ID3\x04\x00\x00\x00\x00\x07\x68" + b"\xff\xfb\x90\x64" * 250
    assert after_id3(tag + tag + data) == 2 * len(tag)
    assert after_id3(data) == 0
    junk = b"TAG" + b"x" * 125
    assert lengths(tag + data + junk + tag + data + b"\x00" * 3000 + data + junk) == [24_000] * 3


def test_another_rate_begins_another_stream() -> None:
    assert len(lengths(without_tag(mp3(1.0, 24_000)) + without_tag(mp3(1.0, 48_000)))) == 2


def test_no_more_is_looked_at_than_asked_for() -> None:
    (length,) = lengths(without_tag(mp3(10.0)), seconds=2.0)
    assert 47_000 < length < 51_000


def test_what_only_looks_like_a_frame_is_none() -> None:
    assert find_frame(b"\xff\xfb\x90\x00" * 20_000, 0) == -1
    assert find_frame(bytes(100_000) + mp3(0.5), 0) == -1
    assert find_frame(b"junk" + mp3(0.5), 0) == 4
    assert not list(mp3_parts(b"\xff\xfb\x90\x00" * 20_000, 10.0))
    for wrong in (
        b"\xff\xf1\x50\x80",
        b"\xff\xfb\x00\x00",
        b"\xff\xfb\xf0\x00",
        b"\xff\xfb\x9c\x00",
        b"\xff\xeb\x90\x00",
    ):
        assert parse_frame(wrong, 0) is None
