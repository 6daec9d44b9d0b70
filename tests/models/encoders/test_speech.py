"""wav2vec2 over a bounded window: transformers' own numbers, whatever the packets; a state that does not grow."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ground.errors import AvatarError
from models.encoders.pretrained import import_transformers
from models.encoders.speech import WINDOW, SpeechEncoder

transformers = import_transformers()

CLOSE = 1e-5  # measured: 3e-6 over values of unit size
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


class Resampled(nn.Module):
    """Theirs, with features resampled between convolutions and layers as MultiTalk and FlashHead do."""

    def __init__(self, convolutions: nn.Module, frames: int) -> None:
        super().__init__()
        self.convolutions, self.frames = convolutions, frames

    def forward(self, x: Tensor) -> Tensor:
        features = self.convolutions(x)
        at = torch.linspace(0, features.shape[-1] - 1, self.frames, dtype=torch.float64)
        low = at.floor().long().clamp(max=features.shape[-1] - 2)
        return torch.lerp(features[..., low], features[..., low + 1], (at - low).float())


def voice(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    swell = 0.3 + 0.2 * torch.sin(torch.arange(samples) / 4000)
    return swell * torch.randn(samples, generator=generator).clamp(-3, 3) / 3


def theirs(folder: Path, window: Tensor, frames: int | None) -> Tensor:
    """Hidden states 1.. [F, layers, width] by transformers' feature extractor and model."""
    extractor = transformers.Wav2Vec2FeatureExtractor()
    given = torch.from_numpy(extractor(window.numpy(), sampling_rate=16000).input_values[0])
    model = transformers.Wav2Vec2Model.from_pretrained(folder).eval()
    if frames is not None:
        model.feature_extractor = Resampled(model.feature_extractor, frames)
    with torch.no_grad():
        return torch.stack(model(given[None], output_hidden_states=True).hidden_states[1:], 2)[0]


def written(folder: Path, **changes: object) -> Path:
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(**{**SMALL, **changes})
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


def load(folder: Path) -> SpeechEncoder:
    return SpeechEncoder.load(folder, "cpu", torch.float32)


@pytest.mark.parametrize(("fps", "close"), [(25, CLOSE), (16, 5e-4)])  # 16: torch's fp32 positions between features
def test_a_window_is_transformers_window(tmp_path: Path, fps: int, close: float) -> None:
    encoder, sound = load(written(tmp_path)), voice(WINDOW + 9000)
    made, _ = encoder.encode(sound, encoder.initial_state(), 33, fps)
    wanted = theirs(tmp_path, sound[-WINDOW:], 8 * fps)
    assert made.shape == (33, 3, 32) and wanted.std() > 0.5
    assert (made - wanted[-33:]).abs().max() < close


def test_without_resampling_it_is_transformers_untouched(tmp_path: Path) -> None:
    """Convolutions that make exactly 50 frames a second leave nothing to resample."""
    encoder = load(written(tmp_path, conv_kernel=(5, 2, 2, 2, 2, 2, 2)))
    sound = voice(WINDOW)
    made, _ = encoder.encode(sound, encoder.initial_state(), 400, 50)
    assert (made - theirs(tmp_path, sound, None)).abs().max() < CLOSE


def test_a_call_begins_after_silence(tmp_path: Path) -> None:
    encoder, sound = load(written(tmp_path)), voice(16000)
    made, state = encoder.encode(sound, encoder.initial_state(), 25, 25)
    wanted = theirs(tmp_path, F.pad(sound, (WINDOW - len(sound), 0)), 200)
    assert (made - wanted[-25:]).abs().max() < CLOSE
    assert len(state.samples) == 16000 and state.first == 0


@pytest.mark.parametrize("sizes", [(1, 0, 639, 640), (5000,) * 30, (WINDOW + 1, 3)])
def test_packets_do_not_matter_and_the_state_is_bounded(sizes: Sequence[int]) -> None:
    encoder = SpeechEncoder.random("cpu", torch.float32, **SMALL)
    sound = voice(sum(sizes))
    state = encoder.initial_state()
    for packet in sound.split(list(sizes)):
        made, state = encoder.encode(packet, state, 12, 25)
        assert len(state.samples) <= WINDOW and state.samples.untyped_storage().nbytes() == state.samples.nbytes
    whole, _ = encoder.encode(sound, encoder.initial_state(), 12, 25)
    assert torch.equal(made, whole)
    assert state.first == max(0, len(sound) - WINDOW)
    assert torch.equal(state.samples, sound[state.first :])


