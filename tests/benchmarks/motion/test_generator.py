"""Motion benchmarks: figures in closed form, variants by the passes they request, and short runs."""

import ctypes.util
import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.motion import ablation, generator
from benchmarks.motion import motion_figures as figures
from benchmarks.motion.contexts import REFERENCE, attended
from benchmarks.motion.report import to_json
from benchmarks.motion.rolls import shown, unfiltered
from benchmarks.motion.variants import COMPONENTS, KNOTS, OWN, REFERENCES, FixedReference, KnotSwitches, RolloutVariant
from engine.rollout.base import REFERENCE_SLOT, Rollout
from engine.rollout.knot_forcing import KnotForcing
from engine.rollout.rehearsal import rehearse
from ground.motion import INDEX, SCALES
from models.codecs.deblocking import deblock
from models.codecs.motion import MotionCodec, MotionPayload, pack_controls, unpack_controls
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT, randomise_

CHANNELS = EMBEDDED.dit.latent_channels
passes_of = partial(rehearse, shape=EMBEDDED.latent_shape)
espeak = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")


def tracks(seeds: int = 4, frames: int = 105) -> NDArray[np.float64]:
    return np.zeros((seeds, frames, 16))


@pytest.mark.parametrize(("first", "where"), [(9, "J0"), (13, "J1"), (17, "J2")])
def test_a_jump_is_found_at_its_boundary_and_nowhere_else(first: int, where: str) -> None:
    data, made = tracks(), tracks()
    data[..., INDEX["yaw"]] = SCALES[INDEX["yaw"]] * np.arange(105) ** 3 / 6  # third difference 1 in channel scales
    for frame in range(first % 12, 105, 12):
        made[:, frame:, INDEX["pitch"]] += 0.5 * SCALES[INDEX["pitch"]]
    ratios = figures.jerk_ratios(made, data)
    # A step of h has the third differences h, -2h, h: root mean square h sqrt(2). The track may begin within a step.
    assert ratios[where].value == pytest.approx(0.5 * np.sqrt(2), rel=0.02)
    assert ratios[where].half == pytest.approx(0, abs=1e-9)
    assert [ratios[name].value for name in ("J0", "J1", "J2", "inside") if name != where] == pytest.approx([0, 0, 0])
    assert figures.jerk_ratios(data, data)["all"].value == pytest.approx(1)


def test_steps_at_the_seams_are_told_from_those_within() -> None:
    made = tracks()
    made[..., INDEX["roll"]] = 0.1 * SCALES[INDEX["roll"]] * np.arange(105)
    assert [one.value for one in figures.step_ratios(made).values()] == pytest.approx([1, 1, 1])
    for frame in range(13, 105, 12):
        made[:, frame:, INDEX["roll"]] += 0.1 * SCALES[INDEX["roll"]]
    assert [one.value for one in figures.step_ratios(made).values()] == pytest.approx([1, 1 + 8 / 9, 1], rel=0.02)


def test_intervals_are_students_for_a_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, (20, 1))
    found = figures.estimate(lambda rows: float(rows.mean()), values)
    assert found.value == pytest.approx(values.mean())
    assert found.half == pytest.approx(2.093 * values.std(ddof=1) / np.sqrt(20), rel=1e-3)
    assert np.isnan(figures.estimate(lambda rows: float(rows.mean()), values[:2]).half)


def test_the_pulse_of_336_s_is_told_from_noise_and_from_other_periods() -> None:
    noise, t = np.random.default_rng(1).normal(size=(6, 3000)), np.arange(3000)
    made = tracks(6, 3000)
    made[..., INDEX["yaw"]] = noise
    assert 0.4 < figures.pulse("yaw")(made) < 2.2
    made[..., INDEX["yaw"]] = noise + 0.5 * np.sin(2 * np.pi * t / 84)
    assert figures.pulse("yaw")(made) > 20
    made[..., INDEX["yaw"]] = noise + 0.5 * np.sin(2 * np.pi * t / 60)
    assert figures.pulse("yaw")(made) < 2.2


def test_variance_by_phase_sees_a_head_that_comes_home() -> None:
    rng, made = np.random.default_rng(2), tracks(8, 12 * 70 - 3)
    made[..., INDEX["yaw"]] = rng.normal(size=made.shape[:2])
    assert figures.phase_ratio("yaw")(made) > 0.8
    chunk = (np.arange(made.shape[1]) + 3) // 12
    made[..., INDEX["yaw"]] *= np.where(chunk % 7 == 6, 0.5, 1.0)  # the last chunk before each jump
    assert figures.phase_ratio("yaw")(made) == pytest.approx(0.25, rel=0.2)
    assert figures.distance_by_phase(made, "yaw").argmin() == 6


