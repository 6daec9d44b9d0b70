"""The command line as a user meets it: a video with the right frames and sound, and one line for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from cli.main import app

PORTRAIT = Path("client_web/samples/portrait_1.jpg")


def knotcast(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)], capture_output=True, text=True, timeout=150
    )


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voice") / "tone.wav"
    t = np.arange(int(16000 * 2.03)) / 16000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 180 * t) * (np.sin(2 * np.pi * 3 * t) > 0), 16000)
    return path


@pytest.fixture(scope="module")
def video(voice: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("video")
    out, report = folder / "o.mp4", folder / "r.json"
    run = knotcast(
        "animate", "--portrait", PORTRAIT, "--audio", voice, "--out", out, "--report", report, "--random-weights"
    )
    assert run.returncode == 0, run.stderr
    return out, json.loads(report.read_text())


def test_exactly_the_frames_of_the_voice_with_sound(video: tuple[Path, dict[str, object]]) -> None:
    with av.open(str(video[0])) as file:
        assert "Synthetic" in file.metadata["comment"]
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(str(video[0])) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
    assert len(pictures) == 51  # ceil(25 x 2.03)
    assert pictures[0].shape == (256, 256, 3)
    assert abs(samples / 48000 - 51 / 25) < 0.05
    assert any((a.astype(int) != b).any() for a, b in zip(pictures, pictures[1:], strict=False))


def test_the_report_says_what_was_measured(video: tuple[Path, dict[str, object]]) -> None:
    report = video[1]
    expected = {
        "frames",
        "fps",
        "chunks",
        "chunk_frames",
        "chunk_ms",
        "first_chunk_ms",
        "realtime_factor",
        "peak_rss_mb",
    }
    assert expected | {"model", "rollout", "device", "torch", "cpu"} <= report.keys()
    assert (report["frames"], report["fps"], report["chunk_frames"], report["chunks"]) == (51, 25, 12, 5)
    assert report["chunk_ms"].keys() == {"p50", "p95", "p99"}  # type: ignore[attr-defined]


def test_bad_input_ends_in_one_line_and_exit_code_two(voice: Path, tmp_path: Path) -> None:
    noise, empty, silent = tmp_path / "noise.png", tmp_path / "empty.jpg", tmp_path / "silent.wav"
    import cv2

    cv2.imwrite(str(noise), np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8))
    empty.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    soundfile.write(silent, np.zeros(16000), 16000)
    out = tmp_path / "o.mp4"
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"t_ms": 0, "yaw": "left"}\n')
    good = {"--portrait": PORTRAIT, "--audio": voice, "--out": out}
    for change, words in (
        ({"--portrait": tmp_path / "none.jpg"}, "none.jpg"),
        ({"--portrait": empty}, ""),
        ({"--portrait": noise}, "face"),
        ({"--audio": silent}, "silent"),
        ({"--audio": PORTRAIT}, "WAV"),
        ({"--audio": tmp_path / "none.wav"}, "none.wav"),
        ({"--model": "imaginary"}, "imaginary"),
        ({"--out": tmp_path / "o.gif"}, ".mp4"),
        ({"--pose": broken}, "pose"),
    ):
        options = [str(part) for pair in {**good, **change}.items() for part in pair]
        run = CliRunner().invoke(app, ["animate", *options])
        assert run.exit_code == 2, (change, run.stderr)
        lines = [line for line in run.stderr.splitlines() if line.startswith("knotcast:")]
        assert len(lines) == 1 and words in lines[0], run.stderr
        assert not out.exists()


def test_a_mistake_leaves_the_real_program_in_one_line(voice: Path, tmp_path: Path) -> None:
    run = knotcast("animate", "--portrait", tmp_path / "none.jpg", "--audio", voice, "--out", tmp_path / "o.mp4")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "none.jpg" in run.stderr and "Traceback" not in run.stderr


def test_the_engine_benchmark_runs_without_the_server(tmp_path: Path) -> None:
    blocked = "fastapi aiortc av msgspec pydantic soundfile librosa typer uvicorn"
    for name in blocked.split():
        (tmp_path / f"{name}.py").write_text("raise ImportError('a bare GPU machine does not have this')\n")
    command = (
        "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); "
        "runpy.run_module('benchmarks.engine', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path), "--random-weights", "--chunks", "4", "--warmup", "1", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["model"] == "embedded" and report["end_to_end_ms"]["p50"] > 0 and report["denoise_fps"] > 0
