"""Every published format loads into the same network, exactly; what does not fit is named before a tensor is read."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.rollout.base import Pass
from engine.rollout.job import ChunkJob
from engine.rollout.strategies import default_spec, make_rollout
from engine.worker.runner import ModelRunner, SlottedPass
from ground.config import EngineConfig
from ground.errors import AvatarError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.convert import Conversion, convert
from models.checkpoints.fit import compare, shapes_of
from models.checkpoints.headers import TensorInfo
from models.checkpoints.names import ignored_prefixes, transformer_name
from models.checkpoints.reading import open_checkpoint
from models.checkpoints.writing import write
from models.codecs.wan import build_decoder
from models.config import WAN21_T2V_1_3B
from models.dit.attention import BlockMask
from models.dit.transformer import CausalWanDiT
from models.registry import load_model
from tests.checkpoints import FORMATS, diffusers_model, official, random_state, self_forcing, shards, vae_state
from tests.tiny_models import T2V_TINY_TEST
from training.start import read_weights

TINY = T2V_TINY_TEST.name


def converted(source: Path, models_dir: Path, **options: object) -> dict[str, torch.Tensor]:
    return load_file(convert(Conversion(source, TINY, **options), str(models_dir)))  # type: ignore[arg-type]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_becomes_the_same_file(tmp_path: Path, form: str) -> None:
    state = random_state()
    source = FORMATS[form](tmp_path, state)
    assert same(converted(source, tmp_path / "models"), state)
    assert same(read_weights(source), state), "training begins with the same"


def test_diffusers_transformer_is_ours(tmp_path: Path) -> None:
    """Sharded as diffusers shards, and the same prediction: one noise level, no cache, every frame sees every other."""
    theirs = diffusers_model()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    state = converted(tmp_path / "transformer", tmp_path)
    ours = CausalWanDiT.on_meta(T2V_TINY_TEST.dit)
    ours.load_state_dict(state, assign=True)
    latents, text = torch.randn(1, 3, 16, 8, 8), torch.randn(1, 512, 24)
    with torch.no_grad():
        expected = theirs(latents.transpose(1, 2), torch.tensor([625.0]), text, return_dict=False)[0].transpose(1, 2)
        made = ours(latents, torch.full((1, 3), 0.625), None, None, text, BlockMask(), torch.arange(3)[None])
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_the_map_covers_all_of_wan21_and_no_name_twice() -> None:
    """Every name of diffusers' 1.3B transformer, on the meta device, is one of ours, with its shape."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_attention_heads=12, in_channels=16, out_channels=16, ffn_dim=8960, num_layers=30
        ).state_dict()
    mapped = {transformer_name(name): tuple(value.shape) for name, value in theirs.items()}
    assert len(mapped) == len(theirs) == 825
    assert mapped == dict(shapes_of(CausalWanDiT.on_meta(WAN21_T2V_1_3B)))
    assert all(transformer_name(name) == name for name in mapped), "official names stay"


def test_image_keys_have_their_official_names() -> None:
    names = {
        "condition_embedder.image_embedder.norm1.weight": "img_emb.proj.0.weight",
        "condition_embedder.image_embedder.ff.net.0.proj.bias": "img_emb.proj.1.bias",
        "condition_embedder.image_embedder.ff.net.2.weight": "img_emb.proj.3.weight",
        "condition_embedder.image_embedder.norm2.bias": "img_emb.proj.4.bias",
        "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
        "blocks.3.attn2.add_k_proj.weight": "blocks.3.cross_attn.k_img.weight",
        "blocks.3.attn2.norm_added_k.weight": "blocks.3.cross_attn.norm_k_img.weight",
    }
    assert {name: transformer_name(name) for name in names} == names


