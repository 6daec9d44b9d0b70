"""Message channel over an AF_UNIX stream socket: four bytes of length (little-endian), then one msgpack struct.

A file descriptor travels beside an ``OpenStream`` (SCM_RIGHTS). The gateway's side lives in asyncio and never waits
to send; the worker's side blocks in ``wait`` only. Malformed or oversized input ends the channel with an EngineError.
Knows the types of messages, not their meaning.
"""

import asyncio
import contextlib
import os
import select
import socket
import struct
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from engine.wire.messages import OpenStream, ToGateway, ToWorker
from ground.errors import EngineError

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_DRAIN_BYTES = 1 << 20  # bytes that the worker reads before it looks at its streams again
_MAX_DESCRIPTORS = 8  # descriptors received and not yet claimed by a message
_ANCILLARY_BYTES = socket.CMSG_LEN(_MAX_DESCRIPTORS * array("i").itemsize)

TO_WORKER_LIMIT = 8 << 20  # a portrait of 1280x720 is 2.7 MiB
TO_GATEWAY_LIMIT = 1 << 18
BACKLOG_LIMIT = 16 << 20  # bytes held for a worker that does not read

T = TypeVar("T")
Received = tuple[ToWorker, int | None]


class _Inbox(Generic[T]):
    """Decoder: bytes in, messages out; holds at most one unfinished frame."""

    def __init__(self, kind: Any, limit: int) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._limit = limit
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if not 0 < length <= self._limit:
                raise EngineError("protocol_error", f"a message of {length} bytes is outside 1..{self._limit}")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[_LENGTH.size : end])
            del self._bytes[:end]
            try:
                yield self._decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise EngineError("protocol_error", "a message does not follow the protocol") from error


def _frame(message: ToWorker | ToGateway, limit: int) -> bytes:
    body = msgspec.msgpack.encode(message)
    assert len(body) <= limit, f"{type(message).__name__} of {len(body)} bytes is over the limit of {limit}"
    return _LENGTH.pack(len(body)) + body


class GatewayChannel:
    """The gateway's end. Use it from one event loop, with one task that receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._inbox: _Inbox[ToGateway] = _Inbox(ToGateway, TO_GATEWAY_LIMIT)
        self._received: deque[ToGateway] = deque()
        self._outbox: deque[tuple[memoryview, int | None]] = deque()
        self._backlog = 0
        self._closed = False

    def send(self, message: ToWorker, descriptor: int | None = None) -> None:
        """Hand a message over without waiting. ``descriptor`` stays the caller's; the channel sends a duplicate.

        Raises EngineError ``worker_lost`` when the other end is gone, ``worker_stalled`` when it does not read.
        """
        if self._closed:
            raise EngineError("worker_lost", "the worker has gone", retryable=True)
        data = memoryview(_frame(message, TO_WORKER_LIMIT))
        if self._backlog + len(data) > BACKLOG_LIMIT:
            raise EngineError("worker_stalled", "the worker does not read its messages", retryable=True)
        waiting = bool(self._outbox)
        self._outbox.append((data, None if descriptor is None else os.dup(descriptor)))
        self._backlog += len(data)
        if not waiting:
            self._flush()
            if self._outbox:
                self._loop.add_writer(self._sock, self._on_writable)

    async def receive(self) -> ToGateway:
        """The next message. Raises EngineError when the worker is gone or breaks the protocol."""
        while not self._received:
            try:
                data = await self._loop.sock_recv(self._sock, _READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise EngineError("worker_lost", "the worker has gone", retryable=True)
            self._received.extend(self._inbox.feed(data))
        return self._received.popleft()

    def close(self) -> None:
        """Call when no task receives any more. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_writer(self._sock)
        while self._outbox:
            self._pop()
        self._sock.close()

    def _on_writable(self) -> None:
        # An error here means that the worker has gone, which the receiving task is about to see.
        with contextlib.suppress(EngineError):
            self._flush()
        if not self._outbox:
            self._loop.remove_writer(self._sock)

    def _flush(self) -> None:
        while self._outbox:
            data, descriptor = self._outbox[0]
            try:
                # A descriptor leaves with the first byte of its frame; what is left over goes without it.
                sent = (
                    self._sock.send(data) if descriptor is None else socket.send_fds(self._sock, [data], [descriptor])
                )
            except BlockingIOError:
                return
            except OSError as error:
                while self._outbox:
                    self._pop()
                raise EngineError("worker_lost", "the worker has gone", retryable=True) from error
            self._pop()
            if sent < len(data):
                self._outbox.appendleft((data[sent:], None))
                self._backlog += len(data) - sent

    def _pop(self) -> None:
        data, descriptor = self._outbox.popleft()
        self._backlog -= len(data)
        if descriptor is not None:
            os.close(descriptor)


class WorkerChannel:
    """The worker's end, for a loop in one thread."""

    def __init__(self, sock: socket.socket, send_timeout: float = 5.0) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._send_timeout = send_timeout
        self._inbox: _Inbox[ToWorker] = _Inbox(ToWorker, TO_WORKER_LIMIT)
        self._descriptors: deque[int] = deque()

    def wait(self, timeout: float) -> None:
        """Return when something can be read, or after ``timeout`` seconds."""
        self._poll(select.POLLIN, timeout)

    def receive(self) -> Iterator[Received]:
        """The messages that have arrived, each with its descriptor if it carries one, which the caller must close.
        Never waits.

        Raises EngineError ``gateway_lost`` when the other end is gone.
        """
        taken = 0
        while taken < _DRAIN_BYTES:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except ConnectionError:
                data, ancillary, flags = b"", [], 0
            self._keep_descriptors(ancillary)
            if not data:
                raise EngineError("gateway_lost", "the gateway has gone")
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > _MAX_DESCRIPTORS:
                raise EngineError("protocol_error", "too many descriptors came with one message")
            taken += len(data)
            for message in self._inbox.feed(data):
                yield message, self._claim(message)

    def send(self, message: ToGateway) -> None:
        """Send at once; waits, for a bounded time, only while the gateway's side of the socket is full."""
        data = memoryview(_frame(message, TO_GATEWAY_LIMIT))
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                if not self._poll(select.POLLOUT, self._send_timeout):
                    raise EngineError("gateway_lost", "the gateway does not read its messages") from None
            except OSError as error:
                raise EngineError("gateway_lost", "the gateway has gone") from error

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._sock.close()

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Not ``socket.recv_fds``: that one does not pass the flags on, so that children would inherit them."""
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                self._descriptors.extend(numbers)

    def _claim(self, message: ToWorker) -> int | None:
        if not isinstance(message, OpenStream):
            return None
        if not self._descriptors:
            raise EngineError("protocol_error", "a stream was opened without its frame ring")
        return self._descriptors.popleft()

    def _poll(self, events: int, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, events)
        return bool(poll.poll(max(0.0, timeout) * 1000))
