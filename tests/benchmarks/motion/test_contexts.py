"""Contexts (the paper's Fig. 3) against tables made by hand, and the masks of influence (Fig. 5) against passes that do
not read a frame."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.motion import influence
from benchmarks.motion.contexts import REFERENCE, STRATEGIES, contexts, main, overlaps, plot
from benchmarks.motion.influence import AttentionOutputs, Changes, measure_pass, without
from benchmarks.motion.motion_figures import Estimate
from benchmarks.motion.variants import RolloutVariant
from engine.rollout.base import Pass
from engine.worker.runner import ModelRunner, SlottedPass
from models.config import EMBEDDED
from tests.toy import record, toy_rollout, toy_runner

REF = frozenset({REFERENCE})


def test_knot_forcing_c3_k1_l6_by_hand() -> None:
    found = contexts(RolloutVariant("own").rollout(EMBEDDED), chunks=4)
    assert found == [
        REF | set(range(4)), REF | set(range(4)), REF | set(range(4)),
        REF | set(range(7)), REF | set(range(7)), REF | set(range(7)),  # latent 3 is estimated by both chunks
        REF | set(range(10)), REF | set(range(3, 10)), REF | set(range(3, 10)),  # latent 6 likewise
        REF | set(range(3, 13)), REF | set(range(6, 13)), REF | set(range(6, 13)),
    ]  # fmt: skip
    assert overlaps(found) == pytest.approx([1, 1, 5 / 8, 1, 1, 8 / 11, 8 / 11, 1, 8 / 11, 8 / 11, 1])


def test_self_forcing_by_hand() -> None:
    found = contexts(RolloutVariant("self", {"strategy": "self_forcing"}).rollout(EMBEDDED), chunks=4)
    assert found[::3] == [REF | set(range(a, b)) for a, b in ((0, 3), (0, 6), (3, 9), (6, 12))]
    assert overlaps(found) == pytest.approx([1, 1, 4 / 7, 1, 1, 4 / 10, 1, 1, 4 / 10, 1, 1])


def test_without_a_knot_the_change_comes_at_once() -> None:
    found = contexts(RolloutVariant("none", {"knot": 0}).rollout(EMBEDDED), chunks=7)
    assert overlaps(found)[-3:] == pytest.approx([4 / 10, 1, 1])
    two = contexts(RolloutVariant("two", {"knot": 2}).rollout(EMBEDDED), chunks=7)
    assert overlaps(two)[-3:] == pytest.approx([9 / 12, 1, 9 / 12])  # both chunks estimate both latents of the knot


def test_the_plot_is_well_formed() -> None:
    found = contexts(RolloutVariant("own").rollout(EMBEDDED), chunks=2)
    root = ElementTree.fromstring(plot({"Knot Forcing <k = 1>": found}))
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "Knot Forcing <k = 1>" in words and "emitted latent t" in words


def test_the_command_prints_its_figures_and_writes_the_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--chunks", "2", "--svg", str(tmp_path / "plot.svg"), "--json"])
    assert list(json.loads(capsys.readouterr().out)) == [variant.name for variant in STRATEGIES]
    assert [path.name for path in tmp_path.iterdir()] == ["plot.svg"]
    ElementTree.parse(tmp_path / "plot.svg")


def steady_pass(runner: ModelRunner) -> Pass:
    """A denoising pass whose window is full."""
    _, trace = record(runner, toy_rollout(), 4)
    return [work for work, _ in trace if any(work.sigmas)][-1]


def test_the_table_is_printed_before_the_plot_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influence, "BenchModel", lambda weights: None)
    monkeypatch.setattr(influence, "influence", lambda *words: {"ref": Estimate(0.1, 0.01)})
    influence.main(["--svg", str(tmp_path / "plot.svg")])
    assert "0.100±0.010" in capsys.readouterr().out and [path.name for path in tmp_path.iterdir()] == ["plot.svg"]
    monkeypatch.setattr(influence, "plot", lambda found, title: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        influence.main(["--svg", str(tmp_path / "other.svg")])
    assert "0.100±0.010" in capsys.readouterr().out and not (tmp_path / "other.svg").exists()


def test_leaving_a_frame_out_is_not_reading_it() -> None:
    runner = toy_runner()
    work = steady_pass(runner)
    outputs = AttentionOutputs(runner.model.dit)
    for key in range(len(work.reads)):
        runner.run([SlottedPass(0, without(work, key))])
        masked = outputs.frames(work.frames)
        runner.run([SlottedPass(0, replace(work, reads=work.reads[:key] + work.reads[key + 1 :]))])
        torch.testing.assert_close(masked, outputs.frames(work.frames), atol=1e-5, rtol=1e-4)
    outputs.close()
    outputs.taken.clear()
    runner.run([SlottedPass(0, work)])
    assert outputs.taken == {}


def test_every_distance_is_measured_and_a_latent_is_not_its_own_context() -> None:
    runner = toy_runner()
    work = steady_pass(runner)
    found: Changes = defaultdict(list)
    outputs = AttentionOutputs(runner.model.dit)
    measure_pass(runner, outputs, [work], found)
    outputs.close()
    assert set(found) == {("reference", 0)} | {("latent", d) for d in range(-6, 4) if d}
    assert len(found["reference", 0]) == 4 and len(found["latent", -1]) == 4 and len(found["latent", -6]) == 1
    assert all(value > 0 for values in found.values() for each in values for value in each)
