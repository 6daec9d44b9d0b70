"""The few-step schedule against the published table."""

import pytest
import torch

from engine.rollout.flow import FewStepSchedule


def test_warped_steps_are_the_published_ones() -> None:
    schedule = FewStepSchedule.warped((1000, 750, 500, 250), 5.0, "flow")
    assert [1000 * sigma for sigma in schedule.sigmas] == pytest.approx([1000, 937.5, 833.333, 625], abs=1e-3)


@pytest.mark.parametrize("kind", ["flow", "x0"])
def test_a_true_prediction_gives_back_the_clean_latent(kind: str) -> None:
    schedule = FewStepSchedule.warped((1000, 750, 500, 250), 5.0, kind)  # type: ignore[arg-type]
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for sigma in schedule.sigmas:
        noisy = (1 - sigma) * clean + sigma * noise
        prediction = noise - clean if kind == "flow" else clean
        torch.testing.assert_close(schedule.to_x0(prediction, noisy, sigma), clean, atol=1e-5, rtol=0)


def test_renoising_keeps_the_signal_and_takes_its_noise_from_the_generator() -> None:
    schedule = FewStepSchedule.warped((1000, 500), 5.0, "flow")
    clean = torch.full((4, 8, 16, 16), 2.0)
    one = schedule.renoise(clean, 0.625, torch.Generator().manual_seed(1))
    same = schedule.renoise(clean, 0.625, torch.Generator().manual_seed(1))
    assert torch.equal(one, same)
    assert one.mean().item() == pytest.approx(0.375 * 2, abs=0.03)
    assert one.std().item() == pytest.approx(0.625, abs=0.03)
