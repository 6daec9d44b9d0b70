"""Reading of a detected face: its mesh as the mean of several looks, head pose, and how far the looks agree.

A look is the mesh network on one square about the face: moved, scaled, turned or mirrored a little. Where the face
shows what the network expects, the looks agree; on a covered mouth they do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.portrait.face_nets import MESH_MARGIN, Detection, Image, Points, mesh_of
from engine.portrait.mesh_points import (
    CHIN,
    FOREHEAD,
    LEFT_CHEEK,
    LEFT_LIDS,
    LIPS_INNER,
    LIPS_OUTER,
    MIRROR,
    RIGHT_CHEEK,
    RIGHT_LIDS,
)

Look = tuple[float, float, float, float, bool]
# Moved right and down (of the square's side), scaled, turned (radians), mirrored.
LOOKS: tuple[Look, ...] = (
    (0.0, 0.0, 1.0, 0.0, False),
    (0.0, 0.0, 1.0, 0.0, True),
    (0.03, 0.02, 1.06, 0.05, False),
    (-0.03, -0.03, 0.95, -0.05, True),
    (0.02, -0.04, 1.1, -0.08, False),
    (-0.02, 0.04, 0.9, 0.08, True),
)
# A detector's box fits a tilted or turned face badly: from so many radians between their tilts, or of yaw, the square
# is placed by the mesh, several times.
ASKEW, ASIDE, MOST_AIMS = 0.05, 0.35, 4
DEPTH = 1.35  # by which the mesh's depth falls short: heads turned by known angles are read as less turned
LEVEL = -0.13  # radians of pitch that the mesh reads in faces that look straight ahead


@dataclass(frozen=True, slots=True)
class FaceReading:
    """points [468, 3]: mean mesh in pixels of the picture; z grows away from the viewer. presence: 0..1, the
    least of all looks. yaw, pitch, roll: radians; yaw + turns to the avatar's own left, pitch + looks up, roll + tilts
    clockwise in the picture. doubt_mouth, doubt_eyes: spread of the looks about their mean, as shares of the face's
    width."""

    points: Points
    presence: float
    yaw: float
    pitch: float
    roll: float
    doubt_mouth: float
    doubt_eyes: float


def read_face(rgb: Image, found: Detection, looks: Sequence[Look] = LOOKS) -> FaceReading:
    """Read the face of a detection in a picture uint8 [H, W, 3]."""
    centre, side, angle = found.centre, MESH_MARGIN * found.size, found.tilt
    for _ in range(MOST_AIMS):
        first = mesh_of(rgb, centre, side, angle).points
        yaw, _, roll = head_pose(first)
        if abs(np.angle(np.exp(1j * (roll - angle)))) < ASKEW and abs(yaw) < ASIDE:
            break
        low, high = first[:, :2].min(0), first[:, :2].max(0)
        centre, side, angle = (low + high) / 2, MESH_MARGIN * float((high - low).max()), roll
    meshes, presence = [], 1.0
    for right, down, scale, turn, mirror in looks:
        mesh = mesh_of(rgb, centre + side * np.array([right, down]), side * scale, angle + turn, mirror=mirror)
        points = mesh.points[MIRROR] if mirror else mesh.points
        points[:, 2] -= points[:, 2].mean()
        meshes.append(points)
        presence = min(presence, mesh.presence)
    seen = np.stack(meshes)
    points = seen.mean(0)
    spread = np.sqrt(((seen - points)[..., :2] ** 2).sum(-1).mean(0))
    yaw, pitch, roll = head_pose(points)
    width = float(np.linalg.norm(points[RIGHT_CHEEK] - points[LEFT_CHEEK]))
    return FaceReading(
        points=points, presence=presence, yaw=yaw, pitch=pitch, roll=roll,
        doubt_mouth=float(spread[[*LIPS_OUTER, *LIPS_INNER]].mean()) / width,
        doubt_eyes=float(spread[[*LEFT_LIDS, *RIGHT_LIDS]].mean()) / width,
    )  # fmt: skip


def followed(face: FaceReading) -> Detection:
    """The reading as a detection, by which the face is found again in a video's next frame."""
    places = face.points[:, :2]
    eyes = [places[[outer, inner]].mean(0) for outer, inner in ((33, 133), (263, 362))]
    points = np.stack([*eyes, places[1], places[[13, 14]].mean(0), places[LEFT_CHEEK], places[RIGHT_CHEEK]])
    return Detection(face.presence, np.concatenate([places.min(0), places.max(0)]), points)


def head_pose(points: Points) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a mesh [468, 3], radians."""
    across, down = points[RIGHT_CHEEK] - points[LEFT_CHEEK], points[CHIN] - points[FOREHEAD]
    yaw = np.arctan2(DEPTH * across[2], np.hypot(across[0], across[1]))
    pitch = np.arctan2(-down[2], np.hypot(down[0], down[1])) - LEVEL
    return float(yaw), float(pitch), float(np.arctan2(across[1], across[0]))
