"""Temporal flickering in closed form, and the report with and without the package vbench."""

import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from benchmarks.motion import video_quality
from benchmarks.motion.video_quality import DIMENSIONS, clips_in, frames_of, temporal_flickering
from ground.errors import MediaError


def flat(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def test_a_still_scores_one_and_a_known_flicker_what_it_must() -> None:
    assert temporal_flickering([flat(100)] * 5) == 1.0
    assert temporal_flickering([flat(40), flat(91)] * 4) == pytest.approx(1 - 51 / 255)
    assert temporal_flickering([flat(91), flat(40), flat(40)]) == pytest.approx(1 - 51 / 255 / 2)  # no wrap-around
    with pytest.raises(MediaError, match="two readable frames"):
        temporal_flickering([flat(1)])


def test_a_folder_of_pictures_is_a_clip_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, value in enumerate((0, 51, 0, 51)):
        cv2.imwrite(str(tmp_path / f"{i:03}.png"), flat(value))
    video_quality.main([str(tmp_path), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 1 and report["temporal_flickering"] == pytest.approx(0.8)
    assert all(isinstance(report[name], str) and "\n" not in report[name] for name in DIMENSIONS)
    with pytest.raises(SystemExit):
        video_quality.main([str(tmp_path / "nothing")])
    assert "neither a clip" in capsys.readouterr().err


def write_clip(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 64))
    for value in (30, 60, 90):
        writer.write(np.full((64, 64, 3), value, np.uint8))
    writer.release()


def test_a_clip_is_read_whole(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi")
    assert clips_in(tmp_path) == [tmp_path / "clip.avi"]
    frames = list(frames_of(tmp_path / "clip.avi"))
    assert len(frames) == 3 and temporal_flickering(frames) == pytest.approx(1 - 30 / 255, abs=0.01)


def test_vbench_is_asked_only_for_what_it_has_weights_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, cache = tmp_path / "clips", tmp_path / "cache"
    clips.mkdir()
    write_clip(clips / "clip.avi")
    for name in ("clip_model/ViT-B-32.pt", "amt_model/amt-s.pth"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    asked: list[dict[str, object]] = []

    class VBench:
        def __init__(self, device: object, table: str, out: str) -> None:
            self.out = Path(out)

        def evaluate(self, **words: object) -> None:
            asked.append(words)
            scores = {name: [0.5 + 0.1 * i, []] for i, name in enumerate(words["dimension_list"])}  # type: ignore[arg-type]
            (self.out / "clips_eval_results.json").write_text(json.dumps(scores))

    module = ModuleType("vbench")
    module.VBench, module.__file__ = VBench, str(tmp_path / "vbench" / "__init__.py")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vbench", module)
    monkeypatch.setattr(video_quality.importlib.util, "find_spec", lambda name: module)
    monkeypatch.setenv("VBENCH_CACHE_DIR", "elsewhere")
    report = video_quality.run(clips, cache)
    assert [words["dimension_list"] for words in asked] == [["background_consistency", "motion_smoothness"]]
    assert asked[0]["mode"] == "custom_input" and asked[0]["local"] is True
    assert (report["background_consistency"], report["motion_smoothness"]) == (0.5, 0.6)
    assert "dino_vitbase16_pretrain.pth" in str(report["subject_consistency"])
