"""The command line as a user meets it: a video with the right frames and sound, and one line for every mistake."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from benchmarks.speed.chunks import chunk_flops
from benchmarks.speed.engine import main
from cli.main import app
from cli.mp4 import Mp4Writer
from engine.rollout.strategies import make_rollout
from ground.config import RolloutSpec
from ground.errors import MediaError
from models.config import WAN21_1_3B, WAN21_T2V_1_3B
from tests.full_disk import files_of_at_most

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


def test_the_index_lies_before_the_media(video: tuple[Path, dict[str, object]]) -> None:
    data, at, boxes = video[0].read_bytes(), 0, []
    while at < len(data):
        boxes.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


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


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that are not what they should be."""
    folder = tmp_path_factory.mktemp("mistakes")
    cv2.imwrite(str(folder / "noise.png"), np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8))
    (folder / "empty.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "header.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    (folder / "broken.jsonl").write_text('{"t_ms": 0, "yaw": "left"}\n')
    (folder / "folder.mp4").mkdir()
    (folder / "kept.mp4").write_text("precious")
    return folder


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--portrait", "none.jpg", "none.jpg"),
        ("--portrait", "folder.mp4", "folder"),
        ("--portrait", "empty.jpg", "picture"),
        ("--portrait", "noise.png", "face"),
        ("--audio", "silent.wav", "silent"),
        ("--audio", "empty.wav", "empty"),
        ("--audio", "header.wav", "damaged"),
        ("--audio", "noise.png", "MP3"),
        ("--audio", "folder.mp4", "folder.mp4"),
        ("--audio", "none.wav", "none.wav"),
        ("--out", "o.gif", ".mp4"),
        ("--out", "folder.mp4", "folder"),
        ("--out", "nowhere/o.mp4", "nowhere"),
        ("--report", "folder.mp4", "folder"),
        ("--pose", "broken.jsonl", "pose line 1"),
        ("--pose", "none.jsonl", "none.jsonl"),
    ],
)
def test_a_mistake_is_told_in_one_line(mistakes: Path, voice: Path, option: str, value: str, words: str) -> None:
    options = {"--portrait": PORTRAIT, "--audio": voice, "--out": mistakes / "kept.mp4", option: mistakes / value}
    run = CliRunner().invoke(app, ["animate", *[str(part) for pair in options.items() for part in pair]])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1), run.stderr
    assert run.stderr.startswith("knotcast: ") and words in run.stderr, run.stderr
    assert (mistakes / "kept.mp4").read_text() == "precious" and not list(mistakes.glob("*.part.mp4"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "imaginary"], "imaginary"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int3"], "int3"),
        (["--dtype", "float8"], "video latents"),
    ],
)
def test_what_only_the_worker_can_refuse_is_one_line_too(
    mistakes: Path, voice: Path, options: list[str], words: str
) -> None:
    run = knotcast("animate", "--portrait", PORTRAIT, "--audio", voice, "--out", mistakes / "kept.mp4", *options)
    lines = run.stderr.splitlines()
    assert (run.returncode, len(lines)) == (2, 1) and words in lines[0], run.stderr
    assert (mistakes / "kept.mp4").read_text() == "precious" and not list(mistakes.glob("*.part.mp4"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "imaginary"], "knotcast models list"),
        (["--model", "longlive"], "knotcast models fetch longlive"),
        (["--model", "wan2.1-1.3b"], "knotcast models convert FILE --to wan2.1-1.3b"),
        (["--preset", "realtime"], "no presets"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_before_the_server_listens(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.run.serve", lambda settings: pytest.fail("it listens"))
    run = CliRunner().invoke(app, ["serve", "--models-dir", str(tmp_path), *options])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1), run.output
    assert run.stderr.startswith("knotcast: ") and words in run.stderr


@pytest.mark.parametrize("options", [[], ["--model", "wan2.1-1.3b", "--preset", "realtime", "--random-weights"]])
def test_a_model_that_can_be_had_is_served_without_torch_in_the_gateway(options: list[str], tmp_path: Path) -> None:
    command = (
        "import sys, server.http.run; from cli.main import app\n"
        "server.http.run.serve = lambda settings: print('served', 'torch' in sys.modules) or 0\n"
        "app(sys.argv[1:])"
    )
    run = subprocess.run(
        [sys.executable, "-c", command, "serve", "--models-dir", tmp_path, *options],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "served False\n"), run.stderr


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "o.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (4, 96, 64), dtype=np.uint8)
    with (
        files_of_at_most(4096),
        pytest.raises(MediaError, match=r"o\.mp4"),
        Mp4Writer(out, width=64, height=64, fps=25) as video,
    ):
        for _ in range(200):
            video.write(noise, np.zeros(0, np.int16))
    assert list(tmp_path.iterdir()) == []


def test_the_engine_benchmark_runs_without_the_server(tmp_path: Path) -> None:
    blocked = "fastapi aiortc av msgspec pydantic soundfile librosa typer uvicorn"
    for name in blocked.split():
        (tmp_path / f"{name}.py").write_text("raise ImportError('a bare GPU machine does not have this')\n")
    command = (
        "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); "
        "runpy.run_module('benchmarks.speed.engine', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path), "--random-weights", "--chunks", "4", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["model"] == "embedded" and report["end_to_end_ms"]["p50"] > 0 and report["denoise_fps"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nope"], "nope"),
        (["--rollout", "zz"], "zz"),
        (["--device", "tpu"], "tpu"),
        (["--size", "512x384"], "squares"),
        (["--model", "wan2.1-1.3b", "--size", "830x480"], "multiples of 16"),
        (["--model", "wan2.1-1.3b"], "random weights"),
        (["--size", "832"], "--size"),
        (["--chunks", "0"], "--chunks"),
        (["--dtype", "float8"], "video latents"),
        (["--dtype", "float8", "--ablation"], "leave out --dtype float8"),
        (["--model", "flashhead-pro-tiny-test", "--ablation", "--chunks", "1"], "no textbook rollout"),
    ],
)
def test_the_engine_benchmark_tells_mistakes(
    options: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine", "--random-weights"][: 1 if words == "random weights" else 2] + options)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_the_engine_benchmark_tells_that_a_device_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nof it")

    monkeypatch.setattr(sys, "argv", ["engine"])
    monkeypatch.setattr("benchmarks.speed.engine.measure", full)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "smaller --size" in told and told.count("\n") == 1


