"""Pose records: one parser for the data channel and for files, clamped, and never surprised."""

import json
from typing import Any

import pytest

from engine.media.pose import parse_pose, read_poses
from ground.errors import RequestError
from ground.motion import CHANNELS, INDEX


def test_angles_are_taken_in_radians_and_clamped() -> None:
    pose = parse_pose({"t_ms": 40, "yaw": 0.2, "pitch": -9, "roll": None})
    assert parse_pose({}).t_ms is None and parse_pose({"t_ms": 0}).t_ms == 0
    assert pose.t_ms == 40 and pose.controls == {"yaw": 0.2, "pitch": CHANNELS[INDEX["pitch"]].low}


@pytest.mark.parametrize(
    ("shapes", "controls"),
    [
        ({"jawOpen": 0.5}, {"jaw": 0.5}),
        ({"jawOpen": 7}, {"jaw": 1.0}),
        ({"mouthPucker": 0.2, "mouthFunnel": 0.6}, {"pucker": 0.6}),
        ({"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5, "mouthStretchLeft": 0.4}, {"smile": 0.7}),
        ({"mouthFrownLeft": 1.0}, {"smile": -0.5}),
        ({"mouthPressLeft": 0.3, "mouthRollLower": 0.9}, {"press": 1.0}),
        ({"mouthUpperUpRight": 0.4}, {"upper": 0.4}),
        ({"eyeBlinkLeft": 1.0, "eyeBlinkRight": 0.0}, {"blinkL": 1.0, "blinkR": 0.0}),
        ({"browInnerUp": 0.8, "browDownLeft": 0.3}, {"brow": 0.5}),
        ({"eyeLookOutLeft": 0.7, "eyeLookInRight": 0.7}, {"gazeX": 0.7}),  # both eyes to the avatar's own left
        ({"eyeLookInLeft": 0.7, "eyeLookOutRight": 0.7}, {"gazeX": -0.7}),
        ({"eyeLookUpLeft": 0.5, "eyeLookDownLeft": 0.0}, {"gazeY": 0.5}),
        ({"tongueOut": 1.0, "noSuchShape": 1.0}, {}),
        ({}, {}),
    ],
)
def test_blendshapes_become_controls(shapes: dict[str, float], controls: dict[str, float]) -> None:
    assert parse_pose({"blendshapes": shapes}).controls == pytest.approx(controls)


@pytest.mark.parametrize(
    "record",
    [
        None, 7, "yaw", [1], {"yaw": "left"}, {"yaw": float("nan")}, {"yaw": float("inf")}, {"yaw": True},
        {"yaw": 10**400},
        {"blendshapes": [1]}, {"blendshapes": {"jawOpen": "x"}}, {"blendshapes": {str(i): 0 for i in range(101)}},
        {"t_ms": "now"}, {"t_ms": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_pose_is_refused(record: Any) -> None:
    with pytest.raises(RequestError) as caught:
        parse_pose(record)
    assert caught.value.code == "invalid_pose"


def test_a_file_of_poses_has_media_frames() -> None:
    lines = [json.dumps({"t_ms": t, "yaw": 0.1}) for t in (0, 100, 1000)]
    assert [frame for frame, _ in read_poses([lines[0], "", lines[1], "  \n", lines[2]], fps=25)] == [0, 2.5, 25]


@pytest.mark.parametrize("line", ["{", "[1]", '{"yaw": "x"}', "x" * 20_000, "[" * 15_000, '{"t_ms": -5}'])
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(RequestError, match="pose line 2"):
        list(read_poses(['{"t_ms": 0}', line], fps=25))
