"""The correction of the mesh's measures: mirrored faces are corrected alike, and a fit finds a known offset."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.portrait.face_nets import detect
from engine.portrait.face_reading import read_face
from engine.portrait.framing import eye_centres
from engine.portrait.landmarks import CORRECTED, MOST_CORRECTION, canonical_crop, measures, mirrored, read_mesh, to_crop
from engine.portrait.mesh_points import MESH_POINTS, MIRROR
from tests.engine.portrait.test_framing import sample
from tests.faces import LANDMARKS
from training.data.faces import calibration
from training.data.faces.calibration import Measured, features, fit


def mesh_of_sample(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Mesh [468, 2] in the canonical framing, and the crop."""
    face = read_face(sample(number), detect(sample(number))[0])
    crop, affine = canonical_crop(sample(number), eye_centres(face))
    return to_crop(face.points[:, :2], affine), crop


def reflected(points: np.ndarray) -> np.ndarray:
    return np.asarray(points[MIRROR] * (-1, 1))


def test_the_mirror_image_of_every_point_is_its_partners_mirror_image() -> None:
    assert sorted(MIRROR) == list(range(MESH_POINTS)) and (MIRROR[MIRROR] == np.arange(MESH_POINTS)).all()


@pytest.mark.parametrize("number", range(3))
def test_a_mirrored_mesh_has_mirrored_measures(number: int) -> None:
    points, crop = mesh_of_sample(number)
    there, back = read_mesh(points), mirrored(read_mesh(reflected(points)))
    assert [there[name] for name in CORRECTED] == pytest.approx([back[name] for name in CORRECTED])
    there, back = measures(points, crop), mirrored(measures(reflected(points), np.ascontiguousarray(crop[:, ::-1])))
    assert [there[name] for name in CORRECTED] == pytest.approx([back[name] for name in CORRECTED], abs=1e-3)
    assert max(abs(there[name] - read_mesh(points)[name]) for name in ("mx", "my", "mw")) <= MOST_CORRECTION + 1e-6


def test_a_fit_finds_the_offset_that_it_is_shown_on_either_side() -> None:
    points, crop = mesh_of_sample(0)
    rng = np.random.default_rng(0)
    portraits = []
    for _ in range(40):
        moved = points + rng.normal(0, 0.004, points.shape)
        own = read_mesh(moved)
        portraits.append(
            Measured(moved, crop, own | {"my": own["my"] + 0.01, "exl": own["exl"] - 0.005, "cy": 0, "ry": 0})
        )
    weights = fit(portraits)
    for seen, side in ((points, "exl"), (reflected(points), "exr")):
        added = dict(zip(CORRECTED, weights["weight"] @ features(seen) + weights["bias"], strict=True))
        assert added["my"] == pytest.approx(0.01, abs=1e-3)
        assert added[side] == pytest.approx(-0.005 if side == "exl" else 0.005, abs=1e-3)
        assert abs(added["mw"]) < 1e-3


def test_a_picture_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "landmarks.json"
    file.write_text(json.dumps({f"{number}.jpg": LANDMARKS for number in range(60)}))
    monkeypatch.setattr("sys.argv", ["command", "--portraits", str(file)])
    with pytest.raises(SystemExit) as ended:
        calibration.main()
    told = capfd.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and "0.jpg is no picture that can be read" in told


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "train", lambda *arguments: pytest.fail("it works"))
    monkeypatch.setattr("sys.argv", ["command", "--portraits", "p", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        calibration.main()
    assert ended.value.code == 2 and "error: argument --out: " in capfd.readouterr().err.splitlines()[-1]