def blinking(starts: list[NDArray[np.int64]], frames: int) -> NDArray[np.float64]:
    made = tracks(len(starts), frames)
    for row, own in zip(made, starts, strict=True):
        for start in own:
            row[start : start + 4, figures.BLINK] = 1
    return made


def test_blinks_are_counted_and_their_independence_is_told() -> None:
    same = blinking([np.arange(25, 3000, 50)] * 6, 3001)
    assert figures.blinks_a_minute(same) == pytest.approx(30)
    assert figures.blink_interval_variation(same) == 0
    assert figures.blink_coincidence(same) == pytest.approx(6)
    assert figures.blink_dispersion(same) == 0
    rng = np.random.default_rng(3)
    free = blinking([np.flatnonzero(rng.random(6000) < 0.01) for _ in range(12)], 6010)
    assert 0.8 < figures.blink_coincidence(free) < 1.25


def test_nods_are_dips_and_neither_sway_nor_steps() -> None:
    frames = 1500
    t = np.arange(frames)
    made = np.zeros((2, frames, 16))
    made[..., INDEX["pitch"]] = 0.05 * np.sin(2 * np.pi * t / 100)  # four seconds to and fro
    made[:, 700:, INDEX["pitch"]] -= 0.08
    assert figures.nods_a_minute(made) == 0
    for at in range(100, 1500, 250):
        made[0, :, INDEX["pitch"]] -= 0.12 * np.exp(-0.5 * ((t - at) / 2.5) ** 2)
    assert figures.nods_a_minute(made) == pytest.approx(3, rel=0.05)


def test_spread_drift_and_stillness() -> None:
    made = tracks(3, 500)
    made[..., INDEX["yaw"]] = np.array([[-0.1], [0.0], [0.1]])
    assert figures.sd_over_seeds("yaw")(made) == pytest.approx(0.1)
    rng = np.random.default_rng(4)
    made[..., INDEX["yaw"]] = rng.normal(0, 0.1, (3, 500)) * np.r_[np.ones(250), np.full(250, 2.0)]
    assert figures.variance_ratio("yaw", 250)(made) == pytest.approx(4, rel=0.2)
    made[:, 250:, INDEX["pitch"]] = np.radians(2)
    assert figures.shift_degrees("pitch", 100)(made) == pytest.approx(2)
    assert figures.mean_degrees("pitch")(made) == pytest.approx(1)
    assert figures.longest_stillness(made) < 0.3
    made[1, 100:151] = made[1, 100]
    assert 2.0 <= figures.longest_stillness(made) < 2.3


def given(rollout: Rollout) -> list[bool]:
    """Whether each pass but the reference's is given a knot, over three chunks."""
    passes = [work for chunk in passes_of(rollout, 3) for work in chunk if work.reads]
    return [bool(work.condition[:, CHANNELS].any()) for work in passes]


@pytest.mark.parametrize("variant", KNOTS, ids=lambda variant: variant.name)
def test_a_knot_is_given_only_where_it_is_fed(variant: RolloutVariant) -> None:
    found = given(variant.rollout(EMBEDDED))
    assert found == [variant.name.startswith("fed") and i >= 5 for i in range(15)]


def emitted(rollout: Rollout, answers: tuple[float, ...]) -> torch.Tensor:
    """First channel of the second chunk's latents when the model answers with these values, in the first chunk ten
    times as large."""
    state = rollout.new_state(torch.zeros(EMBEDDED.latent_shape), torch.zeros(1, 2, 2), 0)
    out = torch.zeros(0)
    for scale in (10.0, 1.0):
        denoise, answer = rollout.denoise(state, torch.zeros(4, 1, 1)), None
        while True:
            try:
                work = denoise.send(answer)
            except StopIteration as done:
                out = done.value
                break
            clean = scale * torch.tensor(answers)[: work.frames].view(-1, 1, 1, 1)
            answer = None if work.is_commit else clean.expand_as(work.latents)
    return out[:, 0, 0, 0]


@pytest.mark.parametrize(("name", "first"), [("fed, fused", 20.5), ("fed, unfused", 1.0), ("not fed, averaged", 20.5),
                                             ("not fed, not averaged", 1.0)])  # fmt: skip
