"""A worker process without a model, for tests of what stands above the process wall: it starts in a moment.

It answers like ``engine.worker.loop``: every chunk's frame n is grey level n % 200 + 16, made as soon as the voice
reaches its end. ``--config`` is read for ``slots`` and ``model``: "hang" stops reading after the first chunk, "refuse"
fails to start, "garbage" talks nonsense, "crash" exits at once, "full" has no memory for a stream and "tight" none to
start, unless the preset is the last, whose pictures are smaller, "late" first answers what was asked in epoch 0. A
stream with seed 666 fails, one with seed 667 kills the process.
"""

import argparse
import faulthandler
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field

import numpy as np

from engine.wire.channel import WorkerChannel
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import (
    PROTOCOL_VERSION,
    ChunkReady,
    CloseStream,
    Failure,
    FramesRead,
    ModelInfo,
    OpenStream,
    Ping,
    Pong,
    PushVoice,
    Ready,
    Shutdown,
    StreamClosed,
    StreamOpened,
)
from ground.errors import AvatarError

SIZE, CHUNK, FIRST, SAMPLES = 64, 12, 9, 640


@dataclass
class Call:
    opened: OpenStream
    ring: FrameRing
    frame: int
    read: int
    voice: int = 0
    index: int = field(default=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--config", type=json.loads)
    arguments = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)
    model, slots = arguments.config["model"], arguments.config["slots"]
    if model == "crash":
        sys.exit(3)
    os.set_inheritable(arguments.fd, False)
    sock = socket.socket(fileno=arguments.fd)
    if model == "garbage":
        sock.sendall(b"\xff" * 64)
        time.sleep(30)
    channel = WorkerChannel(sock)
    if model == "refuse":
        channel.send(Failure("", 0, "unknown_model", "no such model", False, "request_error"))
        sys.exit(2)
    preset = arguments.config["preset"]
    small = preset == "realtime"
    side = SIZE // 2 if small else SIZE
    info = ModelInfo(
        name="fake", width=side, height=side, fps=25, chunk_frames=CHUNK, first_chunk_frames=FIRST,
        drive_ahead_frames=4, lookahead_ms=55.0, slots=slots,
        device="cpu", dtype="none", torch="none", cpu="none", warmup_chunk_ms=1.0,
        memory_mb=1.0, rollouts=["knot_forcing", "self_forcing"],
    )  # fmt: skip
    if model == "tight" and not small:
        channel.send(Failure("", 0, "out_of_memory", "no memory", True))
        sys.exit(2)
    channel.send(Ready(PROTOCOL_VERSION, os.getpid(), info))
    try:
        serve(channel, hang=model == "hang", late=model == "late", full=model == "full" and not small, slots=slots)
    except AvatarError:
        sys.exit(1)


def serve(channel: WorkerChannel, hang: bool, late: bool, full: bool, slots: int) -> None:
    calls: dict[str, Call] = {}
    while True:
        channel.wait(1.0)
        for message, descriptor in channel.receive():
            match message:
                case Shutdown():
                    return
                case Ping(nonce=nonce):
                    channel.send(Pong(nonce))
                case OpenStream(stream=name, epoch=epoch):
                    assert descriptor is not None
                    if late:
                        channel.send(StreamOpened(name, 0, 0))
                        channel.send(Failure(name, 0, "no_slot", "every slot is taken", True, "capacity_error"))
                        time.sleep(0.1)
                    if len(calls) >= slots:
                        os.close(descriptor)
                        channel.send(Failure(name, epoch, "no_slot", "every slot is taken", True, "capacity_error"))
                        continue
                    first = message.first_frame
                    calls[name] = Call(message, FrameRing.attach(descriptor), first, first)
                    channel.send(StreamOpened(name, epoch, len(calls) - 1))
                case PushVoice() if full:
                    channel.send(Failure("", 0, "out_of_memory", "no memory", True))
                    sys.exit(1)
                case PushVoice(stream=name) if name in calls:
                    calls[name].voice = message.sample + len(message.pcm) // 2
                case FramesRead(stream=name) if name in calls:
                    calls[name].read = message.frame
                case CloseStream(stream=name) if name in calls:
                    call = calls.pop(name)
                    call.ring.close()
                    channel.send(StreamClosed(name, call.opened.epoch))
        for name, call in list(calls.items()):
            if call.opened.seed == 667 and call.voice:
                os.kill(os.getpid(), signal.SIGKILL)
            if call.opened.seed == 666 and call.voice:
                calls.pop(name).ring.close()
                channel.send(Failure(name, call.opened.epoch, "decode_failed", "the stream broke", True))
            elif advance(channel, call) and hang:
                time.sleep(60)


def advance(channel: WorkerChannel, call: Call) -> bool:
    """Make what chunks the voice and the ring's room allow."""
    made = False
    while True:
        count = FIRST if call.index == 0 else CHUNK
        if call.voice < (call.frame + count) * SAMPLES or call.frame + count - call.read > call.ring.capacity:
            return made
        for frame in range(call.frame, call.frame + count):
            width, height = call.ring.width, call.ring.height
            picture = np.full((height * 3 // 2, width), 128, np.uint8)
            picture[:height] = frame % 200 + 16
            call.ring.write(frame, picture)
        opened = call.opened
        channel.send(ChunkReady(opened.stream, opened.epoch, call.index, call.frame, count, 1.0, 0.5, []))
        call.frame, call.index, made = call.frame + count, call.index + 1, True


if __name__ == "__main__":
    main()
