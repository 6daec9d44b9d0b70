"""The preview: sheets of painted faces, of controls, of a sentence; whole files or none."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.media.pose import parse_pose
from engine.portrait.landmark_file import parse_landmarks
from ground.errors import MediaError
from tests.faces import LANDMARKS
from training.data import preview
from training.data.preview import COLUMNS, PreviewFace, main, move
from training.data.sheets import BAND, marked, sheet
from training.data.synthetic.phonemes import Synthesiser
from training.data.synthetic.portraits import paint_portrait

SAMPLE = Path("client_web/samples/portrait_1.jpg")


@pytest.fixture(scope="module")
def face() -> PreviewFace:
    one = paint_portrait(np.random.default_rng(3))
    return PreviewFace("seed 3", one.rgb, one.landmarks)


def test_landmarks_are_drawn_on_a_copy(face: PreviewFace) -> None:
    before = face.rgb.copy()
    drawn = marked(face.rgb, face.landmarks, 320)
    np.testing.assert_array_equal(face.rgb, before)
    changed = np.abs(drawn.astype(int) - before).max(2) > 40
    x, y = (round((face.landmarks[name] + 1) * 160) for name in ("mx", "my"))
    assert changed[y - 3 : y + 4, x - 10 : x + 10].any() and 0.005 < changed.mean() < 0.1


def test_a_sheet_holds_every_picture_below_its_caption() -> None:
    tiles = [np.full((40, 60, 3), value, np.uint8) for value in (10, 60, 120)]
    out = sheet([tiles[:2], tiles[2:]], [["a", "b"], ["c"]])
    assert out.shape == (2 * (40 + BAND), 120, 3)
    for tile, (row, column) in zip(tiles, ((0, 0), (0, 1), (1, 0)), strict=True):
        top = row * (40 + BAND) + BAND
        np.testing.assert_array_equal(out[top : top + 40, 60 * column : 60 * column + 60], tile)


def test_every_control_moves_the_face(face: PreviewFace) -> None:
    poses = [parse_pose(record).controls for _, record in COLUMNS]
    pictures = move(face, poses)
    still = pictures[0].astype(int)
    for (name, _), picture in list(zip(COLUMNS, pictures, strict=True))[1:]:
        assert np.abs(picture - still).max() > 25, name


def test_the_command_writes_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    main(["--out", str(out), "--count", "2", "--columns", "2"])
    written = cv2.imread(str(out))
    assert written is not None and written.shape == (512 + BAND, 1024, 3) and written.std() > 20
    assert "1024 x 534" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_found_landmarks_are_written_and_used_again(tmp_path: Path) -> None:
    photograph, beside = tmp_path / "me.jpg", tmp_path / "me.landmarks.json"
    photograph.write_bytes(SAMPLE.read_bytes())
    show = ["--out", str(tmp_path / "o.png"), "--portrait", str(photograph)]
    main([*show, "--write-landmarks", str(beside)])
    found = parse_landmarks(beside.read_bytes(), beside.name)
    first = preview.open_photograph(photograph)
    assert first.confidence == 1.0, "the file beside it is used now"
    beside.write_text(json.dumps(found | {"th": found["th"] + 0.02}))
    second = preview.open_photograph(photograph)
    assert second.landmarks["th"] - first.landmarks["th"] > 0.01
    assert second.landmarks["mw"] == pytest.approx(first.landmarks["mw"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "sheet.gif"], ".png or .jpg"),
        (["--out", "README.md/sheet.png"], "cannot write README.md/sheet.png"),
        (["--out", "o.png", "--portrait", "none.jpg"], "none.jpg"),
        (["--out", "o.png", "--portraits", "nowhere"], "--portraits"),
        (["--out", "o.png", "--write-landmarks", "o.json"], "needs --portrait"),
        (["--out", "o.png", "--count", "0"], "--count: give a whole number of at least 1, not"),
        (["--out", "o.png", "--columns", "-1"], "--columns: give a whole number of at least 1, not"),
        (["--out", "o.png", "--every", "0"], "--every: give a whole number of at least 1, not"),
        (["--out", "o.png", "--seed", "-1"], "--seed: give a whole number of at least 0, not"),
        (["--out", "o.png", "--text", ""], "--text: there is nothing to say"),
        (["--out", "o.png", "--text", "..."], "--text: there is nothing to say"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--count", "1", *arguments])
    told = [line for line in capfd.readouterr().err.splitlines() if "usage:" not in line and not line.startswith(" ")]
    assert ended.value.code == 2 and len(told) == 1 and words in told[0]


def test_a_folder_whose_pictures_are_missing_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for notes, words in (({"a.jpg": LANDMARKS}, "a.jpg is no picture that can be read"), ({}, "names no portrait")):
        (tmp_path / "landmarks.json").write_text(json.dumps(notes))
        with pytest.raises(SystemExit) as ended:
            main(["--out", str(tmp_path / "o.png"), "--portraits", str(tmp_path)])
        told = capfd.readouterr().err
        assert ended.value.code == 2 and words in told and told.count("\n") == 1


def test_a_sentence_is_shown_with_its_phonemes(tmp_path: Path) -> None:
    try:
        Synthesiser()
    except MediaError:
        pytest.skip("needs libespeak-ng")
    out = tmp_path / "speech.png"
    main(["--out", str(out), "--show", "speech", "--text", "pie", "--columns", "5"])
    written = cv2.imread(str(out))
    assert written is not None and written.shape[1] == 5 * 256 and written.std() > 20
