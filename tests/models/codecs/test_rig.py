"""The rig: the photograph comes back exactly, signs are the avatar's own, the border rests, lips close over teeth."""

from collections.abc import Mapping

import pytest
import torch

from ground.motion import CHANNELS, INDEX
from models.codecs.rig import head_moves, own_state, prepare_rig, render

LANDMARKS = {
    "cx": 0.0, "cy": 0.05, "rx": 0.44, "ry": 0.62, "mx": 0.0, "my": 0.37, "mw": 0.2, "curve": -0.05, "mtilt": 0.0,
    "lt": 0.047, "ut": 0.025, "th": 0.06, "chin": 0.3, "exl": -0.21, "eyl": -0.1, "exr": 0.21, "eyr": -0.1,
    "ea": 0.09, "eb": 0.029, "bh": 0.095, "tl": 0.9, "lum": 0.6,
}  # fmt: skip
SHUT = LANDMARKS | {"th": 0.0}
SIZE = 256


def painted(landmarks: Mapping[str, float]) -> torch.Tensor:
    """A face of plain shapes [3, 256, 256]: skin, red lips, white teeth, dark eyes, a blue nose tip at (0, 0.15)."""
    grid = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    photo = torch.tensor([0.8, 0.62, 0.52])[:, None, None].repeat(1, SIZE, SIZE)

    def fill(where: torch.Tensor, colour: tuple[float, float, float]) -> None:
        photo[:, where] = torch.tensor(colour)[:, None]

    u = (x - landmarks["mx"]) / landmarks["mw"]
    p = (1 - u * u).clamp(min=0) ** 0.75
    v = y - landmarks["my"] - landmarks["curve"] * u * u
    lips = (v > -(landmarks["th"] + landmarks["ut"]) * p) & (v < landmarks["lt"] * p) & (u.abs() < 1)
    fill(lips, (0.7, 0.3, 0.3))
    fill((v > -landmarks["th"] * p) & (v < 0) & (u.abs() < 1), (1.0, 1.0, 1.0))
    for side in ("l", "r"):
        ex, ey = landmarks[f"ex{side}"], landmarks[f"ey{side}"]
        eye = ((x - ex) / landmarks["ea"]) ** 2 + ((y - ey) / (0.9 * landmarks["eb"])) ** 2 < 1
        fill(eye, (0.1, 0.1, 0.1))
    fill((x**2 + (y - 0.15) ** 2) < 0.03**2, (0.0, 0.0, 1.0))
    return photo


def frame(landmarks: Mapping[str, float] = LANDMARKS, **knobs: float) -> torch.Tensor:
    controls = own_state(landmarks)
    for name, value in knobs.items():
        controls[INDEX[name]] = value
    return render(painted(landmarks), landmarks, controls[None])[0]


def blue_centre(picture: torch.Tensor) -> tuple[float, float]:
    """Centre of the nose tip, pixels."""
    weight = (picture[2] - picture[0]).clamp(min=0.3) - 0.3
    index = torch.arange(SIZE, dtype=torch.float32)
    return float((weight.sum(0) * index).sum() / weight.sum()), float((weight.sum(1) * index).sum() / weight.sum())


def white_pixels(picture: torch.Tensor) -> int:
    return int((picture.min(0).values > 0.85).sum())


@pytest.mark.parametrize("landmarks", [LANDMARKS, SHUT])
def test_own_state_gives_back_the_photograph(landmarks: dict[str, float]) -> None:
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    frames = render(noise, landmarks, own_state(landmarks).repeat(3, 1))
    assert (frames - noise).abs().max() < 0.5 / 255


def test_frames_do_not_depend_on_their_batch() -> None:
    controls = own_state(LANDMARKS) + 0.1 * torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    rig = prepare_rig(painted(LANDMARKS), LANDMARKS)
    whole = rig.render(controls)
    assert torch.equal(whole, torch.cat([rig.render(one[None]) for one in controls]))


