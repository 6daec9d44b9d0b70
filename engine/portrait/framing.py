"""Portrait framing: the main face of a picture, the canonical crop, landmarks and confidence, or a refusal.

Uploads, the command line and training all use this module. Needs only numpy and OpenCV, and the face networks
(`engine.portrait.face_nets`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engine.portrait.face_nets import FAR, MESH_MARGIN, NEAR, Detection, detect, mesh_of
from engine.portrait.face_reading import DEPTH, FaceReading, read_face
from engine.portrait.landmarks import (
    CROP,
    EYE_X,
    EYE_Y,
    LID_RISE,
    Floats,
    Image,
    Points,
    canonical_crop,
    carried,
    inside,
    measures,
    to_crop,
)  # fmt: skip
from engine.portrait.mesh_points import LEFT_LIDS, LIPS_OUTER, OUTLINES, RIGHT_LIDS
from engine.portrait.portrait import Portrait
from ground.errors import RequestError

BORDER = 0.25  # width of the border of repeated edge pixels that a second search adds, as a share of the longer side
SURE = 0.75  # detector's score from which a face ends the search
UPRIGHT = np.radians(40.0)  # tilt up to which it does; a detector is unsure of the eyes of a face on its side
CONFIRMED = 0.5  # presence from which a detection is a face
SECOND_SIZE = 0.55  # relative to the main face; a larger second face is a second person, not a bystander
MIN_EYE_DISTANCE = 20.0  # pixels of the upload; a smaller face is refused, as its portrait would be a blur
LOW_EYE_DISTANCE = 36.0  # pixels of the upload; a smaller face gets the warning low_resolution
MAX_TURN = np.radians(48.0)  # yaw from which a face is refused; the mesh guesses the half that is turned away
MAX_NOD = np.radians(40.0)  # pitch from which a face is refused
PROFILE_TURN = np.radians(20.0)  # yaw from which the warning profile is given
# Of 266 portraits the doubt about the mouth is 0.009 in the middle and 0.016 at most; under a mask it is about 0.03.
CLEAR, COVERED = 0.013, 0.026  # up to which the mouth is clear, and from which it counts as covered
PLAIN_MOUTH, PLAIN_DOUBT = 0.35, 0.015  # contrast of the lips below which it counts as covered at a lower doubt
ONE_HUE = 1.5  # colourfulness up to which a picture has one hue: sepia 0.3, paintings 3 and photographs 4 or more
PLAIN_EYES = 0.2  # contrast between the lids below which the warning occluded is given
FACE_PIXELS = (slice(int(0.3 * CROP), int(0.8 * CROP)), slice(int(0.3 * CROP), int(0.7 * CROP)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedPortrait(Portrait):
    """A portrait, and how it was made of a picture.

    warnings: stable codes, the keys of ``portrait_warnings.WORDING``.
    crop: float32 [2, 3], affine map from upload pixels to portrait pixels.
    outlines: contours that were found, as points (x, y) in 0..1 of the portrait, by `mesh_points.OUTLINES`; empty where
    landmarks were given.
    """

    warnings: tuple[str, ...]
    crop: Floats
    outlines: dict[str, list[tuple[float, float]]]


def frame_portrait(rgb: Image, *, size: int = CROP) -> FramedPortrait:
    """Find the main face of a picture uint8 [H, W, 3] and frame it. size: side of the portrait in pixels.

    Raises RequestError ``no_face``, ``not_human``, ``multiple_faces``, ``face_too_small``, ``face_turned_away`` or
    ``mouth_covered``.
    """
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (rgb.dtype, rgb.shape)
    face = read_face(rgb, _the_face(rgb))
    eyes = eye_centres(face)
    small, affine = canonical_crop(rgb, eyes)
    points = to_crop(face.points[:, :2], affine)
    _check(face, _distance(eyes), contrast(small, points, (LIPS_OUTER,)))
    landmarks = measures(points, small)
    landmarks |= tones(small, landmarks)
    crop, outer = canonical_crop(rgb, eyes, size)
    places = np.round((points + 1) / 2, 4).tolist()
    outlines = {name: [(places[i][0], places[i][1]) for i in contour] for name, contour in OUTLINES.items()}
    eyes_show = contrast(small, points, (LEFT_LIDS, RIGHT_LIDS)) >= PLAIN_EYES
    warnings = (*_picture_warnings(small, _distance(eyes), landmarks), *_face_warnings(face, eyes_show))
    return FramedPortrait(crop, landmarks, round(confidence(face), 3), warnings=warnings, crop=outer, outlines=outlines)


def frame_given(rgb: Image, landmarks: Mapping[str, float], *, size: int = CROP) -> FramedPortrait:
    """Frame a picture uint8 [H, W, 3] by given landmarks (`engine.portrait.landmark_file`), without detection.

    landmarks: in the picture's own units: 0 in its middle, 1 is half its width. Raises RequestError
    ``invalid_landmarks`` if an eye lies outside the picture.
    """
    height, width = rgb.shape[:2]
    lids = np.array([[landmarks["exl"], landmarks["eyl"]], [landmarks["exr"], landmarks["eyr"]]])
    across = lids[1] - lids[0]
    irises = lids + np.array([-across[1], across[0]]) * (LID_RISE / (2 * EYE_X))
    eyes = irises * (width / 2) + (width / 2 - 0.5, height / 2 - 0.5)
    if not ((eyes > 0) & (eyes < (width, height))).all():
        raise RequestError(
            "invalid_landmarks", "the given landmarks place an eye outside the picture", param="portrait"
        )
    crop, affine = canonical_crop(rgb, eyes, size)
    placed = {"mtilt": 0.0} | carried(landmarks, affine.astype(np.float64), (width, height), (size, size))
    small, _ = canonical_crop(rgb, eyes)
    placed = tones(small, placed) | placed
    warnings = tuple(_picture_warnings(small, _distance(eyes), placed))
    return FramedPortrait(crop, placed, warnings=warnings, crop=affine, outlines={})


def find_faces(rgb: Image) -> list[Detection]:
    """Detections of all faces in a picture, without duplicates.

    Cheap searches come first: the picture as it is, with a border (faces cut off above the brows), then turned by 90,
    180 and 270 degrees.
    """
    found = _search(rgb)
    if not any(face.score >= SURE for face in found):
        border = round(BORDER * max(rgb.shape[:2]))
        bordered = cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)
        found += [
            _moved(face, np.eye(2), np.full(2, -float(border))) for face in _search(np.asarray(bordered, np.uint8))
        ]
    if not any(face.score >= SURE and abs(face.tilt) < UPRIGHT for face in found):
        middle, turned = (np.array(rgb.shape[1::-1]) - 1) / 2, rgb
        for quarters in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(turned))
            back = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), quarters)
            shift = middle - back @ ((np.array(turned.shape[1::-1]) - 1) / 2)
            found += [_moved(face, back, shift) for face in _search(turned)]
    return _distinct(found)


def presence(rgb: Image, face: Detection) -> float:
    """Probability 0..1, by one look of the mesh network, that a detection shows a human face."""
    return mesh_of(rgb, face.centre, MESH_MARGIN * face.size, face.tilt).presence


def _search(rgb: Image) -> list[Detection]:
    return detect(rgb, NEAR) + detect(rgb, FAR)


def _moved(face: Detection, turn: Points, shift: Points) -> Detection:
    """The detection under a map of its picture, by whole quarter turns."""
    corners = face.box.reshape(2, 2) @ turn.T + shift
    return Detection(face.score, np.concatenate([corners.min(0), corners.max(0)]), face.points @ turn.T + shift)


def _distinct(found: list[Detection]) -> list[Detection]:
    """Keep the surest of all detections of the same face."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda face: -face.score):
        middle = one.box.reshape(2, 2).mean(0)
        if all(
            np.hypot(*(middle - other.box.reshape(2, 2).mean(0))) > 0.5 * max(one.size, other.size) for other in kept
        ):
            kept.append(one)
    return kept


