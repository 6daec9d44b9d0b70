"""The data channel ``knotcast``: JSON messages of bounded size and rate, and a guard against malformed SCTP messages.

In aiortc 1.16 a text that is not UTF-8, a second open on one stream, or an exception in a plain message handler closes
the whole connection, and nothing bounds what arrives. So the guard filters messages before aiortc's data channel code.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from aiortc import RTCDataChannel
from aiortc.rtcsctptransport import WEBRTC_DCEP, RTCSctpTransport

from ground.clock import Clock, monotonic

logger = logging.getLogger(__name__)

LABEL = "knotcast"
MAX_MESSAGE = 16 * 1024  # bytes
MAX_CHANNELS = 4
MAX_WAITING = 64  # messages kept until the call listens; the oldest are dropped
MAX_BUFFERED = 256 * 1024  # most bytes held for a peer that does not read
RATE, BURST = 60.0, 120.0  # messages a second (twice 25 poses and a ping fit), and messages at once


class TokenBucket:
    """Rate limit: ``rate`` tokens a second, of which at most ``burst`` are saved."""

    def __init__(self, rate: float, burst: float, clock: Clock = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def guard_sctp(sctp: RTCSctpTransport, flood: Callable[[], None]) -> None:
    """Drop messages that would close the connection. Call ``flood`` when a peer overruns the SCTP receive window or
    opens more than ``MAX_CHANNELS`` channels."""
    receive, receive_chunk = sctp._data_channel_receive, sctp._receive_data_chunk

    async def guarded_receive(stream_id: int, pp_id: int, data: bytes) -> None:
        if pp_id == WEBRTC_DCEP:
            if data[:1] == b"\x03" and (stream_id in sctp._data_channels or len(data) < 12):
                return
            if len(sctp._data_channels) >= MAX_CHANNELS:
                flood()
                return
        elif len(data) > MAX_MESSAGE or not _is_utf8(data):
            # Passed on as an empty message, which the call answers with an error.
            data = b""
        try:
            await receive(stream_id, pp_id, data)
        except (ValueError, AssertionError, KeyError, IndexError) as error:
            logger.debug("data channel message dropped kind=%s", type(error).__name__)

    async def guarded_chunk(chunk: Any) -> None:
        if sctp._advertised_rwnd < 0:
            flood()
            return
        await receive_chunk(chunk)

    sctp._data_channel_receive = guarded_receive  # type: ignore[method-assign]
    sctp._receive_data_chunk = guarded_chunk  # type: ignore[method-assign]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class Channel:
    """Messages in and out once the browser has opened the channel."""

    def __init__(self, heard: Callable[[], None]) -> None:
        """heard: called for each message that arrives, also for one above the rate, which is dropped."""
        self._heard = heard
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._bucket = TokenBucket(RATE, BURST)
        self._seq = 0
        self._receive: Callable[[str], None] = self._waiting.append
        self._opened: Callable[[], None] | None = None
        self.open = asyncio.Event()

    def adopt(self, channel: RTCDataChannel) -> None:
        """Use the first channel with the label ``knotcast``; close any other."""
        if channel.label != LABEL or self._channel is not None:
            channel.close()
            return
        self._channel = channel

        async def on_message(data: bytes | str) -> None:
            self._heard()
            if self._bucket.take():
                self._receive(data if isinstance(data, str) else data.decode("utf-8", "replace"))

        channel.on("message", on_message)
        self.open.set()
        if self._opened is not None:
            self._opened()

    def on_open(self, opened: Callable[[], None]) -> None:
        """Call ``opened`` once the channel is open, at once if it already is."""
        self._opened = opened
        if self._channel is not None:
            opened()

    def deliver_to(self, receive: Callable[[str], None]) -> None:
        """Pass messages to ``receive`` from now on, starting with those that wait."""
        self._receive = receive
        while self._waiting:
            receive(self._waiting.popleft())

    def send(self, kind: str, t_ms: int, **fields: object) -> bool:
        """Send one JSON message ``{v, type, seq, t_ms, ...}``. Returns False if the channel is not open, or the browser
        does not read it and ``MAX_BUFFERED`` bytes wait."""
        channel = self._channel
        if channel is None or channel.readyState != "open" or channel.bufferedAmount > MAX_BUFFERED:
            return False
        self._seq += 1
        message = {"v": 1, "type": kind, "seq": self._seq, "t_ms": t_ms, **fields}
        channel.send(json.dumps(message, separators=(",", ":"), allow_nan=False))
        return True
