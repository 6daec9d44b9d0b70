"""Endurance benchmark: voice and poses reach the stream, every picture is read, and the command reports the figures."""

import subprocess
import sys

import msgspec
import numpy as np
import torch

from benchmarks.speed.long_call import PACKET, Caller, measure, open_stream, read_sentence
from engine.wire.frame_ring import FrameRing
from engine.worker.runner import ModelRunner
from ground.config import EngineConfig

CONFIG = EngineConfig(device="cpu", dtype="float32", slots=1, threads=1, random_weights=True)


def test_a_short_long_call() -> None:
    threads = torch.get_num_threads()
    try:
        trace = measure(ModelRunner.start(CONFIG), chunks=5)
    finally:
        torch.set_num_threads(threads)
    assert trace.frames == 9 + 4 * 12 and len(trace.chunk_ms) == len(trace.cpu_ms) == 5
    assert min(trace.rss_mb) > 50 and trace.descriptors == [trace.descriptors[0]] * 5


def test_the_voice_goes_on_for_ever_and_what_the_stream_dropped_is_told_at_the_end() -> None:
    turn = read_sentence()
    threads = torch.get_num_threads()
    runner = ModelRunner.start(CONFIG)
    torch.set_num_threads(threads)
    stream = open_stream(runner, FrameRing.create(36, 256, 256))
    caller = Caller(25, turn)
    while caller.sample < len(turn) + 3 * PACKET:
        caller.speak(stream)
    assert stream._drive.counts.missing_samples == 0 and len(stream._drive._poses) == -(-caller.sample // 640)
    heard = stream._drive._pcm[len(turn) : len(turn) + PACKET]
    assert np.array_equal(heard, turn[:PACKET]) and heard.any() and not turn[-PACKET:].any()
    stream.push_pose({"yaw": 0.1}, float("nan"))
    assert stream.summary == "chunks=0 missing=0 late=0 dropped_poses=1"
    stream.close()


def test_the_command_prints_its_figures() -> None:
    command = [sys.executable, "-m", "benchmarks.speed.long_call", "--chunks", "4", "--warmup", "1", "--threads", "1"]
    made = subprocess.run([*command, "--random-weights", "--json"], check=True, capture_output=True, timeout=120)
    report = msgspec.json.decode(made.stdout)
    assert report["media_seconds"] == 1.8 and report["random_weights"]
    assert report["descriptors_at_end"] == report["descriptors_after_warmup"]
    assert report["last_quarter_over_first"] > 0 and report["cpu_last_quarter_over_first"] > 0
