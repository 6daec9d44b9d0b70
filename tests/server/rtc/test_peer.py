"""Peer connection, and the parts of aiortc 1.16 that it replaces, tested against aiortc itself.

If an aiortc upgrade moves a private hook, a test fails here before a call does.
"""

import asyncio
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from aioice import stun
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtpPacket
from av import AudioFrame, VideoFrame
from numpy.typing import NDArray

from ground.errors import CapacityError
from ground.units import BLOCK
from server.rtc.encoders import (
    BitrateRange,
    BitrateSteps,
    KeyframeGate,
    SteadyH264Encoder,
    SteadyVp8Encoder,
    bitrate_for,
    make_encoder,
)
from server.rtc.ice import IcePolicy
from server.rtc.microphone import MicrophoneSource, PromptJitterBuffer
from server.rtc.offer import candidate_is_usable
from server.rtc.peer import Peer
from server.rtc.tracks import MAX_WAITING, AudioTrack, VideoTrack
from server.settings import Settings

LOCAL = IcePolicy(("127.0.0.1", "192.0.2.7"), True, None, None)


def packet(number: int) -> RtpPacket:
    made = RtpPacket(sequence_number=number & 0xFFFF, timestamp=number * 960)
    made._data = str(number).encode()  # type: ignore[attr-defined]
    return made


# The jitter buffer


def run(numbers: list[int]) -> tuple[list[int], list[int], PromptJitterBuffer]:
    """The released numbers, for each how many packets after its arrival it was released, and the buffer."""
    buffer, out, late = PromptJitterBuffer(), [], []
    for i, number in enumerate(numbers):
        for frame in buffer.release(packet(number)):
            out.append(int(frame.data))
            late.append(i - numbers.index(int(frame.data)))
    return out, late, buffer


def test_what_comes_in_order_goes_out_at_once() -> None:
    out, late, _ = run(list(range(65_500, 65_600)))  # across the wrap of the sequence number
    assert out == list(range(65_500, 65_600)) and set(late) == {0}


def test_a_lost_packet_costs_itself_and_two_packets_once() -> None:
    numbers = [n for n in range(100, 400) if n != 150]
    out, late, buffer = run(numbers)
    assert out == numbers and buffer.lost == 1
    assert max(late) == 2 and sum(late) == 2 + 1 and late[-1] == 0  # the delay is gone again


def test_eight_percent_loss_and_reordering_leave_no_delay() -> None:
    rng = random.Random(3)
    sent = [n for n in range(2000) if rng.random() > 0.08]
    for i in range(5, len(sent) - 1, 17):
        sent[i], sent[i + 1] = sent[i + 1], sent[i]
    out, late, _ = run(sent)
    assert out == sorted(out) and len(out) > 0.98 * len(sent)
    assert max(late) <= 3 and sum(late) / len(late) < 0.5


def test_late_and_repeated_packets_are_dropped_and_a_new_start_is_followed() -> None:
    out, _, _ = run([1, 2, 3, 2, 3, 4, 4, 1])
    assert out == [1, 2, 3, 4]
    out, _, _ = run([10, 11, 30_000, 30_001, 30_002])
    assert out == [10, 11, 30_000, 30_001, 30_002]


def test_aiortcs_own_buffer_never_drains_after_a_loss() -> None:
    """The reason for ``PromptJitterBuffer``. If this fails, aiortc has fixed its buffer and ours can go."""
    theirs = JitterBuffer(capacity=16, prefetch=4)
    behind = []
    for number in [n for n in range(300) if n != 50]:
        frame = theirs.add(packet(number))[1]
        if frame is not None:
            behind.append(number - int(frame.data))
    assert behind[20] <= 4 and behind[-1] > 8


# Encoders