def test_the_autoencoder_of_diffusers_becomes_the_official_one(tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    state = vae_state()
    (tmp_path / "vae").mkdir()
    save_file(convert_wan_vae_to_diffusers(dict(state)), tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert same(converted(tmp_path / "vae", tmp_path), state)


def test_the_tiny_decoder_is_taken_without_its_encoder(tmp_path: Path) -> None:
    state = build_decoder("wan-tiny", "cpu", torch.float32, T2V_TINY_TEST.vae).state_dict()
    torch.save({**state, "encoder.0.weight": torch.zeros(3)}, tmp_path / "taew2_1.pth")
    assert same(converted(tmp_path / "taew2_1.pth", tmp_path), state)
    assert (tmp_path / TINY / "tiny.safetensors").is_file()


# A chunk of a checkpoint


def start(tmp_path: Path, source: Path) -> ModelRunner:
    save_file(vae_state(), tmp_path / "vae.safetensors")
    for path in (source, tmp_path / "vae.safetensors"):
        convert(Conversion(path, TINY), str(tmp_path / "models"))
    return ModelRunner.start(EngineConfig(TINY, "cpu", "float32", slots=1, models_dir=str(tmp_path / "models")))


def test_a_self_forcing_checkpoint_rolls_out(tmp_path: Path) -> None:
    """Chunks by the text alone: nothing pinned, the past read through the cache as if all were seen at once."""
    runner = start(tmp_path, self_forcing(tmp_path, random_state()))
    config = runner.config
    spec = default_spec(config)
    assert (config.fps, spec.strategy, spec.reference) == (16, "self_forcing", False)
    rollout = make_rollout(spec, config)
    assert rollout.cached_frames == runner.cache.frames == runner.cache.keys.shape[2] == 18, "no room for a reference"
    state = rollout.new_state(torch.zeros(config.latent_shape), torch.zeros(0, *config.latent_size), seed=1)
    chunks, passes, held = [], [], None
    for _ in range(8):
        job = ChunkJob(rollout.denoise(state, torch.zeros(3, 0, 0)), held)
        while job.next_pass is not None:
            work = job.next_pass
            answer = runner.run([SlottedPass(0, work)])[0]
            passes.append((work, answer))
            job.answer(answer)
        assert job.latents is not None
        chunks.append(job.latents)
        held = job.held
    pictures, _ = runner.decode(torch.cat(chunks), None, runner.codec.initial_state())  # type: ignore[arg-type]
    assert pictures.shape == (4 * 24 - 3, 96, 64) and len({picture.tobytes() for picture in pictures}) == 93
    first, second = passes[0], passes[4]
    assert first[0].reads == () and first[0].positions == (18, 19, 20)
    _equals_whole(runner, first[0], first[1], [])
    _equals_whole(runner, second[0], second[1], [chunks[0]])
    last = passes[-1][0]
    assert len(last.reads) == 18 and sorted(at for _, at in last.reads) == list(range(18)), "the window is full"


def _equals_whole(runner: ModelRunner, work: Pass, answer: torch.Tensor | None, past: list[torch.Tensor]) -> None:
    """One forward over past and chunk, each chunk seeing itself and what lies before, at absolute positions."""
    latents = torch.cat([*past, work.latents[-3:]])[None]
    n = latents.shape[1]
    sigmas = torch.tensor([[0.0] * (n - 3) + [work.sigmas[-1]] * 3])
    sees = torch.tensor([[j // 3 <= i // 3 for j in range(n)] for i in range(n)])
    with torch.inference_mode():
        whole = runner.model.dit(
            latents, sigmas, None, None, runner.model.context, BlockMask(sees), torch.arange(n)[None]
        )
    assert answer is not None
    torch.testing.assert_close(answer, whole[0, -3:], atol=1e-4, rtol=1e-4)


def test_a_model_of_text_alone_has_no_knots() -> None:
    with pytest.raises(AvatarError, match="self_forcing"):
        default_spec(T2V_TINY_TEST, strategy="knot_forcing")


# What is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head.head.bias": None, "blocks.1.ffn.0.bias": None}, "2 missing (blocks.1.ffn.0.bias, head.head.bias)"),
        ({"surprise": torch.zeros(1)}, "1 unexpected (surprise)"),
        ({"head.head.bias": torch.zeros(3)}, "1 with a wrong shape (head.head.bias [3], not [64])"),
        ({"head.head.bias": torch.zeros(64, dtype=torch.int8)}, "1 with a wrong type (head.head.bias int8)"),
        ({"head.head.bias": torch.zeros(64).to(torch.float8_e4m3fn)}, "head.head.bias float8_e4m3fn"),
    ],
    ids=["missing", "unexpected", "shape", "type", "float8"],
)
def test_every_misfit_is_named_and_nothing_is_read(
    tmp_path: Path, change: dict[str, torch.Tensor | None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: value for name, value in {**random_state(), **change}.items() if value is not None}
    source = official(tmp_path, state)

    def opened(path: Path, device: str = "cpu") -> Checkpoint:
        found = open_checkpoint(path, device)
        return Checkpoint(found.label, found.tensors, lambda name: pytest.fail(f"{name} was read"))

    monkeypatch.setattr("models.checkpoints.convert.open_checkpoint", opened)
    with pytest.raises(AvatarError) as caught:
        converted(source, tmp_path / "models")
    assert words in caught.value.message and "\n" not in caught.value.message
    assert not (tmp_path / "models").exists()


def test_one_name_from_two_is_refused(tmp_path: Path) -> None:
    state = random_state()
    save_file({**state, "model.head.head.bias": state["head.head.bias"] + 1}, tmp_path / "two.safetensors")
    with pytest.raises(AvatarError, match="twice"):
        converted(tmp_path / "two.safetensors", tmp_path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = random_state()
    state["head.head.bias"][5] = float("nan")
    with pytest.raises(AvatarError, match=r"NaN or infinite values, in head\.head\.bias"):
        converted(official(tmp_path, state), tmp_path / "models")
    assert list((tmp_path / "models").rglob("*.safetensors*")) == []


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_written_as_they_are_and_looked_into(tmp_path: Path, kind: torch.dtype) -> None:
    save_file({"a": torch.tensor([1.0, -2.0]).to(kind)}, tmp_path / "a.safetensors")
    write(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes()[-2:] == (tmp_path / "a.safetensors").read_bytes()[-2:]
    save_file({"a": torch.tensor([1.0, torch.nan]).to(kind)}, tmp_path / "a.safetensors")
    with pytest.raises(AvatarError, match="NaN or infinite values, in a"):
        write(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_shards_must_be_all_there_and_lie_beside_their_index(tmp_path: Path) -> None:
    shards(tmp_path, random_state())
    (gone := tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(AvatarError, match=gone.name):
        open_checkpoint(tmp_path)
    (tmp_path / "elsewhere").rename(gone)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace(gone.name, f"../{tmp_path.name}/{gone.name}"))
    with pytest.raises(AvatarError, match=r"not the name of a \.safetensors file"):
        open_checkpoint(tmp_path)
    moved = json.loads(text)
    name = next(name for name, file in moved["weight_map"].items() if file != gone.name)
    moved["weight_map"][name] = gone.name
    index.write_text(json.dumps(moved))
    with pytest.raises(AvatarError, match=f"{name}"):
        open_checkpoint(tmp_path)
    index.write_text("[]")
    with pytest.raises(AvatarError, match="not an index"):
        open_checkpoint(tmp_path)


class Hostile:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path, new: bool) -> None:
    torch.save(
        {"generator": {"x": Hostile(tmp_path / "ran")}}, tmp_path / "evil.pt", _use_new_zipfile_serialization=new
    )
    with pytest.raises(AvatarError, match="more than tensors"):
        open_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 20_000])
@pytest.mark.parametrize("form", ["self_forcing", "bare", "official"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, form: str, keep: int) -> None:
    path = FORMATS[form](tmp_path, random_state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AvatarError, match=f"{path.name} is not a readable checkpoint"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "value",
    [
        5, [torch.zeros(1)], {"step": 3}, {"generator": []}, {}, {"x": torch.zeros(2).to_sparse()},
        {"x": torch.zeros(2, dtype=torch.complex64)}, {"x": torch.zeros(2, device="meta")},
    ],
)  # fmt: skip
def test_a_pickle_without_named_tensors_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(AvatarError, match="no named tensors|not a plain tensor"):
        open_checkpoint(tmp_path / "other.pt")


# FlashHead: what its files hold beyond the network


def test_what_flashhead_ships_and_does_not_use_is_known_and_named() -> None:
    wanted = {"patch_embedding.weight": (2,), "audio_proj.proj1_vf.weight": (2,)}
    names = {**wanted, "audio_emb.proj.0.weight": (3,), "text_embedding.0.bias": (3,)}
    checkpoint = Checkpoint("f", {name: TensorInfo(torch.float32, shape) for name, shape in names.items()}, torch.zeros)
    fit = compare(checkpoint, wanted, ignored_prefixes(names))
    assert fit.good and fit.ignored == ("audio_emb.proj.0.weight", "text_embedding.0.bias")
    del names["audio_proj.proj1_vf.weight"]
    assert ignored_prefixes(names) == (), "in no other family's files"


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="knotcast models fetch self-forcing"):
        load_model("self-forcing", device="cpu", models_dir=str(tmp_path))
    with pytest.raises(AvatarError, match=f"convert FILE --to {TINY}"):
        load_model(TINY, device="cpu", models_dir=str(tmp_path))
