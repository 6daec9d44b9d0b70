"""The drive buffer: exact features from any packets, silence for gaps, poses between records."""

import ctypes.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.drive.buffer import MAX_POSES, DriveBuffer, DriveChunk
from engine.drive.speaker_adaptation import SpeakerAdaptation
from engine.drive.viseme_level import VisemeLevel
from engine.drive.voice import HORIZON_SECONDS
from ground.errors import EngineError
from ground.motion import CHANNELS, INDEX
from models.config import EMBEDDED, ModelConfig
from models.encoders.mel import LogMelConfig, StreamingLogMel
from models.encoders.visemes import HISTORY, VISEMES, load_viseme_estimator
from tests.tokens import frame_tokens
from training.data.synthetic.phonemes import Synthesiser, Voice

MEL = LogMelConfig()
DEAF = replace(EMBEDDED, dit=replace(EMBEDDED.dit, drive_dim=672, visemes=0))  # features alone, no visemes
SLOW = replace(DEAF, fps=16)
VOICE = MEL.token_size
GIVEN = VOICE + VISEMES  # where given controls begin
RATE = MEL.sample_rate

Pcm = np.ndarray[tuple[int], np.dtype[np.int16]]


def noise(samples: int, seed: int = 0) -> Pcm:
    return np.random.default_rng(seed).integers(-8000, 8000, samples).astype(np.int16)


def take_all(buffer: DriveBuffer, chunks: int, chunk: int = 3, ahead: int = 1) -> list[DriveChunk]:
    return [buffer.take(i * chunk, chunk + ahead) for i in range(chunks)]


def tokens_of(chunks: list[DriveChunk], chunk: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The emitted latents' tokens of consecutive chunks, a row a token."""
    return np.concatenate([part.tokens[:chunk] for part in chunks]).reshape(-1, chunks[0].tokens.shape[-1])


def controls(chunk: DriveChunk) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Given values (absolute) and masks by channel over the chunk's tokens."""
    rows = chunk.tokens.reshape(-1, chunk.tokens.shape[-1])[:, GIVEN:]
    values = {c.name: (rows[:, i] * c.scale).tolist() for i, c in enumerate(CHANNELS)}
    masks = {c.name: rows[:, len(CHANNELS) + i].tolist() for i, c in enumerate(CHANNELS)}
    return values, masks


def test_tokens_are_the_features_of_each_frame() -> None:
    sound = noise(RATE * 2)
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_voice(sound, 0)
    rows = tokens_of(take_all(buffer, 3))
    hops = StreamingLogMel(MEL).whole(sound)
    for row, frame in enumerate(range(-3, 33)):
        np.testing.assert_allclose(rows[row, :VOICE], frame_tokens(hops, frame, MEL), atol=1e-4)
    assert not rows[:, GIVEN:].any()


def test_each_frame_has_the_visemes_of_the_whole_voice() -> None:
    """However the voice is cut into chunks, and from the call's first frame on, with the call's vowels and level."""
    sound = noise(RATE * 3)
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_voice(sound, 0)
    rows = tokens_of(take_all(buffer, 4))
    hops = StreamingLogMel(MEL).whole(sound)
    whole = np.stack([frame_tokens(hops, frame, MEL) for frame in range(-3 - HISTORY, 45)])
    wanted = load_viseme_estimator()(torch.from_numpy(whole)[None])[0].numpy()
    told = VisemeLevel()(SpeakerAdaptation()(rows[:, :VOICE], wanted))
    np.testing.assert_allclose(rows[:, VOICE:GIVEN], told, atol=1e-4)
    assert wanted.std(0).min() > 0.01


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")
def test_a_call_is_told_the_vowels_of_its_speaker() -> None:
    """What was learnt is kept from one chunk to the next, and is learnt from what the estimator says, at no level."""
    said = Synthesiser().speak(
        "Move two blue shoes. We keep these three green beans. Who knew you? See me.", Voice("es")
    )
    sound = (np.tile(said.sound, 2) * 32767).astype(np.int16)
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_voice(sound, 0)
    chunks = buffer.ready_until() // 3
    rows = tokens_of(take_all(buffer, chunks))
    whole = np.concatenate([np.full((HISTORY, VOICE), MEL.silence, np.float32), rows[:, :VOICE]])
    with torch.no_grad():
        alone = load_viseme_estimator()(torch.from_numpy(whole)[None])[0].numpy()
    told = VisemeLevel()(SpeakerAdaptation()(rows[:, :VOICE], alone))
    np.testing.assert_allclose(rows[:, VOICE:GIVEN], told, atol=1e-3)
    assert np.abs(told - VisemeLevel()(alone))[len(told) // 2 :].max() > 0.1


def test_sixteen_frames_a_second_have_their_own_hops() -> None:
    sound = noise(RATE * 4)
    buffer = DriveBuffer(SLOW)
    buffer.push_voice(sound, 0)
    rows = tokens_of(take_all(buffer, 3))
    hops = StreamingLogMel(MEL).whole(sound)
    for row, frame in enumerate(range(-3, 33)):
        start = frame * 100 // 16 - MEL.hops_before
        wanted = np.full((16, MEL.mels), MEL.silence, np.float32)
        if start + 16 > 0:
            wanted[max(0, -start) :] = hops[max(0, start) : start + 16]
        np.testing.assert_allclose(rows[row, :VOICE].reshape(16, -1), wanted, atol=1e-4)


def test_five_tokens_a_latent_are_spread_over_its_time() -> None:
    config = replace(DEAF, dit=replace(DEAF.dit, drive_tokens=5))
    sound = noise(RATE * 2)
    buffer = DriveBuffer(config)
    buffer.push_voice(sound, 0)
    tokens = buffer.take(0, 4).tokens
    assert tokens.shape == (4, 5, 672)
    hops = StreamingLogMel(MEL).whole(sound)
    start = (1 * 5 + 4 * 3) * 16000 // (160 * 25 * 5)  # latent 1 begins at frame 1, token 3 stands at frame 3.4
    np.testing.assert_allclose(tokens[1, 3, :VOICE].reshape(16, -1), hops[start - 8 : start + 8], atol=1e-4)


@pytest.mark.parametrize("config", [EMBEDDED, SLOW])
@pytest.mark.parametrize("packet", [1, 7, 160, 320, 641, 5000])
def test_packets_of_any_size_give_the_same_tokens_to_the_bit(config: ModelConfig, packet: int) -> None:
    sound = noise(RATE * 3)
    whole = DriveBuffer(config)
    whole.push_voice(sound, 0)
    expected = [chunk.tokens for chunk in take_all(whole, 3)]
    pieces, made = DriveBuffer(config), []
    for start in range(0, len(sound), packet):
        pieces.push_voice(sound[start : start + packet], start)
        if len(made) < 3 and pieces.ready_until() >= 3 * len(made) + 4:
            made.append(pieces.take(3 * len(made), 4).tokens)
    assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))