def frame(number: int, size: int = 256) -> VideoFrame:
    image = np.full((size * 3 // 2, size), 128, np.uint8)
    image[:size] = (np.arange(size) + number * 2) % 200
    made = VideoFrame.from_ndarray(image, format="yuv420p")
    made.pts, made.time_base = number * 1920, Fraction(1, 48_000)
    return made


def is_keyframe(payloads: list[bytes]) -> bool:
    return payloads[0][4] & 1 == 0  # VP8: lowest bit of the frame header, after aiortc's 4 byte payload descriptor


def test_bitrate_steps_are_few_and_bounded() -> None:
    now = 0.0
    steps = BitrateSteps(BitrateRange(500_000, 1_000_000), clock=lambda: now)
    seen = [steps.now]
    for i in range(600):
        now = i * 0.1
        estimate = 400_000 * 1.02**i if i < 300 else (0 if i % 2 else 10**12) if i < 400 else 900_000
        if steps.estimate(int(estimate)) != seen[-1]:
            seen.append(steps.now)
    assert len(seen) <= 10 and all(150_000 <= rate <= 1_000_000 for rate in seen)
    assert seen[:2] == [500_000, 1_000_000] or seen[1] > 650_000


@pytest.mark.parametrize("encoder", [SteadyVp8Encoder, SteadyH264Encoder])
def test_a_climbing_estimate_does_not_restart_the_encoder(encoder: Any) -> None:
    steady = encoder(bitrate_for(256, 256))
    assert steady.target_bitrate == 500_000
    steady.encode(frame(0))
    first = steady.codec
    for i in range(1, 30):
        steady.target_bitrate = 500_000 + i * 10_000
        steady.encode(frame(i))
    assert steady.codec is first and steady.codec.bit_rate == 500_000


def test_a_far_estimate_is_followed_after_a_while() -> None:
    steady = SteadyVp8Encoder(bitrate_for(256, 256))
    steady._steps._since -= 10
    steady.target_bitrate = 10**9
    assert steady.target_bitrate == 1_000_000
    steady.encode(frame(0))
    assert steady.codec is not None and steady.codec.bit_rate == 1_000_000


def test_a_full_size_picture_gets_more_than_aiortcs_own_ceiling() -> None:
    """The encoder's rate buffer is larger too; aiortc sizes it from a private field."""
    wide = bitrate_for(832, 480)
    assert wide.most == 2_500_000
    for encoder in (SteadyVp8Encoder(wide), SteadyH264Encoder(wide)):
        encoder._steps._since -= 10
        encoder.target_bitrate = 10**9
        encoder.encode(frame(0))
        assert encoder.codec is not None and encoder.codec.bit_rate == 2_500_000
        assert encoder.codec.options.get("bufsize", "2500000") == "2500000"


@pytest.mark.parametrize(("most", "limits"), [
    (0, (1_500_000, 2_500_000)), (400_000, (400_000, 400_000)), (6_000_000, (1_500_000, 6_000_000)),
])  # fmt: skip
def test_the_ceiling_that_was_set_counts(most: int, limits: tuple[int, int]) -> None:
    assert bitrate_for(832, 480, most) == BitrateRange(*limits)
    assert bitrate_for(1280, 720).most > bitrate_for(832, 480).most > bitrate_for(512, 512).most


async def test_a_peer_encodes_within_the_ceiling_that_was_set() -> None:
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(LOCAL, (832, 480), 700_000)
    viewer.addTransceiver("video", direction="recvonly")
    viewer.addTransceiver("audio", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    await peer.accept(viewer.localDescription.sdp)
    (sender,) = [t.sender for t in peer._pc.getTransceivers() if t.kind == "video"]
    assert sender._RTCRtpSender__encoder._steps._limits == BitrateRange(700_000, 700_000)
    await peer.close()
    await viewer.close()


def test_the_encoder_follows_the_codec_that_was_agreed() -> None:
    assert isinstance(make_encoder("video/H264", bitrate_for(1, 1)), SteadyH264Encoder)
    assert isinstance(make_encoder("video/VP8", bitrate_for(1, 1)), SteadyVp8Encoder)
    assert bitrate_for(832, 480).start > bitrate_for(512, 512).start > bitrate_for(256, 256).start


def test_a_frame_sent_again_stays_a_keyframe_in_aiortc() -> None:
    """The reason for a new frame object each time: aiortc marks a frame as a keyframe and never unmarks it."""
    encoder, same = Vp8Encoder(), frame(0)
    encoder.encode(same, force_keyframe=True)
    assert is_keyframe(encoder.encode(same)[0])


async def test_a_held_picture_is_a_keyframe_only_when_asked_for() -> None:
    encoder, track = SteadyVp8Encoder(bitrate_for(256, 256)), VideoTrack()
    picture = frame(0).to_ndarray()
    keys = []
    for tick in range(10):
        track.put(picture, tick * 4)
        keys.append(is_keyframe(encoder.encode(await track.recv(), force_keyframe=tick in (0, 5))[0]))
    assert keys == [True, False, False, False, False, True, False, False, False, False]
    track.stop()


def test_keyframes_are_made_at_most_once_a_second() -> None:
    now, made = 0.0, []
    gate = KeyframeGate(lambda: made.append(now), clock=lambda: now)
    for i in range(1000):
        now = i * 0.005
        gate()
    assert len(made) == 5


# Tracks


async def test_audio_frames_hold_twenty_milliseconds_and_no_more() -> None:
    track = AudioTrack()
    for tick in range(3):
        track.put(np.full(BLOCK, tick, np.int16), tick)
    got = [await track.recv() for _ in range(3)]
    assert [(f.samples, f.sample_rate, f.format.name, f.layout.name, f.pts) for f in got] == [
        (960, 48_000, "s16", "mono", i * 960) for i in range(3)
    ]
    for size in (1920, 480, 0):
        with pytest.raises(AssertionError):
            track.put(np.zeros(size, np.int16), 4)
    track.stop()


async def test_tracks_are_bounded_and_end() -> None:
    audio, video = AudioTrack(), VideoTrack()
    for tick in range(50):
        audio.put(np.zeros(960, np.int16), tick)
        video.put(np.full((384, 256), tick, np.uint8), tick)
    assert (await audio.recv()).pts == (50 - MAX_WAITING) * 960
    assert (await video.recv()).pts == 49 * 960
    waiting = asyncio.ensure_future(video.recv())
    await asyncio.sleep(0)
    video.stop()
    audio.stop()
    with pytest.raises(MediaStreamError):
        await waiting


# Hooks and addresses


async def test_every_private_hook_is_where_we_think_it_is() -> None:
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(LOCAL, (256, 256))
    viewer.createDataChannel("knotcast")
    viewer.addTrack(AudioStreamTrack())
    viewer.addTransceiver("video", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    answer = await peer.accept(viewer.localDescription.sdp)
    audio, video = peer._pc.getTransceivers()
    if audio.kind == "video":
        audio, video = video, audio
    receiver: Any = audio.receiver
    assert isinstance(receiver._RTCRtpReceiver__jitter_buffer, PromptJitterBuffer)
    assert hasattr(receiver, "_RTCRtpReceiver__decoder_queue") and hasattr(receiver, "_RTCRtpReceiver__codecs")
    sender: Any = video.sender
    assert isinstance(sender._RTCRtpSender__encoder, SteadyVp8Encoder)
    assert isinstance(sender._send_keyframe, KeyframeGate)
    assert video.direction == "sendonly" and audio.direction == "sendrecv"
    assert answer.count("a=setup:active") == 3
    hosts = {line.split()[4] for line in answer.splitlines() if line.startswith("a=candidate")}
    assert "127.0.0.1" in hosts  # the second address is not this machine's: it could not be bound
    await peer.close()
    await peer.close()
    assert peer.gone.is_set()
    await viewer.close()


async def test_ports_and_the_advertised_address_are_kept_to() -> None:
    policy = IcePolicy(("127.0.0.1",), False, "198.51.100.9", (42_100, 42_103))
    viewer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in ("audio", "video"):
        viewer.addTransceiver(kind, direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    peers = [Peer(policy, (256, 256)) for _ in range(5)]
    seen = []
    for peer in peers[:4]:
        answer = await peer.accept(viewer.localDescription.sdp)
        first = answer.split("m=video")[0]
        seen += [line.split()[4:6] for line in first.splitlines() if line.startswith("a=candidate")]
    assert all(host == "198.51.100.9" and 42_100 <= int(port) <= 42_103 for host, port in seen)
    assert len({port for _, port in seen}) == len(seen) == 4
    with pytest.raises(CapacityError, match="port"):  # none is left, and an answer without a candidate is useless
        await peers[4].accept(viewer.localDescription.sdp)
    for closing in (*peers, viewer):
        await closing.close()


@pytest.mark.parametrize(
    ("candidate", "local", "wide", "public"),
    [
        ("candidate:1 1 udp 1 127.0.0.1 50000 typ host", True, False, False),
        ("candidate:1 1 UDP 1 ::1 50000 typ host", True, False, False),
        ("candidate:1 1 udp 1 192.0.2.7 50000 typ host", True, True, False),
        ("candidate:1 1 udp 1 10.1.2.3 50000 typ host", False, True, False),
        ("candidate:1 1 udp 1 8.8.8.8 50000 typ srflx raddr 0.0.0.0 rport 0", False, True, True),
        ("candidate:1 1 udp 1 8.8.8.8 22 typ host", False, False, False),
        ("candidate:1 1 udp 1 169.254.169.254 50000 typ host", False, False, False),
        ("candidate:1 1 udp 1 224.0.0.5 50000 typ host", False, False, False),
        ("candidate:1 1 udp 1 4e9d6a.local 50000 typ host", False, False, False),
        ("candidate:1 1 tcp 1 8.8.8.8 50000 typ host tcptype active", False, False, False),
        ("candidate:1 1 udp 1 8.8.8.8 5000000000 typ host", False, False, False),
        ("candidate:1 1 udp 1", False, False, False),
        ("", False, False, False),
    ],
)
def test_which_addresses_we_would_try(candidate: str, local: bool, wide: bool, public: bool) -> None:
    policies = (
        LOCAL,
        IcePolicy(("10.0.0.2",), False, None, None),
        IcePolicy(("10.0.0.2",), False, "93.184.216.34", None),
    )
    assert tuple(candidate_is_usable(candidate, policy) for policy in policies) == (local, wide, public)


def test_policy_follows_the_settings() -> None:
    local = IcePolicy.from_settings(Settings())
    assert local.loopback and local.local[0] == "127.0.0.1" and local.ports is None
    wide = IcePolicy.from_settings(Settings(host="0.0.0.0", udp_port_min=50_000, udp_port_max=50_100))
    assert not wide.loopback and wide.ports == (50_000, 50_100)


async def test_datagrams_from_strangers_go_nowhere_before_and_after_the_connection() -> None:
    """The stranger is a third socket on this machine: the policy accepts its address, but it answered no check."""
    policy = IcePolicy.from_settings(Settings())
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(policy, (256, 256))
    viewer.createDataChannel("knotcast")
    viewer.addTrack(AudioStreamTrack())
    viewer.addTransceiver("video", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    answer = await peer.accept(viewer.localDescription.sdp)
    connection: Any = peer._pc.getTransceivers()[0].receiver.transport.transport._connection
    protocol = connection._protocols[0]
    passed: list[bytes] = []
    take = connection.data_received

    def data_received(data: bytes, component: int) -> None:
        if data.endswith(b"stranger"):
            passed.append(data)
        else:
            take(data, component)

    connection.data_received = data_received
    loop = asyncio.get_running_loop()
    third, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    third_address, ours = third.get_extra_info("sockname"), protocol.transport.get_extra_info("sockname")
    # First bytes of DTLS, SRTP, TURN channels and QUIC
    junk = [bytes([first]) * 40 + b"stranger" for first in (22, 128, 64, 255)]
    arrived: list[bytes] = []
    receive = protocol.datagram_received
    protocol.datagram_received = lambda data, addr: (arrived.append(data), receive(data, addr))
    try:
        for connected in (False, True):
            if connected:
                await viewer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                async with asyncio.timeout(20):
                    await peer.connected.wait()
            heard, already = peer.last_heard, len(arrived)
            for data in junk:
                protocol.datagram_received(data, third_address)
                protocol.datagram_received(data, ("192.0.2.200", 40_000))
            assert peer.last_heard == heard and not passed, connected
            for data in junk:
                third.sendto(data, ours)
            async with asyncio.timeout(5):
                while sum(data in junk for data in arrived[already:]) < 3 * len(junk):
                    await asyncio.sleep(0.01)
            assert not passed, connected
    finally:
        third.close()
        await peer.close()
        await viewer.close()


async def test_a_server_for_this_machine_answers_no_check_from_elsewhere() -> None:
    """Not even a check with the call's ICE credentials, because after an answer ICE would send checks there."""
    policy = IcePolicy.from_settings(Settings())
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(policy, (256, 256))
    viewer.addTransceiver("audio", direction="recvonly")
    viewer.addTransceiver("video", direction="recvonly")
    await viewer.setLocalDescription(await viewer.createOffer())
    await peer.accept(viewer.localDescription.sdp)
    connection: Any = peer._pc.getTransceivers()[0].receiver.transport.transport._connection
    protocol = connection._protocols[0]
    answered: list[tuple[str, int]] = []
    protocol.send_stun = lambda message, addr: answered.append(addr)

    def check(source: tuple[str, int]) -> None:
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        request.attributes["USERNAME"] = f"{connection.local_username}:{connection.remote_username}"
        request.attributes["PRIORITY"] = 1
        request.attributes["ICE-CONTROLLING"] = 1
        request.add_message_integrity(connection.local_password.encode())
        protocol.datagram_received(bytes(request), source)

    stranger, neighbour = ("192.0.2.200", 40_000), ("127.0.0.1", 40_000)
    check(stranger)
    assert stranger not in answered
    check(neighbour)
    assert neighbour in answered
    await asyncio.sleep(0.1)
    assert stranger[0] not in {candidate.host for candidate in connection.remote_candidates}
    await peer.close()
    await viewer.close()


# The microphone


class Frames(MediaStreamTrack):
    """A track that plays blocks of samples, int16 [N, channels], and then ends."""

    kind = "audio"

    def __init__(self, blocks: list[NDArray[np.int16]]) -> None:
        super().__init__()
        self._blocks = blocks

    async def recv(self) -> AudioFrame:
        if not self._blocks:
            raise MediaStreamError
        block = self._blocks.pop(0)
        layout = "mono" if block.shape[1] == 1 else "stereo"
        made = AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout=layout)
        made.sample_rate, made.time_base = 48_000, Fraction(1, 48_000)
        return made


async def test_a_voice_in_the_right_channel_alone_is_read() -> None:
    voice = np.where(np.arange(BLOCK) % 60 < 30, 5000, -5000).astype(np.int16)
    right = np.stack([np.zeros_like(voice), voice], axis=1)
    source = MicrophoneSource(Frames([np.full((BLOCK, 1), 77, np.int16), right, right[:480]]))
    assert (await source.read() == 77).all()
    assert np.array_equal(await source.read(), voice)
    assert len(await source.read()) == 480
    with pytest.raises(MediaStreamError):
        await source.read()
