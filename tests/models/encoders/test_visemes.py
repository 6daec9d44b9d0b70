"""The estimator: every frame hears itself and the frames before it; what it learns; files that are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ground.errors import EngineError
from models.config import EMBEDDED
from models.encoders.visemes import (
    HISTORY,
    VISEMES,
    WEIGHTS,
    VisemeEstimator,
    _convolved,
    load_viseme_estimator,
)
from training.data.synthetic import corpus
from training.dataset import ClipConfig, ClipSampler, Corpus
from training.viseme_estimator import learn, main

FRAMES = 40


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, HISTORY + FRAMES, 640, generator=torch.Generator().manual_seed(seed))


def test_any_stretch_equals_the_whole() -> None:
    estimator, voice = load_viseme_estimator(), tokens()
    whole = estimator(voice)
    assert whole.shape == (1, FRAMES, VISEMES)
    for first, count in ((0, 1), (0, 13), (9, 16), (39, 1)):
        part = estimator(voice[:, first : first + HISTORY + count])
        torch.testing.assert_close(part, whole[:, first : first + count], atol=1e-5, rtol=1e-5)


def test_a_frame_hears_its_history_and_nothing_that_comes_after() -> None:
    estimator, voice = VisemeEstimator().eval(), tokens()
    before = estimator(voice)
    changed = voice.clone()
    changed[:, 20] += 1.0
    moved = (estimator(changed) - before)[0].abs().amax(1)
    told = torch.arange(HISTORY, HISTORY + FRAMES)
    assert (moved[(told < 20) | (told > 20 + HISTORY)] == 0).all()
    assert moved[told == 20] > 1e-4 and moved[told == 20 + HISTORY] > 0


def test_what_is_shipped_fits_the_model() -> None:
    assert EMBEDDED.dit.visemes == VISEMES and WEIGHTS.stat().st_size < 16 * 2**20
    assert load_viseme_estimator() is load_viseme_estimator()


def test_a_file_that_is_no_estimator_is_named(tmp_path: Path) -> None:
    words, other = tmp_path / "words.safetensors", tmp_path / "other.safetensors"
    words.write_bytes(b"no tensors")
    save_file({"proj.weight": torch.zeros(3, 3)}, other)
    for path in (words, other, tmp_path / "nothing.safetensors"):
        with pytest.raises(EngineError, match=f"{path.name} is not a viseme estimator: make one with"):
            load_viseme_estimator(path)


def voiced_corpus(path: Path) -> Path:
    """Sessions whose jaw is the level of one band, which anyone can hear."""
    rng, sessions = np.random.default_rng(0), []
    for _ in range(3):
        hops = rng.normal(0, 0.3, (4 * 200 + 8, 40)).astype(np.float16)
        level = np.repeat(rng.uniform(0, 1, 51), 4)[:200]
        hops[: 4 * 200, 10:20] += np.repeat(2 * level, 4)[:, None].astype(np.float16)
        lips = np.zeros((200, 5), np.float16)
        lips[:, 0] = 0.5 * level
        heads = np.zeros((1, 200 + corpus.HEAD_TAIL, 11), np.float16)
        sessions.append(corpus.SpokenSession(hops, lips, heads))
    corpus.write(path, iter(sessions))
    return path


def test_it_learns_what_the_voice_tells(tmp_path: Path) -> None:
    faces = np.zeros((1, 20), np.float32), np.zeros(1, np.float32)
    plain = ClipConfig(gain_db=(0, 0), noise_floor_probability=0, throat_probability=0, colour_db=0, voice_dropped=0)
    clips = ClipSampler(Corpus(voiced_corpus(tmp_path / "corpus.npz")), *faces, plain, 0, VisemeEstimator())
    steps: list[int] = []
    estimator = learn(clips, 60, 4, 0, lambda step, _: steps.append(step))
    voice, lips = clips.apart(1).heard(0, 4)
    with torch.no_grad():
        jaw = estimator(voice)[..., 0]
    assert (
        steps == [*range(1, 61)]
        and float(torch.corrcoef(torch.stack([jaw.flatten(), lips[..., 0].flatten()]))[0, 1]) > 0.8
    )


def test_the_command_writes_an_estimator_and_the_same_seed_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = voiced_corpus(tmp_path / "corpus.npz")
    made = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.safetensors"
        main(["--data", str(data), "--out", str(out), "--steps", "2", "--batch", "2"])
        made.append(load_file(out))
        load_viseme_estimator(out)
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert "step 2: loss" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path / "none.npz"), "--out", str(out)])
    assert ended.value.code == 2 and "none.npz is no corpus" in capsys.readouterr().err


def test_taps_are_the_convolution() -> None:
    estimator, x = load_viseme_estimator(), torch.randn(2, 20, 192)
    for conv in estimator.convs:
        assert isinstance(conv, torch.nn.Conv1d)
        torch.testing.assert_close(_convolved(x, conv), conv(x.transpose(1, 2)).transpose(1, 2), atol=1e-5, rtol=1e-5)
