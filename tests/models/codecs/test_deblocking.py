"""Steps that noise leaves between latents are smoothed; what moves evenly, what jumps and what must be fast is not."""

import pytest
import torch

from ground.motion import INDEX, NAMES
from models.codecs.deblocking import EDGE, SMOOTHED, STRENGTH, deblock

YAW, GAZE = INDEX["yaw"], INDEX["gazeX"]


def a_step(height: float, channel: int) -> torch.Tensor:
    """Two still latents, the second higher than the first."""
    controls = torch.zeros(8, len(NAMES))
    controls[4:, channel] = height
    return controls


@pytest.mark.parametrize("blocks", [(1,) * 6, (3, 3), (1, 5), (2, 1, 3)])
def test_block_by_block_equals_all_at_once(blocks: tuple[int, ...]) -> None:
    controls = 0.2 * torch.randn(2, 24, len(NAMES), generator=torch.Generator().manual_seed(0))
    whole, before, parts = deblock(controls, None), None, []
    for part in controls.split([4 * n for n in blocks], dim=1):
        parts.append(deblock(part, before))
        before = parts[-1][:, -2:]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert not torch.equal(whole, controls)


def test_a_small_step_becomes_a_slope_and_ends_where_it_led() -> None:
    smooth = deblock(a_step(0.1, YAW), None)[:, YAW]
    assert smooth[4] - smooth[3] == pytest.approx(0.1 * (1 - STRENGTH))
    rises = smooth.diff()[3:]
    assert (rises > 0).all() and rises.max() < 0.1 / 3
    assert smooth[7] > 0.08 and (smooth[:4] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_lips_and_lids_keep_every_frame(name: str) -> None:
    controls = a_step(0.1, INDEX[name])
    assert torch.equal(deblock(controls, None), controls) == (name not in SMOOTHED)
    assert not {"jaw", "press", "pucker", "smile", "upper", "blinkL", "blinkR"} & set(SMOOTHED)


def test_even_motion_and_meant_jumps_stay() -> None:
    even = torch.arange(16.0)[:, None].expand(-1, len(NAMES)) * 0.05
    torch.testing.assert_close(deblock(even, None), even)
    jump = a_step(EDGE * 1.01, GAZE)
    assert torch.equal(deblock(jump, None), jump)


@pytest.mark.parametrize("frame", range(4, 9))
def test_a_head_is_eased_and_never_passes_what_was_meant(frame: int) -> None:
    controls = torch.zeros(16, len(NAMES))
    controls[frame:, YAW] = 2.0
    smooth = deblock(controls, None)[:, YAW]
    assert (smooth[:4] == 0).all() and (smooth >= 0).all() and (smooth <= 2).all() and smooth[-1] > 1.95
    if frame % 4 == 0:  # where two latents meet
        assert smooth.diff().max() < 2.0 / 3


def test_a_call_begins_as_it_is() -> None:
    controls = torch.randn(4, len(NAMES), generator=torch.Generator().manual_seed(1))
    assert torch.equal(deblock(controls, None), controls)
