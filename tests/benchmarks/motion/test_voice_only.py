"""Lip figures with the voice alone, for perfect, late, small and flapping lips; and a short run."""

import ctypes.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.motion import voice_only
from benchmarks.motion.held_out import LIPS, Case, festival_cases, flite_cases, human_cases, synthetic_cases
from benchmarks.motion.lip_figures import lip_figures, vowels_apart
from benchmarks.motion.rolls import BenchModel, drive
from benchmarks.motion.voice_only import told_lips
from models.config import EMBEDDED
from models.dit.transformer import CausalWanDiT, randomise_
from models.encoders.visemes import VisemeEstimator, load_viseme_estimator
from training.data.synthetic import flite
from training.data.synthetic.phonemes import SAMPLE_RATE, Synthesiser, Voice
from training.data.synthetic.tracks import loudness

pytestmark = pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs libespeak-ng")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return synthetic_cases(Synthesiser())


def motion(lips: NDArray[np.float64]) -> NDArray[np.float64]:
    made = np.zeros((len(lips), 16))
    made[:, LIPS] = lips
    return made


def test_perfect_late_and_small_lips(cases: list[Case]) -> None:
    one = cases[0]
    perfect = lip_figures(motion(one.lips), one)
    assert all(perfect[f"{name} r"] == pytest.approx(1) for name in ("jaw", "pucker", "smile", "press"))
    assert perfect["jaw amplitude"] == pytest.approx(1) and perfect["jaw lag"] == 0
    assert perfect["jaw at p b m"] < 0.1 < perfect["press at p b m"] and perfect["jaw in pauses"] < 0.02

    assert perfect["vowels apart"] > 3

    late = lip_figures(motion(np.roll(one.lips, 2, axis=0)), one)
    assert late["jaw lag"] == 2 and late["jaw r"] < 0.8
    assert lip_figures(motion(np.roll(one.lips, -3, axis=0)), one)["jaw lag"] == -3
    assert lip_figures(motion(0.5 * one.lips), one)["jaw amplitude"] == pytest.approx(0.5)


def test_a_mouth_that_flaps_with_loudness_is_told_from_one_that_speaks(cases: list[Case]) -> None:
    one = cases[0]
    lips = 0.02 * np.random.default_rng(0).random((one.frames, LIPS.stop))
    lips[:, 0] = np.clip((loudness(one.speech.sound, one.frames) + 60) / 60, 0, 1) * 0.5
    found = lip_figures(motion(lips), one)
    assert found["jaw r"] < 0.75 and found["jaw at p b m"] > 0.2 and abs(found["press r"]) < 0.2
    assert abs(found["vowels apart"]) < 0.6
    silent = replace(one, speech=replace(one.speech, phonemes=()))
    assert np.isnan(vowels_apart(lips, silent))


def test_what_a_call_is_told_of_lips_stands_beside_what_the_estimator_says_alone(cases: list[Case]) -> None:
    """For a plain voice of the synthesiser, which the estimator knows well, level and speaker adaptation do no harm."""
    found = told_lips(cases[0], load_viseme_estimator(), 20.0)
    assert found["jaw r, alone"] > 0.9 and found["vowels apart, alone"] > 4
    assert found["press r, told"] == pytest.approx(found["press r, alone"])
    assert all(found[f"{name} r, told"] > found[f"{name} r, alone"] - 0.02 for name in ("jaw", "pucker", "smile"))
    assert found["vowels apart, told"] > found["vowels apart, alone"]


def test_voices_and_sentences_are_the_held_out_ones_and_silence_follows_them(cases: list[Case]) -> None:
    assert [one.name.split()[0] for one in cases] == ["gmw/en", "en-us", "gmw/en", "de", "es"]
    latents = cases[0].frames // 4 + 30
    tokens = drive(cases[0], None, latents)
    assert tokens.shape == (latents, EMBEDDED.dit.drive_tokens, EMBEDDED.dit.drive_dim)
    assert (tokens[..., -32:] == 0).all()  # nothing but the voice is given
    voice = tokens[..., :640]
    assert (voice[-20:] == voice[-1, -1, -1]).all() and voice[:-30].std() > 1  # the mel's floor


def test_weights_are_heard_with_the_estimator_beside_them(tmp_path: Path, cases: list[Case]) -> None:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    weights = tmp_path / "dit.safetensors"
    save_file(dit.state_dict(), weights)
    shipped = BenchModel(weights)
    save_file(VisemeEstimator().state_dict(), tmp_path / "visemes.safetensors")
    own = BenchModel(weights)
    assert own.digest != shipped.digest
    with_own, with_shipped = (drive(cases[0], None, 20, each.estimator) for each in (own, shipped))
    assert not torch.allclose(with_own[..., 640:645], with_shipped[..., 640:645])
    assert torch.equal(with_own[..., :640], with_shipped[..., :640])
    assert torch.equal(with_shipped, drive(cases[0], None, 20))


SAID = "The nearest frame matters most."


def write_voices(folder: Path, name: str, rate: int = SAMPLE_RATE, **entry: str) -> None:
    """Two recordings with their texts, one of them for training."""
    speech = Synthesiser().speak(SAID, Voice("en-us", 150))
    for file in ("lj_01.flac", name):
        soundfile.write(folder / file, speech.sound, rate)
    texts = {"lj_01.flac": {"text": SAID, "language": "en"}, name: entry}
    (folder / "transcripts.json").write_text(json.dumps(texts))


def test_the_readers_are_those_that_the_transcripts_name(tmp_path: Path) -> None:
    write_voices(tmp_path, "reading_anna.flac", text=SAID, language="en")
    [one] = human_cases(Synthesiser(), tmp_path)
    assert one.name == "reading_anna" and one.frames > 40
    assert {p.name for p in one.speech.phonemes} >= {"m", "s", "t"}


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_a_voice_made_of_recordings_is_kept_from_training() -> None:
    [one] = flite_cases()
    assert one.name == "flite rms" and one.frames > 400 and flite.HELD_OUT not in flite.VOICES
    assert {p.name for p in one.speech.phonemes} >= {"p", "b", "m", "i:", "u:"}


def test_without_flite_its_voice_is_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert flite_cases() == [] and "flite's voice left out" in capsys.readouterr().err


def test_a_short_run_reports_every_voice_and_the_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dit = CausalWanDiT(EMBEDDED.dit)
    randomise_(dit)
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    words = ["--weights", str(tmp_path / "dit.safetensors"), "--seconds", "8", "--seeds", "3", "--json"]
    voice_only.main(words)
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert len(sections["lips against their phonemes"]) == 5 + len(flite_cases()) + len(festival_cases())
    [heads] = [rows for title, rows in sections.items() if title.startswith("heads (")]
    [listening] = [rows for title, rows in sections.items() if title.startswith("heads that listen")]
    assert listening["data"]["nods/min"]["value"] > 1 and listening["data"]["yaw sd"]["value"] > 0.02
    assert heads["data"]["jerk all"]["value"] == pytest.approx(1) and heads["model"]["yaw sd"]["value"] > 0
    with pytest.raises(SystemExit):
        voice_only.main(["--weights", str(tmp_path / "nothing")])
    assert "benchmarks.motion.voice_only: no weights" in capsys.readouterr().err
