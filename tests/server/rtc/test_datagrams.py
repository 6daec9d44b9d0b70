"""Sizes of the datagrams that a peer really sends over loopback, with video, retransmission and the data channel."""

import asyncio
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from numpy.typing import NDArray

from ground.units import BLOCK
from server.rtc.data_channel import MAX_BUFFERED
from server.rtc.datagrams import MAX_DATAGRAM, MAX_PAYLOAD
from server.rtc.ice import GuardedProtocol, IcePolicy
from server.rtc.peer import Peer
from server.settings import Settings

POLICY = IcePolicy.from_settings(Settings())
LONG = "m" * 150_000


def noise(seed: int) -> NDArray[np.uint8]:
    """A picture that no codec compresses, so that it takes many packets."""
    return np.random.default_rng(seed).integers(0, 255, (384, 256), np.uint8)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every datagram that the server's peer sends, as passed to UDP."""
    sent: list[bytes] = []
    connect = GuardedProtocol.connection_made

    def connection_made(self: GuardedProtocol, transport: Any) -> None:
        connect(self, transport)
        send = transport.sendto

        def sendto(data: bytes, *address: Any) -> None:
            sent.append(bytes(data))
            send(data, *address)

        self.transport = _Recording(transport, sendto)

    monkeypatch.setattr(GuardedProtocol, "connection_made", connection_made)
    return sent


class _Recording:
    """A datagram transport with its ``sendto`` replaced."""

    def __init__(self, transport: Any, sendto: Any) -> None:
        self._transport, self.sendto = transport, sendto

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
async def test_no_datagram_is_larger_than_the_smallest_mtu_takes(codec: str, sent: list[bytes]) -> None:
    viewer, peer = RTCPeerConnection(RTCConfiguration(iceServers=[])), Peer(POLICY, (256, 256))
    channel = viewer.createDataChannel("knotcast")
    arrived: list[str] = []
    channel.on("message", arrived.append)
    viewer.addTrack(AudioStreamTrack())
    video = viewer.addTransceiver("video", direction="recvonly")
    capabilities = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([c for c in capabilities if c.mimeType in (codec, "video/rtx")])
    await viewer.setLocalDescription(await viewer.createOffer())
    answer = await peer.accept(viewer.localDescription.sdp)
    await viewer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    try:
        async with asyncio.timeout(15):
            await peer.connected.wait()
            await peer.open.wait()
            for tick in range(20):
                peer.put(np.zeros(BLOCK, np.int16), noise(tick), tick * 4)
                await asyncio.sleep(0.02)
            assert peer.send("long", 0, text=LONG)
            while not arrived:
                await asyncio.sleep(0.01)
    finally:
        await peer.close()
        await viewer.close()
    assert LONG in arrived[0] and len(LONG) < MAX_BUFFERED
    video_sizes = [len(data) for data in sent if 128 <= data[0] < 192]
    chunk_sizes = [len(data) for data in sent if 20 <= data[0] < 64]
    assert len([size for size in video_sizes if size > MAX_PAYLOAD]) > 20  # packets are filled up to the limit
    assert len([size for size in chunk_sizes if size > MAX_PAYLOAD]) > 100
    assert max(len(data) for data in sent) <= MAX_DATAGRAM
