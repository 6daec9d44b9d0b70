"""Batches by number: the same whoever makes them and wherever a run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.dit.transformer import CausalWanDiT
from tests.clips import CPU, NoiseClips
from tests.parallel_run import STAGES, tiny
from training.configs import PRESETS
from training.parallel import World
from training.stream import ClipStream
from training.trainer import Trainer


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_made_ahead_are_the_same_and_go_on_the_same() -> None:
    """With two workers and without, from the start and from the middle."""
    alone, helped = ClipStream(NoiseClips(), 2), ClipStream(NoiseClips(), 2, workers=2)
    wanted = [alone.next().latents for _ in range(6)]
    assert all(torch.equal(helped.next().latents, one) for one in wanted) and helped.number == 6
    later = ClipStream(NoiseClips(), 2, slice(1, 2), workers=2)
    later.number = 3
    assert all(torch.equal(later.next().latents, one[1:]) for one in wanted[3:])
    assert not torch.equal(wanted[0], wanted[1])
    assert {PRESETS[f"{name}-h200"].workers for name in STAGES} == {6}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_run_is_the_same_with_workers_and_goes_on_the_same(tmp_path: Path) -> None:
    def base(workers: int) -> Trainer:
        config = replace(tiny("base"), workers=workers)
        torch.manual_seed(0)
        networks = {"model": CausalWanDiT(config.model.dit)}
        return Trainer(config, networks, None, NoiseClips(), tmp_path / str(workers), World(CPU))

    alone, killed = base(0), base(2)
    alone.run()
    for _ in range(3):
        killed.advance()
        if killed.step == 2:
            killed.save()
    helped = base(2)
    assert helped.step == 2
    helped.run()
    one, other = load_file(alone.checkpoint), load_file(helped.checkpoint)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_stage_meets_other_clips() -> None:
    for family in ("{}-cpu", "{}-h200", "wan-1.3b-{}"):
        assert len({PRESETS[family.format(name)].seed for name in STAGES}) == 4
    assert PRESETS["ablation-k0"].seed not in {PRESETS[f"{name}-cpu"].seed for name in STAGES}
