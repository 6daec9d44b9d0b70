"""GPU benchmark suite on the CPU with a tiny model: every step runs, and a failed step stops no other."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks.speed.gpu
from benchmarks.speed import small_card
from benchmarks.speed.chunks import Screen, codec_of, in_turn
from benchmarks.speed.engine import ablation, measure
from benchmarks.speed.gpu import Measurement, StepJournal, cards, on_card, whole_chunks
from benchmarks.speed.parts import VARIANTS, Bench, consumer_cards
from engine.worker.i420 import to_i420
from ground.config import EngineConfig
from ground.errors import RequestError
from models.codecs.wan import WanCodec
from models.config import ModelConfig
from models.memory import GIB
from models.registry import build_model
from tests.tiny_models import FLASHHEAD_PRO_TINY_TEST, T2V_TINY_TEST, WAN_TINY_TEST


@pytest.mark.slow
def test_every_step_runs_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda stage, **options: compile_(stage, **options, backend="eager"))
    monkeypatch.setattr(benchmarks.speed.gpu, "CARD_COMMAND", (sys.executable, "-m", "tests.tiny_card"))
    report = gpu(tmp_path)
    failed = {name: entry for name, entry in report.items() if entry == "not run" or "error" in str(entry)}
    assert failed == {}
    measured = [name for name, entry in report.items() if isinstance(entry, dict) and "faster" in entry]
    assert {*(f"1.3B 832x480: {name}" for name in VARIANTS), "14B 832x480: all (compiled too)"} <= set(measured)
    assert {name.split("decoder ")[1].split(",")[0] for name in report if "decoder" in name} == {"wan", "wan-tiny"}
    assert report["1.3B 512x512: many chunks, decoder wan-tiny"]["chunks"] == 2
    assert report["memory: realtime in 8 GiB"]["holds"] and "memory: realtime in 12 GiB" not in report


def gpu(folder: Path, *words: str) -> dict[str, Any]:
    benchmarks.speed.gpu.main(
        ["--device", "cpu", "--rounds", "1", "--chunks", "2", "--out", str(folder), *words], stand_in=WAN_TINY_TEST
    )
    content = json.loads((folder / "gpu.json").read_text())
    assert "benchmarks.speed.gpu" in content["note"]
    report: dict[str, Any] = content["gpu"]
    return report


def test_only_some_groups(tmp_path: Path) -> None:
    report = gpu(tmp_path, "--only", "endurance")
    label = "1.3B 512x512"
    assert list(report) == [
        "machine", "load 1.3B for long", f"{label}: attention ms", f"{label}: many chunks, decoder wan-tiny",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "tried"),
    [
        ({"quality": 24, "balanced": 8, "realtime": 8}, ["quality 16", "quality 24", "balanced 8", "realtime 8"]),
        ({"quality": 12, "balanced": 12, "realtime": 8},
         ["quality 16", "quality 12", "quality 8", "balanced 8", "balanced 12", "realtime 8"]),
        ({"quality": 99, "balanced": 8, "realtime": 8}, ["quality 16", "quality 24", "balanced 8", "realtime 8"]),
    ],
)  # fmt: skip
def test_cards_are_tried_until_the_smallest_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: dict[str, int], tried: list[str]
) -> None:
    """The plan says 16 GiB for quality and 8 for the others."""

    def on_card(model: str, preset: str, gib: int, device: torch.device) -> dict[str, Any]:
        return {"holds": gib >= needs[preset]}

    monkeypatch.setattr(benchmarks.speed.gpu, "on_card", on_card)
    journal = StepJournal(tmp_path / "gpu.json", seconds=60)
    cards(Measurement(journal, torch.device("cpu"), 1, 1))
    assert list(journal.report)[1:] == ["memory: {} in {} GiB".format(*each.split()) for each in tried]


def test_a_child_that_fails_is_told_in_its_last_line() -> None:
    with pytest.raises(RuntimeError, match="has no presets"):
        on_card("embedded", "realtime", 8, torch.device("cpu"))


def test_a_card_is_held_to_its_memory_less_what_is_not_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is set without a device: torch refuses "cuda" there, and takes the current device or a number."""
    held: list[float] = []
    whole = SimpleNamespace(total_memory=32 * GIB)
    monkeypatch.setattr(small_card, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: whole)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda fraction: held.append(fraction))
    config = EngineConfig(model="nonsense", preset="realtime", slots=1, random_weights=True)
    with pytest.raises(RequestError, match="unknown model"):
        small_card.run(config, 8)
    assert held == [(8 - 0.5) / 32]