def _the_face(rgb: Image) -> Detection:
    """The main face of a picture. Raises RequestError ``no_face``, ``not_human``, ``multiple_faces``."""
    seen = find_faces(rgb)
    faces = [face for face in seen if presence(rgb, face) >= CONFIRMED]
    if not faces:
        raise _refused("not_human" if seen else "no_face")
    main = max(faces, key=lambda face: face.size * (0.5 + _prior(face, rgb.shape)) * face.score)
    if any(face is not main and face.size > SECOND_SIZE * main.size for face in faces):
        raise _refused("multiple_faces")
    return main


def _check(face: FaceReading, distance: float, lips: float) -> None:
    """Raises RequestError for a face that cannot be moved well. distance: of the eyes, upload
    pixels. lips: contrast."""
    if distance < MIN_EYE_DISTANCE:
        raise _refused("face_too_small")
    if abs(face.yaw) > MAX_TURN or abs(face.pitch) > MAX_NOD:
        raise _refused("face_turned_away")
    if face.doubt_mouth > COVERED or (face.doubt_mouth > PLAIN_DOUBT and lips < PLAIN_MOUTH):
        raise _refused("mouth_covered")


def contrast(crop: Image, points: Points, outlines: Sequence[Sequence[int]]) -> float:
    """Standard deviation of brightness inside contours of the mesh, relative to the face's own."""
    seen = np.concatenate([inside(crop, points[list(outline)]) for outline in outlines])
    face = crop[FACE_PIXELS].mean(-1)
    return float(seen.std() / max(float(face.std()), 1.0)) if seen.size else 0.0


REFUSALS = {
    "no_face": "No face was found. Use a picture of one person who looks at the camera.",
    "not_human": "What looks like a face is not a human one. Use a picture of a person.",
    "multiple_faces": "More than one face was found. Crop the picture to one person.",
    "face_too_small": "The face is too small. Use a larger picture or one taken from nearer.",
    "face_turned_away": "The face is turned too far away. Use a picture in which it looks towards the camera.",
    "mouth_covered": "The mouth is covered or cannot be made out. Use a picture in which the whole mouth shows.",
}


