"""Microphone input of a call: a jitter buffer that drains, and the decoded track as mono samples.

aiortc 1.16's own buffer adds 80 ms, and 300 ms for good after one lost packet (it fills up and never drains). This one
releases packets in order. When more than two wait behind a missing packet, that one counts as lost.
"""

from typing import Any

import numpy as np
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import RtpPacket
from aiortc.utils import uint16_add, uint16_gt
from av import AudioFrame
from numpy.typing import NDArray

from engine.media.downmix import Downmix
from ground.units import PLAYOUT_RATE

WAIT_PACKETS = 2
RESTART_GAP = 1000  # packets: a larger jump means that the sender restarted


class PromptJitterBuffer:
    """Replaces ``aiortc.jitterbuffer.JitterBuffer`` for audio, where every packet is a frame."""

    def __init__(self, receiver: Any = None) -> None:
        """receiver: its decoder queue gets the frames beyond the one that ``add`` can return; None drops them."""
        self._receiver = receiver
        self._next: int | None = None
        self._held: dict[int, RtpPacket] = {}
        self.lost = 0

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """As in aiortc's buffer: (whether to send a PLI, here always False; a frame for the decoder or None)."""
        frames = self.release(packet)
        if not frames:
            return False, None
        if self._receiver is not None:
            self._hand_over(frames[:-1], packet.payload_type)
        return False, frames[-1]

    def release(self, packet: RtpPacket) -> list[JitterFrame]:
        """Take a packet. Returns the frames that may go to the decoder now, in order."""
        number = packet.sequence_number
        if self._next is None or min(_distance(self._next, number), _distance(number, self._next)) > RESTART_GAP:
            self._next, self._held = number, {}
        if uint16_gt(self._next, number):
            return []  # too late: later packets were already released
        self._held[number] = packet
        ready = self._in_order()
        if not ready and len(self._held) > WAIT_PACKETS:
            oldest = min(self._held, key=lambda held: _distance(self._next or 0, held))
            self.lost += _distance(self._next, oldest)
            self._next = oldest
            ready = self._in_order()
        return ready

    def _in_order(self) -> list[JitterFrame]:
        ready = []
        while self._next in self._held:
            packet = self._held.pop(self._next)
            ready.append(JitterFrame(data=packet._data, timestamp=packet.timestamp))  # type: ignore[attr-defined]
            self._next = uint16_add(self._next, 1)
        return ready

    def _hand_over(self, frames: list[JitterFrame], payload_type: int) -> None:
        codec = self._receiver._RTCRtpReceiver__codecs[payload_type]
        for frame in frames:
            frame.timestamp = self._receiver._RTCRtpReceiver__timestamp_mapper.map(frame.timestamp)
            self._receiver._RTCRtpReceiver__decoder_queue.put((codec, frame))


def replace_jitter_buffer(receiver: RTCRtpReceiver) -> None:
    """Give the receiver a ``PromptJitterBuffer``. aiortc has no public hook for it; a test checks the private name, and
    aiortc's minor version is pinned."""
    assert hasattr(receiver, "_RTCRtpReceiver__jitter_buffer"), "aiortc has changed: see server/rtc/microphone.py"
    receiver._RTCRtpReceiver__jitter_buffer = PromptJitterBuffer(receiver)


class MicrophoneSource:
    """Reads the remote track as int16 mono, 48 kHz. The decoder fills gaps of up to ``opus.MAX_FILL`` samples."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self._track = track
        self._downmix = Downmix(2, PLAYOUT_RATE)

    async def read(self) -> NDArray[np.int16]:
        """The next decoded or concealed samples, int16 [N]. Raises aiortc's MediaStreamError when the track ends."""
        frame = await self._track.recv()
        assert isinstance(frame, AudioFrame)
        return self._mono(frame)

    def _mono(self, frame: AudioFrame) -> NDArray[np.int16]:
        packed: NDArray[np.int16] = frame.to_ndarray()[0].astype(np.int16, copy=False)
        if len(frame.layout.channels) == 1:
            return packed
        mono = self._downmix.push(packed.reshape(-1, 2).astype(np.float32))
        return np.clip(np.rint(mono), -32768, 32767).astype(np.int16)


def _distance(start: int, end: int) -> int:
    return (end - start) & 0xFFFF
