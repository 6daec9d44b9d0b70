"""The laws of the cached rollout: what the cache saves changes nothing.

The yardstick is one forward without any cache over the whole call so far: every earlier clean latent as the commit
pass had it, a copy of what is pinned (the reference, or the first latents) wherever a pass saw it, and the noisy
latents of the pass in question, under a frame mask that spells out who may attend to whom, at absolute positions.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.rollout.base import Pass
from engine.rollout.self_forcing import SelfForcing
from engine.rollout.strategies import own_rollout
from engine.worker.runner import ModelRunner, SlottedPass
from ground.errors import RequestError
from models.config import LONGLIVE
from models.dit.attention import BlockMask
from tests.toy import TOY, new_state, record, toy_drive, toy_rollout, toy_runner

SINK = {"strategy": "self_forcing", "window": 9, "sink": 3, "reference": False}
MODES = [
    pytest.param({"strategy": "knot_forcing", "running_ahead": "countdown"}, id="countdown"),
    pytest.param({"strategy": "knot_forcing", "running_ahead": "constant"}, id="constant"),
    pytest.param({"strategy": "knot_forcing", "window": 9}, id="window-9"),
    pytest.param({"strategy": "knot_forcing", "window": 5}, id="window-5"),
    pytest.param({"strategy": "knot_forcing", "knot": 2}, id="knot-2"),
    pytest.param({"strategy": "knot_forcing", "knot": 0}, id="no-knot"),
    pytest.param({"strategy": "self_forcing"}, id="self-forcing"),
    pytest.param(SINK, id="sink"),
    pytest.param({**SINK, "window": 12}, id="sink-window-12"),
]


def whole_prediction(runner: ModelRunner, history: list[Pass], pinned: Pass, work: Pass) -> Tensor:
    """The prediction of ``work`` recomputed with full attention over all commits of the call before it. pinned: the
    commit whose frames every one of them sees, at positions of its own."""
    passes = [*history, work]
    copies = len(passes)
    read_at = [{slot: at + p.origin for slot, at in p.reads} for p in passes]
    frames = [pinned] * copies + passes
    positions = [at[slot] for at in read_at for slot in pinned.commits]
    positions += [at + p.origin for p in passes for at in p.positions]
    owner = [group for group, p in enumerate(frames) for _ in range(p.frames)]
    mask = torch.zeros(len(owner), len(owner), dtype=torch.bool)
    for query, group in enumerate(owner):
        mask[query] = torch.tensor([other == group for other in owner])
        if group < copies:
            continue  # a copy of what is pinned sees itself only
        past = {at for slot, at in read_at[group - copies].items() if slot not in pinned.commits}
        for key, (other, at) in enumerate(zip(owner, positions, strict=True)):
            if other == group - copies or (copies <= other < group and at in past):
                mask[query, key] = True
    prediction: Tensor = runner.model.dit(
        torch.cat([p.latents for p in frames])[None],
        torch.tensor([[sigma for p in frames for sigma in p.sigmas]]),
        torch.cat([p.condition for p in frames])[None],
        torch.cat([p.drive for p in frames])[None],
        None,
        BlockMask(mask),
        torch.tensor([positions]),
    )
    return prediction[0, -work.frames :]


@pytest.mark.parametrize("changes", MODES)
def test_cached_rollout_equals_full_attention(changes: dict[str, object]) -> None:
    rollout = toy_rollout(**changes)
    runner = toy_runner(frames=rollout.cached_frames)
    _, trace = record(runner, rollout, chunks=9)
    first = next(index for index, (work, _) in enumerate(trace) if work.is_commit)  # the reference's, or the sink's
    history: list[Pass] = []
    compared = 0
    for work, answer in trace[first + 1 :]:
        if work.is_commit:
            history.append(work)
            continue
        assert answer is not None
        expected = whole_prediction(runner, history, trace[first][0], work)
        torch.testing.assert_close(answer, expected, atol=2e-4, rtol=1e-4)
        compared += 1
    assert compared == (9 if rollout.spec.reference else 8) * 4


@pytest.mark.parametrize("changes", [*MODES, pytest.param({**SINK, "reference": True}, id="sink-and-reference")])
def test_joined_commit_equals_both_run_apart(changes: dict[str, object]) -> None:
    rollout = toy_rollout(**changes)
    apart, passes_apart = record(toy_runner(frames=rollout.cached_frames), rollout, chunks=10)
    joined, passes_joined = record(toy_runner(frames=rollout.cached_frames), rollout, chunks=10, joined=True)
    torch.testing.assert_close(joined, apart, atol=2e-4, rtol=1e-4)
    assert len(passes_apart) == rollout.spec.reference + 10 * 5
    assert len(passes_joined) == rollout.spec.reference + 10 * 4


def test_a_sink_stands_right_before_the_window_as_longlive_has_it() -> None:
    """Three first latents, six past ones, the chunk: twelve places, however long the video is."""
    rollout = own_rollout(LONGLIVE)
    assert isinstance(rollout, SelfForcing) and rollout.spec.window == 12 and not rollout.spec.reference
    state = rollout.new_state(torch.zeros(1, 1, 1), torch.zeros(0, 1, 1), seed=0)
    held: dict[int, int] = {}
    for i in range(0, 300, 3):
        state.next_latent = i
        work = rollout.make_pass(state, torch.zeros(3, 1, 1, 1), 0.0, torch.zeros(3, 0, 0))
        seen = list(range(i)) if i <= 9 else [0, 1, 2, *range(i - 6, i)]
        assert [held[frame] for frame, _ in work.reads] == seen
        assert [at for _, at in work.reads] == list(range(9 - len(seen), 9)) and work.positions == (9, 10, 11)
        held |= {frame: i + own for own, frame in enumerate(work.commits) if frame >= 0}
    assert held.keys() == set(range(9))


@pytest.mark.parametrize("changes", [{"sink": 3}, {**SINK, "window": 8}, {**SINK, "sink": -1}])
def test_a_sink_that_leaves_no_window_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="sink|below 0"):
        toy_rollout(**changes)


def test_window_relative_positions_equal_absolute_ones() -> None:
    rollout = toy_rollout(running_ahead="countdown")
    runner = toy_runner()
    relative, _ = record(runner, rollout, chunks=8)
    shifted_runner = toy_runner()
    plain_run = shifted_runner.run

    def absolute(passes: list[SlottedPass]) -> list[Tensor | None]:
        moved = []
        for item in passes:
            work, far = item.work, item.work.origin + 40_000
            reads = tuple((slot, at + far) for slot, at in work.reads)
            moved.append(
                SlottedPass(item.slot, replace(work, positions=tuple(at + far for at in work.positions), reads=reads))
            )
        return plain_run(moved)

    shifted_runner.run = absolute  # type: ignore[method-assign, assignment]
    far, _ = record(shifted_runner, rollout, chunks=8)
    torch.testing.assert_close(far, relative, atol=2e-4, rtol=1e-4)


def test_moving_the_reference_by_rotation_equals_recomputing_it() -> None:
    """Line 8 of Algorithm 1 re-caches the reference at its new index; here the cached keys are rotated on read
    instead."""
    rollout = toy_rollout()
    state = new_state(rollout)
    drive = toy_drive(4)
    denoise = rollout.denoise(state, drive)
    reference, first = next(denoise), denoise.send(None)
    for index in (22, 43):
        rotated = toy_runner()
        rotated.run([SlottedPass(0, reference)])
        recomputed = toy_runner()
        recomputed.run([SlottedPass(0, replace(reference, positions=(index,)))])
        torch.testing.assert_close(rotated.cache.values, recomputed.cache.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(rotated.cache.keys, recomputed.cache.keys, atol=1e-5, rtol=0)
        moved = replace(first, reads=((0, index),))
        by_rotation = rotated.run([SlottedPass(0, moved)])[0]
        by_recomputing = recomputed.run([SlottedPass(0, moved)])[0]
        torch.testing.assert_close(by_rotation, by_recomputing, atol=1e-5, rtol=1e-5)


def test_batched_calls_equal_each_alone() -> None:
    rollout = toy_rollout()
    alone = [record(toy_runner(slots=1), rollout, chunks=4, seed=seed)[1] for seed in (1, 2)]
    together = toy_runner(slots=2)
    for one, two in zip(*alone, strict=True):
        answers = together.run([SlottedPass(0, one[0]), SlottedPass(1, two[0])])
        for answer, (_, expected) in zip(answers, (one, two), strict=True):
            if expected is None:
                assert answer is None
            else:
                assert answer is not None
                torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


def test_slots_do_not_see_each_other() -> None:
    rollout = toy_rollout()
    alone, _ = record(toy_runner(), rollout, chunks=4, seed=1)
    shared = toy_runner()
    record(shared, rollout, chunks=3, slot=1, seed=9)
    after, _ = record(shared, rollout, chunks=4, slot=0, seed=1)
    torch.testing.assert_close(after, alone, atol=0, rtol=0)


def test_same_seed_and_drive_give_the_same_latents() -> None:
    rollout = toy_rollout()
    first, _ = record(toy_runner(), rollout, chunks=4, seed=7)
    again, _ = record(toy_runner(), rollout, chunks=4, seed=7)
    other, _ = record(toy_runner(), rollout, chunks=4, seed=8)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_the_toy_attends_to_its_window() -> None:
    """The laws above would hold for a model that ignores its cache: show that this one does not."""
    rollout = toy_rollout()
    whole, trace = record(toy_runner(), rollout, chunks=3)
    forgetful = toy_runner()
    last = [work for work, _ in trace if not work.is_commit][-1]
    blind = forgetful.run([SlottedPass(0, last)])[0]
    assert blind is not None and trace[-2][1] is not None
    assert (blind - trace[-2][1]).abs().max() > 1e-2
    assert whole.shape == (9, *TOY.latent_shape)