@pytest.mark.parametrize(
    ("knob", "value", "axis", "sign"),
    [
        ("yaw", 0.3, 0, 1),  # towards the avatar's own left, the picture's right
        ("tx", 0.08, 0, 1),
        ("roll", 0.2, 0, 1),
        ("pitch", 0.2, 1, -1),  # up
        ("ty", 0.08, 1, -1),
    ],
)
def test_signs_of_the_head(knob: str, value: float, axis: int, sign: int) -> None:
    at_rest = blue_centre(frame())
    for direction in (1, -1):
        moved = blue_centre(frame(**{knob: direction * value}))[axis] - at_rest[axis]
        assert direction * sign * moved > 2


def test_left_and_right_lids_are_the_avatars_own() -> None:
    dark = (slice(None), slice(113, 118), slice(150, 160))  # the picture's right eye: the avatar's left
    assert frame()[dark].mean() < 0.3
    assert frame(blinkL=1.0)[dark].mean() > 0.4
    assert frame(blinkR=1.0)[dark].mean() < 0.3


def test_an_eye_is_shut_also_where_its_lids_were_estimated_too_near_each_other() -> None:
    small = LANDMARKS | {"eb": 0.75 * LANDMARKS["eb"]}
    for blink, left in ((0.0, 200), (1.0, 0)):
        controls = own_state(small)
        controls[INDEX["blinkL"]] = controls[INDEX["blinkR"]] = blink
        eyes = render(painted(LANDMARKS), small, controls[None])[0, :, 100:140]
        dark = int((eyes.max(0).values < 0.2).sum())
        assert dark > left if left else dark == 0


def test_smiling_teeth_disappear_when_the_lips_meet() -> None:
    assert white_pixels(frame()) > 200
    assert white_pixels(frame(jaw=0.0)) == 0
    assert white_pixels(frame(jaw=0.0, press=1.0)) == 0


def test_upper_teeth_stay_where_they_are_while_the_jaw_drops() -> None:
    rows = (frame().min(0).values > 0.85).any(1).nonzero().flatten()
    opened = (frame(jaw=0.8).min(0).values > 0.85).any(1).nonzero().flatten()
    assert abs(int(opened.max()) - int(rows.max())) <= 2


