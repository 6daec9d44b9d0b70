"""Figures of given controls for perfect, motionless, halved and late faces; and a short run."""

import ctypes.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.motion import obedience
from benchmarks.motion import picture_figures as figures
from benchmarks.motion.held_out import Case, HeldOutFace, held_out_portraits
from benchmarks.motion.rendered import relative_to, show
from benchmarks.motion.rolls import drive
from ground.motion import INDEX, SCALES
from models.codecs.motion import MotionCodec
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT, randomise_
from training.data.synthetic.phonemes import Speech

FRAMES = 33
MEL = EMBEDDED.dit.drive_dim - 32  # index in a token at which the given controls begin
espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")


@pytest.fixture(scope="module")
def face() -> HeldOutFace:
    return held_out_portraits(None, 1)[0]


def speaking() -> NDArray[np.float64]:
    """Absolute controls of a mouth that opens and shuts, one blink, and a head that turns."""
    t, controls = np.arange(FRAMES), np.zeros((FRAMES, 16))
    controls[:, INDEX["jaw"]] = 0.5 * np.clip(np.sin(t / 2.5), 0, 1)
    controls[8:12, [INDEX["blinkL"], INDEX["blinkR"]]] = 1
    controls[:, INDEX["yaw"]], controls[:, INDEX["roll"]] = 0.12 * np.sin(t / 7), 0.05 * np.cos(t / 6)
    return controls


def pictures(face: HeldOutFace, controls: NDArray[np.float64]) -> figures.Pictures:
    codec = MotionCodec()
    return show(codec, face.known, relative_to(codec, face.known, controls))[0]


def test_lip_travel_of_perfect_dead_half_and_late_lips(face: HeldOutFace) -> None:
    def travel(controls: NDArray[np.float64]) -> NDArray[np.float64]:
        return figures.lip_travel(pictures(face, controls), face.known.rgb, face.known.landmarks)

    controls, jaw = speaking()[:21], INDEX["jaw"]
    truth = travel(controls)
    assert np.corrcoef(truth, controls[:, jaw])[0, 1] > 0.97
    assert figures.correlation(truth, truth) == pytest.approx(1) and figures.lag(truth, truth) == 0
    half, late, mute = controls.copy(), controls.copy(), controls.copy()
    half[:, jaw] *= 0.5
    assert travel(half).std() / truth.std() == pytest.approx(0.5, abs=0.12)
    late[2:, jaw] = controls[:-2, jaw]
    assert figures.lag(travel(late), truth) == 2
    mute[:, jaw] = 0
    assert travel(mute).std() < 0.15 * truth.std()  # the head moves as before
    still = np.broadcast_to(face.known.rgb, (21, *face.known.rgb.shape))
    dead = figures.lip_travel(still, face.known.rgb, face.known.landmarks)
    assert np.ptp(dead) == 0 and figures.correlation(dead, truth) == 0 and np.isnan(figures.lag(dead, truth))


def test_a_patch_is_found_to_a_part_of_a_pixel() -> None:
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), (0, 0), 3)
    moved = [
        cv2.warpAffine(photo, np.array([[1, 0, 3], [0, 1, down]], np.float32), (256, 256)) for down in (0, 4.3, -6.5)
    ]
    found = figures.place(
        np.stack(moved).astype(np.uint8), photo.astype(np.uint8), figures.PictureBox(-0.2, -0.1, 0.2, 0.1)
    )
    assert found * 128 == pytest.approx([0, 4.3, -6.5], abs=0.1)


