"""The benchmark of faces: motion is counted where it is, a refusal has its code, and a misplaced mouth is noticed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.motion import faces
from benchmarks.motion.faces import share_inside

SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples" / "portrait_3.jpg"


def test_the_share_is_of_the_motions_energy() -> None:
    still = np.zeros((6, 8, 8, 3), np.uint8)
    assert np.isnan(share_inside(still, np.ones((8, 8), bool)))
    moving = still.copy()
    moving[::2, 2, 2], moving[::2, 6, 6] = 60, 20
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert share_inside(moving, mask) == pytest.approx(0.9)


@pytest.mark.slow
def test_a_folder_is_reported_and_a_misplaced_mouth_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "FRAMES", 18)
    Image.open(SAMPLE).save(tmp_path / "a.png")
    Image.new("RGB", (300, 300), (9, 99, 9)).save(tmp_path / "b.png")
    faces.main([str(tmp_path), "--json"])
    rows = json.loads(capsys.readouterr().out)["sections"]["faces"]
    assert rows["b.png"] == {"found": "no_face"}
    row = rows["a.png"]
    assert row["found"] == "yes" and row["opening r"] > 0.9 and row["inside"] > 70 and row["still dB"] > 35
    assert row["shifted"] < row["inside"] - 2 and row["shifted x"] < 0.9 * row["opening x"]
    with pytest.raises(SystemExit):
        faces.main([str(tmp_path / "nowhere")])
    assert "benchmarks.motion.faces: no picture" in capsys.readouterr().err
