"""Sound files of strangers: what is taken, at which level and length, and what is said about the rest."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engine.media.sound import read_sound
from ground.errors import MediaError
from tests.caller import wav_bytes

INPUTS = Path(__file__).parents[2] / "inputs"
FORMATS = [
    ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
    ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "ULAW"), ("AU", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
    ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "ALAW"), ("WAV", "ULAW"), ("WAV", "DOUBLE"), ("WAVEX", "PCM_16"),
    ("WAV", "IMA_ADPCM"),
]  # fmt: skip


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(kind: str, subtype: str, seconds: float = 2.0, rate: int = 24_000) -> bytes:
    return wav_bytes(tone(seconds, rate), rate, subtype, kind)


def reason(data: bytes, **limits: Any) -> str:
    with pytest.raises(MediaError) as caught:
        read_sound(data, **limits)
    assert 400 <= caught.value.status < 500 and "\n" not in caught.value.message
    return caught.value.code


def is_tone(pcm: np.ndarray, hertz: float = 440.0, level: float = 0.5) -> bool:
    """Nothing but this tone, unbroken, away from the first and last 100 ms."""
    middle = pcm[4800:-4800].astype(np.float64) / 32768
    at = np.arange(len(middle)) * 2 * np.pi * hertz / 48_000
    base = np.stack([np.sin(at), np.cos(at)], axis=1)
    weights, *_ = np.linalg.lstsq(base, middle, rcond=None)
    return bool(np.abs(base @ weights - middle).max() < 0.1 and abs(np.hypot(*weights) - level) < 0.03)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_rates_and_depths(rate: int, subtype: str) -> None:
    sound = read_sound(wav_bytes(tone(0.5, rate), rate, subtype))
    assert sound.pcm.dtype == np.int16 and len(sound.pcm) == pytest.approx(24_000, abs=2)
    expected = np.rint(0.5 * 32768 * np.sin(2 * np.pi * 440 * np.arange(len(sound.pcm)) / 48_000))
    assert np.abs(sound.pcm - expected)[2400:-2400].max() <= (500 if rate == 44_101 else 2)  # half a sample's time


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_every_format_is_heard_whole(kind: str, subtype: str) -> None:
    sound = read_sound(encoded(kind, subtype))
    assert sound.seconds == pytest.approx(2.0, abs=0.05 if "ADPCM" in subtype else 1e-4)
    assert is_tone(sound.pcm)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_what_is_there_of_a_file_cut_short_is_heard(kind: str, subtype: str) -> None:
    data = encoded(kind, subtype, seconds=20.0)
    sound = read_sound(data[: len(data) * 2 // 3 + 1])
    assert 10.0 < sound.seconds < 13.5 and is_tone(sound.pcm)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "ULAW"), ("RF64", "PCM_16"), ("MP3", "MPEG_LAYER_III"),
                          ("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")]
)  # fmt: skip
def test_whole_files_in_a_row_are_all_heard(kind: str, subtype: str) -> None:
    assert read_sound(encoded(kind, subtype) * 3).seconds == pytest.approx(6.0, abs=1e-3)
    mixed = encoded(kind, subtype, 1.0, 16_000) + encoded(kind, subtype, 1.0, 48_000)
    sound = read_sound(mixed)
    assert sound.seconds == pytest.approx(2.0, abs=1e-3)
    assert subtype == "OPUS" or (is_tone(sound.pcm[:47_000]) and is_tone(sound.pcm[50_000:]))


def test_files_that_were_handled_wrongly() -> None:
    once = read_sound(INPUTS / "wav_riff36_data0.wav")
    assert len(once.pcm) == 96_000
    twice = read_sound(INPUTS / "wav_glued.wav").pcm
    assert len(twice) == 192_000
    assert np.array_equal(twice[:94_000], once.pcm[:94_000])
    assert np.abs(twice[98_000:].astype(int) - once.pcm[2_000:]).max() <= 1
    scaled = read_sound(INPUTS / "wav_f32_unscaled.wav").pcm
    assert np.abs(scaled - once.pcm.astype(int)).max() <= 1


def test_parts_of_one_recording_join_without_a_click() -> None:
    """24 kHz parts, each resampled by itself: the seam differs from a tone by less than 1 %."""
    parts = [read_sound(INPUTS / f"say_part{number}_130ms.wav").pcm for number in (1, 2)]
    assert [len(part) for part in parts] == [6240, 6240]
    joined = np.concatenate(parts).astype(np.float64)
    at = np.arange(len(joined))
    spectrum = np.abs(np.fft.rfft(joined * np.hanning(len(joined)), 2**20))
    hertz = spectrum.argmax() * 48_000 / 2**20
    base = np.stack([np.sin(2 * np.pi * hertz * at / 48_000), np.cos(2 * np.pi * hertz * at / 48_000)], axis=1)
    weights, *_ = np.linalg.lstsq(base, joined, rcond=None)
    assert np.abs(base @ weights - joined)[6_240 - 300 : 6_240 + 300].max() < 0.01 * np.abs(joined).max()


def test_samples_of_48_khz_are_not_changed() -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    data = wav_bytes(pcm.astype(np.float64) / 32768, 48_000, "PCM_16")
    assert np.array_equal(read_sound(data).pcm, pcm)
    assert np.array_equal(read_sound(data * 2).pcm, np.concatenate([pcm, pcm]))


@pytest.mark.parametrize(
    "channels",
    [
        lambda voice, none: [voice, none], lambda voice, none: [none, voice], lambda voice, none: [voice, -voice],
        lambda voice, none: [none, none, voice, none, none, none], lambda voice, none: [voice, voice],
    ],
)  # fmt: skip
def test_a_voice_on_any_channels_is_heard_at_its_level(channels: Any) -> None:
    voice = tone(1.0, 48_000)
    data = wav_bytes(np.stack(channels(voice, np.zeros_like(voice)), axis=1))
    assert is_tone(read_sound(data).pcm)


def test_floats_beyond_full_scale_are_scaled_down_not_clipped() -> None:
    for over in (1.2, 2.0, 24.0, 30_000.0, 2.0**31):
        sound = read_sound(wav_bytes(tone(0.5, 48_000) * 2 * over, subtype="FLOAT"))
        assert is_tone(sound.pcm, level=over / 32768 if over == 30_000.0 else 1.0), over
    small = read_sound(wav_bytes(tone(0.5, 48_000), subtype="FLOAT"))
    assert is_tone(small.pcm)
    for wrong in (np.nan, np.inf, -np.inf, 1e30):
        values = tone(0.5, 48_000)
        values[1000] = wrong
        assert reason(wav_bytes(values, subtype="FLOAT")) == "broken_audio"


def test_what_cannot_be_spoken_is_refused_with_its_reason(tmp_path: Path) -> None:
    good = wav_bytes(tone(1.0, 16_000), 16_000)
    assert reason(b"") == "empty_audio"
    assert reason(b"ID3\x04" + b"\x00" * 100) == "unsupported_audio"
    assert reason(b"\x1aE\xdf\xa3" + bytes(100)) == "unsupported_audio"  # WebM
    assert reason(b'{"error": "no such voice"}') == "unsupported_audio"
    assert reason(b"\xff\xf1\x50\x80" * 100) == "unsupported_audio"  # AAC
    assert reason(b"\xff\xfb\x90\x00" * 50_000) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 2000), 2000)) == "unsupported_audio"
    assert reason(wav_bytes(tone(0.2, 384_000), 384_000)) == "unsupported_audio"
    assert reason(wav_bytes(np.stack([tone(0.1, 48_000)] * 9, axis=1))) == "unsupported_audio"
    assert reason(good[:20]) == "broken_audio"
    assert reason(wav_bytes(np.zeros(0, np.float32))) == "empty_audio"
    assert reason(wav_bytes(np.zeros(16_000, np.float32), 16_000)) == "silent_audio"
    assert reason(good, max_seconds=0.5) == "audio_too_long"
    assert reason(good * 2, max_seconds=1.5) == "audio_too_long"
    assert reason(bytes(1 << 21), max_seconds=0.5) == "audio_too_large"
    assert reason(wav_bytes(tone(0.001, 48_000)) * 1001) == "broken_audio"
    with pytest.raises(MediaError) as caught:
        read_sound(tmp_path / "none.wav")
    assert caught.value.code == "audio_not_found" and str(tmp_path) not in caught.value.message


def test_a_recording_of_exactly_the_limit_is_taken() -> None:
    for rate in (11_025, 44_100, 48_000):
        assert read_sound(wav_bytes(tone(2.0, rate), rate), max_seconds=2.0).seconds == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")])
def test_a_small_file_that_expands_hugely_is_cut_at_the_limit(
    kind: str, subtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wav_bytes(np.zeros((60 * 48_000, 2), np.float32), 48_000, subtype, kind)
    blocks = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, **given: blocks.append(1) or original(self, **given))
    assert reason(data, max_seconds=2.0) == "audio_too_long"
    assert len(blocks) <= 51


def test_a_flac_whose_header_lies_about_its_length() -> None:
    for told in (0, 0xFFFFFFFF):
        data = bytearray(encoded("FLAC", "PCM_16"))
        data[21] &= 0xF0
        data[22:26] = struct.pack(">I", told)
        assert read_sound(bytes(data)).seconds == 2.0


@pytest.mark.parametrize("told", [0, 1 << 30, 0xFFFFFFFF])
def test_an_au_whose_header_lies_about_its_length(told: int) -> None:
    data = bytearray(encoded("AU", "PCM_16"))
    data[8:12] = struct.pack(">I", told)
    assert read_sound(bytes(data)).seconds == 2.0


def test_tags_before_any_format_are_passed_over() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\xff\xfb\x90\x00" * 64
    for kind, subtype in FORMATS:
        assert len(read_sound(tag + encoded(kind, subtype)).pcm) == len(read_sound(encoded(kind, subtype)).pcm)


def test_a_file_is_read_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.3, 22_050), 22_050)
    assert np.array_equal(read_sound(path).pcm, read_sound(path.read_bytes()).pcm)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_cut_and_mutated_files_never_surprise(kind: str, subtype: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    good = encoded(kind, subtype, seconds=0.2)
    outcomes = set()
    for i in range(60):
        data = bytearray(good[: rng.integers(1, len(good))] if i % 3 == 0 else good)
        for at in rng.integers(0, min(60, len(data)) if i % 2 else len(data), 4):
            data[at] = rng.integers(256)
        try:
            outcomes.add("read" if read_sound(bytes(data), max_seconds=20.0).seconds < 20.1 else "too long")
        except MediaError as error:
            assert error.code in (
                "broken_audio", "unsupported_audio", "empty_audio", "silent_audio", "audio_too_long",
            )  # fmt: skip
            outcomes.add("refused")
    assert "too long" not in outcomes and ("read" in outcomes or kind == "OGG")  # whose pages are checksummed
    assert "Traceback" not in capfd.readouterr().err


def test_noise_of_any_length_is_refused_in_one_line() -> None:
    rng = np.random.default_rng(1)
    starts = [
        b"",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"fLaC",
        b"OggS\x00\x02",
        b"FORM\x00\x00\x00\x00AIFF",
        b".snd",
        b"ID3\x03",
    ]
    for i in range(200):
        data = starts[i % len(starts)] + rng.bytes(int(rng.integers(0, 3000)))
        with pytest.raises(MediaError) as caught:
            read_sound(data + b"")
        assert "\n" not in caught.value.message