def test_lids_are_measured_between_open_and_shut(face: HeldOutFace) -> None:
    controls = speaking()[:13]
    shut, opened = controls.copy(), controls.copy()
    shut[:, INDEX["blinkL"]] = shut[:, INDEX["blinkR"]] = 1
    opened[:, INDEX["blinkL"]] = opened[:, INDEX["blinkR"]] = 0
    zero, one = pictures(face, opened), pictures(face, shut)
    lids = figures.shut_lids(pictures(face, controls), zero, one)
    blink = controls[:, INDEX["blinkL"]]
    assert lids == pytest.approx(blink, abs=1e-6)
    assert figures.blink_height(lids, blink) == pytest.approx(1)
    between = ((zero.astype(np.uint16) + one) // 2).astype(np.uint8)
    assert figures.shut_lids(between, zero, one) == pytest.approx(np.full(13, 0.5), abs=0.02)
    assert np.isnan(figures.blink_height(lids, np.zeros(13)))


def test_psnr_and_what_never_moves() -> None:
    photo = np.full((8, 8, 3), 100, np.uint8)
    truth = np.stack([photo, photo, photo])
    truth[1, 2:4] = 140
    truth[2, 5] = 101
    made = truth.copy()
    made[:, 7] += 5
    unmoved = figures.never_moved(truth, photo)
    assert np.flatnonzero(~unmoved.all(1)).tolist() == [2, 3]
    assert figures.psnr(made, truth) == pytest.approx(10 * np.log10(255**2 / (25 / 8)))
    assert figures.psnr(made, truth, unmoved) == pytest.approx(10 * np.log10(255**2 / (25 / 6)))
    assert figures.psnr(truth, truth) == pytest.approx(58.92, abs=0.01)
    assert np.isnan(figures.psnr(made, truth, np.zeros((8, 8), bool)))


def test_seams_are_seen_where_they_are() -> None:
    even = np.arange(57, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    assert figures.seam_ratios(even) == (1.0, 1.0)
    steps = np.ones(57, np.uint8)
    steps[9::12] = 4  # a chunk begins
    steps[1::12] = 2  # its second latent
    jerky = np.cumsum(steps).astype(np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    assert figures.seam_ratios(jerky) == (4.0, 1.5)


def test_slopes() -> None:
    truth = np.random.default_rng(1).normal(size=200)
    assert figures.slope(0.7 * truth + 3, truth) == pytest.approx(0.7)
    assert figures.slope(np.zeros(200), truth) == 0


def test_what_is_given_reaches_the_network_at_its_frame() -> None:
    controls = speaking()
    one = Case("hum", Speech(np.zeros(FRAMES * 640, np.float32), ()), np.zeros((FRAMES, 5)))
    tokens = drive(one, controls, 6).reshape(24, -1).numpy()
    assert not tokens[:3, MEL:].any()  # before the call
    assert (tokens[3:, MEL + 16 :] == 1).all()
    assert tokens[3:, MEL : MEL + 16] * np.array(SCALES) == pytest.approx(controls[:21], abs=1e-6)
    assert not drive(one, None, 6)[..., MEL:].any()
    controls[:, INDEX["yaw"]] = np.nan  # not given
    tokens = drive(one, controls, 6).reshape(24, -1).numpy()
    assert not tokens[3:, [MEL + INDEX["yaw"], MEL + 16 + INDEX["yaw"]]].any()
    assert tokens[3:, MEL + 16 :].sum(1) == pytest.approx(15)


def test_a_figure_that_a_portrait_lacks_is_left_out_of_the_mean() -> None:
    rows = [{"given": {"lip r": r, "lip lag": lag}} for r, lag in ((0.9, 0.0), (0.8, np.nan), (1.0, 1.0))]
    found = obedience.mean_rows(rows)["given"]
    assert str(found["lip r"]).startswith("0.90±") and str(found["lip lag"]) == "0.50"
    assert "mouth dB toothy" not in found


@espeak
def test_a_short_run_knows_truth_from_a_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    words = ["--weights", str(tmp_path / "dit.safetensors"), "--count", "1", "--seconds", "1", "--json"]
    obedience.main([*words, "--sheet", str(tmp_path / "sheet.png")])
    (section,) = json.loads(capsys.readouterr().out)["sections"].values()
    rows = {name: {k: v["value"] for k, v in row.items()} for name, row in section.items() if name != "wanted"}
    assert rows["truth"]["lip r"] == pytest.approx(1) and rows["truth"]["lip amplitude"] == pytest.approx(1)
    assert rows["truth"]["yaw slope"] == pytest.approx(1) and rows["still"]["yaw slope"] == 0
    assert rows["still"]["lip r"] == rows["still"]["lip amplitude"] == 0
    assert rows["truth"]["background dB"] == pytest.approx(58.92, abs=0.01)
    assert rows["true controls"]["lip r"] > 0.99  # estimated and true landmarks are the same here
    assert "yaw slope" not in rows["voice only"]
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None and sheet.shape == (2 * obedience.TILE, 10 * obedience.TILE, 3)


def test_the_table_is_printed_before_the_sheet_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obedience, "run", lambda arguments: ({"truth": {"lip r": 1.0}}, []))
    with pytest.raises(ValueError):  # the sheet has no rows
        obedience.main(["--sheet", str(tmp_path / "sheet.png"), "--json"])
    (section,) = json.loads(capsys.readouterr().out)["sections"].values()
    assert section == {"truth": {"lip r": 1.0}} and list(tmp_path.iterdir()) == []


@espeak
def test_refusals_name_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        obedience.main(["--weights", "nowhere.safetensors"])
    with pytest.raises(SystemExit):
        obedience.main(["--portraits", str(tmp_path / "landmarks.json")])
    told = capsys.readouterr().err
    assert "no weights at nowhere.safetensors" in told
    assert "give a landmarks.json beside its pictures" in told