def test_ready_until_follows_the_look_ahead_to_the_sample() -> None:
    for latent, last_frame in ((0, 0), (3, 12), (4, 16)):
        needed = last_frame * 640 + MEL.reach_samples  # latents 0 .. 3, a first chunk: 13 frames and 55 ms
        buffer = DriveBuffer(EMBEDDED)
        buffer.push_voice(noise(needed - 1), 0)
        assert buffer.ready_until() == latent
        buffer.push_voice(noise(1), needed - 1)
        assert buffer.ready_until() == latent + 1
    slow = DriveBuffer(SLOW)
    slow.push_voice(noise(16000), 0)
    assert slow.ready_until() == 4  # latent 4 ends with frame 16, which would need hops 100 .. 107 of the 98 there are


@pytest.mark.parametrize(("config", "tokens"), [(EMBEDDED, 4), *((c, n) for c in (DEAF, SLOW) for n in (1, 4, 5))])
@pytest.mark.parametrize("first_frame", [0, 7])
def test_what_is_ready_misses_nothing_and_one_latent_more_does(
    config: ModelConfig, tokens: int, first_frame: int
) -> None:
    config = replace(config, dit=replace(config.dit, drive_tokens=tokens))
    for samples in range(15_000, 17_000, 123):
        buffer = DriveBuffer(config, first_frame)
        buffer.push_voice(noise(samples), 0)
        ready = buffer.ready_until()
        assert ready > 1
        assert buffer.take(0, ready).missing == () and buffer.take(0, ready + 1).missing != ()


