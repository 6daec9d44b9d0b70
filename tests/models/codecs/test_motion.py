"""The embedded codec: zero is the photograph, chunked equals whole, and nothing but latents moves the picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.portrait.framing import frame_portrait
from engine.portrait.portrait import Portrait
from ground.motion import CHANNELS, INDEX, JAW_SPAN, REFERENCE_FEATURES, SCALES
from models.codecs.deblocking import SMOOTHED
from models.codecs.motion import (
    FEATURE_STATISTICS,
    MotionCodec,
    pack_controls,
    reference_features,
    unpack_controls,
)

LANDMARKS = {
    "cx": 0.0, "cy": 0.05, "rx": 0.44, "ry": 0.62, "mx": 0.0, "my": 0.37, "mw": 0.2, "curve": -0.05, "mtilt": 0.0,
    "lt": 0.047, "ut": 0.025, "th": 0.05, "chin": 0.3, "exl": -0.21, "eyl": -0.1, "exr": 0.21, "eyr": -0.1,
    "ea": 0.09, "eb": 0.029, "bh": 0.095, "tl": 0.8, "lum": 0.57,
}  # fmt: skip

SAMPLE = Path(__file__).resolve().parents[3] / "client_web" / "samples" / "portrait_1.jpg"


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    rng = np.random.default_rng(0)
    return Portrait(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), LANDMARKS)


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return MotionCodec()


def some_latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, 2, 2, generator=torch.Generator().manual_seed(seed))


def lips_only(latents: torch.Tensor) -> torch.Tensor:
    """The same without what is smoothed over time."""
    latents = latents.clone()
    latents[:, [INDEX[name] for name in SMOOTHED]] = 0
    return latents


def test_zero_latent_gives_back_the_photograph_exactly(codec: MotionCodec, portrait: Portrait) -> None:
    reference = codec.encode_reference(portrait)
    assert reference.latent.shape == (16, 2, 2) and not reference.latent.any()
    frames, _ = codec.decode(reference.latent[None].repeat(2, 1, 1, 1), reference, codec.initial_state())
    assert frames.dtype == torch.uint8 and frames.shape == (5, 256, 256, 3)
    assert all(torch.equal(frame, torch.from_numpy(portrait.rgb)) for frame in frames)


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 3, 1), (2, 5), (7,)])
def test_chunked_equals_whole(codec: MotionCodec, portrait: Portrait, sizes: tuple[int, ...]) -> None:
    reference = codec.encode_reference(portrait)
    latents = some_latents(7)
    whole, _ = codec.decode(latents, reference, codec.initial_state())
    assert len(whole) == 4 * 7 - 3
    state, parts = codec.initial_state(), []
    for chunk in latents.split(list(sizes)):
        frames, state = codec.decode(chunk, reference, state)
        parts.append(frames)
    assert torch.equal(torch.cat(parts), whole)


def test_first_frame_is_the_last_of_the_first_latents_four(codec: MotionCodec, portrait: Portrait) -> None:
    reference = codec.encode_reference(portrait)
    latents = lips_only(some_latents(1))
    fresh, after = codec.decode(latents, reference, codec.initial_state())
    all_four, _ = codec.decode(latents, reference, after)
    assert torch.equal(fresh[0], all_four[3])


def test_frames_depend_on_latents_and_reference_alone(codec: MotionCodec, portrait: Portrait) -> None:
    reference = codec.encode_reference(portrait)
    latents = lips_only(some_latents(2))
    torch.manual_seed(1)
    first, state = codec.decode(latents, reference, codec.initial_state())
    codec.decode(some_latents(3, seed=5), reference, state)
    torch.manual_seed(2)
    second, _ = MotionCodec().decode(latents, codec.encode_reference(portrait), codec.initial_state())
    assert torch.equal(first, second)
    still, _ = codec.decode(torch.zeros_like(latents), reference, state)
    assert (still.diff(dim=0) == 0).all(), "no motion without motion in the latents"
    assert not torch.equal(first, still[3:])


def test_packing_order_and_inverse() -> None:
    controls = torch.arange(8 * 16, dtype=torch.float32).reshape(8, 16)
    latents = pack_controls(controls)
    assert latents.shape == (2, 16, 2, 2)
    assert latents[1, 5, 1, 0] == controls[4 + 2, 5]
    assert torch.equal(unpack_controls(latents), controls)


def test_controls_are_scaled_offset_and_clamped(codec: MotionCodec, portrait: Portrait) -> None:
    reference = codec.encode_reference(portrait)
    scaled = torch.zeros(1, 16)
    scaled[0, INDEX["jaw"]] = 1.0
    scaled[0, INDEX["yaw"]] = 100.0
    controls = codec.controls(scaled, reference.payload)
    own = LANDMARKS["th"] / (JAW_SPAN * LANDMARKS["mw"])
    assert controls[0, INDEX["jaw"]] == pytest.approx(own + SCALES[INDEX["jaw"]])
    assert controls[0, INDEX["yaw"]] == pytest.approx(CHANNELS[INDEX["yaw"]].high)


def test_doubtful_landmarks_quieten_the_mouth_and_nothing_else(codec: MotionCodec, portrait: Portrait) -> None:
    scaled = torch.ones(1, 16) * 0.5
    sure = codec.encode_reference(portrait).payload
    unsure = codec.encode_reference(Portrait(portrait.rgb, LANDMARKS, confidence=0.2)).payload
    full, quiet = codec.controls(scaled, sure)[0] - sure.own, codec.controls(scaled, unsure)[0] - sure.own
    for name, i in INDEX.items():
        if name in ("jaw", "pucker", "smile", "press", "upper"):
            assert 0 < quiet[i] < 0.5 * full[i]
        else:
            assert quiet[i] == full[i]


def test_reference_features_are_normalised_and_bounded(codec: MotionCodec, portrait: Portrait) -> None:
    mean_face = {name: mean for name, (mean, _) in FEATURE_STATISTICS.items()}
    features = reference_features(mean_face)
    assert features.shape == (len(REFERENCE_FEATURES),) == (20,)
    assert np.abs(features).max() < 0.1
    assert np.abs(reference_features(mean_face | {"lt": 5.0})).max() <= 4.0
    broadcast = codec.encode_reference(portrait).features
    assert broadcast.shape == (20, 2, 2)
    assert torch.equal(broadcast[:, 1, 0], torch.from_numpy(reference_features(LANDMARKS)))


@pytest.mark.parametrize("side", [384, 512])
def test_a_larger_picture_moves_alike(side: int) -> None:
    """The sample's face at 256 and larger, by the same latents: shrunk, the larger one is the smaller one."""
    picture = np.asarray(Image.open("client_web/samples/portrait_1.jpg").convert("RGB"))
    framed = frame_portrait(picture, size=512)
    photo, latents = framed, 0.7 * some_latents(3)
    shown = {}
    for size in (256, side):
        codec = MotionCodec(size=size)
        frames, _ = codec.decode(latents, codec.encode_reference(photo), codec.initial_state())
        assert frames.shape == (9, size, size, 3)
        shown[size] = np.stack([cv2.resize(f, (256, 256), interpolation=cv2.INTER_AREA) for f in frames.numpy()])
    still = cv2.resize(framed.rgb, (256, 256), interpolation=cv2.INTER_AREA)
    apart = np.abs(shown[side].astype(int) - shown[256]).mean()
    moved = np.abs(shown[256].astype(int) - still).mean()
    assert apart < 0.25 * moved, (apart, moved)


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (1.0, 0.86, 0.66)], ids=["grey", "sepia"])
def test_what_is_drawn_in_a_picture_of_one_hue_has_it(codec: MotionCodec, tone: tuple[float, float, float]) -> None:
    colour = np.asarray(Image.open(SAMPLE).convert("RGB"))
    light = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float64)
    framed = frame_portrait(np.round(light * tone).astype(np.uint8))
    assert framed.landmarks["grey"] == 1 and frame_portrait(colour).landmarks["grey"] == 0
    reference = codec.encode_reference(framed)
    opened = reference.payload.own.clone()
    opened[INDEX["jaw"]] = 1.0
    drawn = codec.render(opened[None], reference)[0].double()
    balance = drawn / drawn.mean(-1, keepdim=True).clamp(min=40)
    assert (balance - torch.tensor(tone) / np.mean(tone))[drawn.mean(-1) > 40].abs().max() < 0.1
