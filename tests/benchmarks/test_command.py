"""Command lines of the benchmarks: a bad argument is refused before any work, in one line that names the option."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.motion import ablation, contexts, generator, head_pose, influence, obedience, voice_only
from benchmarks.speed import engine, gpu, long_call, plot_results, small_card
from training.arguments import new_file, new_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (generator.main, "--sections xyz"),
        (generator.main, "--sections="),
        (generator.main, "--seconds -5"),
        (generator.main, "--seconds nan"),
        (generator.main, "--seeds 1"),
        (generator.main, "--long-seeds 1"),
        (generator.main, "--spans 1"),
        (generator.main, "--keep FILE"),
        (generator.main, "--keep FILE/folder"),
        (ablation.main, "--seconds inf"),
        (ablation.main, "--seeds 1"),
        (ablation.main, "--keep FILE"),
        (influence.main, "--seeds 0"),
        (influence.main, "--chunks 3"),
        (influence.main, "--svg NOWHERE/plot.svg"),
        (contexts.main, "--chunks 0"),
        (contexts.main, "--svg NOWHERE/plot.svg"),
        (contexts.main, "--svg FOLDER"),
        (obedience.main, "--count 0"),
        (obedience.main, "--seconds 0.5"),
        (obedience.main, "--sheet NOWHERE/sheet.png"),
        (head_pose.main, "--calls 1"),
        (head_pose.main, "--seconds 2"),
        (voice_only.main, "--seeds 1.5"),
        (voice_only.main, "--seconds 7"),
        (engine.main, "--threads 0"),
        (gpu.main, "--only everything"),
        (gpu.main, "--out FILE"),
        (gpu.main, "--seconds 0"),
        (small_card.main, "--gib 0"),
        (plot_results.main, "--svg FOLDER"),
        (long_call.main, "--chunks 3"),
        (long_call.main, "--threads -1"),
        (long_call.main, "--warmup 0"),
    ],
)  # fmt: skip
def test_arguments_are_refused_before_the_work(
    main: Callable[..., None], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module in (generator, ablation, influence, obedience, head_pose, voice_only):
        monkeypatch.setattr(module, "BenchModel", None)  # no work is begun
    (tmp_path / "file").touch()
    for name, path in (("FILE", "file"), ("FOLDER", ""), ("NOWHERE", "nowhere")):
        words = words.replace(name, str(tmp_path / path))
    monkeypatch.setattr("sys.argv", ["benchmark", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == ""
    option = re.split("[ =]", words)[0]
    assert f"error: argument {option}: " in told.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_live_call_wants_a_place_for_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("playwright")
    from benchmarks.live import call as live_call

    for words in (["--out", str(tmp_path / "nowhere" / "figures.json")], ["--seconds", "0"]):
        monkeypatch.setattr("sys.argv", ["live_call", *words])
        with pytest.raises(SystemExit):
            live_call.main()
        assert f"error: argument {words[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1", "nonsense", "http://127.0.0.1:port/"])
def test_a_live_call_of_no_server_is_a_line_before_a_browser_starts(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("playwright")
    from benchmarks.live import call as live_call

    monkeypatch.setattr(live_call, "sync_playwright", lambda: pytest.fail("a browser"))
    monkeypatch.setattr("sys.argv", ["live_call", "--url", url])
    with pytest.raises(SystemExit) as ended:
        live_call.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith(f"benchmarks.live.call: no server answers at {url}")


def test_a_file_and_a_folder_that_can_be_written(tmp_path: Path) -> None:
    assert new_file(str(tmp_path / "plot.svg")) == tmp_path / "plot.svg"
    assert new_folder(str(tmp_path / "runs" / "generator")) == tmp_path / "runs" / "generator"
    assert new_folder(str(tmp_path)) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_long_call_of_an_unknown_model_ends_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["long_call", "--model", "nobody"])
    with pytest.raises(SystemExit):
        long_call.main()
    assert "benchmarks.speed.long_call: unknown model 'nobody'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_measurement_that_fails_leaves_the_figures_as_they_were(tmp_path: Path) -> None:
    command = ["make", "-o", "setup", "-o", "embedded-weights", "embedded", f"BIN={tmp_path}", f"RUNS={tmp_path}"]
    python = tmp_path / "python"

    def measure(script: str) -> str:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        return (tmp_path / "figures.txt").read_text()

    assert measure("echo figures") == "figures\n"
    assert measure("echo half; exit 1") == "figures\n"