def test_a_preset_that_runs_out_of_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(model="wan-tiny-test", preset="realtime", device="cpu", slots=1, random_weights=True)

    def full(self: object, latents: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried more\nmore of it")

    monkeypatch.setattr(small_card.ChunkMaker, "denoise", lambda self: None)
    monkeypatch.setattr(small_card.Screen, "show", full)
    assert small_card.run(config, 8) == {"holds": False, "error": "CUDA out of memory. Tried more"}


def test_an_ablation_has_a_figure_of_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(stage: object, **options: object) -> None:
        raise RuntimeError("no compiler here\nmore of it")

    monkeypatch.setattr(torch, "compile", no_compiler)
    found = ablation(tiny_bench(), 2)
    assert found["graphs, fused"]["faster"] > 0 and found["plain passes, apart"]["ms"]["p50"] > 0
    assert found["all (compiled too)"] == {"error": "no compiler here"}
    assert set(found) == set(VARIANTS)


def tiny_bench(config: ModelConfig = WAN_TINY_TEST) -> Bench:
    return Bench(build_model(config.at_size(32, 32), torch.device("cpu"), torch.float32, None))


@pytest.mark.parametrize("config", [WAN_TINY_TEST, T2V_TINY_TEST])
def test_a_video_model_is_measured_with_each_decoder_beside_the_textbook(config: ModelConfig) -> None:
    report = measure(tiny_bench(config), 3)
    assert set(report["decoders"]) == {"wan", "wan-tiny"} and report["baseline_ms"]["p99"] > 0
    for figures in report["decoders"].values():
        assert figures["end_to_end_ms"]["p95"] > 0 and figures["decode_ms"]["p50"] > 0 and figures["first_chunk_ms"] > 0


def test_a_model_of_one_decoder_is_measured_with_it() -> None:
    model = build_model(FLASHHEAD_PRO_TINY_TEST, torch.device("cpu"), torch.float32, None)
    report = measure(Bench(model), 1)
    assert report["frames_per_chunk"] == 28 and report["end_to_end_ms"]["p50"] > 0 and report["decode_ms"]["p50"] > 0
    assert "baseline_ms" not in report and "decoders" not in report


def test_a_picture_is_what_the_codec_makes_of_the_latents_in_order() -> None:
    bench = tiny_bench()
    codec = codec_of(bench.model, "wan-tiny")
    screen, latents = Screen(codec), torch.randn(2, 3, *bench.model.config.latent_shape)
    made = np.concatenate([screen.show(chunk) for chunk in latents])
    with torch.inference_mode():
        whole, _ = codec.decode(latents.flatten(0, 1), screen.reference, codec.initial_state())
    assert made.shape == (21, 48, 32) and np.array_equal(made, to_i420(whole))


def test_a_decoder_of_whole_chunks_is_measured_beside_the_one_that_takes_latents_one_by_one() -> None:
    bench = tiny_bench()
    one, whole = (codec_of(each.model, "wan") for each in (bench, whole_chunks(bench)))
    assert isinstance(one, WanCodec) and isinstance(whole, WanCodec)
    assert (one.decoder.at_once, whole.decoder.at_once) == (1, 3)  # type: ignore[union-attr]


def test_works_take_turns_in_both_orders_until_the_time_is_over() -> None:
    order: list[str] = []
    works = {name: partial(order.append, name) for name in "ab"}
    assert [set(row) for row in in_turn(works, torch.device("cpu"), 3)] == [{"a", "b"}] * 3
    assert "".join(order) == "baabba"
    assert len(list(in_turn(works, torch.device("cpu"), 3, ends=0.0))) == 1


def test_predictions_name_the_cards() -> None:
    """A chunk of 12 frames at 25 a second lasts 0.48 s, in which half of 165 TFLOP/s makes 39.6 TFLOP."""
    bench = tiny_bench()
    bench.flops, bench.model = 39.6e12, replace(bench.model, config=replace(bench.model.config, fps=25))
    assert consumer_cards(bench, 0.5) == {"RTX 4090": 1.0, "RTX 5090": 1.27, "RTX 3090": 0.43}


def test_a_failed_step_is_told_and_the_next_runs(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path / "gpu.json", seconds=60)
    assert journal.step("broken", lambda: 1 / 0) is None
    assert journal.step("whole", lambda: 2) == 2
    journal.ends = 0.0
    assert journal.step("late", lambda: 3) is None
    report = json.loads((tmp_path / "gpu.json").read_text())["gpu"]
    assert "division by zero" in report["broken"]["error"][-1]
    assert report["whole"] == 2 and report["late"] == "not run"
