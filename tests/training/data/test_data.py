"""The training data: lips obey phonemes, heads behave like heads, clips hold what they say. Needs no espeak-ng."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
import torch

from ground.errors import MediaError, RequestError
from ground.motion import CHANNELS, INDEX, SCALES
from models.codecs.motion import reference_features
from models.encoders.mel import LogMelConfig, StreamingLogMel
from models.encoders.visemes import HISTORY, load_viseme_estimator
from tests.faces import LANDMARKS
from tests.tokens import frame_tokens
from training.data.faces.folder import held_out_landmarks, training_landmarks
from training.data.synthetic import corpus, festival, flite, make_data, texts
from training.data.synthetic.phonemes import SILENCE, Phoneme, Speech, Voice, phonemes_of
from training.data.synthetic.recordings import READERS, for_testing, read_recordings
from training.data.synthetic.sound import Augmentation, augment, resample
from training.data.synthetic.tracks import FPS, HeadStyle, blink_track, head_tracks, smooth_noise
from training.data.synthetic.visemes import LIP_CHANNELS, is_known, lip_tracks
from training.dataset import POSE, ClipConfig, ClipSampler, Corpus, load_portraits, smooth_colour, with_throat
from training.given import HEAD_POSE, GivenConfig, give

JAW, PUCKER, SMILE, PRESS = (LIP_CHANNELS.index(name) for name in ("jaw", "pucker", "smile", "press"))


def _say(*sounds: tuple[str, float]) -> tuple[Phoneme, ...]:
    out, at = [], 0.0
    for name, seconds in sounds:
        out.append(Phoneme(name, at, at + seconds))
        at += seconds
    return tuple(out)


def _lips(*sounds: tuple[str, float]) -> np.ndarray:
    return lip_tracks(_say(*sounds), sum(s for _, s in sounds), FPS)


@pytest.mark.parametrize("stop", ["p", "b", "m"])
@pytest.mark.parametrize("vowel", ["A:", "i:", "u:", "a"])
def test_lips_close_on_p_b_m_between_any_vowels(stop: str, vowel: str) -> None:
    lips = _lips((vowel, 0.2), (stop, 0.08), (vowel, 0.2))
    frame = int(0.24 * FPS)
    assert lips[frame, JAW] < 0.05 and lips[frame, PRESS] > 0.7
    assert lips[2, JAW] > 0.2 and lips[-3, JAW] > 0.2


def test_rounded_and_spread_vowels_differ_and_rounding_comes_early() -> None:
    lips = _lips(("i:", 0.24), ("t", 0.08), ("u:", 0.24))
    assert lips[2, SMILE] > 0.3 > lips[-3, SMILE]
    assert lips[-3, PUCKER] > 0.6 > lips[2, PUCKER]
    assert lips[int(0.30 * FPS), PUCKER] > lips[int(0.20 * FPS), PUCKER] + 0.1


def test_the_mouth_rests_closed_in_pauses_but_not_between_words() -> None:
    lips = _lips(("a", 0.2), ("_", 0.4), ("_", 0.4), ("a", 0.2), ("_", 0.03), ("a", 0.2))
    assert np.abs(lips[int(0.4 * FPS) : int(0.8 * FPS)]).max() < 1e-6
    assert lips[int(1.2 * FPS), JAW] > 0.4


def test_lips_have_as_many_frames_as_were_asked_for() -> None:
    for frames in range(1, 1000):
        assert len(lip_tracks(_say(("a", 40.0)), frames / FPS, FPS)) == frames


def test_glides_move_and_unknown_variants_fall_back() -> None:
    lips = _lips(("_", 0.2), ("aU", 0.32), ("_", 0.2))
    assert lips[7, PUCKER] < lips[11, PUCKER]
    assert is_known("oU") and is_known("p") and not is_known("no such sound")
    np.testing.assert_array_equal(_lips(("O2", 0.2)), _lips(("O", 0.2)))


def test_events_become_phonemes_without_gaps() -> None:
    phonemes = phonemes_of([(0.1, "'a"), (0.2, "_:"), (0.2, "t"), (0.4, "_")], 0.5)
    assert [p.name for p in phonemes] == [SILENCE, "a", "t", SILENCE]
    assert all(a.end == b.start for a, b in zip(phonemes, phonemes[1:], strict=False))
    assert phonemes[-1].end == 0.5


def test_smooth_noise_has_unit_variance_at_any_pace() -> None:
    rng = np.random.default_rng(0)
    for seconds in (0.3, 1.0, 2.0):
        assert smooth_noise(60_000, seconds, rng).std() == pytest.approx(1.0, abs=0.12)


def test_heads_stay_alive_and_in_range_and_differ() -> None:
    frames = 1500
    speaking = (np.arange(frames) // 100) % 2 == 0
    decibels = np.where(speaking, -6.0 + 5 * np.sin(np.arange(frames)), -55.0)
    rng = np.random.default_rng(0)
    heads = np.stack([head_tracks(decibels, speaking, rng, HeadStyle()) for _ in range(6)])
    for channel, values in zip(CHANNELS, np.moveaxis(heads, 2, 0), strict=True):
        assert values.min() >= channel.low and values.max() <= channel.high
    yaw = heads[..., INDEX["yaw"]]
    assert 0.05 < yaw.std() < 0.13 and yaw[:, ~speaking].std() > 0.03
    assert np.abs(np.corrcoef(yaw)[0, 1:]).max() < 0.8
    assert heads[..., : INDEX["blinkL"]].max() == 0.0


def test_a_listener_nods_in_long_rests_only() -> None:
    frames = 60 * int(FPS)
    quiet, style = np.zeros(frames, bool), HeadStyle(pitch=0.0, nod=0.0)

    def nodding(speaking: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        heads = [head_tracks(np.full(frames, -60.0), speaking, rng, style) for _ in range(10)]
        return np.stack(heads)[..., INDEX["pitch"]]

    resting, talking = nodding(quiet), nodding(~quiet)
    assert (talking == 0).all() and resting.max() <= 0 and -0.12 < resting.min() < -0.03
    assert 0.02 < (resting < -0.01).mean() < 0.15
    short = nodding((np.arange(frames) % 25) < 8)
    assert (short == 0).all(), "between words nobody listens"


def test_blinks_come_at_a_human_rate_and_close_the_eye() -> None:
    rng = np.random.default_rng(0)
    track = blink_track(15_000, np.array([], np.intp), rng, 17.0)
    onsets = ((track[1:] > 0.4) & (track[:-1] <= 0.4)).sum()
    assert 12 < onsets / 10 < 22
    assert track.max() > 0.9


def test_changed_sound_keeps_its_timing() -> None:
    rng = np.random.default_rng(0)
    sound = np.zeros(16000, np.float32)
    sound[8000:8400] = rng.normal(0, 0.3, 400)
    for _ in range(8):
        changed = augment(sound, rng, Augmentation(snr_db=(25.0, 40.0)))
        assert changed.shape == sound.shape and np.abs(changed).max() <= 1.0
        energy = np.convolve(changed**2, np.ones(200), "same")
        assert 7900 < np.argmax(energy) < 8500


def test_resampling_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32)
    out = resample(tone, 22050, 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(out[500:-500], expected[500:-500], atol=0.05)  # the grid is rounded to whole samples


def test_flite_tells_its_phonemes_by_espeaks_names() -> None:
    phonemes = flite.phonemes_of("pau:0.200 p:0.260 iy:0.340 r:0.340 pau:0.500", 0.6)
    assert [(p.name, p.start, p.end) for p in phonemes] == [
        (SILENCE, 0.0, 0.2), ("p", 0.2, 0.26), ("i:", 0.26, 0.34), (SILENCE, 0.34, 0.5), (SILENCE, 0.5, 0.6)
    ]  # fmt: skip
    assert all(is_known(name) for name in flite._ESPEAK_NAMES.values())


def test_sounds_of_other_languages_have_a_nearest_english_one() -> None:
    wanted = {"p": "p", "b": "b", "m": "m", "y:": "uw", "n^": "n y", "ts": "t s", "tS": "ch", "aI": "ay", "**": "d"}
    assert {name: flite.nearest(name) for name in wanted} == wanted
    assert flite.nearest(SILENCE) == "pau" and flite.nearest("?") == ""


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_flite_speaks_text_and_sounds_alike() -> None:
    program = flite.Flite()
    said = program.speak("My puppy may bite.", "slt")
    names = [p.name for p in said.phonemes if p.name != SILENCE]
    assert names == ["m", "aI", "p", "V", "p", "i:", "m", "eI", "b", "aI", "t"]
    assert said.phonemes[-1].end == pytest.approx(len(said.sound) / 16000) and 0.05 < np.abs(said.sound).max() <= 1
    again = program.pronounce(said.phonemes, "awb")
    assert [p.name for p in again.phonemes if p.name != SILENCE] == names
    slow = program.speak("My puppy may bite.", "slt", 1.3)
    assert 1.15 < len(slow.sound) / len(said.sound) < 1.4
    with pytest.raises(RequestError, match="says nothing"):
        program.speak("", "slt")


def test_without_flite_one_line_says_what_to_do(
    voices: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "Synthesiser", Reader)
    monkeypatch.setattr("shutil.which", lambda _: None)
    code, told = _make_data(voices, monkeypatch, capsys, "--flite-sessions", "4")
    assert code == 2 and "apt-get install flite" in told and "--flite-sessions 0" in told and told.count("\n") == 1


def test_festival_tells_its_phonemes_by_espeaks_names() -> None:
    lines = ["# 0.2", "k: 0.31", "a 0.4", "7: 0.4", "m 0.5", "# 0.7"]
    phonemes = festival.phonemes_of(lines, "finnish", 0.6)
    assert [(p.name, p.start, p.end) for p in phonemes] == [
        (SILENCE, 0.0, 0.2), ("k", 0.2, 0.31), ("a", 0.31, 0.4), ("m", 0.4, 0.5), (SILENCE, 0.5, 0.6)
    ]  # fmt: skip
    assert festival.phonemes_of(["p 0.2"], "czech", 0.5)[-1] == Phoneme(SILENCE, 0.2, 0.5)
    with pytest.raises(RequestError, match="'qq'"):
        festival.phonemes_of(["qq 0.2"], "czech", 0.5)
    assert all(is_known(name) for phones in festival._PHONES.values() for name in phones.values())
    assert {reader.language for reader in (*festival.READERS, festival.HELD_OUT)} == set(festival._PHONES)


def test_what_festival_reads_is_plain_letters() -> None:
    assert festival.plain('¡Mañana, "él" come 3 (o) più!') == "Manana, el come o piu!"
    rng = np.random.default_rng(0)
    for said in [texts.made_up(rng) for _ in range(50)]:
        assert festival.plain(said) == said and re.fullmatch("[a-z]+(,? [a-z]+)*[.]", said), said


def _has_festival() -> bool:
    try:
        festival.Festival()
    except MediaError:
        return False
    return True


@pytest.mark.skipif(not _has_festival(), reason="needs Festival and its voices (256 MB)")
@pytest.mark.parametrize("reader", [*festival.READERS, festival.HELD_OUT], ids=lambda reader: reader.name)
def test_festival_reads_and_tells_when(reader: festival.Reader) -> None:
    """Between the words of a label and the sound lies no more than a few milliseconds: vowels are where it is loud."""
    program = festival.Festival()
    said, second = program.read(["la papa bota papete.", "Il mio tabo"], reader)
    letters = [p.name for p in said.phonemes if p.name != SILENCE]
    assert [name for name in letters if name in "pbt"] == list("ppbtppt") and len(second.sound) < len(said.sound)
    assert said.phonemes[-1].end == pytest.approx(len(said.sound) / 16000)
    power = np.convolve(said.sound.astype(np.float64) ** 2, np.ones(160) / 160, "same")
    middles = {
        kind: np.median([power[int(8000 * (p.start + p.end))] for p in said.phonemes if p.name in names])
        for kind, names in (("vowels", "aeiou@EO"), ("stops", "pt"))
    }
    assert middles["vowels"] > 20 * middles["stops"]
    slow = program.read(["la papa bota papete."], reader, 1.3)[0]
    assert len(slow.sound) > 1.1 * len(said.sound) or reader.language == "catalan"
    with pytest.raises(RequestError, match="says nothing"):
        program.read([], reader)


@pytest.mark.skipif(not _has_festival(), reason="needs Festival and its voices (256 MB)")
def test_a_sentence_that_a_voice_cannot_read_is_left_out() -> None:
    [finnish] = [reader for reader in festival.READERS if reader.name == "suo_fi_lj_diphone"]
    said = festival.Festival().read(["seis, siete.", "ocho, nueve, diez.", "papa"], finnish)
    assert "p" in {p.name for p in said[-1].phonemes} and len(said) == 2


def test_without_festival_one_line_says_what_to_do(
    voices: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "Synthesiser", Reader)
    monkeypatch.setattr("shutil.which", lambda _: None)
    code, told = _make_data(voices, monkeypatch, capsys, "--flite-sessions", "0", "--festival-sessions", "4")
    assert code == 2 and "apt-get install festival" in told and "--festival-sessions 0" in told
    assert told.count("\n") == 1


def test_held_out_sentences_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    for language in texts.POOLS:
        held = set(corpus.held_out_sentences(language))
        assert held and not held & {corpus.training_sentence(language, rng) for _ in range(100)}


def _corpus(folder: Path) -> Corpus:
    rng = np.random.default_rng(0)
    sessions = []
    for frames in (150, 220):
        sound = rng.normal(0, 0.1, frames * 640).astype(np.float32)
        hops = corpus.hops_of(StreamingLogMel(), sound, frames).astype(np.float16)
        lips = rng.uniform(0, 0.5, (frames, 5)).astype(np.float16)
        head = rng.normal(0, 0.05, (2, frames + corpus.HEAD_TAIL, 11)).astype(np.float16)
        sessions.append(corpus.SpokenSession(hops, lips, np.abs(head)))
    corpus.write(folder / "corpus.npz", iter(sessions))
    return Corpus(folder / "corpus.npz")


@pytest.fixture
def sampler(tmp_path: Path) -> ClipSampler:
    features, opening = np.zeros((3, 20), np.float32), np.full(3, 0.2, np.float32)
    config = ClipConfig(given=GivenConfig(some=0.0), voice_dropped=0.0, start_probability=0.0, gain_db=(0, 0),
                        noise_floor_probability=0.0, throat_probability=0.0, colour_db=0.0)  # fmt: skip
    return ClipSampler(_corpus(tmp_path), features, opening, config, 0, load_viseme_estimator())


def articulated(sampler: ClipSampler, level: float) -> ClipSampler:
    """Of the same clips, all of one articulation."""
    other = sampler.apart(sampler.seed)
    other.config = replace(sampler.config, articulation=(level, level))
    return other


def test_a_clip_is_a_stretch_of_the_corpus_relative_to_its_photograph(sampler: ClipSampler) -> None:
    batch = articulated(sampler, 1.0).batch(0, 8)
    assert batch.latents.shape == (8, 22, 16, 2, 2) and batch.drive.shape == (8, 22, 4, 677)
    assert ((batch.reference >= 22) & (batch.reference < 40)).all()
    jaw = batch.latents[:, :, INDEX["jaw"]].flatten(1) * SCALES[INDEX["jaw"]] + 0.2
    lips = torch.from_numpy(sampler.corpus.lips[:, 0].astype(np.float32))
    found = [(lips.unfold(0, 80, 1) - clip[8:]).abs().amax(1).min() for clip in jaw]
    assert max(found) < 1e-3
    assert (batch.drive[..., 645:] == 0).all()


def test_a_clip_hears_what_the_engine_hears(sampler: ClipSampler) -> None:
    """Tokens of the clip are those of models.encoders.mel for the same frames, with their visemes beside them."""
    batch = articulated(sampler, 1.0).batch(0, 4)
    hops = sampler.corpus.hops.astype(np.float32)
    spans = zip(sampler.corpus.hop_starts, sampler.corpus.frames, strict=True)
    known = [hops[at : at + 4 * frames + 8] for at, frames in spans]
    tokens = np.concatenate([[frame_tokens(h, n, LogMelConfig()) for n in range(len(h) // 4 - 2)] for h in known])
    for clip in batch.drive.flatten(1, 2):
        assert np.abs(tokens - clip[40, :640].numpy()).max(1).min() < 1e-5
        heard = sampler.estimator(clip[None, :, :640])[0]
        torch.testing.assert_close(clip[HISTORY:, 640:645], heard, atol=1e-5, rtol=1e-4)
    tokens, lips = sampler.heard(0, 4)
    assert tokens.shape == (4, HISTORY + 88, 640) and lips.shape == (4, 88, 5)
    assert sampler.estimator(tokens).shape == lips.shape


def test_a_clip_of_more_articulation_moves_its_lips_and_hears_them_further(sampler: ClipSampler) -> None:
    """Closed lips are closed in either; neither head nor voice knows of it, and clips differ in it."""
    plain, further = (articulated(sampler, level).batch(3, 8) for level in (1.0, 1.2))
    heard = further.drive[..., 640:645] / plain.drive[..., 640:645]
    torch.testing.assert_close(heard.flatten(0, 2).median(0).values, torch.tensor([1.2, 1.2, 1.2, 1.0, 1.2]))
    torch.testing.assert_close(further.drive[..., :640], plain.drive[..., :640])
    jaw, press = INDEX["jaw"], INDEX["press"]
    own = plain.latents[:, :, jaw].amin()  # of a mouth that is closed: what the photograph's own opening takes off
    moved = plain.latents[:, :, jaw] - own > 0.1
    assert (further.latents[:, :, jaw][moved] > plain.latents[:, :, jaw][moved]).all()
    assert torch.equal(further.latents[:, :, [press, INDEX["yaw"]]], plain.latents[:, :, [press, INDEX["yaw"]]])
    drawn = sampler.batch(3, 8).drive[..., 640] / plain.drive[..., 640]
    levels = drawn.flatten(1).median(1).values
    low, high = sampler.config.articulation
    assert low <= levels.min() < 0.95 and 1.05 < levels.max() <= high


def test_another_throat_moves_a_voice_up_or_down() -> None:
    config, hz = LogMelConfig(), np.array([500.0, 1000.0, 2000.0])
    mel = StreamingLogMel(config)
    t = np.arange(8000) / 16000

    def heard(factor: float) -> np.ndarray:
        return mel.whole(np.sin(2 * np.pi * hz[:, None] * factor * t).sum(0).astype(np.float32) * 0.1)[5:-5]

    plain = heard(1.0)
    np.testing.assert_allclose(with_throat(plain, config, 1.0), plain, atol=1e-6)
    for factor in (0.85, 1.18):
        moved, truth = with_throat(plain, config, factor).mean(0), heard(factor).mean(0)
        assert np.corrcoef(moved, truth)[0, 1] > 0.9 > np.corrcoef(plain.mean(0), truth)[0, 1]


def test_colour_is_smooth_and_of_its_spread() -> None:
    rng = np.random.default_rng(0)
    colours = np.stack([smooth_colour(40, 4.0, rng) for _ in range(400)])
    assert 2.5 < colours.std() < 4.5 and np.abs(colours.mean(0)).max() < 1.0
    assert np.abs(np.diff(colours, axis=1)).max() < 3.0


def test_seed_and_number_draw_the_clips(sampler: ClipSampler) -> None:
    other = ClipSampler(sampler.corpus, sampler.features, sampler.opening, sampler.config, 0, sampler.estimator)
    second = sampler.batch(1, 3).latents
    assert torch.equal(other.batch(1, 3).latents, second)
    assert not torch.equal(sampler.batch(0, 3).latents, second)
    assert not torch.equal(sampler.apart(1).batch(1, 3).latents, second)
    assert torch.equal(sampler.batch(1, 3, slice(1, 3)).latents, second[1:])


def test_what_is_no_corpus_is_told_in_one_line(tmp_path: Path, sampler: ClipSampler) -> None:
    file = tmp_path / "corpus.npz"
    whole = file.read_bytes()
    with np.load(file) as known:
        kept = dict(known)
    np.savez(tmp_path / "lacking.npz", **{name: kept[name] for name in ("frames", "hops")})
    np.save(tmp_path / "one.npy", kept["lips"])
    for name, data in (("torn.npz", whole[: len(whole) // 2]), ("words.npz", b"no corpus"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(data)
    for name in ("lacking.npz", "one.npy", "torn.npz", "words.npz", "empty.npz"):
        with pytest.raises(RequestError, match=f"{name} is no corpus: make one with"):
            Corpus(tmp_path / name)
    sampler.corpus.frames = np.array([60, 88])
    with pytest.raises(RequestError, match="no session of the corpus is longer than a clip, 88 frames"):
        ClipSampler(sampler.corpus, sampler.features, sampler.opening, sampler.config, 0, sampler.estimator)


def test_a_corpus_is_the_file_that_was_named_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hops, lips, heads = np.zeros((408, 40)), np.zeros((100, 5)), np.zeros((1, 276, 11))
    made = corpus.write(tmp_path / "named", iter([corpus.SpokenSession(hops, lips, heads)]))
    assert made["sessions"] == 1 and made["megabytes"] > 0
    assert Corpus(tmp_path / "named").frames.tolist() == [100]

    def torn(file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError

    monkeypatch.setattr(np, "savez", torn)
    for name in ("named", "other"):
        with pytest.raises(RequestError, match="cannot write"):
            corpus.write(tmp_path / name, iter([corpus.SpokenSession(hops, lips, heads)]))
    assert [path.name for path in tmp_path.iterdir()] == ["named"]
    assert Corpus(tmp_path / "named").frames.tolist() == [100]


def test_a_corpus_that_cannot_be_written_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made: list[None] = []
    for path in (tmp_path / "file" / "corpus.npz", tmp_path):
        with pytest.raises(RequestError, match=f"cannot write {path}"):
            corpus.write(path, (made.append(None) for _ in range(3)))  # type: ignore[misc]
    assert not made


class Reader:
    """Stands for espeak-ng: reads anything as noise, in any voice but one."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def choose(self, name: str) -> None:
        if name == "xx":
            raise RequestError("no_voice", "espeak-ng has no voice 'xx'")

    def speak(self, text: str, voice: Voice) -> Speech:
        self.asked.append(voice.name)
        return Speech(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), _say(("_", 0.1), ("a", 0.4)))


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A folder of three recordings, one for testing."""
    folder = tmp_path / "voices"
    folder.mkdir()
    said = {name: {"language": code, "text": "a"} for name, code in (("a.wav", "en"), ("b.wav", "de"))}
    for name in (*said, "reading_c.wav"):
        soundfile.write(folder / name, np.random.default_rng(1).normal(0, 0.1, 9600), 16000)
    (folder / "transcripts.json").write_text(json.dumps({**said, "reading_c.wav": {"language": "es", "text": "c"}}))
    return folder


def test_recordings_are_read_in_their_own_language(voices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "Synthesiser", Reader)
    config = corpus.CorpusConfig(sessions=0, flite_sessions=0, human_repeats=2, quiet_sessions=0, heads=1)
    maker = corpus.CorpusMaker(config, voices)
    assert len(list(maker.sessions())) == 2
    asked = maker.espeak.asked  # type: ignore[attr-defined]
    assert asked == [language + who for language in ("de", "en-us") for who in READERS]
    (kept,) = read_recordings(voices, for_testing)
    assert (kept.name, kept.voice, len(kept.sound)) == ("reading_c.wav", "es", 9600)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("transcripts.json", None, "transcripts.json is missing or not JSON"),
        ("transcripts.json", "{torn", "transcripts.json is missing or not JSON"),
        ("transcripts.json", "[]", "transcripts.json must be one object"),
        ("transcripts.json", '{"reading_c.wav": {}}', "names no recording that can be used here"),
        ("transcripts.json", '{"a.wav": "said"}', "a.wav needs a text and a language"),
        ("transcripts.json", '{"a.wav": {"language": "en", "text": "..."}}', "a.wav needs a text and a language"),
        ("transcripts.json", '{"a.wav": {"language": "xx", "text": "a"}}', "no voice 'xx'"),
        ("a.wav", None, "a.wav is missing or no sound"),
        ("a.wav", "no sound", "a.wav is missing or no sound"),
        ("a.wav", (8000, 9600), "a.wav must be 16 kHz mono"),
        ("a.wav", (16000, (9600, 2)), "a.wav must be 16 kHz mono"),
        ("a.wav", (16000, 100), "a.wav is shorter than 0.5 s"),
    ],
)
def test_voices_that_cannot_serve_are_one_line_before_anything_is_made(
    file: str, content: str | tuple[int, int] | None, words: str, voices: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (voices / file).unlink()
    if isinstance(content, str):
        (voices / file).write_text(content)
    elif content is not None:
        soundfile.write(voices / file, np.zeros(content[1]), content[0])
    monkeypatch.setattr(corpus, "Synthesiser", Reader)
    code, told = _make_data(voices, monkeypatch, capsys)
    assert code == 2 and words in told and told.count("\n") == 1


def test_a_missing_synthesiser_is_one_line(
    voices: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_: str) -> None:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", absent)
    code, told = _make_data(voices, monkeypatch, capsys)
    assert code == 2 and "apt-get install libespeak-ng1" in told and told.count("\n") == 1


def _make_data(
    voices: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *sessions: str
) -> tuple[object, str]:
    out = voices / "out" / "corpus.npz"
    words = ["--out", str(out), "--voices", str(voices), *(sessions or ("--flite-sessions", "0"))]
    monkeypatch.setattr("sys.argv", ["make_data", *words])
    with pytest.raises(SystemExit) as ended:
        make_data.main()
    assert not out.parent.exists()
    return ended.value.code, capsys.readouterr().err


def test_what_is_given_wins_and_eases_away() -> None:
    rng = np.random.default_rng(0)
    controls = rng.normal(0, 0.05, (40, 88, 16)).astype(np.float32)
    config = GivenConfig(some=1.0, every=0.0, group=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), part=0.5)
    changed, given, mask = give(controls, config, rng)
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(changed[mask > 0], given[mask > 0])
    assert (given[mask == 0] == 0).all()
    assert mask[..., list(HEAD_POSE)].mean() > 0.4
    untouched = [i for i in range(16) if i not in POSE and i > 4]
    np.testing.assert_array_equal(changed[..., untouched], controls[..., untouched])
    assert np.abs(changed[..., INDEX["yaw"]]).max() > 0.3
    yaw = INDEX["yaw"]
    away = np.abs(changed - controls)[..., yaw]
    ended = [(clip, int(np.flatnonzero(mask[clip, :, yaw])[-1])) for clip in np.flatnonzero(mask[..., yaw].any(1))]
    ended = [(clip, last) for clip, last in ended if last < 60]
    assert len(ended) >= 3
    for clip, last in ended:
        tail = away[clip, last:]
        assert 0.85 * tail[0] < tail[1] < tail[0], "no jump"
        assert (np.diff(tail) < 1e-6).all() and tail[25] < 0.1 * tail[0], "back to its own within a second"


def test_sometimes_everything_is_given() -> None:
    rng = np.random.default_rng(0)
    controls = rng.uniform(0, 0.1, (200, 88, 16)).astype(np.float32)
    changed, given, mask = give(controls, GivenConfig(some=0.5, every=0.4), rng)
    every = mask.all((1, 2))
    assert 0.1 < every.mean() < 0.3
    np.testing.assert_array_equal(given[every], np.roll(controls, 1, axis=0)[every])
    np.testing.assert_array_equal(changed[every], given[every])


def test_the_same_portraits_are_always_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "landmarks.json"
    file.write_text(json.dumps({f"{i:04}.jpg": LANDMARKS | {"number": i} for i in range(200)}))
    train, held = ({one["number"] for one in part(file)} for part in (training_landmarks, held_out_landmarks))
    assert (len(train), len(held)) == (160, 40) and not train & held
    assert {one["number"] for one in held_out_landmarks(tmp_path)} == held, "the folder and the file are the same"


def test_without_portraits_painted_faces_serve() -> None:
    features, opening = load_portraits(None)
    assert len(features) == len(opening) > 1000 and np.isfinite(features).all()
    assert 0.2 < (opening == 0).mean() < 0.6, "closed mouths and open ones"
    again, _ = load_portraits(None)
    np.testing.assert_array_equal(features, again)
    held = np.stack([reference_features(one) for one in held_out_landmarks(None)])
    assert not {row.tobytes() for row in features} & {row.tobytes() for row in held}


def test_a_folder_without_landmarks_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--portraits: no landmarks can be read"):
        load_portraits(tmp_path)


def test_too_few_portraits_are_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "landmarks.json"
    file.write_text(json.dumps({f"{i}.jpg": LANDMARKS for i in range(59)}))
    for part in (training_landmarks, held_out_landmarks):
        with pytest.raises(RequestError, match="59 portraits are too few: 40 are held out, so name 60 or more"):
            part(file)