def test_what_was_taken_as_silence_is_waited_for_no_more() -> None:
    buffer = DriveBuffer(EMBEDDED)
    assert buffer.ready_until() == 0
    buffer.take(0, 4)
    assert buffer.ready_until() == 4


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=6))
def test_order_and_repetition_do_not_matter(order: list[int], repeated: list[int]) -> None:
    sound = noise(12 * 1000)
    expected = DriveBuffer(EMBEDDED)
    expected.push_voice(sound, 0)
    buffer = DriveBuffer(EMBEDDED)
    for index in [*order, *repeated]:
        assert (buffer.ready_until() >= 4) == (buffer.complete >= 9200)
        buffer.push_voice(sound[index * 1000 : (index + 1) * 1000], index * 1000)
    assert buffer.counts.repeated_samples == 1000 * len(repeated)
    assert buffer.ready_until() == expected.ready_until()
    chunk = buffer.take(0, 4)
    assert chunk.missing == () and np.array_equal(chunk.tokens, expected.take(0, 4).tokens)


def test_voice_that_was_not_taken_may_be_taken_back() -> None:
    sound = noise(24_000)
    buffer, expected = DriveBuffer(EMBEDDED), DriveBuffer(EMBEDDED)
    silenced = sound.copy()
    silenced[9200:] = 0
    buffer.push_voice(sound, 0)
    expected.push_voice(silenced, 0)
    assert np.array_equal(buffer.take(0, 4).tokens, expected.take(0, 4).tokens)
    buffer.push_voice(np.zeros(24_000 - 4000, np.int16), 4000)  # what was taken stays as it was
    assert np.array_equal(buffer.take(3, 4).tokens, expected.take(3, 4).tokens)


def test_a_gap_is_silence_and_said_once() -> None:
    sound = noise(RATE * 2)
    silenced = sound.copy()
    silenced[4000:5000] = 0
    silenced[9000:9200] = 0
    expected = DriveBuffer(EMBEDDED)
    expected.push_voice(silenced, 0)
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_voice(sound[:4000], 0)
    buffer.push_voice(sound[5000:9000], 5000)
    chunk = buffer.take(0, 4)
    assert chunk.missing == ((4000, 5000), (9000, 9200))
    buffer.push_voice(sound[4000:], 4000)  # of which 1,000 repeat nothing but are late, and 200
    following = buffer.take(3, 4)
    assert following.missing == ()
    assert buffer.counts.late_samples == 9200 - 4000 and buffer.counts.missing_samples == 1200
    assert np.array_equal(chunk.tokens, expected.take(0, 4).tokens)
    assert np.array_equal(following.tokens, expected.take(3, 4).tokens)


def test_a_stream_that_begins_later_hears_its_history() -> None:
    sound = noise(RATE * 4)
    heard, deaf = DriveBuffer(EMBEDDED, first_frame=50), DriveBuffer(EMBEDDED, first_frame=50)
    heard.push_voice(sound, 0)
    deaf.push_voice(sound[50 * 640 :], 50 * 640)
    assert heard.ready_until() == deaf.ready_until() > 4
    hops = StreamingLogMel(MEL).whole(sound)
    rows = heard.take(0, 4).tokens.reshape(-1, 677)
    for row, frame in enumerate(range(47, 63)):
        np.testing.assert_allclose(rows[row, :VOICE], frame_tokens(hops, frame, MEL), atol=1e-4)
    whole = np.stack([frame_tokens(hops, frame, MEL) for frame in range(47 - HISTORY, 63)])
    with torch.no_grad():
        visemes = load_viseme_estimator()(torch.from_numpy(whole)[None])[0].numpy()
    told = VisemeLevel()(SpeakerAdaptation()(rows[:, :VOICE], visemes))
    np.testing.assert_allclose(rows[:, VOICE:GIVEN], told, atol=1e-4)
    without = deaf.take(0, 4)
    assert without.missing == () and not np.allclose(without.tokens.reshape(-1, 677)[0], rows[0])
    np.testing.assert_allclose(without.tokens.reshape(-1, 677)[8:, :VOICE], rows[8:, :VOICE], atol=1e-4)


def test_memory_and_results_stay_the_same_for_ever() -> None:
    buffer = DriveBuffer(EMBEDDED)
    sound = noise(480 * 16, seed=4)
    sizes = set()
    taken = 0
    for second in range(600):
        buffer.push_voice(sound, second * len(sound))
        buffer.push_pose({"yaw": 0.1}, second * 12.0)
        while buffer.ready_until() >= taken + 4:
            chunk = buffer.take(taken, 4)
            assert chunk.missing == ()
            taken += 3
        sizes.add((len(buffer._pcm), len(buffer._have)))
        assert len(buffer._poses) <= 3
    assert sizes == {(HORIZON_SECONDS * RATE,) * 2} and taken > 1700