@pytest.mark.parametrize("landmarks", [LANDMARKS, SHUT])
def test_the_jaw_opens_onto_darkness_by_its_measure(landmarks: dict[str, float]) -> None:
    column = frame(landmarks, jaw=0.8)[:, :, SIZE // 2]
    closed = frame(landmarks, jaw=0.0)[:, :, SIZE // 2]
    assert closed[:, 150:200].mean(0).min() > 0.15
    lip = (column[0] - column[1] > 0.25).nonzero().flatten()
    gap = int((lip.diff() - 1).max())  # pixels between the lips
    assert gap == pytest.approx(0.8 * 0.95 * landmarks["mw"] * SIZE / 2, abs=4)


def lip_width(picture: torch.Tensor) -> int:
    lips = (picture[0] - picture[1] > 0.25).any(0).nonzero().flatten()
    return int(lips.max() - lips.min())


def test_pucker_narrows_and_smile_widens() -> None:
    rest = lip_width(frame(SHUT))
    assert lip_width(frame(SHUT, pucker=1.0)) < 0.8 * rest
    assert lip_width(frame(SHUT, smile=1.0)) > 1.08 * rest


def lip_thickness(picture: torch.Tensor) -> int:
    """Of both lips in the middle."""
    return int((picture[0, :, SIZE // 2] - picture[1, :, SIZE // 2] > 0.25).sum())


def test_press_thins_the_lips() -> None:
    assert lip_thickness(frame(SHUT, press=1.0)) < 0.75 * lip_thickness(frame(SHUT))
    assert lip_thickness(frame(jaw=0.0, press=1.0)) < 0.75 * lip_thickness(frame(jaw=0.0))


def test_the_border_of_the_picture_never_moves() -> None:
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    extremes = torch.stack([own_state(LANDMARKS)] * 2)
    extremes[0] = torch.tensor([channel.high for channel in CHANNELS])
    extremes[1] = torch.tensor([channel.low for channel in CHANNELS])
    frames = render(noise, LANDMARKS, extremes)
    edge = torch.ones(SIZE, SIZE, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert (frames - noise)[:, :, edge].abs().max() < 0.02


def test_breath_lifts_the_chest_and_leaves_the_face() -> None:
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    controls = own_state(LANDMARKS)
    controls[INDEX["breath"]] = 1.0
    change = (render(noise, LANDMARKS, controls[None])[0] - noise).abs().mean(0)
    assert change[:200].max() < 1e-4
    assert change[225:245, 100:156].mean() > 0.05


def test_usual_head_movements_do_not_fold_the_picture() -> None:
    rig = prepare_rig(painted(LANDMARKS), LANDMARKS)
    spread = torch.tensor([channel.scale for channel in CHANNELS])
    spread[:10] = 0
    controls = own_state(LANDMARKS) + 1.2 * spread * torch.randn(60, 16, generator=torch.Generator().manual_seed(3))
    source = rig._head_warp(head_moves(controls, rig.pivot))
    across, along = source.diff(dim=2)[:, :-1], source.diff(dim=1)[:, :, :-1]
    area = across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0]
    assert area.min() > 0


def test_brows_stay_level_under_pitch() -> None:
    rig = prepare_rig(painted(LANDMARKS), LANDMARKS)
    controls = torch.zeros(1, 16)
    controls[0, INDEX["pitch"]] = -0.3
    moved = (rig._head_warp(head_moves(controls, rig.pivot)) - rig.grid)[0, ..., 1]
    row = int((LANDMARKS["eyl"] - LANDMARKS["bh"] + 1) * SIZE / 2)
    middle, ends = moved[row, SIZE // 2], moved[row, [SIZE // 2 - 38, SIZE // 2 + 38]]
    assert (middle - ends).abs().max() < 0.036  # 4.6 pixels; a ball would bend them by 6


def test_pursed_lips_leave_the_line_of_the_jaw() -> None:
    photo = painted(SHUT)
    columns = [int((side * 1.85 * SHUT["mw"] + 1) * SIZE / 2) for side in (-1, 1)]
    photo[:, :, columns] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    controls = own_state(SHUT).repeat(2, 1)
    controls[1, INDEX["pucker"]] = 0.9
    still, pursed = render(photo, SHUT, controls)
    assert (pursed - still)[:, :, columns].abs().max() < 1e-3
    assert (pursed - still).abs().max() > 0.2


def lip_corners(picture: torch.Tensor) -> float:
    """Mean row of the corners of the mouth."""
    lips = picture[0] - picture[1] > 0.25
    columns = lips.any(0).nonzero().flatten()
    ends = torch.cat([lips[:, columns[0] : columns[0] + 3], lips[:, columns[-1] - 2 : columns[-1] + 1]], 1)
    return float(ends.nonzero()[:, 0].float().mean())


def test_a_smile_that_closes_relaxes() -> None:
    """Lips that a smile had stretched are full again, less wide, with lower corners; half closed, in between."""
    smile, half, shut = frame(), frame(jaw=0.5 * float(own_state(LANDMARKS)[INDEX["jaw"]])), frame(jaw=0.0)
    assert lip_thickness(shut) >= lip_thickness(smile)
    assert lip_width(shut) < lip_width(smile)
    assert lip_corners(shut) > lip_corners(half) > lip_corners(smile)


def test_a_smile_that_closes_keeps_the_colour_of_its_lips() -> None:
    """Where they meet a thin line is darker, by less than a third."""
    seam = frame(jaw=0.0)[:, 160:190, SIZE // 2]
    lips = torch.tensor([0.7, 0.3, 0.3])[:, None]
    assert (seam / lips).min() > 0.65
