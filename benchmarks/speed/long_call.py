"""Endurance benchmark: one stream over thousands of chunks, for drift of time, memory and descriptors.

A call without sockets: 20 ms packets of a voice with pauses and 25 poses a second go into the drive buffer, chunks come
out of the frame ring and are read back. It does not wait for a clock, so two thousand chunks (16 minutes of media at 25
frames a second) take as long as the machine needs. Needs the engine's packages (torch, numpy, OpenCV, safetensors,
msgspec), none of the server's.

    python -m benchmarks.speed.long_call --json
    python -m benchmarks.speed.long_call --chunks 300 --random-weights
"""

import argparse
import json
import os
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.speed.chunks import average_landmarks, grey_face
from engine.rollout.strategies import own_rollout
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import OpenStream, RolloutRequest
from engine.worker.runner import ModelRunner
from engine.worker.stream import Stream
from ground.config import EngineConfig
from ground.errors import MediaError, one_line_errors
from training.arguments import at_least

SENTENCE = Path(__file__).resolve().parents[2] / "client_web" / "samples" / "sentence.wav"
RATE = 16_000
PACKET = RATE // 50
PAUSE_SECONDS = 1.5
POSE_HZ = 0.2  # of the head's turning to and fro
RING_CHUNKS = 3  # size of the gateway's ring, in chunks


@dataclass(slots=True)
class Caller:
    """An endless voice and a turning head, in packets."""

    fps: int
    turn: NDArray[np.int16]  # a sentence and a pause
    sample: int = 0

    def speak(self, stream: Stream) -> None:
        """Push the next 20 ms, and a pose every 40 ms."""
        packet = self.turn[(self.sample + np.arange(PACKET)) % len(self.turn)]
        stream.push_voice(packet.astype("<i2").tobytes(), self.sample)
        if self.sample % (2 * PACKET) == 0:
            angle = 2 * np.pi * POSE_HZ * self.sample / RATE
            stream.push_pose({"yaw": 0.2 * np.sin(angle), "pitch": 0.1 * np.cos(angle)}, self.frame)
        self.sample += PACKET

    @property
    def frame(self) -> float:
        return self.sample * self.fps / RATE


@dataclass(slots=True)
class Trace:
    """Measurements after every chunk. cpu_ms: processor time of all threads, which other programs on the machine
    disturb less than chunk_ms. rss_mb: resident memory in MiB, which varies with the allocator."""

    chunk_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    frames: int = 0


def read_sentence(path: Path = SENTENCE) -> NDArray[np.int16]:
    """int16 [n] at 16 kHz: the sample sentence and a pause. Raises MediaError."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise MediaError("invalid_audio", f"{path.name} must be 16 kHz mono, 16 bit")
        sentence = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
    return np.concatenate([sentence, np.zeros(round(PAUSE_SECONDS * RATE), np.int16)])


def process_state() -> tuple[float, int]:
    """Resident memory in MiB, and open descriptors."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))


def open_stream(runner: ModelRunner, ring: FrameRing) -> Stream:
    """Open a stream as for a file, without deadlines, in slot 0. The stream takes over the ring."""
    face = grey_face()
    height, width, _ = face.shape
    opened = OpenStream(
        stream="long-call", epoch=0, portrait=face.tobytes(), width=width, height=height,
        landmarks=average_landmarks(), confidence=1.0, seed=0, rollout=RolloutRequest(), first_frame=0, live=False,
    )  # fmt: skip
    stream = Stream(opened, 0, ring, runner)
    stream.encode()
    return stream


def make_chunk(stream: Stream, device: torch.device) -> tuple[int, int]:
    """Make the next chunk and put it into the ring. Its media frames [first, end)."""
    stream.begin(time.perf_counter())
    while not stream.finished:
        stream.run_pending()
    chunk = stream.emit().chunk
    if device.type == "cuda":
        torch.cuda.synchronize()
    return chunk.first_frame, chunk.first_frame + chunk.frames


def measure(runner: ModelRunner, chunks: int) -> Trace:
    config, trace = runner.config, Trace()
    width, height = config.pixel_size
    most = own_rollout(config).emitted_frames(1, config.frames_per_latent)
    ring = FrameRing.create(RING_CHUNKS * most, width, height)
    picture = np.empty((height * 3 // 2, width), np.uint8)
    caller, stream = Caller(config.fps, read_sentence()), open_stream(runner, ring)
    try:
        for _ in range(chunks):
            while not stream.drive_complete(time.perf_counter()):
                caller.speak(stream)
            began, worked = time.perf_counter(), time.process_time()
            first, end = make_chunk(stream, runner.device)
            trace.chunk_ms.append(1000 * (time.perf_counter() - began))
            trace.cpu_ms.append(1000 * (time.process_time() - worked))
            for frame in range(first, end):
                whole = ring.read_into(frame, picture)
                assert whole, "a picture was overwritten before it was read"
            stream.frames_read(end)
            trace.frames = end
            rss_mb, descriptors = process_state()
            trace.rss_mb.append(rss_mb)
            trace.descriptors.append(descriptors)
    finally:
        stream.close()
    return trace


def quarters(values: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    quarter = max(1, len(values) // 4)
    return float(np.median(values[:quarter])), float(np.median(values[-quarter:]))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    config = EngineConfig(
        model=arguments.model, device=arguments.device, dtype=arguments.dtype, slots=1, threads=arguments.threads,
        random_weights=arguments.random_weights,
    )  # fmt: skip
    runner = ModelRunner.start(config)
    trace = measure(runner, arguments.chunks)
    settled = slice(arguments.warmup - 1, None)
    first, last = quarters(trace.chunk_ms)
    first_cpu, last_cpu = quarters(trace.cpu_ms)
    first_mb, last_mb = quarters(trace.rss_mb[settled])
    return {
        "model": runner.config.name,
        "random_weights": arguments.random_weights,
        "device": torch.cuda.get_device_name() if runner.device.type == "cuda" else "cpu",
        "dtype": str(runner.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "chunks": arguments.chunks,
        "media_seconds": round(trace.frames / runner.config.fps, 2),
        "chunk_ms_first_quarter": round(first, 2),
        "chunk_ms_last_quarter": round(last, 2),
        "last_quarter_over_first": round(last / first, 3),
        "cpu_ms_first_quarter": round(first_cpu, 2),
        "cpu_ms_last_quarter": round(last_cpu, 2),
        "cpu_last_quarter_over_first": round(last_cpu / first_cpu, 3),
        "warmup_chunks": arguments.warmup,
        "rss_mb_first_quarter": round(first_mb, 1),
        "rss_mb_last_quarter": round(last_mb, 1),
        "rss_growth_mb": round(last_mb - first_mb, 1),
        "descriptors_after_warmup": trace.descriptors[settled][0],
        "descriptors_at_end": trace.descriptors[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--random-weights", action="store_true", help="neither time nor memory depends on the weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=at_least(0), default=0)
    parser.add_argument("--chunks", type=at_least(4), default=2000)
    parser.add_argument("--warmup", type=at_least(1), default=100, help="chunks before memory is measured")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    if arguments.warmup > arguments.chunks:
        parser.error("--warmup must not exceed --chunks: fewer --warmup or more --chunks")
    with one_line_errors("benchmarks.speed.long_call"):
        report = run(arguments)
    print(json.dumps(report) if arguments.json else "\n".join(f"{key:26} {value}" for key, value in report.items()))


if __name__ == "__main__":
    main()