def test_a_knot_is_averaged_only_where_it_is_fused(name: str, first: float) -> None:
    rollout = next(v for v in KNOTS if v.name == name).rollout(EMBEDDED)
    assert emitted(rollout, (1.0, 2.0, 3.0, 4.0)).tolist() == [first, 2.0, 3.0]


def test_both_switches_on_is_knot_forcing_itself() -> None:
    own, switched = (v.rollout(EMBEDDED) for v in (OWN, RolloutVariant("switched", make=KnotSwitches)))
    for mine, theirs in zip(passes_of(own, 3), passes_of(switched, 3), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.latents, b.latents) and torch.equal(a.condition, b.condition)
            assert (a.reads, a.commits, a.positions) == (b.reads, b.commits, b.positions)


def reference_indices(rollout: Rollout) -> list[int]:
    """Temporal index of the reference in each of nine chunks; empty if it is not attended to."""
    firsts = [next(work for work in chunk if any(work.sigmas)) for chunk in passes_of(rollout, 9)]
    return [work.origin + at for work in firsts for slot, at in work.reads if slot == REFERENCE_SLOT]


def test_the_reference_stands_where_its_name_says() -> None:
    found = {v.name: reference_indices(v.rollout(EMBEDDED)) for v in REFERENCES}
    assert found["countdown"] == [22] * 7 + [43] * 2
    assert found["constant"] == [3 * chunk + 22 for chunk in range(9)]
    assert found["fixed index"] == [22] * 9
    assert found["none"] == []
    none = next(v for v in REFERENCES if v.name == "none").rollout(EMBEDDED)
    assert all(REFERENCE not in attended(work)[1] for chunk in passes_of(none, 3) for work in chunk if work.reads)


def test_components_add_up_to_the_papers_method() -> None:
    rollouts = {v.name: v.rollout(EMBEDDED) for v in COMPONENTS}
    window, knot, ahead = (rollouts[name] for name in ("window only", "+ knot", "+ running ahead"))
    assert isinstance(window, FixedReference) and window.spec.knot == 0 and window.spec.start == 21
    assert isinstance(knot, FixedReference) and knot.spec.knot == 1 and any(given(knot))
    assert not isinstance(ahead, FixedReference) and ahead.spec.running_ahead == "countdown"
    assert rollouts["k = 2"].drive_latents == 5 and rollouts["L = 9"].context == 6
    assert rollouts["1 step"].spec.steps == (1000,)


def test_the_start_is_drawn_by_the_seed_and_s_equal_to_c_keeps_near() -> None:
    rollouts = {variant.name: variant.rollout(EMBEDDED) for variant in REFERENCES}
    reference, features = torch.zeros(EMBEDDED.latent_shape), torch.zeros(20, 2, 2)
    starts = [rollouts["n0 drawn"].new_state(reference, features, seed).reference_index for seed in range(40)]
    assert min(starts) >= 4 and max(starts) <= 22 and len(set(starts)) > 10
    state, near = rollouts["s = c"].new_state(reference, features, 0), rollouts["s = c"]
    assert isinstance(near, KnotForcing)
    ahead = []
    for chunk in range(20):
        state.next_latent = 3 * chunk
        near.run_ahead(state)
        ahead.append(state.reference_index - state.next_latent)
    assert ahead[:7] == [22, 19, 16, 13, 10, 7, 4] and set(ahead[7:]) == {4}


def test_raw_rolls_are_what_the_network_made_and_shown_ones_what_the_codec_shows() -> None:
    rolled = 0.2 * np.random.default_rng(0).normal(size=(2, 36, 16)).astype(np.float32)
    raw, seen = unfiltered(rolled), shown(rolled)
    assert raw.shape == seen.shape == (2, 33, 16)
    np.testing.assert_allclose(raw, rolled[:, 3:] * np.array(SCALES, np.float32))
    codec, own = MotionCodec(), torch.zeros(16)
    payload = MotionPayload(rig=None, own=own, gain=torch.ones(16))  # type: ignore[arg-type]
    latents = pack_controls(torch.from_numpy(rolled[0]))
    inside = slice(INDEX["yaw"], INDEX["breath"])  # these have both signs and are not clamped at 0
    smooth = deblock(unpack_controls(latents), None)
    np.testing.assert_allclose(codec.controls(smooth, payload)[3:, inside], seen[0][:, inside], atol=1e-6)
    assert not np.allclose(raw[..., inside], seen[..., inside], atol=1e-3)