def test_a_state_is_a_value() -> None:
    encoder = SpeechEncoder.random("cpu", torch.float32, **SMALL)
    _, state = encoder.encode(voice(4000), encoder.initial_state(), 1, 25)
    kept = state.samples.clone()
    one, _ = encoder.encode(voice(4000, 1), state, 5, 25)
    encoder.encode(voice(9000, 2), state, 5, 25)
    again, _ = encoder.encode(voice(4000, 1), state, 5, 25)
    assert torch.equal(state.samples, kept) and torch.equal(one, again)


def test_the_window_is_not_the_whole_recording() -> None:
    """What the bounded window costs on noise, for the record: the difference is there, and finite. What it costs on
    speech is a question to the trained weights."""
    encoder = SpeechEncoder.random("cpu", torch.float32, **SMALL)
    sound = voice(WINDOW)
    late, _ = encoder.encode(sound, encoder.initial_state(), 200, 25)
    early, _ = encoder.encode(sound[: WINDOW // 2], encoder.initial_state(), 100, 25)
    distance = (late[:100] - early).pow(2).mean().sqrt().item()
    assert math.isfinite(distance) and 0 < distance < 2


def test_the_base_model_has_the_published_shape() -> None:
    encoder = SpeechEncoder.random("cpu", torch.float32)
    assert (encoder.layers, encoder.width) == (12, 768)
    assert sum(p.numel() for p in encoder._model.parameters()) == 94_371_712


def test_names_of_the_published_file(tmp_path: Path) -> None:
    """base-960h's: all under ``wav2vec2.``, weight norm by its old names, letters on top."""
    encoder = load(written(tmp_path / "new"))
    made, _ = encoder.encode(voice(9000), encoder.initial_state(), 9, 25)
    state = {f"wav2vec2.{key}": value for key, value in load_file(tmp_path / "new" / "model.safetensors").items()}
    for ours, published in (("original0", "weight_g"), ("original1", "weight_v")):
        conv = "wav2vec2.encoder.pos_conv_embed.conv."
        state[conv + published] = state.pop(f"{conv}parametrizations.weight.{ours}")
    state |= {"lm_head.weight": torch.zeros(32, 32), "lm_head.bias": torch.zeros(32)}
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    save_file(state, old / "model.safetensors", metadata={"format": "pt"})
    again = load(old)
    assert torch.equal(made, again.encode(voice(9000), again.initial_state(), 9, 25)[0])


def change(folder: Path, **tensors: Tensor | None) -> None:
    path = folder / "model.safetensors"
    state = {**load_file(path), **tensors}
    save_file({key: value for key, value in state.items() if value is not None}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "tensors",
    [
        {"encoder.layer_norm.bias": None},
        {"encoder.layer_norm.bias": torch.zeros(5)},
        {"encoder.surprise": torch.zeros(1)},
    ],
    ids=["missing", "shape", "unexpected"],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, tensors: dict[str, Tensor | None]) -> None:
    change(written(tmp_path), **tensors)
    with pytest.raises(AvatarError, match=f"1 tensors differ, the first is {next(iter(tensors))}"):
        load(tmp_path)


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match=r"there is no .*config\.json"):
        load(tmp_path)
    path = written(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(AvatarError, match="cannot be read") as caught:
        load(tmp_path)
    assert "\n" not in caught.value.message
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(AvatarError, match="safetensors only"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(AvatarError, match="is not JSON"):
        load(tmp_path)
    for config, said in (({"model_type": "hubert"}, "hubert"), ([], "None")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(AvatarError, match=said):
            load(tmp_path)


def test_other_shapes_of_wav2vec2_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="use base-960h"):
        load(written(tmp_path, do_stable_layer_norm=True, feat_extract_norm="layer"))


def test_without_transformers_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(AvatarError, match=r"pip install 'knotcast\[encoders\]'"):
        load(written(tmp_path))
    with pytest.raises(AvatarError, match="encoders"):
        SpeechEncoder.random("cpu", torch.float32)


@pytest.mark.parametrize("said", [{"num_hidden_layers": "x"}, {"conv_dim": "wavy"}])
def test_a_configuration_of_nonsense_is_one_line(tmp_path: Path, said: dict[str, object]) -> None:
    path = written(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(AvatarError) as told:
        load(tmp_path)
    assert told.value.code == "encoder_broken" and "\n" not in told.value.message
