"""WAV parsing: wrong sizes, chunks of all kinds, whole files in a row."""

import io
import struct

import numpy as np
import pytest
import soundfile

from engine.media.wav import is_wav, wav_parts
from ground.errors import MediaError

PCM = np.arange(-500, 500, dtype=np.int16)


def chunk(name: bytes, content: bytes, *, padded: bool = True) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2 * padded)


def header(rate: int = 24_000, channels: int = 1) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels, 2 * channels, 16))


def wav(
    pcm: np.ndarray = PCM,
    riff: int | None = None,
    size: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    rate: int = 24_000,
) -> bytes:
    """riff, size: what the header says in place of the truth."""
    samples = pcm.astype("<i2").tobytes()
    data = b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    body = b"WAVE" + header(rate) + before + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def read(data: bytes) -> list[np.ndarray]:
    return [soundfile.read(io.BytesIO(part), dtype="int16")[0] for part in wav_parts(data)]


@pytest.mark.parametrize("riff", [0, 36, 0x7FFFFFFF, 0xFFFFFFFF, None])
@pytest.mark.parametrize("size", [0, 0x7FFFFFDB, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB, len(PCM) * 2 + 2])
def test_sizes_that_were_never_mended(riff: int | None, size: int) -> None:
    once = wav(riff=riff, size=size)
    assert [len(part) for part in read(once)] == [len(PCM)]
    assert all(np.array_equal(part, PCM) for part in read(once * 3)) and len(read(once * 3)) == 3


def test_files_in_a_row_keep_their_own_headers() -> None:
    rates = [soundfile.info(io.BytesIO(part)).samplerate for part in wav_parts(wav(rate=8000) + wav(rate=44_100))]
    assert rates == [8000, 44_100]


def test_what_lies_between_files_is_passed_over() -> None:
    assert len(read(wav() + b"\r\n--boundary\r\n" + wav() + bytes(7))) == 2


@pytest.mark.parametrize("padded", [True, False])
def test_chunks_before_and_after_the_samples_are_no_samples(padded: bool) -> None:
    extra = chunk(b"LIST", b"INFOISFT\x05\x00\x00\x00Lavf\x00", padded=padded) + chunk(
        b"bext", bytes(603), padded=padded
    )
    extra += chunk(b"id3 ", b"ID3\x04" + bytes(61), padded=padded) + chunk(b"JUNK", bytes(28))
    for data in (wav(before=extra), wav(after=extra), wav(before=extra, after=extra), wav(before=extra, size=0)):
        assert np.array_equal(read(data)[0], PCM)


def test_an_empty_wav_with_tags_after_it_has_no_samples() -> None:
    assert read(wav(PCM[:0], after=chunk(b"LIST", b"INFO" + bytes(40)))) == []
    assert read(wav(PCM[:0])) == [] and len(read(wav(PCM[:0]) + wav())) == 1


def test_the_last_frame_that_is_cut_is_left_out() -> None:
    assert [len(part) for part in read(wav()[:-1])] == [len(PCM) - 1]
    stereo = io.BytesIO()
    soundfile.write(stereo, np.zeros((100, 2)), 8000, format="WAV", subtype="PCM_24")
    assert [len(part) for part in read(stereo.getvalue()[:-4])] == [99]


@pytest.mark.parametrize("kind", ["RF64", "WAVEX"])
def test_other_kinds_of_wav(kind: str) -> None:
    out = io.BytesIO()
    soundfile.write(out, PCM, 16_000, format=kind, subtype="PCM_16")
    assert is_wav(out.getvalue()) and np.array_equal(read(out.getvalue() * 2)[1], PCM)


def test_big_endian_wav() -> None:
    out = io.BytesIO()
    soundfile.write(out, PCM, 16_000, format="WAV", subtype="PCM_16", endian="BIG")
    assert out.getvalue()[:4] == b"RIFX" and np.array_equal(read(out.getvalue())[0], PCM)


@pytest.mark.parametrize(
    "data",
    [b"RIFF\x04\x00\x00\x00WAVE", wav()[:40], wav().replace(b"fmt ", b"fmtx"), b"RIFF\x24\x00\x00\x00WAVE" + bytes(50)],
)
def test_what_has_no_samples_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError) as caught:
        list(wav_parts(data))
    assert caught.value.code == "broken_audio"


def test_other_files_are_no_wav() -> None:
    assert not any(
        is_wav(data) for data in (b"", b"RIFF", b"RIFF\x00\x00\x00\x00AVI LIST", b"RIFF\x00\x00\x00\x00WEBP")
    )
