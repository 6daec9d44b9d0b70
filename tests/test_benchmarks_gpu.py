"""The script for a GPU machine runs whole, on the CPU and a tiny model, and a failed step stops no other."""

import json
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.gpu
from benchmarks.engine import ablation
from benchmarks.gpu import Journal, random_model
from training.configs import WAN_TINY


@pytest.mark.slow
def test_every_step_runs_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda stage, **options: compile_(stage, **options, backend="eager"))
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--tiny", "--device", "cpu", "--rounds", "1", "--chunks", "2", "--out", str(tmp_path)]
    )
    benchmarks.gpu.main()
    report = json.loads((tmp_path / "gpu.json").read_text())
    failed = {name: entry for name, entry in report.items() if entry == "not run" or "error" in str(entry)}
    assert failed == {}
    measured = [name for name, entry in report.items() if isinstance(entry, dict) and "faster" in entry]
    assert len(measured) >= 17 and any(name.startswith("14B") for name in measured)
    assert {name.split("decoder ")[1].split(",")[0] for name in report if "decoder" in name} == {"wan", "wan-tiny"}
    assert any("many chunks" in name for name in report)


def test_an_ablation_has_a_figure_of_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(stage: object, **options: object) -> None:
        raise RuntimeError("no compiler here\nmore of it")

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = ablation(random_model(WAN_TINY, torch.device("cpu")), 2, 1.0)
    assert found["graphs, fused"]["faster"] > 0 and found["plain passes, apart"]["ms"]["p50"] > 0
    assert found["all (compiled too)"] == {"error": "no compiler here"}
    assert set(found["predicted_realtime_factor"]) == {"RTX 3090", "RTX 4090", "RTX 5090"}


def test_a_failed_step_is_told_and_the_next_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gpu.json", seconds=60)
    assert journal.step("broken", lambda: 1 / 0) is None
    assert journal.step("whole", lambda: 2) == 2
    journal.ends = 0.0
    assert journal.step("late", lambda: 3) is None
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert "division by zero" in report["broken"]["error"][-1]
    assert report["whole"] == 2 and report["late"] == "not run"
