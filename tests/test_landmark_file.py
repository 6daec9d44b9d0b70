"""Landmarks beside a picture win over the estimate, whatever the size and tilt; a slip is one clear error."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from cli.animate import open_portrait
from cli.main import app
from engine.errors import RequestError
from engine.framing import frame_given
from engine.landmark_file import NEEDED, file_beside, parse_landmarks
from engine.landmarks import EYE_X, EYE_Y, LID_RISE, carried
from tests.faces import LANDMARKS, drawn_face

GIVEN = {name: LANDMARKS[name] for name in NEEDED} | {
    "exl": -EYE_X, "exr": EYE_X, "eyl": EYE_Y - LID_RISE, "eyr": EYE_Y - LID_RISE,
}  # fmt: skip


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A drawing in which the estimator is not asked for a face."""
    path = tmp_path / "me.jpg"
    cv2.imwrite(str(path), drawn_face(320)[..., ::-1])
    return path


def test_the_file_beside_is_named_after_the_picture() -> None:
    assert file_beside(Path("faces/me.jpg")) == Path("faces/me.landmarks.json")


def test_given_landmarks_win(picture: Path) -> None:
    file_beside(picture).write_text(json.dumps(GIVEN | {"my": 0.41, "tl": 0.66}))
    framed = open_portrait(picture)
    assert framed.confidence == 1.0 and "low_confidence" not in framed.warnings
    for name, value in (GIVEN | {"my": 0.41, "tl": 0.66}).items():
        assert framed.landmarks[name] == pytest.approx(value, abs=1e-5), name
    assert framed.landmarks["mtilt"] == pytest.approx(0) and 0 < framed.landmarks["lum"] < 1, "the rest is measured"
    straight = cv2.resize(drawn_face(320), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(framed.rgb.astype(float) - straight).mean() < 4, "this picture was in the framing already"


@pytest.mark.parametrize(("scale", "angle"), [(1.7, 0.0), (0.9, 14.0), (2.2, -20.0)])
def test_they_are_carried_into_the_framing_from_any_picture(scale: float, angle: float) -> None:
    turn = cv2.getRotationMatrix2D((160, 160), angle, scale)
    turn[:, 2] += (240, 330)
    size = (900, 1100)
    large: NDArray[np.uint8] = np.asarray(cv2.warpAffine(drawn_face(320), turn, size), np.uint8)
    framed = frame_given(large, carried(GIVEN | {"mtilt": 0.0}, turn, (320, 320), size))
    for name in GIVEN:
        assert framed.landmarks[name] == pytest.approx(GIVEN[name], abs=2e-3), name
    assert framed.landmarks["mtilt"] == pytest.approx(0, abs=2e-3)
    straight = cv2.resize(drawn_face(320), (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(framed.rgb[40:216, 40:216].astype(float) - straight[40:216, 40:216]).mean() < 5


MISTAKES = {
    "not JSON": ("{broken", "is not JSON"),
    "a list": ("[1, 2]", "one object"),
    "a field too few": (json.dumps({k: v for k, v in GIVEN.items() if k != "mw"}), "lacks mw"),
    "a field too many": (json.dumps(GIVEN | {"nose": 1}), "'nose'"),
    "a word": (json.dumps(GIVEN | {"th": "wide"}), "th must be a finite number"),
    "not finite": (json.dumps(GIVEN).replace('"th": 0.03', '"th": NaN'), "th must be a finite number"),
    "eyes crossed": (json.dumps(GIVEN | {"exl": 0.2, "exr": -0.2}), "exl, eyl must be"),
    "in pixels": (json.dumps(GIVEN | {"mw": 32}), "mw is 32, but this face's must lie in 0.07 to 0.45"),
    "mouth above the eyes": (json.dumps(GIVEN | {"my": -0.4}), "mx, my"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_slip_is_named(mistake: str) -> None:
    text, words = MISTAKES[mistake]
    with pytest.raises(RequestError) as refused:
        parse_landmarks(text.encode(), "me.landmarks.json")
    assert refused.value.code == "invalid_landmarks"
    assert refused.value.message.startswith("me.landmarks.json: ") and words in refused.value.message


def test_the_command_says_it_in_one_line(picture: Path) -> None:
    file_beside(picture).write_text(json.dumps(GIVEN | {"mw": 32}))
    voice = Path("client_web/samples/sentence.wav")
    options = ["--portrait", str(picture), "--audio", str(voice), "--out", str(picture.with_suffix(".mp4"))]
    run = CliRunner().invoke(app, ["animate", *options])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1), run.stderr
    assert run.stderr.startswith("knotcast: me.landmarks.json: mw is 32")