def test_every_row_of_the_report_can_be_made_of_the_data_itself() -> None:
    made = np.random.default_rng(5).normal(0, 0.1, (3, 12 * 50, 16))
    rows = [
        generator.spread_row(made), generator.jerk_row(made, made, made), generator.steps_row(made, made),
        generator.drift_row(made, 150), generator.pulse_row(made),
    ]  # fmt: skip
    text = to_json({"all": {str(i): row for i, row in enumerate(rows)}})
    assert json.loads(text)["sections"]["all"]["3"]["yaw sd first"]["value"] == pytest.approx(0.1, rel=0.1)
    assert "NaN" not in text


def test_drift_is_told_of_each_angle_and_of_the_lips() -> None:
    made = np.random.default_rng(6).normal(0, 0.1, (4, 300, 16))
    for factor, name in enumerate(("yaw", "pitch", "roll", "jaw", "pucker", "smile", "press"), 2):
        made[:, 150:, INDEX[name]] *= factor
    made[:, 150:, INDEX["roll"]] += np.radians(3)
    found = {name: getattr(cell, "value", cell) for name, cell in generator.drift_row(made, 150).items()}
    ratios = ("yaw var last/first", "pitch var last/first", "roll var last/first", "jaw", "pucker", "smile", "press")
    assert [found[name] for name in ratios] == pytest.approx([factor**2 for factor in range(2, 9)], rel=0.2)
    assert found["roll shift deg"] == pytest.approx(3, abs=3) and found["roll shift deg"] > 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    path = tmp_path_factory.mktemp("weights") / "dit.safetensors"
    save_file(dit.state_dict(), path)
    return path


@espeak
def test_a_quick_run_tells_its_variants_apart_and_goes_on_where_it_was(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "long_speech", cache(generator.long_speech))  # espeak-ng's sound differs by call
    monkeypatch.setattr(generator, "Synthesiser", cache(generator.Synthesiser))
    words = ["--weights", str(weights), "--seeds", "3", "--seconds", "4", "--sections", "b", "--keep", str(tmp_path)]
    words.append("--json")
    generator.main(words)
    first = capsys.readouterr()
    (section,) = json.loads(first.out)["sections"].values()
    assert list(section) == ["data", *(variant.label for variant in KNOTS)]
    assert section["data"]["all"]["value"] == pytest.approx(1)
    assert len({row["J0"]["value"] for row in section.values()}) == len(section)
    assert first.err.count("calls of 4 s") == len(KNOTS) == len(list(tmp_path.iterdir()))
    generator.main(words)
    again = capsys.readouterr()
    assert again.out == first.out and again.err == ""


@espeak
def test_the_causal_teacher_has_rows_of_its_own(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "STEPS", generator.STEPS[:2])
    words = ["--weights", str(weights), "--teacher", str(weights), "--seeds", "2", "--seconds", "1", "--sections", "d"]
    generator.main([*words, "--json"])
    (rows,) = json.loads(capsys.readouterr().out)["sections"].values()
    assert list(rows)[1:] == ["1 step", "2 steps", "causal teacher, 1 step", "causal teacher, 2 steps"]
    assert rows["causal teacher, 2 steps"] == rows["2 steps"] != rows["1 step"]
    with pytest.raises(SystemExit):
        generator.main(["--weights", str(weights), "--teacher", "nowhere.safetensors"])
    assert "no weights at nowhere.safetensors: name a file" in capsys.readouterr().err


@espeak
def test_ablation_has_a_row_for_a_variant_with_weights_of_its_own(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights-file", str(weights), "--only", "1 step", "--weights", f"1 step={weights}"]
    ablation.main([*words, "--seeds", "2", "--seconds", "8", "--json"])
    (rows,) = json.loads(capsys.readouterr().out)["sections"].values()
    assert list(rows) == ["data", "1 step", "1 step, own weights"]
    assert rows["1 step"] == rows["1 step, own weights"]
    assert rows["data"]["jaw r synthetic"]["value"] == pytest.approx(1, abs=1e-3)  # truth against itself
    assert 90 < rows["data"]["flicker"]["value"] < 100 and rows["1 step"]["flicker"] != rows["data"]["flicker"]


def test_names_with_an_equals_sign_and_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.weights_of("k = 0=runs/k0/dit.safetensors") == ("k = 0", Path("runs/k0/dit.safetensors"))
    with pytest.raises(SystemExit):
        ablation.main(["--only", "k = 7"])
    assert "no variant 'k = 7': choose one of window only" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        generator.main(["--weights", "nowhere.safetensors"])
    assert "no weights at nowhere.safetensors" in capsys.readouterr().err
