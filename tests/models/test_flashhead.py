"""FlashHead's arithmetic, each law against a reference written here from its description; and its chunks end to end."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from engine.drive.speech import SpeechDrive
from engine.portrait.portrait import Portrait
from engine.rollout.base import Pass
from engine.rollout.flow import shifted
from engine.rollout.overlap_chunks import OverlapChunks
from engine.rollout.strategies import default_spec, make_rollout, own_rollout
from engine.wire.frame_ring import FrameRing
from engine.wire.messages import OpenStream, RolloutRequest
from engine.worker.runner import ModelRunner
from engine.worker.stream import Stream
from engine.worker.warm_up import warm_up
from ground.config import EngineConfig, RolloutSpec
from ground.errors import EngineError, RequestError
from models.checkpoints.fit import shapes_of
from models.checkpoints.names import FLASHHEAD_UNUSED
from models.codecs.clip import ClipCodec, WanClips
from models.codecs.colours import Colours, match_colours, to_lab, to_rgb
from models.config import CONFIGS, EMBEDDED, FLASHHEAD_LITE, FLASHHEAD_PRO, AudioConfig, ModelConfig
from models.dit.attention import BlockMask
from models.dit.audio_projection import AudioProjection, group
from models.dit.transformer import CausalWanDiT, randomise_
from models.published_config import check_published
from models.registry import load_model
from tests.faces import LANDMARKS, drawn_face
from tests.models.flashhead_keys import flashhead_keys
from tests.tiny_models import FLASHHEAD_LITE_TINY_TEST, FLASHHEAD_PRO_TINY_TEST

MODELS = [FLASHHEAD_PRO, FLASHHEAD_LITE]
TINY = [FLASHHEAD_PRO_TINY_TEST, FLASHHEAD_LITE_TINY_TEST]
PRO_TINY = FLASHHEAD_PRO_TINY_TEST


def names(config: ModelConfig) -> str:
    return config.name


# The network


@pytest.mark.parametrize(("config", "stride"), [(FLASHHEAD_PRO, 4), (FLASHHEAD_LITE, 8)], ids=["pro", "lite"])
def test_our_parameters_are_those_of_the_files_but_for_what_is_unused(config: ModelConfig, stride: int) -> None:
    published = flashhead_keys(config.dit.latent_channels, stride)
    used = {name: shape for name, shape in published.items() if not name.startswith(FLASHHEAD_UNUSED)}
    assert shapes_of(CausalWanDiT.on_meta(config.dit)) == used
    assert len(published) - len(used) == 12


@pytest.mark.parametrize("stride", [4, 8])
def test_a_latent_hears_the_entries_that_its_frames_give(stride: int) -> None:
    audio, latents = AudioConfig(layers=2, width=3, stride=stride), 4
    frames = 1 + 3 * stride
    features = torch.randn(2 + frames, 2, 3)

    def window(frame: int) -> list[Tensor]:
        """Its five positions; features[0] is frame -2, and the last frame is repeated."""
        return [features[min(frame + position, len(features) - 1)].flatten() for position in range(5)]

    grouped = group(features, latents, audio)
    assert grouped.shape == (latents, stride + 4, 6)
    assert torch.equal(grouped[0, :5], torch.stack(window(0))) and not grouped[0, 5:].any()
    for latent in range(1, latents):
        own = range(1 + (latent - 1) * stride, 1 + latent * stride)
        entries = window(own[0])[:3] + [window(frame)[2] for frame in own[1:-1]] + window(own[-1])[2:]
        assert len(entries) == {4: 8, 8: 12}[stride]
        assert torch.equal(grouped[latent], torch.stack(entries))


def test_the_audio_projection_is_three_relu_layers_and_a_norm() -> None:
    audio = AudioConfig(layers=2, width=3, hidden=7, tokens=4)
    module = AudioProjection(audio, 10)
    randomise_(module)
    grouped = torch.randn(1, 3, audio.entries, 6)
    weights = module.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for latent, (first, entries) in enumerate([("proj1", 5), ("proj1_vf", 8), ("proj1_vf", 8)]):
        hidden = linear(first, grouped[0, latent, :entries].reshape(-1)).clamp(min=0)
        tokens = linear("proj3", linear("proj2", hidden).clamp(min=0)).reshape(4, 10)
        tokens = (tokens - tokens.mean(1, keepdim=True)) / (tokens.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        tokens = tokens * weights["norm.weight"] + weights["norm.bias"]
        torch.testing.assert_close(module(grouped)[0, latent], tokens, rtol=1e-4, atol=1e-5)


def reference_block(block: torch.nn.Module, x: Tensor, time: Tensor, audio: Tensor, heads: int) -> Tensor:
    """x [F, T, d] without rotation, time [6, d], audio [F, n, d]: attention over all, each frame to its own audio, the
    feed-forward, in this order."""
    weights = block.state_dict()
    shift, scale, gate, shift2, scale2, gate2 = weights["modulation"][0] + time

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def rms(name: str, y: Tensor) -> Tensor:
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def norm(y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], eps=1e-6)

    def attention(name: str, y: Tensor, seen: Tensor) -> Tensor:
        q = rms(f"{name}.norm_q", linear(f"{name}.q", y)).unflatten(-1, (heads, -1)).transpose(0, 1)
        k = rms(f"{name}.norm_k", linear(f"{name}.k", seen)).unflatten(-1, (heads, -1)).transpose(0, 1)
        v = linear(f"{name}.v", seen).unflatten(-1, (heads, -1)).transpose(0, 1)
        mixed = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return linear(f"{name}.o", mixed.transpose(0, 1).flatten(1))

    flat = (norm(x) * (1 + scale) + shift).flatten(0, 1)
    x = x + gate * attention("self_attn", flat, flat).view_as(x)
    heard = norm(x) * weights["norm3.weight"] + weights["norm3.bias"]
    x = x + torch.stack([attention("cross_attn", own, tokens) for own, tokens in zip(heard, audio, strict=True)])
    y = F.gelu(linear("ffn.0", norm(x) * (1 + scale2) + shift2), approximate="tanh")
    return x + gate2 * linear("ffn.2", y)


def test_a_block_attends_to_all_latents_then_each_to_its_own_audio_then_feeds_forward() -> None:
    config = PRO_TINY.dit
    dit = CausalWanDiT(config)
    randomise_(dit)
    x, audio, time = torch.randn(3, 5, 48), torch.randn(3, 4, 48), torch.randn(6, 48)
    still = torch.ones(1, 15, 1, config.head_dim // 2), torch.zeros(1, 15, 1, config.head_dim // 2)
    with torch.no_grad():
        made = dit.blocks[0](
            x[None], time.expand(1, 3, 6, 48), (still, still), None, audio[None], BlockMask(), 0
        )  # fmt: skip
        torch.testing.assert_close(made[0], reference_block(dit.blocks[0], x, time, audio, 2), rtol=1e-4, atol=1e-4)
        last = dit.blocks[0](
            x[None], time.expand(1, 3, 6, 48), (still, still), None, audio[None], BlockMask(), 0, 2
        )  # fmt: skip
    torch.testing.assert_close(last[0], made[0, 2:], rtol=1e-4, atol=1e-4)


# The rollout


def roll(rollout: OverlapChunks, state: object, oracle: object) -> tuple[list[Pass], Tensor]:
    passes, denoise = [], rollout.denoise(state, torch.zeros(rollout.drive_latents, 1, 1))  # type: ignore[arg-type]
    try:
        work = next(denoise)
        while True:
            passes.append(work)
            work = denoise.send(oracle(work))  # type: ignore[operator]
    except StopIteration as done:
        return passes, done.value


def test_motion_latents_are_given_before_every_step_and_at_the_end() -> None:
    rollout = own_rollout(FLASHHEAD_PRO)
    assert isinstance(rollout, OverlapChunks) and rollout.drive_latents == 9
    reference, clip = torch.full((2, 2, 2), 7.0), torch.randn(9, 2, 2, 2)
    state = rollout.new_state(reference, clip, seed=3)
    draws = torch.Generator().manual_seed(3)
    passes, made = roll(rollout, state, lambda work: 0.25 * work.latents)
    assert [work.sigmas for work in passes] == [(s,) * 9 for s in (1.0, 0.9375, shifted(0.5, 5.0), 0.625)]
    # x0 = x - sigma v; fresh noise at each level; the first chunk is given one latent, the portrait's.
    noisy = torch.randn(9, 2, 2, 2, generator=draws)
    for i, work in enumerate(passes):
        sigma = work.sigmas[0]
        if i:
            noisy = (1 - sigma) * clean + sigma * torch.randn(9, 2, 2, 2, generator=draws)  # noqa: F821
        noisy[0] = reference
        torch.testing.assert_close(work.latents, noisy)
        assert work.condition is clip and work.positions == tuple(range(9)) and not work.reads and not work.commits
        clean = noisy - sigma * 0.25 * noisy
    clean[0] = reference
    torch.testing.assert_close(made, clean)
    state.knot = torch.full((2, 2, 2, 2), -5.0)
    passes, made = roll(rollout, state, lambda work: torch.zeros_like(work.latents))
    assert all((work.latents[:2] == -5).all() and not (work.latents[2] == 7).any() for work in passes)
    assert (made[:2] == -5).all() and state.next_latent == 14


@pytest.mark.parametrize(("config", "new"), [(FLASHHEAD_PRO, 28), (FLASHHEAD_LITE, 24)], ids=["pro", "lite"])
def test_new_frames_of_a_chunk(config: ModelConfig, new: int) -> None:
    rollout = own_rollout(config)
    assert config.frames_of(rollout.drive_latents) == 33
    assert [rollout.emitted_frames(i, config.frames_per_latent) for i in range(3)] == [new] * 3
    assert (rollout.ahead, rollout.cached_frames, config.at_size(512, 512)) == (0, 0, config)


def test_a_model_is_rolled_out_as_it_was_made() -> None:
    for config, strategy in ((EMBEDDED, "overlap_chunks"), (FLASHHEAD_PRO, "self_forcing")):
        with pytest.raises(RequestError, match=f"roll it out with {config.rollout}"):
            default_spec(config, strategy=strategy)
    with pytest.raises(RequestError, match="0 < knot <= chunk"):
        make_rollout(RolloutSpec(strategy="overlap_chunks", knot=0), FLASHHEAD_PRO)


# The voice


def test_the_voice_comes_once_to_the_sample_after_eight_seconds_of_the_past() -> None:
    drive = SpeechDrive(FLASHHEAD_PRO)
    voice = np.arange(1, 640 * 28 * 3 + 1, dtype=np.int64).astype(np.int16)
    drive.push_voice(voice[: 640 * 28 - 1], 0)
    assert drive.ready_until() == 8  # two shared, six whole latents
    drive.push_voice(voice[640 * 28 - 1 :], 640 * 28 - 1)
    assert drive.ready_until() == 2 + 21
    chunks = [drive.take(7 * i, 9) for i in range(3)]
    assert len(chunks[0].samples) == 8 * 16000 + 640 * 28 and not chunks[0].samples[: 8 * 16000].any()
    heard = np.concatenate([chunk.samples for chunk in chunks])[8 * 16000 :]
    np.testing.assert_array_equal(heard, voice / np.float32(32768))
    missing = drive.take(21, 9).missing
    assert missing == ((640 * 84, 640 * 112),) and drive.counts.missing_samples == 640 * 28
    drive.push_voice(np.ones(640 * 28, np.int16), 640 * 84)
    assert drive.counts.late_samples == 640 * 28 and drive.ready_until() == 2 + 28


def test_a_replaced_worker_hears_the_past_that_is_pushed() -> None:
    drive = SpeechDrive(FLASHHEAD_PRO, first_frame=50)
    drive.push_voice(np.full(640 * 100, 9, np.int16), 0)
    chunk = drive.take(0, 9)
    assert len(chunk.samples) == 8 * 16000 + 640 * 28 and (chunk.samples != 0).sum() == 640 * 78
    drive.push_pose({"yaw": 0.1}, 3.0)
    assert drive.counts.dropped_poses == 1 and not chunk.missing


# The pictures


def test_colours_are_lab_as_opencv_knows_it_and_matching_gives_the_portraits() -> None:
    rgb = np.random.default_rng(0).random((16, 24, 3), np.float32)
    pictures = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    lab = to_lab(pictures)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(lab, cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), atol=0.6)
    torch.testing.assert_close(to_rgb(to_lab(pictures)), pictures, atol=1e-4, rtol=0)
    other = 0.35 + 0.2 * torch.rand(3, 20, 20)
    matched = match_colours(0.4 + 0.2 * pictures, Colours.of(other))
    found = Colours.of(matched[0])
    torch.testing.assert_close(found.mean, Colours.of(other).mean, atol=0.5, rtol=0)
    torch.testing.assert_close(found.deviation, Colours.of(other).deviation, atol=0.5, rtol=0)


def runner_of(config: ModelConfig) -> ModelRunner:
    return ModelRunner.start(EngineConfig(config.name, "cpu", "float32", slots=1, threads=1, random_weights=True))


def opened(config: ModelConfig, ring: FrameRing) -> OpenStream:
    face = drawn_face(128)
    return OpenStream(
        stream="s", epoch=0, portrait=face.tobytes(), width=128, height=128, landmarks=LANDMARKS, confidence=1.0,
        seed=1, rollout=RolloutRequest(), first_frame=0, live=False,
    )  # fmt: skip


@pytest.mark.parametrize("config", TINY, ids=names)
def test_a_call_shows_new_pictures_only_and_begins_each_chunk_with_the_last(config: ModelConfig) -> None:
    runner, new, shared = runner_of(config), 33 - config.frames_of(2), config.frames_of(2)
    seen: list[tuple[Tensor, Tensor]] = []
    assert runner.cache.keys.numel() == 0, "clips remember nothing in the cache"
    codec = runner.codec
    assert isinstance(codec, ClipCodec)
    vae_encode, vae_decode = codec.vae.encode, codec.vae.decode
    codec.vae.encode = lambda pictures: (seen.append((pictures, vae_encode(pictures))), seen[-1][1])[1]  # type: ignore
    codec.vae.decode = lambda latents: (seen.append((latents, vae_decode(latents))), seen[-1][1])[1]  # type: ignore
    with FrameRing.create(3 * new, 128, 128) as ring:
        stream = Stream(opened(config, ring), 0, ring, runner)
        stream.encode()
        stream.push_voice(np.random.default_rng(0).integers(-9000, 9000, 16000 * 3).astype(np.int16).tobytes(), 0)
        chunks = []
        for _ in range(2):
            assert stream.drive_complete(0.0)
            stream.begin(0.0)
            while not stream.finished:
                stream.run_pending()
            chunks.append(stream.emit().chunk)
        assert [(chunk.first_frame, chunk.frames) for chunk in chunks] == [(0, new), (new, new)]
        last = ring.read(new - 1)
    portrait, (one, decoded), (tail, motion), (two, _), _ = seen
    torch.testing.assert_close(tail, match_colours(decoded, Colours.of(portrait[0][0]))[-shared:])
    rgb = (255 * tail[-1]).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(last, cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2YUV_I420)), "shown and encoded"
    assert len(portrait[0]) == 33 and (portrait[0] == portrait[0][:1]).all(), "the portrait as a clip that stands still"
    latents = 2 + config.chunk
    assert len(portrait[1]) == len(one) == len(two) == latents and len(tail) == shared
    torch.testing.assert_close(one[0], portrait[1][0])
    torch.testing.assert_close(two[:2], motion)
    assert not torch.allclose(one[1], portrait[1][1])


@pytest.mark.parametrize("config", TINY, ids=names)
def test_the_worker_says_what_it_makes(config: ModelConfig) -> None:
    info = warm_up(runner_of(config), EngineConfig(config.name, slots=1))
    new = 33 - config.frames_of(2)
    assert (info.chunk_frames, info.first_chunk_frames, info.drive_ahead_frames, info.lookahead_ms) == (new, new, 0, 0)


def test_the_voice_changes_the_picture() -> None:
    runner = runner_of(PRO_TINY)
    loud = np.random.default_rng(1).normal(0, 0.1, 16000 * 9).astype(np.float32)
    one, _ = runner.listen(loud, None, 9)
    other, _ = runner.listen(np.zeros_like(loud), None, 9)
    assert one.shape == (9, 8, 32) and not torch.allclose(one, other)
    dit = runner.model.dit
    latents, condition = torch.randn(1, 9, 16, 16, 16), torch.randn(1, 9, 16, 16, 16)
    made = [
        dit(latents, torch.full((1, 9), 0.9), condition, drive[None], None, BlockMask(), torch.arange(9)[None])
        for drive in (one, other)
    ]
    assert not torch.allclose(*made)


def test_what_was_not_checked_is_said_and_the_sizes_are_theirs() -> None:
    assert all(len(CONFIGS[config.name].unverified) >= 3 for config in MODELS)
    assert (FLASHHEAD_PRO.dit.in_dim, FLASHHEAD_LITE.dit.in_dim) == (32, 256)
    with pytest.raises(RequestError, match="multiples of 64"):
        FLASHHEAD_LITE.at_size(544, 512)
    assert replace(FLASHHEAD_LITE.at_size(256, 320)).latent_size == (10, 8)


# Files


def saved(config: ModelConfig, folder: Path) -> None:
    """The model with random weights, in the files of a fetched one."""
    runner = runner_of(config)
    assert isinstance(runner.codec, ClipCodec) and runner.model.speech is not None
    (folder / "wav2vec2").mkdir(parents=True)
    runner.model.speech._model.save_pretrained(folder / "wav2vec2")
    unused = {"audio_emb.proj.1.weight": torch.zeros(2, 2), "text_embedding.0.bias": torch.zeros(2)}
    save_file({**_whole(runner.model.dit), **unused}, folder / "dit.safetensors")
    if isinstance(runner.codec.vae, WanClips):
        parts = _whole(runner.codec.vae.encoder) | _whole(runner.codec.vae.decoder)
        save_file(parts, folder / "vae.safetensors")
    else:
        save_file(_whole(runner.codec.vae._vae), folder / "ltx-vae.safetensors")  # type: ignore[attr-defined]


def _whole(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone().contiguous() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("config", TINY, ids=names)
def test_files_in_a_models_folder_give_the_same_model(config: ModelConfig, tmp_path: Path) -> None:
    saved(config, tmp_path / config.name)
    loaded = load_model(config.name, device="cpu", dtype="float32", models_dir=str(tmp_path))
    drawn = load_model(config.name, device="cpu", dtype="float32", random_weights=True)
    portrait = Portrait(drawn_face(128), LANDMARKS)
    assert loaded.codec is not None and drawn.codec is not None and loaded.speech and drawn.speech
    with torch.inference_mode():
        one, other = (model.codec.encode_reference(portrait) for model in (loaded, drawn))  # type: ignore[union-attr]
        assert torch.equal(one.features, other.features)
        made = [m.codec.decode(one.features, one, m.codec.initial_state())[0] for m in (loaded, drawn)]  # type: ignore
        assert torch.equal(*made)
    assert all(torch.equal(a, b) for a, b in zip(loaded.dit.parameters(), drawn.dit.parameters(), strict=True))
    sound = torch.randn(16000)
    heard = [m.speech.encode(sound, m.speech.initial_state(), 5, 25)[0] for m in (loaded, drawn)]  # type: ignore
    torch.testing.assert_close(*heard)


@pytest.mark.parametrize("config", MODELS, ids=names)
def test_without_files_the_error_says_what_fetches_them(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"knotcast models fetch {config.name}"):
        load_model(config.name, device="cpu", models_dir=str(tmp_path))


def test_a_published_config_that_says_otherwise_is_refused_by_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    check_published(FLASHHEAD_LITE, tmp_path)
    path.write_text(json.dumps({"dim": 1536, "patch_size": [1, 2, 2], "vae_stride": [8, 32, 32], "text_dim": 4096}))
    check_published(FLASHHEAD_LITE, tmp_path)
    path.write_text(json.dumps({"dim": 1536, "patch_size": [1, 1, 1], "in_dim": 32}))
    with pytest.raises(EngineError, match=r"in_dim 32, not 256, patch_size \[1, 1, 1\], not \[1, 2, 2\]"):
        check_published(FLASHHEAD_LITE, tmp_path)
    for broken in ("{", "[]"):
        path.write_text(broken)
        with pytest.raises(EngineError, match=r"config\.json"):
            check_published(FLASHHEAD_LITE, tmp_path)


def test_without_diffusers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(EngineError, match=r"knotcast\[ltx\]"):
        load_model("flashhead-lite-tiny-test", device="cpu", random_weights=True)
