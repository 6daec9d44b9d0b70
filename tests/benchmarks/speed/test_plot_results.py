"""Plot of the GPU runs: it equals the committed runs, and a newer run of a card overrides an older one."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.speed.plot_results import RESULTS, bars_of, main, plot, runs

PLOT = RESULTS.parent / "plots" / "speed.svg"


def written(folder: Path, name: str, card: str, **steps: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"note": "", "gpu": {"machine": {"device": card}, **steps}}))


def texts(path: Path) -> str:
    return " ".join(element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("text"))


def test_the_committed_plot_is_made_of_the_committed_runs(tmp_path: Path) -> None:
    main(["--svg", str(tmp_path / "speed.svg")])
    drawn, words = texts(tmp_path / "speed.svg"), texts(PLOT)
    assert drawn == words, f"renew it: python -m benchmarks.speed.plot_results --svg {PLOT}"
    for figure in ("39.7 / 29.9", "38.7", "65.8", "11.0 / 9.0", "17.5", "20.7", "NVIDIA H200"):
        assert figure in words


def test_a_later_run_counts_for_the_figures_that_it_has(tmp_path: Path) -> None:
    label = "1.3B 832x480: "
    written(tmp_path, "x", "X", **{
        label + "all (compiled too)": {"fps": 30.0, "baseline_fps": 20.0},
        label + "decoder wan-tiny, all (compiled too)": {"end_to_end_fps": 25.0},
    })  # fmt: skip
    written(tmp_path, "x-2", "X", **{
        label + "all (compiled too)": {"error": ["lost"]},
        label + "decoder wan-tiny, graphs, fused": {"end_to_end_fps": 28.0},
        label + "decoder wan, graphs, fused": "not run",
    })  # fmt: skip
    written(tmp_path, "y", "Y", **{label + "all (compiled too)": "not run"})
    found = runs(tmp_path)
    assert [(bar.value, bar.beside) for bar in bars_of(found["X"], "832x480")[:2]] == [(30.0, 20.0), (28.0, None)]
    assert bars_of(found["Y"], "832x480") == [] == bars_of(found["X"], "512x512")
    assert ", X</text>" in plot(found) and ", Y</text>" not in plot(found)


def test_runs_are_ordered_by_number_and_a_decoder_is_drawn_as_it_runs(tmp_path: Path) -> None:
    label = "1.3B 832x480: decoder wan, "
    for number, fps in (("x-9", 9.0), ("x-10", 10.0)):
        written(tmp_path, number, "X", **{label + "graphs, fused": {"end_to_end_fps": fps}})
    written(tmp_path, "x-11", "X", **{label + "a chunk's latents at once, graphs, fused": {"end_to_end_fps": 20.0}})
    assert bars_of(runs(tmp_path)["X"], "832x480")[0].value == 10.0


def test_what_is_no_run_is_one_line_and_the_plot_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plotted, results = tmp_path / "speed.svg", tmp_path / "results"
    plotted.write_text("before")
    for content in (None, "", "{", "[]", json.dumps({"gpu": {"machine": "lost"}})):
        results.mkdir(exist_ok=True)
        if content is not None:
            (results / "x.json").write_text(content)
        with pytest.raises(SystemExit) as ended:
            main(["--results", str(results), "--svg", str(plotted)])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.count("\n") == 1 and str(results) in told
    assert plotted.read_text() == "before"


def test_a_plot_wants_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--svg", str(tmp_path / "nowhere" / "speed.svg")])
    assert "error: argument --svg: " in capsys.readouterr().err
