"""Opus packet loss concealment: no clicks, closer to the voice than silence, and an exact sample count."""

import asyncio
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket
from av import AudioFrame, CodecContext
from numpy.typing import NDArray

from ground.units import PLAYOUT_RATE
from server.rtc.ice import IcePolicy
from server.rtc.opus import FULL, MAX_FILL, SILENT, ConcealingDecoder, fade
from server.rtc.peer import Peer
from server.settings import Settings
from tests.caller import Microphone

SENTENCE = Path(__file__).parents[3] / "client_web/samples/sentence.wav"
MOST_STEP = 1.2  # largest step between samples: concealed signal over clean signal
CLOSER = 0.9  # spectral distance to the clean signal: concealed over silence in its place


def sentence() -> NDArray[np.int16]:
    pcm, rate = soundfile.read(SENTENCE, dtype="float32")
    return np.asarray(soxr.resample(pcm, rate, PLAYOUT_RATE) * 32767, np.int16)


VOICE = sentence()


def encoded(pcm: NDArray[np.int16], ms: int, application: str = "voip") -> list[bytes]:
    """Mono Opus packets of ``ms`` milliseconds, at the bitrate that browsers use."""
    codec: Any = CodecContext.create("libopus", "w")
    codec.bit_rate, codec.format, codec.layout, codec.sample_rate = 32_000, "s16", "mono", PLAYOUT_RATE
    codec.time_base = Fraction(1, PLAYOUT_RATE)
    codec.options = {"application": application, "frame_duration": str(ms)}
    size, packets = ms * PLAYOUT_RATE // 1000, []
    for start in range(0, len(pcm) - size + 1, size):
        frame = AudioFrame.from_ndarray(pcm[start : start + size].reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = PLAYOUT_RATE, start, codec.time_base
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets


def decoded(packets: list[bytes], ms: int, lost: set[int]) -> NDArray[np.int16]:
    """Left channel when the packets ``lost`` never arrive. Asserts that the PTS have no gap."""
    decoder, out, end = ConcealingDecoder(), [], 0
    size = ms * PLAYOUT_RATE // 1000
    for number, data in enumerate(packets):
        if number in lost:
            continue
        for frame in decoder.decode(JitterFrame(data=data, timestamp=number * size)):
            assert isinstance(frame, AudioFrame)
            assert frame.pts == end and frame.sample_rate == PLAYOUT_RATE
            end += frame.samples
            out.append(frame.to_ndarray()[0, ::2])
    return np.concatenate(out)


def with_silence(packets: list[bytes], ms: int, lost: set[int]) -> NDArray[np.int16]:
    """Left channel with silence in place of the packets ``lost``, as aiortc's own decoder leaves it."""
    decoder, size = OpusDecoder(), ms * PLAYOUT_RATE // 1000
    out = np.zeros(len(packets) * size, np.int16)
    for number in sorted(set(range(len(packets))) - lost):
        (frame,) = decoder.decode(JitterFrame(data=packets[number], timestamp=number * size))
        assert isinstance(frame, AudioFrame)
        out[number * size : (number + 1) * size] = frame.to_ndarray()[0, ::2]
    return out


def spectral_distance(a: NDArray[np.int16], b: NDArray[np.int16]) -> float:
    """Mean difference of log spectra up to 8 kHz, in dB, over 20 ms windows."""

    def spectra(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
        windows = np.lib.stride_tricks.sliding_window_view(pcm.astype(float), 960)[::480] * np.hanning(960)
        return np.asarray(10 * np.log10(np.abs(np.fft.rfft(windows))[:, :160] ** 2 + 1e5))

    return float(np.abs(spectra(a) - spectra(b)).mean())


def largest_step(pcm: NDArray[np.int16]) -> int:
    return int(np.abs(np.diff(pcm.astype(int))).max())


def losses(kind: str, count: int) -> set[int]:
    if kind == "5 % at random":
        rng = random.Random(1)
        return {number for number in range(3, count - 1) if rng.random() < 0.05}
    return {number + i for number in range(3, count - 3, 12) for i in (0, 1)}


@pytest.mark.parametrize("application", ["voip", "audio"])
@pytest.mark.parametrize("ms", [10, 20, 40, 60])
@pytest.mark.parametrize("kind", ["5 % at random", "bursts of two"])
def test_losses_in_a_voice_are_concealed(kind: str, ms: int, application: str) -> None:
    packets = encoded(VOICE, ms, application)
    lost = losses(kind, len(packets))
    clean, mended = decoded(packets, ms, set()), decoded(packets, ms, lost)
    assert lost and len(mended) == len(clean) == len(packets) * ms * PLAYOUT_RATE // 1000
    assert largest_step(mended) <= MOST_STEP * largest_step(clean)
    gaps = with_silence(packets, ms, lost)
    assert spectral_distance(mended, clean) < CLOSER * spectral_distance(gaps, clean)


def test_after_sixty_milliseconds_there_is_silence_reached_by_a_fade_and_left_by_one() -> None:
    packets = encoded(VOICE, 20)
    loud = max(range(20, len(packets) - 20), key=lambda n: np.abs(VOICE[n * 960 : (n + 1) * 960].astype(int)).sum())
    lost = set(range(loud, loud + 8))
    out, begin = decoded(packets, 20, lost), loud * 960
    peaks = [int(np.abs(out[begin + at : begin + at + 480].astype(int)).max()) for at in range(0, 8 * 960, 480)]
    assert peaks[0] > 3000 and peaks[4] < 0.4 * peaks[0]
    assert not out[begin + SILENT : begin + 8 * 960].any()
    assert largest_step(out) <= MOST_STEP * largest_step(decoded(packets, 20, set()))


def test_the_fade_goes_from_full_level_to_none() -> None:
    gains = np.concatenate([fade(0, 960), fade(960, 960), fade(1920, 960), fade(2880, 960)])
    assert (gains[: FULL + 1] == 1.0).all() and gains[SILENT - 1] == 0.0 and not gains[SILENT:].any()
    assert (np.diff(gains) <= 0).all() and np.diff(gains).min() > -0.001


@pytest.mark.parametrize("gap", [1, 37, 120, 479, 480, 481, 960, 1000, 1920, 2881, MAX_FILL])
@pytest.mark.parametrize("application", ["voip", "audio"])
def test_a_gap_of_any_length_is_filled_to_the_sample(gap: int, application: str) -> None:
    packets = encoded(VOICE[30_000:], 20, application)
    decoder = ConcealingDecoder()
    decoder.decode(JitterFrame(data=packets[0], timestamp=0))
    frames = decoder.decode(JitterFrame(data=packets[1], timestamp=960 + gap))
    assert [frame.pts for frame in frames][0] == 960 and frames[-1].pts == 960 + gap
    assert sum(frame.samples for frame in frames) == gap + 960


def test_a_pause_is_no_loss_and_ends_without_an_edge() -> None:
    packets = encoded(VOICE[30_000:], 20)
    decoder = ConcealingDecoder()
    decoder.decode(JitterFrame(data=packets[0], timestamp=0))
    frames = decoder.decode(JitterFrame(data=packets[1], timestamp=960 + MAX_FILL + 1))
    assert len(frames) == 1 and frames[0].to_ndarray()[0, 0] == 0
    back = decoder.decode(JitterFrame(data=packets[2], timestamp=0))  # a timestamp that went back
    assert sum(frame.samples for frame in back) == 960


def test_packets_that_cannot_be_read_count_as_lost() -> None:
    packets, decoder, out, end = encoded(VOICE, 20), ConcealingDecoder(), 0, 0
    rng = random.Random(2)
    for number, data in enumerate(packets[:200]):
        broken = [b"", b"\xff\xff", rng.randbytes(3), b"\x03"][number % 4] if number % 5 == 3 else data
        for frame in decoder.decode(JitterFrame(data=broken, timestamp=number * 960)):
            assert frame.pts == end or number < 1
            end = frame.pts + frame.samples
            out += frame.samples
    assert end >= 199 * 960 and out == end


async def test_a_call_with_losses_keeps_time_and_has_no_holes() -> None:
    """From a real sender over loopback and through the jitter buffer to the samples that the call gets."""
    tone = (8000 * np.sin(2 * np.pi * 220 * np.arange(4 * PLAYOUT_RATE) / PLAYOUT_RATE)).astype(np.int16)
    viewer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer = Peer(IcePolicy.from_settings(Settings()), (256, 256))
    viewer.addTrack(Microphone(tone))
    viewer.addTransceiver("video", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    answer = await peer.accept(viewer.localDescription.sdp)
    transport: Any = viewer.getTransceivers()[0].sender.transport
    send, sent = transport._send_rtp, []

    async def lossy(data: bytes) -> None:
        if not 192 <= data[1] <= 208:  # RTP, not RTCP
            sent.append(RtpPacket.parse(data).timestamp)
            if len(sent) % 12 in (5, 6):
                return
        await send(data)

    transport._send_rtp = lossy
    await viewer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    heard: list[NDArray[np.int16]] = []

    async def listen() -> None:
        async for pcm in peer.microphone():
            heard.append(pcm)

    listening = asyncio.ensure_future(listen())
    try:
        async with asyncio.timeout(30):
            while sum(map(len, heard)) < 2.5 * PLAYOUT_RATE:
                await asyncio.sleep(0.02)
        whole = np.concatenate(heard)
        behind = (sent[-1] - sent[0]) % 2**32 + 960 - len(whole)
        assert 0 <= behind <= 12 * 960 and len(whole) % 960 == 0
        steady = whole[PLAYOUT_RATE // 2 :].astype(float)
        peaks = np.abs(steady[: len(steady) // 480 * 480].reshape(-1, 480)).max(axis=1)
        assert peaks.min() > 1500  # no 10 ms without sound, though every sixth packet is lost
    finally:
        listening.cancel()
        await peer.close()
        await viewer.close()
