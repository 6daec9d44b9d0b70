"""WebRTC peer connection as a call's transport: aiortc's, with the limits, addresses and encoders of this server.

It implements ``server/call/transport.py`` and knows nothing of portraits, engines or playout.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
    rtp,
)
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtptransceiver import RTCRtpTransceiver
from aiortc.sdp import candidate_from_sdp
from numpy.typing import NDArray

from ground.clock import monotonic
from ground.errors import CapacityError, RequestError
from server.rtc.answer import faults, fitted_answer
from server.rtc.data_channel import Channel, guard_sctp
from server.rtc.datagrams import limit_datagrams
from server.rtc.encoders import KeyframeGate, bitrate_for, make_encoder
from server.rtc.ice import IcePolicy, govern
from server.rtc.microphone import MicrophoneSource, replace_jitter_buffer
from server.rtc.offer import clean_offer, usable_candidates
from server.rtc.opus import conceal_losses
from server.rtc.tracks import AudioTrack, VideoTrack

logger = logging.getLogger(__name__)

limit_datagrams()
conceal_losses()
# aiortc takes only payload types 96 to 127 for dynamic ones and answers with its own number for any other. Browsers
# also assign dynamic ones from 35 up. A static payload type means the same codec on both sides.
rtp.DYNAMIC_PAYLOAD_TYPES = range(128)

CLOSE_S = 3.0
MAX_TRICKLED = 40
_TOO_MANY = f"more than {MAX_TRICKLED} candidates; send those of one network interface, each once"
# Errors of aiortc's parser on text that no browser sends; each is the offer's fault.
_BAD_OFFER = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError,
    RuntimeError, InternalError, InvalidAccessError, InvalidStateError, OperationError,
)  # fmt: skip


class Peer:
    """One peer connection, a ``Transport``. Call ``accept`` once; ``close`` may be called any number of times."""

    def __init__(self, policy: IcePolicy, size: tuple[int, int], most_bitrate: int = 0) -> None:
        """size: width and height of the pictures. most_bitrate: highest of the video in bits per second; 0: by size."""
        self._policy = policy
        self._bitrate = bitrate_for(*size, most_bitrate)
        # iceServers is an empty list, not None: aiortc's default asks a public STUN server.
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._audio, self._video = AudioTrack(), VideoTrack()
        self._channel = Channel(self._hear)
        self._microphone: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        self.connected, self.gone = asyncio.Event(), asyncio.Event()
        self.gone_reason = "remote"
        self.last_heard = monotonic()
        self._trickled = 0
        self._closing = False
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_channel)

    async def accept(self, sdp: str) -> str:
        """The SDP answer to an SDP offer. Raises RequestError ``invalid_offer``, CapacityError ``no_port``."""
        offer = RTCSessionDescription(sdp=clean_offer(sdp, self._policy), type="offer")
        try:
            await self._pc.setRemoteDescription(offer)
            transceivers = self._pc.getTransceivers()
            for transceiver in transceivers:
                self._prepare(transceiver)
            self._govern(transceivers)
            answer = await self._pc.createAnswer()
            assert answer is not None
            await self._pc.setLocalDescription(answer)
        except _BAD_OFFER as error:
            logger.info("offer refused kind=%s", type(error).__name__)
            text = "the offer cannot be read; send localDescription.sdp as it is"
            raise RequestError("invalid_offer", text, param="sdp") from error
        local = self._pc.localDescription
        assert local is not None
        if "a=candidate:" not in local.sdp:
            raise CapacityError(
                "no_port", "no UDP port is free for this call: try again later, or widen the port range"
            )
        text = fitted_answer(local.sdp, sdp)
        if wrong := faults(text, sdp):
            logger.error("no answer fits an offer faults=%s", "; ".join(wrong))
            raise RequestError("invalid_offer", f"no answer fits this offer: {'; '.join(wrong)}", param="sdp")
        return text

    async def add_candidates(self, candidates: list[tuple[str, str | None, int | None]]) -> None:
        """Add trickled candidates, each (text, sdpMid, sdpMLineIndex); unusable ones are ignored. Raises RequestError
        ``too_many_candidates`` or ``invalid_candidate``."""
        self._trickled += len(candidates)
        if self._trickled > MAX_TRICKLED:
            raise RequestError("too_many_candidates", _TOO_MANY, param="candidates")
        for text, mid, index in candidates:
            for usable in usable_candidates([text], self._policy):
                try:
                    candidate = candidate_from_sdp(usable.removeprefix("candidate:"))
                    candidate.sdpMid, candidate.sdpMLineIndex = mid, index
                    await self._pc.addIceCandidate(candidate)
                except _BAD_OFFER as error:
                    text = "a candidate cannot be read; send RTCIceCandidate.toJSON(), with sdpMid or sdpMLineIndex"
                    raise RequestError("invalid_candidate", text, param="candidates") from error

    # The interface Transport

    @property
    def open(self) -> asyncio.Event:
        """Set once the data channel is open."""
        return self._channel.open

    def put(self, sound: NDArray[np.int16], picture: NDArray[np.uint8] | None, tick: int) -> None:
        """Put sound and picture at once, because a browser plays together what was sent together."""
        self._audio.put(sound, tick)
        if picture is not None:
            self._video.put(picture, tick)

    async def microphone(self) -> AsyncIterator[NDArray[np.int16]]:
        """48 kHz mono int16 [N], until the browser's track ends."""
        source = MicrophoneSource(await self._microphone)
        while True:
            try:
                pcm = await source.read()
            except MediaStreamError:
                return
            yield pcm

    def listen(self, receive: Callable[[str], None], opened: Callable[[], None]) -> None:
        self._channel.deliver_to(receive)
        self._channel.on_open(opened)

    def send(self, kind: str, t_ms: int, **fields: object) -> bool:
        return self._channel.send(kind, t_ms, **fields)

    async def close(self) -> None:
        """Close everything within ``CLOSE_S``. May be called again."""
        if self._closing:
            return
        self._closing = True
        self._audio.stop()
        self._video.stop()
        self._microphone.cancel()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._stop()
        except TimeoutError:
            logger.error("a peer connection did not close in time")
        self.gone.set()

    async def _stop(self) -> None:
        try:
            await self._pc.close()
        except _BAD_OFFER:
            # An offer that failed half way can leave sections without a transport; aiortc's close raises on them.
            pc = cast(Any, self._pc)
            for transport in (*pc._RTCPeerConnection__dtlsTransports, *pc._RTCPeerConnection__iceTransports):
                await transport.stop()

    def _prepare(self, transceiver: RTCRtpTransceiver) -> None:
        if transceiver.kind == "audio":
            self._pc.addTrack(self._audio)
            replace_jitter_buffer(transceiver.receiver)
            return
        self._pc.addTrack(self._video)
        transceiver.direction = "sendonly"
        sender = cast(Any, transceiver.sender)
        assert hasattr(sender, "_RTCRtpSender__encoder"), "aiortc has changed: see server/rtc/peer.py"
        mime_type = transceiver._codecs[0].mimeType
        sender._RTCRtpSender__encoder = make_encoder(mime_type, self._bitrate)
        sender._send_keyframe = KeyframeGate(sender._send_keyframe)

    def _govern(self, transceivers: list[RTCRtpTransceiver]) -> None:
        transports = [transceiver.receiver.transport for transceiver in transceivers]
        if self._pc.sctp is not None:
            transports.append(self._pc.sctp.transport)
            guard_sctp(self._pc.sctp, lambda: self._lose("flood"))
        for connection in {id(t): t.transport._connection for t in transports}.values():
            govern(connection, self._policy, self._hear)

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self._hear()
            self.connected.set()
        elif state in ("failed", "closed"):
            self._lose("ice_failed" if state == "failed" else "remote")

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and not self._microphone.done():
            self._microphone.set_result(track)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channel.adopt(channel)

    def _hear(self) -> None:
        self.last_heard = monotonic()

    def _lose(self, reason: str) -> None:
        if not self.gone.is_set():
            self.gone_reason = reason
            self.gone.set()
