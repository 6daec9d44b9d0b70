"""The channel: whole messages from any pieces, descriptors beside them, and an end to whatever does not follow the
rules.
"""

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.wire.channel import BACKLOG_LIMIT, TO_GATEWAY_LIMIT, TO_WORKER_LIMIT, GatewayChannel, WorkerChannel
from engine.wire.messages import (
    ChunkReady,
    CloseStream,
    Failure,
    FramesRead,
    OpenStream,
    Ping,
    Pong,
    PushPose,
    PushVoice,
    RolloutRequest,
    Shutdown,
    ToWorker,
)
from ground.errors import EngineError


def open_stream(pixels: int = 12) -> OpenStream:
    return OpenStream(
        stream="s", epoch=1, portrait=bytes(pixels), width=2, height=2, landmarks={"cx": 0.5}, confidence=1.0, seed=3,
        rollout=RolloutRequest(), first_frame=0,
    )  # fmt: skip


MESSAGES: list[ToWorker] = [
    Ping(7),
    PushVoice("s", 640, b"\x01\x02" * 320),
    PushPose("s", 1.5, {"yaw": 0.25}),
    FramesRead("s", 9),
    CloseStream("s"),
    Shutdown(),
]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


class Pair:
    """Both ends, and the worker's raw socket."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.gateway, self.worker = GatewayChannel(ours), WorkerChannel(theirs, send_timeout=0.2)
        self.raw = theirs

    def received(self) -> list[ToWorker]:
        return [message for message, _ in self.worker.receive()]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.gateway.close()
    pair.worker.close()


async def test_messages_go_both_ways_whole_and_in_order(pair: Pair) -> None:
    assert pair.received() == []
    for message in MESSAGES:
        pair.gateway.send(message)
    assert pair.received() == MESSAGES
    chunk = ChunkReady("s", 0, 1, 9, 12, 20.0, 5.0, [(3200, 9200)])
    pair.worker.send(chunk)
    pair.worker.send(Pong(7))
    assert await pair.gateway.receive() == chunk
    assert await pair.gateway.receive() == Pong(7)


async def test_a_descriptor_travels_beside_its_message(pair: Pair) -> None:
    memory = os.memfd_create("x")
    os.write(memory, b"shared")
    pair.gateway.send(Ping(1))
    pair.gateway.send(open_stream(), memory)
    pair.gateway.send(Ping(2))
    os.close(memory)  # the channel has its own
    taken = list(pair.worker.receive())
    assert [type(message) for message, _ in taken] == [Ping, OpenStream, Ping]
    descriptor = taken[1][1]
    assert taken[0][1] is None and descriptor is not None
    assert os.pread(descriptor, 6, 0) == b"shared" and not os.get_inheritable(descriptor)
    os.close(descriptor)


async def test_what_the_socket_cannot_hold_waits_its_turn(pair: Pair) -> None:
    memory = os.memfd_create("x")
    size = 4 << 20
    for _ in range(2):
        pair.gateway.send(open_stream(size), memory)
    os.close(memory)
    pair.gateway.send(Ping(1))
    seen: list[ToWorker] = []
    while len(seen) < 3:
        for message, descriptor in pair.worker.receive():
            seen.append(message)
            if descriptor is not None:
                os.close(descriptor)
        await asyncio.sleep(0)
    assert [type(message) for message in seen] == [OpenStream, OpenStream, Ping]


async def test_a_worker_that_does_not_read_is_given_up(pair: Pair) -> None:
    with pytest.raises(EngineError) as stalled:
        for sample in range(0, BACKLOG_LIMIT, 16000):
            pair.gateway.send(PushVoice("s", sample, bytes(32000)))
    assert stalled.value.code == "worker_stalled"


def test_a_gateway_that_does_not_read_is_given_up() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    worker = WorkerChannel(theirs, send_timeout=0.05)
    with ours, pytest.raises(EngineError) as stalled:
        for _ in range(10_000):
            worker.send(Failure("s", 0, "code", "m" * 1000, False))
    assert stalled.value.code == "gateway_lost"
    worker.close()


async def test_the_end_of_either_side_is_an_error(pair: Pair) -> None:
    pair.worker.close()
    with pytest.raises(EngineError) as lost:
        await pair.gateway.receive()
    assert lost.value.code == "worker_lost"
    with pytest.raises(EngineError):
        pair.gateway.send(Ping(1))
    other = Pair()
    other.gateway.close()
    with pytest.raises(EngineError) as left:
        other.received()
    assert left.value.code == "gateway_lost"
    with pytest.raises(EngineError):
        other.worker.send(Pong(1))
    with pytest.raises(EngineError):
        other.gateway.send(Ping(1))
    other.worker.close()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 0),
        struct.pack("<I", TO_GATEWAY_LIMIT + 1),
        struct.pack("<I", 3) + b"\xff\xff\xff",
        struct.pack("<I", 5) + msgspec.msgpack.encode("text"),
        struct.pack("<I", len(msgspec.msgpack.encode(Ping(1)))) + msgspec.msgpack.encode(Ping(1)),  # the other way
    ],
)
async def test_nonsense_ends_the_channel(pair: Pair, data: bytes) -> None:
    pair.raw.send(data)
    with pytest.raises(EngineError) as refused:
        async with asyncio.timeout(1):
            await pair.gateway.receive()
    assert refused.value.code == "protocol_error"


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_the_worker_survives_any_bytes(data: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    worker = WorkerChannel(theirs)
    ours.sendall(data)
    ours.close()
    with pytest.raises(EngineError) as ended:
        for _ in range(10):
            list(worker.receive())
    assert ended.value.code in ("protocol_error", "gateway_lost")
    worker.close()


@pytest.mark.parametrize("length", [0, TO_WORKER_LIMIT + 1])
def test_a_length_is_believed_only_within_bounds(length: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    worker = WorkerChannel(theirs)
    with ours:
        ours.sendall(struct.pack("<I", length))
        with pytest.raises(EngineError) as refused:
            list(worker.receive())
    assert refused.value.code == "protocol_error"
    worker.close()


def test_a_stream_without_its_ring_and_a_heap_of_descriptors_are_refused() -> None:
    body = msgspec.msgpack.encode(open_stream())
    for descriptors in (0, 9):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        worker = WorkerChannel(theirs)
        with ours:
            socket.send_fds(ours, [struct.pack("<I", len(body)), body], [ours.fileno()] * descriptors)
            with pytest.raises(EngineError) as refused:
                list(worker.receive())
        assert refused.value.code == "protocol_error"
        worker.close()


def test_wait_ends_with_a_message_or_in_time() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    worker = WorkerChannel(theirs)
    with ours:
        worker.wait(0.01)
        timer = threading.Timer(0.05, ours.sendall, [b"\x01"])
        timer.start()
        worker.wait(10.0)
        timer.join()
    worker.close()


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
def test_messages_come_whole_from_any_pieces(size: int) -> None:
    stream = b"".join(
        struct.pack("<I", len(body)) + body for body in (msgspec.msgpack.encode(message) for message in MESSAGES)
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    worker = WorkerChannel(theirs)
    seen: list[ToWorker] = []
    with ours:
        for start in range(0, len(stream), size):
            ours.sendall(stream[start : start + size])
            seen += [message for message, _ in worker.receive()]
    assert seen == MESSAGES
    worker.close()