def _refused(code: str) -> RequestError:
    return RequestError(code, REFUSALS[code], param="file")


def eye_centres(face: FaceReading) -> Points:
    """Where the irises [2, 2] would be if the head looked straight ahead, in pixels of the picture: the canonical
    framing puts them at their places. The distance is that of the eyes in space, so a turned head is not enlarged; the
    gaze does not move the frame."""
    left, right = (face.points[[outer, inner]].mean(0) * (1, 1, DEPTH) for outer, inner in ((33, 133), (263, 362)))
    across = (right - left)[:2]
    along = across / np.hypot(*across)
    half = 0.5 * np.linalg.norm(right - left) * CORNERS_TO_IRIS
    middle = 0.5 * (left + right)[:2] + (LIFT * 2 * half) * np.array([along[1], -along[0]])
    return np.stack([middle - half * along, middle + half * along])


CORNERS_TO_IRIS = 2 * EYE_X / 0.4098  # distance of the irises over that of the eyes' middles, in straight portraits
LIFT = (-0.0935 - EYE_Y) / -0.4219  # height of the irises above the middle of the corners, in distances of the irises


def _distance(eyes: Points) -> float:
    return float(np.hypot(*(eyes[1] - eyes[0])))


def _prior(face: Detection, shape: tuple[int, ...]) -> float:
    """Prior for the position of a portrait's face: 1 in the upper middle, falling to 0 at the sides and the bottom."""
    x, y = face.points[:2].mean(0) / np.array(shape[1::-1])
    return float(np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.4) / 0.3) ** 2))


def confidence(face: FaceReading) -> float:
    """Trust in the landmarks, 0..1: 1 while the looks agree about the mouth, less with doubt and with the head's
    turn."""
    doubt = np.clip((face.doubt_mouth - CLEAR) / (COVERED - CLEAR), 0, 1)
    turned = np.clip((abs(face.yaw) - PROFILE_TURN) / (MAX_TURN - PROFILE_TURN), 0, 1)
    return float(face.presence * (1 - 0.8 * doubt) * (1 - 0.5 * turned))


def tones(crop: Image, landmarks: Mapping[str, float]) -> dict[str, float]:
    """Brightness of the face (lum) and of the teeth (tl), 0..1, and whether the picture has one hue, as a grey or a
    toned one has (grey, 0 or 1)."""
    face = crop[FACE_PIXELS].astype(np.float32)
    light = float(np.median(face.mean(2))) / 255
    teeth = min(1.0, 0.5 + 0.5 * light)
    if landmarks["th"] > 0.025:
        half = CROP / 2
        bottom = (landmarks["my"] + 1) * half
        top = bottom - landmarks["th"] * half
        left, right = ((landmarks["mx"] + side * 0.45 * landmarks["mw"] + 1) * half for side in (-1, 1))
        strip = crop[int(top) : int(bottom) + 1, int(left) : int(right) + 1].max(2)
        if strip.size:
            teeth = float(np.percentile(strip, 80)) / 255
    return {"lum": light, "tl": min(max(teeth, 0.3), 1.0), "grey": float(_colourful(face) < ONE_HUE)}


def _colourful(face: Floats) -> float:
    """Root mean square difference of colours [h, w, 3] from the smooth palette that their brightness predicts,
    0..255."""
    pixels = face.reshape(-1, 3).astype(np.float64)
    light = pixels.mean(1) / 255
    terms = np.stack([np.ones_like(light), light, light**2], 1)
    palette, *_ = np.linalg.lstsq(terms, pixels, rcond=None)
    return float(np.sqrt(((pixels - terms @ palette) ** 2).mean()))


def sharpness(crop: Image) -> float:
    """Deviation of the face's Laplacian relative to its contrast; at least 0.2 for a sharp portrait."""
    face = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[FACE_PIXELS].astype(np.float32)
    return float(cv2.Laplacian(face, cv2.CV_32F).std() / (face.std() + 4))


def _face_warnings(face: FaceReading, eyes_show: bool) -> Iterator[str]:
    """Warning codes for properties of the face that may degrade the result."""
    if abs(face.yaw) > PROFILE_TURN:
        yield "profile"
    if not eyes_show:
        yield "occluded"
    if confidence(face) < 0.6:
        yield "low_confidence"


def _picture_warnings(crop: Image, distance: float, landmarks: Mapping[str, float]) -> Iterator[str]:
    """Warning codes for properties of the picture that may degrade the result. distance: of the eyes, upload pixels."""
    if distance < LOW_EYE_DISTANCE:
        yield "low_resolution"
    if sharpness(crop) < 0.1:
        yield "blurred"
    if landmarks["lum"] < 0.16:
        yield "dark"