def test_voice_far_ahead_is_refused_and_voice_before_the_call_dropped() -> None:
    buffer = DriveBuffer(EMBEDDED)
    with pytest.raises(EngineError) as overflow:
        buffer.push_voice(noise(1), HORIZON_SECONDS * RATE)
    assert overflow.value.code == "voice_overflow"
    buffer.push_voice(noise(100), -60)
    assert buffer.counts.late_samples == 60
    buffer.push_voice(noise(100), -(10**12))
    buffer.push_voice(noise(0), 5)
    assert buffer.counts.late_samples == 160


def test_poses_go_in_a_straight_line_and_grow_stale() -> None:
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_pose({"yaw": 0.0, "jaw": 0.4}, 0)
    buffer.push_pose({"yaw": 0.4}, 4)
    values, masks = controls(buffer.take(0, 6))  # frames -3 .. 20
    assert masks["yaw"][:3] == [0, 0, 0]
    np.testing.assert_allclose(values["yaw"][3:8], [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    assert masks["jaw"][3:8] == [1, 1, 1, 1, 0], "a record says all that is given"
    assert masks["yaw"][7:20] == [1] * 13 and masks["yaw"][20:] == [0] * 4, "500 ms are 12.5 frames"


def test_a_pose_step_between_records_far_apart_is_not_smeared() -> None:
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_pose({"yaw": -0.3}, 0)
    buffer.push_pose({"yaw": 0.3}, 15)
    values, masks = controls(buffer.take(0, 5))
    assert masks["yaw"][3:16] == [1] * 13 and masks["yaw"][16:18] == [0, 0]
    np.testing.assert_allclose(values["yaw"][3:16], -0.3, atol=1e-6)
    np.testing.assert_allclose(values["yaw"][18:], 0.3, atol=1e-6)


def test_poses_are_clamped_checked_and_bounded() -> None:
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_pose({"yaw": 9.0, "pitch": float("nan"), "blinkL": -1.0, "nose": 1.0}, 0)
    buffer.push_pose({"roll": 1.0}, float("nan"))
    values, masks = controls(buffer.take(0, 1))
    assert values["yaw"][3] == pytest.approx(CHANNELS[INDEX["yaw"]].high)
    assert values["blinkL"][3] == 0 and masks["blinkL"][3] == 1
    assert masks["pitch"][3] == 0 and masks["roll"][3] == 0
    for i in range(MAX_POSES + 10):
        buffer.push_pose({"yaw": 0.1}, 1 + i)
    assert len(buffer._poses) == MAX_POSES and buffer.counts.dropped_poses == 12


def test_a_late_pose_and_a_second_one_for_the_same_frame_count() -> None:
    buffer = DriveBuffer(EMBEDDED)
    buffer.push_voice(noise(RATE), 0)
    buffer.take(0, 4)
    buffer.push_pose({"yaw": 0.1}, 8.5)
    buffer.push_pose({"yaw": 0.2}, 8.5)
    values, _ = controls(buffer.take(3, 4))
    np.testing.assert_allclose(values["yaw"][:8], 0.2, atol=1e-6)


def test_poses_denser_than_pictures_are_thinned_and_none_is_lost_at_the_end() -> None:
    dense, plain = DriveBuffer(EMBEDDED), DriveBuffer(EMBEDDED)
    order = np.random.default_rng(0).permutation(20 * 25 * 40)  # 20 s of a thousand records a second
    for i in order.tolist():
        dense.push_pose({"yaw": 0.3 * np.sin(i / 4000)}, i / 40)
    for frame in range(20 * 25):
        plain.push_pose({"yaw": 0.3 * np.sin(frame * 40 / 4000)}, frame)
    assert dense.counts.dropped_poses == 0 and len(dense._poses) == 20 * 25 + 1
    taken, expected = dense.take(0, 125).tokens, plain.take(0, 125).tokens
    assert np.array_equal(taken, expected)  # frames -3 .. 496, each from the record at its own time
    assert taken[-1, -1, GIVEN + len(CHANNELS) + INDEX["yaw"]] == 1
