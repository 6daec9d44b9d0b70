"""WAV files of strangers: what is taken, at which level and length, and what is said about the rest."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engine.media.wav import read_wav
from ground.errors import MediaError
from tests.caller import wav_bytes


def tone(seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def reason(data: bytes, **limits: Any) -> str:
    with pytest.raises(MediaError) as caught:
        read_wav(data, **limits)
    return caught.value.code


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_rates_and_depths(rate: int, subtype: str) -> None:
    wave = read_wav(wav_bytes(tone(0.5, rate), rate, subtype))
    assert wave.pcm.dtype == np.int16 and wave.seconds == pytest.approx(0.5, abs=0.001)
    middle = wave.pcm[4800:-4800].astype(np.float32)
    expected = 0.5 * 32767 * np.sin(2 * np.pi * 440 * np.arange(len(wave.pcm)) / 48_000)[4800:-4800]
    assert np.corrcoef(middle, expected)[0, 1] > 0.999
    assert np.abs(middle).max() == pytest.approx(0.5 * 32767, rel=0.03)


def test_stereo_is_mixed_and_too_loud_is_clipped() -> None:
    both = np.stack([tone(0.2, 48_000), -tone(0.2, 48_000) * 0.5], axis=1)
    assert np.abs(read_wav(wav_bytes(both)).pcm).max() == pytest.approx(0.125 * 32767, rel=0.02)
    loud = read_wav(wav_bytes(tone(0.2, 48_000) * 8, subtype="FLOAT")).pcm
    assert loud.max() == 32767 and loud.min() == -32768


def test_what_cannot_be_spoken_is_refused_with_its_reason(tmp_path: Path) -> None:
    good = wav_bytes(tone(1.0, 16_000), 16_000)
    assert reason(b"") == "unsupported_audio"
    assert reason(b"ID3\x04" + b"\x00" * 100) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 16_000), 16_000, kind="FLAC")) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 16_000), 16_000, kind="AIFF")) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 4000), 4000)) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 96_000), 96_000)) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 16_000), 16_000, "PCM_U8")) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 16_000), 16_000, "ULAW")) == "unsupported_audio"
    assert reason(wav_bytes(np.stack([tone(0.1, 48_000)] * 6, axis=1))) == "unsupported_audio"
    assert reason(good[:20]) == "broken_audio"
    assert reason(wav_bytes(np.zeros(0, np.float32))) == "empty_audio"
    assert reason(wav_bytes(np.zeros(16_000, np.float32), 16_000)) == "silent_audio"
    assert reason(wav_bytes(np.full(100, np.nan, np.float32), subtype="FLOAT")) == "broken_audio"
    assert reason(good, max_seconds=0.5) == "audio_too_long"
    assert reason(good, max_bytes=1000) == "audio_too_large"
    with pytest.raises(MediaError) as caught:
        read_wav(tmp_path / "none.wav")
    assert caught.value.code == "audio_not_found" and str(tmp_path) not in caught.value.message


def test_a_file_is_read_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.3, 22_050), 22_050)
    assert np.array_equal(read_wav(path).pcm, read_wav(path.read_bytes()).pcm)


def test_cut_and_mutated_files_never_surprise() -> None:
    rng = np.random.default_rng(0)
    good = wav_bytes(tone(0.05, 16_000), 16_000)
    for i in range(300):
        data = bytearray(good[: rng.integers(1, len(good))] if i % 3 == 0 else good)
        for at in rng.integers(0, min(60, len(data)), 3):
            data[at] = rng.integers(256)
        try:
            read_wav(bytes(data))
        except MediaError:
            continue


def test_a_header_that_lies_about_its_length_allocates_nothing() -> None:
    out = io.BytesIO(wav_bytes(tone(0.1, 16_000), 16_000))
    data = bytearray(out.getvalue())
    data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    try:
        assert read_wav(bytes(data)).seconds < 1.0
    except MediaError as error:
        assert error.code in ("audio_too_long", "broken_audio")
