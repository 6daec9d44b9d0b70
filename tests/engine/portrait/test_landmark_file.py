"""Landmarks beside a picture win over the estimate, whatever the size and tilt; a slip is one clear error."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from cli.main import app
from engine.portrait.framing import FramedPortrait, frame_given
from engine.portrait.landmark_file import _SIZES, MAX_BYTES, NEEDED, file_beside, landmarks_beside, parse_landmarks
from engine.portrait.landmarks import EYE_X, EYE_Y, LID_RISE, carried
from ground.errors import RequestError
from ground.motion import INDEX
from models.codecs.rig import own_state, render
from server.portraits.reader import read_portrait
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


def open_portrait(path: Path) -> FramedPortrait:
    return read_portrait(path.read_bytes(), landmarks_beside(path))


def test_the_file_beside_is_named_after_the_picture() -> None:
    assert file_beside(Path("faces/me.jpg")) == Path("faces/me.landmarks.json")


def test_given_landmarks_win(picture: Path) -> None:
    file_beside(picture).write_text(json.dumps(GIVEN | {"my": 0.41, "tl": 0.66}))
    framed = open_portrait(picture)
    assert framed.confidence == 1.0 and "low_confidence" not in framed.warnings
    for name, value in (GIVEN | {"my": 0.41, "tl": 0.66}).items():
        assert framed.landmarks[name] == pytest.approx(value, abs=1e-5), name
    assert framed.landmarks["mtilt"] == pytest.approx(0) and 0 < framed.landmarks["lum"] < 1, "the rest is measured"
    straight = cv2.resize(drawn_face(320), framed.rgb.shape[:2])
    assert np.abs(framed.rgb.astype(float) - straight).mean() < 4, "this picture was in the framing already"


@pytest.mark.parametrize(("scale", "angle"), [(1.7, 0.0), (0.9, 14.0), (2.2, -20.0)])
def test_they_are_carried_into_the_framing_from_any_picture(scale: float, angle: float) -> None:
    turn = np.asarray(cv2.getRotationMatrix2D((160, 160), angle, scale), np.float64)
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
    "a list": ("[1, 2]", "a JSON object"),
    "a field too few": (json.dumps({k: v for k, v in GIVEN.items() if k != "mw"}), "lacks mw"),
    "a field too many": (json.dumps(GIVEN | {"nose": 1}), "'nose'"),
    "a word": (json.dumps(GIVEN | {"th": "wide"}), "th must be a finite number"),
    "not finite": (json.dumps(GIVEN).replace('"th": 0.03', '"th": NaN'), "th must be a finite number"),
    "eyes crossed": (json.dumps(GIVEN | {"exl": 0.2, "exr": -0.2}), "exl, eyl must be"),
    "a share beyond all": (json.dumps(GIVEN | {"tl": 255}), "tl is 255, but must lie in 0 to 1"),
    "in pixels": (json.dumps(GIVEN | {"mw": 32}), "mw is 32, but must lie in 0.07 to 0.45 for this face"),
    "mouth above the eyes": (json.dumps(GIVEN | {"my": -0.4}), "mx, my"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_slip_is_named(mistake: str) -> None:
    text, words = MISTAKES[mistake]
    with pytest.raises(RequestError) as refused:
        parse_landmarks(text.encode(), "me.landmarks.json")
    assert refused.value.code == "invalid_landmarks"
    assert refused.value.message.startswith("me.landmarks.json: ") and words in refused.value.message


def test_an_annotation_of_a_training_folder_can_be_pasted(picture: Path) -> None:
    whole = GIVEN | {"mtilt": 0.001, "tl": 0.9, "smiling": True, "glasses": False, "quality": 0.96}
    file_beside(picture).write_text(json.dumps(whole))
    assert landmarks_beside(picture) == {name: float(value) for name, value in whole.items()}


def test_without_a_file_nothing_is_given(picture: Path) -> None:
    assert landmarks_beside(picture) is None


@pytest.mark.parametrize("what", ["a folder", "a large file"])
def test_what_cannot_be_the_file_is_refused(picture: Path, what: str) -> None:
    beside = file_beside(picture)
    if what == "a folder":
        beside.mkdir()
    else:
        beside.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(RequestError, match=r"^me\.landmarks\.json: (cannot be read|is larger)"):
        landmarks_beside(picture)


def test_eyes_outside_the_picture_are_refused(picture: Path) -> None:
    away = {name: GIVEN[name] + 3 for name in ("exl", "exr", "mx", "cx")}
    file_beside(picture).write_text(json.dumps(GIVEN | away))
    with pytest.raises(RequestError, match="an eye outside the picture"):
        open_portrait(picture)


@pytest.mark.parametrize("end", [0, 1])
def test_the_strangest_face_that_is_let_in_can_be_drawn(end: int) -> None:
    """Every size at its smallest, or at its largest: the rig gives a picture, not NaN."""
    sizes = {field: span[end] for field, span in _SIZES.items()} | {"eb": _SIZES["eb"][1]}
    given = parse_landmarks(json.dumps(GIVEN | sizes).encode(), "me.landmarks.json")
    framed = frame_given(drawn_face(320), given)
    controls = own_state(framed.landmarks).repeat(2, 1)
    controls[1, INDEX["jaw"]] += 0.5
    photo = torch.from_numpy(framed.rgb.copy()).permute(2, 0, 1).float() / 255
    frames = render(photo, framed.landmarks, controls)
    assert torch.isfinite(frames).all() and (frames[1] - frames[0]).abs().max() > 0.02


def test_the_command_says_it_in_one_line(picture: Path) -> None:
    file_beside(picture).write_text(json.dumps(GIVEN | {"mw": 32}))
    voice = Path("client_web/samples/sentence.wav")
    options = ["--portrait", str(picture), "--audio", str(voice), "--out", str(picture.with_suffix(".mp4"))]
    run = CliRunner().invoke(app, ["animate", *options])
    assert (run.exit_code, run.stderr.count("\n")) == (2, 1), run.stderr
    assert run.stderr.startswith("knotcast: me.landmarks.json: mw is 32")
