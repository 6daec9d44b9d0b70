"""Figures of a head with some angles given: followed exactly, by half, and not at all; and a short run."""

import ctypes.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks.motion import head_pose
from benchmarks.motion.motion_figures import Estimate
from ground.motion import INDEX
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT, randomise_


def value(cell: object) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def test_an_obedient_a_lazy_and_a_free_head() -> None:
    wanted = head_pose.told(("yaw", "roll"), 200)
    assert np.isnan(wanted[:, INDEX["pitch"]]).all() and np.isnan(wanted[:, INDEX["jaw"]]).all()
    obedient = np.nan_to_num(wanted)[None].repeat(3, axis=0)
    found = head_pose.row(obedient, wanted)
    assert set(found) == {"yaw", "roll", "least", "most", "rms"}
    assert value(found["yaw"]) == pytest.approx(1) and value(found["rms"]) == pytest.approx(0)

    lazy = obedient.copy()
    lazy[0, :, INDEX["yaw"]] *= 0.5
    found = head_pose.row(lazy, wanted)
    assert found["least"] == 0.5 and found["most"] == 1
    assert value(found["yaw"]) == pytest.approx(2.5 / 3)
    assert value(found["rms"]) == pytest.approx(np.sqrt(10**2 / 12))  # one call of 3, one half, one angle of 2

    free = 0.1 + 0 * obedient
    assert value(head_pose.row(free, wanted)["yaw"]) == pytest.approx(0)


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")
def test_a_short_run_has_a_row_for_every_choice_of_angles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    words = ["--weights", str(tmp_path / "dit.safetensors"), "--calls", "2", "--seconds", "3", "--json"]
    head_pose.main(words)
    (rows,) = json.loads(capsys.readouterr().out)["sections"].values()
    assert list(rows) == ["yaw", "pitch", "roll", "yaw, pitch", "yaw, pitch, roll"]
    assert rows["yaw, pitch"]["rms"]["value"] > 0
