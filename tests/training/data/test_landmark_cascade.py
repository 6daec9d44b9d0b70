"""The landmark cascade: close-ups follow the mouth, cross-fitting tells what a fit says of faces it never saw."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from engine.portrait.framing import frame_portrait
from engine.portrait.landmarks import CROP, SHUT_FROM, carried, finish, look_close
from tests.faces import LANDMARKS
from training.data.faces import confidence, landmarks
from training.data.faces.ridge import cross_fitted, ridge
from training.data.video import turn_fit

SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples"


@pytest.mark.parametrize("command", [landmarks, confidence, turn_fit])
def test_a_picture_that_is_missing_is_one_line(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "landmarks.json"
    file.write_text(json.dumps({f"{number}.jpg": LANDMARKS for number in range(60)}))
    out = [] if command is confidence else ["--out", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", ["command", "--portraits", str(file), *out])
    with pytest.raises(SystemExit) as ended:
        command.main()
    told = capfd.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and "0.jpg is no picture that can be read" in told


@pytest.mark.parametrize("command", [landmarks, turn_fit])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "train", lambda arguments: pytest.fail("it works"))
    for out in (tmp_path, tmp_path / "file" / "o"):
        monkeypatch.setattr("sys.argv", ["command", "--portraits", "p", "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == 2 and "error: argument --out: " in capfd.readouterr().err.splitlines()[-1]


def test_a_close_up_follows_the_mouths_place_size_and_turn() -> None:
    picture = cv2.imread(str(sorted(SAMPLE.glob("portrait_*.jpg"))[0]))
    assert picture is not None
    framed = frame_portrait(np.ascontiguousarray(picture[..., ::-1], np.uint8))
    mouth = framed.landmarks
    middle = ((mouth["mx"] + 1) * CROP / 2, (mouth["my"] + 1) * CROP / 2)
    turn = np.asarray(cv2.getRotationMatrix2D(middle, -8, 1.15), np.float64)
    turn[:, 2] += (9, -6)
    moved = np.asarray(cv2.warpAffine(framed.rgb, turn, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    there = look_close(framed.rgb, mouth)
    followed = look_close(moved, carried(mouth, turn, (CROP, CROP), (CROP, CROP)))
    left_behind = look_close(moved, mouth)
    assert np.corrcoef(there, followed)[0, 1] > 0.95
    assert np.corrcoef(there, left_behind)[0, 1] < 0.8


@pytest.mark.parametrize(("shut", "opening"), [(SHUT_FROM - 0.1, 0.03), (SHUT_FROM + 0.1, 0.0)])
def test_lips_that_look_shut_have_no_opening(shut: float, opening: float) -> None:
    raw = LANDMARKS | {"chin_y": LANDMARKS["my"] + LANDMARKS["chin"], "shut": shut, "th": 0.03}
    face = finish(raw)
    assert face["th"] == opening and "shut" not in face


def test_ridge_finds_a_line() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (200, 5)).astype(np.float32)
    wanted = rng.normal(0, 1, (5, 2)).astype(np.float32)
    weight, bias = ridge(features, features @ wanted + 3, 1e-6)
    assert weight == pytest.approx(wanted, abs=1e-3) and bias == pytest.approx(3, abs=1e-3)


def test_what_is_handed_on_was_not_learnt_by_heart() -> None:
    """Features that only name the face: the fit knows every face's own value, fits to others cannot."""
    rng = np.random.default_rng(1)
    faces = [str(number) for number in range(40) for _ in range(5)]
    features = np.eye(40, dtype=np.float32).repeat(5, 0)
    targets = rng.normal(0, 1, (40, 1)).astype(np.float32).repeat(5, 0)
    weight, bias, unseen = cross_fitted(features, targets, faces, 1e-3)
    assert np.abs(features @ weight + bias - targets).max() < 0.05
    assert np.corrcoef(unseen[:, 0], targets[:, 0])[0, 1] < 0.3


def test_what_all_faces_share_is_known_of_an_unseen_one() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(0, 1, (160, 3)).astype(np.float32)
    targets = (features @ np.array([[1.0], [-2.0], [0.5]]) + 4).astype(np.float32)
    weight, bias, unseen = cross_fitted(features, targets, [str(i // 4) for i in range(160)], 1e-6)
    assert unseen == pytest.approx(targets, abs=1e-2) and features @ weight + bias == pytest.approx(targets, abs=1e-2)
