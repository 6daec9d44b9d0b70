"""Loading models by name: what is refused, and that nothing is read before it fits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ground.config import EngineConfig
from ground.errors import AvatarError
from models.checkpoints.manifest import KNOWN
from models.checkpoints.parts import parts_of
from models.checkpoints.presence import check_model, needed
from models.codecs.motion import MotionCodec
from models.config import CONFIGS, WAN21_1_3B, find_config
from models.dit.transformer import CausalWanDiT, randomise_
from models.registry import choose_device, choose_dtype, load_model, load_weights
from tests.toy import TOY


def test_names() -> None:
    assert find_config("embedded").codec == "motion"
    with pytest.raises(AvatarError, match="choose one of embedded, embedded-384, embedded-512, wan"):
        find_config("nothing")
    assert all(config.name == name for name, config in CONFIGS.items())


def test_sizes_follow_the_strides() -> None:
    small = WAN21_1_3B.at_size(512, 512)
    assert small.latent_size == (64, 64) and small.tokens_per_latent == 1024
    assert WAN21_1_3B.tokens_per_latent == 1560
    for size in ((500, 512), (0, 512), (-16, 16)):
        with pytest.raises(AvatarError, match="multiples of 16"):
            WAN21_1_3B.at_size(*size)
    large = find_config("embedded").at_size(640, 640)
    assert large.pixel_size == (640, 640) and large.latent_size == (2, 2)
    for size in ((640, 480), (112, 112), (2048, 2048)):
        with pytest.raises(AvatarError, match="squares of 128 to 1024"):
            large.at_size(*size)


def test_the_sizes_of_the_embedded_model_share_its_weights() -> None:
    one, two = (load_model(name, device="cpu", dtype="float32") for name in ("embedded", "embedded-512"))
    assert two.config.pixel_size == (512, 512) and two.config.dit == one.config.dit
    assert isinstance(two.codec, MotionCodec) and two.codec.size == 512
    assert all(torch.equal(a, b) for a, b in zip(one.dit.parameters(), two.dit.parameters(), strict=True))


def test_random_weights_repeat() -> None:
    one = load_model("embedded", device="cpu", dtype="float32", random_weights=True)
    two = load_model("embedded", device="cpu", dtype="float32", random_weights=True)
    assert all(torch.equal(a, b) for a, b in zip(one.dit.parameters(), two.dit.parameters(), strict=True))
    assert all(bool(p.abs().max() > 0) for p in one.dit.parameters())


def saved(path: Path, **changes: torch.Tensor | None) -> Path:
    dit = CausalWanDiT(TOY.dit)
    randomise_(dit)
    state = {**dit.state_dict(), **changes}
    save_file({key: value.contiguous() for key, value in state.items() if value is not None}, path)
    return path


def test_weights_round_trip(tmp_path: Path) -> None:
    path = saved(tmp_path / "dit.safetensors")
    dit = CausalWanDiT.on_meta(TOY.dit)
    load_weights(dit, path, torch.device("cpu"), torch.float32)
    expected = CausalWanDiT(TOY.dit)
    randomise_(expected)
    assert all(torch.equal(a, b) for a, b in zip(dit.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [{"head.head.bias": None}, {"head.head.bias": torch.zeros(3)}, {"surprise": torch.zeros(1)}],
    ids=["missing", "shape", "unexpected"],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = saved(tmp_path / "dit.safetensors", **changes)
    with pytest.raises(AvatarError, match=next(iter(changes))):
        load_weights(CausalWanDiT.on_meta(TOY.dit), path, torch.device("cpu"), torch.float32)


def test_missing_and_broken_weights(tmp_path: Path) -> None:
    dit = CausalWanDiT.on_meta(TOY.dit)
    with pytest.raises(AvatarError, match="missing"):
        load_weights(dit, tmp_path / "none.safetensors", torch.device("cpu"), torch.float32)
    path = saved(tmp_path / "dit.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(AvatarError, match="not a readable checkpoint"):
        load_weights(dit, path, torch.device("cpu"), torch.float32)


def test_unknown_dtypes_and_devices_are_refused() -> None:
    with pytest.raises(AvatarError, match="float32"):
        choose_dtype("int3", torch.device("cpu"))
    for name in ("tpu", "mps", "cuda:99", "cpu:0"):
        with pytest.raises(AvatarError, match="cpu"):
            choose_device(name)
    assert choose_device("cpu").type == "cpu"


def test_the_files_that_are_asked_for_are_those_that_are_loaded(tmp_path: Path) -> None:
    """Told from the config alone, they are those whose contents are known, and those that `fetch` brings."""
    for name, config in CONFIGS.items():
        assert {part.file for part in parts_of(config)} <= set(needed(config)), name
        if name in KNOWN:
            assert set(needed(config)) <= {file.target for file in KNOWN[name].files}, name
    for shards in (False, True):
        folder = tmp_path / f"{shards}" / "wan-tiny-test"
        folder.mkdir(parents=True)
        engine = EngineConfig(model="wan-tiny-test", models_dir=str(folder.parent), preset="realtime")
        for file in ("dit.safetensors", "vae.safetensors", "tiny.safetensors"):
            with pytest.raises(AvatarError, match=f"lacks {file}"):
                check_model(engine)
            (folder / (f"{file}.index.json" if shards else file)).touch()
        check_model(engine)