def test_the_operations_of_a_chunk_are_those_of_the_full_size_model() -> None:
    """143.8 TFLOP for Wan2.1-1.3B at 832x480 and 79.3 at 512x512 (c = 3, k = 1, L = 6), counted by hand elsewhere."""
    for size, tera in (((832, 480), 143.8), ((512, 512), 79.3)):
        config = replace(WAN21_1_3B.at_size(*size), dit=WAN21_T2V_1_3B)
        assert chunk_flops(config, make_rollout(RolloutSpec(), config)) / 1e12 == pytest.approx(tera, rel=0.02)


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        ({"PORT": "abc"}, ["serve"], "KNOTCAST_PORT"),
        ({"PORT": "abc"}, ["models", "list"], "KNOTCAST_PORT"),
        ({}, ["serve", "--port", "70000"], "--port"),
        ({"ICE_SERVERS": "turn:x"}, ["serve"], "KNOTCAST_ICE_SERVERS: this is not JSON"),
        ({"ALLOWED_HOSTS": "[a"}, ["serve"], "KNOTCAST_ALLOWED_HOSTS"),
        ({"PUBLIC_URL": "example.org"}, ["serve"], "KNOTCAST_PUBLIC_URL"),
        ({"DATA_DIR": "README.md"}, ["serve", "--port", "0"], "README.md"),
        ({"DATA_DIR": "/proc/nothing"}, ["serve", "--port", "0"], "/proc/nothing"),
        ({}, ["serve", "--host", "203.0.113.1"], "203.0.113.1"),
    ],
)
def test_a_setting_that_does_not_fit_stops_the_start_in_one_line(
    variables: dict[str, str], arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"KNOTCAST_{name}", value)
    run = CliRunner().invoke(app, arguments)
    assert (run.exit_code, run.stderr.count("\n"), run.stdout) == (2, 1, ""), run.output
    assert run.stderr.startswith("knotcast: ") and words in run.stderr


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        run = knotcast("serve", "--port", str(other.getsockname()[1]))
    assert (run.returncode, run.stderr.count("\n")) == (2, 1) and "in use" in run.stderr, run.stderr


def test_the_options_of_a_benchmark_are_listed() -> None:
    run = knotcast("bench", "engine", "--help")
    assert run.returncode == 0 and "--ablation" in run.stdout and "--chunks" in run.stdout


@pytest.mark.parametrize("command", [["train"], ["serve"], ["animate"], ["bench", "memory"], ["models", "convert"]])
def test_every_command_lists_its_options(command: list[str]) -> None:
    run = CliRunner().invoke(app, [*command, "--help"])
    assert run.exit_code == 0 and run.stdout.count("--") > 2
