"""A call's level of its visemes: what is heard too faintly is brought up, by what the call has said so far."""

import ctypes.util

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.motion.held_out import AVERAGE_FACE, synthetic_cases
from benchmarks.motion.rolls import SHIPPED, drive, load, roll
from engine.drive.buffer import DriveBuffer
from engine.drive.viseme_level import LIMIT, OPEN, PASSED_ON, USUAL, VisemeLevel
from models.codecs.motion import reference_features
from models.config import EMBEDDED
from models.encoders.mel import LogMelConfig
from models.encoders.visemes import HISTORY, LEVELLED, VISEMES, VisemeEstimator
from training.data.synthetic.phonemes import Synthesiser
from training.dataset import ClipConfig

PRESS = 3


def lips(jaw: float, frames: int = 3000) -> np.ndarray:
    """Open every other frame, by so much of the usual; everything else a half."""
    rows = np.full((frames, VISEMES), 0.5, np.float32)
    rows[:, 0] = np.where(np.arange(frames) % 2, jaw * USUAL, 0.01)
    return rows


def test_faint_lips_are_brought_up_to_the_usual_as_far_as_may_be() -> None:
    for jaw in (0.88, 0.93):
        gain = (VisemeLevel()(lips(jaw)) / lips(jaw))[-1]
        wanted = [(1 / jaw) ** (1 / PASSED_ON) if i != PRESS else 1.0 for i in range(VISEMES)]
        np.testing.assert_allclose(gain, wanted, rtol=0.01)
    assert (VisemeLevel()(lips(0.4)) / lips(0.4))[-1, 0] == pytest.approx(LIMIT)


def test_louder_lips_and_silence_stay_as_they_are() -> None:
    for jaw in (1.2, 0.9 * OPEN / USUAL):
        np.testing.assert_array_equal(VisemeLevel()(lips(jaw)), lips(jaw))


def test_a_call_begins_with_the_usual_and_follows_what_it_hears() -> None:
    gain = (VisemeLevel()(lips(0.88)) / lips(0.88))[1::2, 0]
    assert gain[0] < 1.01 and (np.diff(gain) >= 0).all() and gain[50] > 1.08
    level = VisemeLevel()
    level(lips(0.88))
    assert level(lips(1.2))[-1, 0] == pytest.approx(1.2 * USUAL)


def test_however_the_frames_come() -> None:
    rows, level = lips(0.7, 200), VisemeLevel()
    np.testing.assert_array_equal(
        np.concatenate([level(part) for part in np.split(rows, [1, 4, 90])]), VisemeLevel()(rows)
    )


class Faint(VisemeEstimator):
    """Hears a jaw of 0.8 of the usual in everything, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def forward(self, tokens: Tensor) -> Tensor:
        frames = tokens.shape[1] - HISTORY
        self.frames += frames
        return torch.full((1, frames, VISEMES), 0.8 * USUAL)


def test_every_frame_of_a_call_is_heard_once_and_keeps_its_level() -> None:
    estimator = Faint()
    buffer = DriveBuffer(EMBEDDED, estimator=estimator)
    buffer.push_voice(np.zeros(16000 * 8, np.int16), 0)
    size = LogMelConfig().token_size
    made = [buffer.take(3 * chunk, 4).tokens.reshape(16, -1)[:, size : size + VISEMES] for chunk in range(12)]
    assert estimator.frames == 4 * (3 * 12 + 1)
    for one, following in zip(made, made[1:], strict=False):
        np.testing.assert_array_equal(one[12:], following[:4])
    rows = np.concatenate([part[:12] for part in made])
    np.testing.assert_array_equal(rows, VisemeLevel()(np.full((144, VISEMES), 0.8 * USUAL, np.float32)))
    assert rows[-1, 0] > 0.8 * USUAL and (rows[:, PRESS] == np.float32(0.8 * USUAL)).all()


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")
def test_the_shipped_transformer_passes_levels_on_also_those_that_no_clip_had() -> None:
    levels = (1.0, ClipConfig().articulation[1], LIMIT)
    assert levels[1] < LIMIT
    voice, told = drive(synthetic_cases(Synthesiser())[0], None, 48), []
    for level in levels:
        tokens = voice.clone()
        size = LogMelConfig().token_size
        tokens[..., size : size + VISEMES] *= torch.from_numpy(np.float32(level) ** LEVELLED)
        told.append(tokens)
    face = reference_features(AVERAGE_FACE)
    jaws = roll(load(SHIPPED), told, [face] * len(levels), [1] * len(levels), 15)[..., 0]
    plain, trained, furthest = np.sqrt(np.square(jaws[:, 24:]).mean(1))
    assert 1.05 * plain < trained < 1.3 * plain and 1.05 * trained < furthest < 1.3 * trained


@pytest.mark.parametrize("skipped", [1, 3, 40])
def test_what_comes_after_latents_that_nobody_took_is_heard_whole(skipped: int) -> None:
    sound = np.random.default_rng(0).integers(-8000, 8000, 16000 * 12).astype(np.int16)
    made = []
    for takes in ([(0, 4), (4 + skipped, 4)], [(0, 4 + skipped), (4 + skipped, 4)]):
        buffer = DriveBuffer(EMBEDDED)
        buffer.push_voice(sound, 0)
        made.append([buffer.take(*take).tokens for take in takes][-1].reshape(16, -1))
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)


def test_latents_that_nobody_took_say_nothing_of_the_level() -> None:
    buffer = DriveBuffer(EMBEDDED, estimator=Faint())
    buffer.push_voice(np.zeros(16000 * 4, np.int16), 0)
    size = LogMelConfig().token_size
    made = [buffer.take(*span).tokens.reshape(-1, 677)[:, size : size + VISEMES] for span in ((0, 4), (6, 4))]
    wanted = VisemeLevel()(np.full((32, VISEMES), 0.8 * USUAL, np.float32))
    np.testing.assert_array_equal(np.concatenate(made), wanted)
