"""Linear layers in 8-bit floats: how far they may round, what they take, where they are refused."""

import gc
import re
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.speed.parts import VARIANTS, Bench
from engine.worker.runner import Execution, ModelRunner
from engine.worker.warm_up import warm_up
from ground.config import EngineConfig
from ground.errors import EngineError, RequestError
from models.config import WAN21_1_3B, WAN21_14B, ModelConfig
from models.dit import float8
from models.dit.attention import BlockMask
from models.dit.block import Attention
from models.dit.float8 import Float8Linear, in_float8, require_float8, scaled_rows
from models.memory import plan
from models.presets import with_preset
from models.registry import LoadedModel, choose_device, choose_dtype, load_model, random_dit
from tests.checkpoints import random_state, vae_state
from tests.tiny_models import WAN_TINY_TEST
from tests.toy import TOY, new_state, toy_drive, toy_rollout

USUAL = Execution()
CPU, BF16 = torch.device("cpu"), torch.bfloat16
TINY = WAN_TINY_TEST.name
NARROW = replace(WAN21_1_3B, dit=replace(WAN21_1_3B.dit, dim=256, heads=2, ffn_dim=1024, layers=1))


def random_linear(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, dtype=BF16).requires_grad_(False)


def relative(one: Tensor, other: Tensor) -> float:
    """Deviation by the other's size, both as root mean squares."""
    return float((one.float() - other.float()).norm() / other.float().norm())


def test_rows_are_kept_to_a_sixteenth_of_each_value() -> None:
    """e4m3: three bits, and steps of 2^-9 below 2^-6, where the row's largest value stands for 448."""
    x = torch.randn(64, 128).exp() * torch.randn(64, 128).sign() * torch.logspace(-18, 18, 64)[:, None]
    rows, scale = scaled_rows(x)
    assert rows.dtype == torch.float8_e4m3fn and scale.shape == (64, 1)
    error = (rows.float() * scale - x).abs()
    assert bool((error <= torch.maximum(x.abs() / 16, scale.clamp(min=0) * 2.0**-10) * 1.0001).all())
    assert bool((rows.float().abs().amax(-1)[20:] == 448).all()), "the whole range is used"


@pytest.mark.parametrize("inputs", [16, 96, 1536])
def test_a_layer_is_off_by_no_more_than_its_operands(inputs: int) -> None:
    exact = random_linear(inputs, 48)
    x = torch.randn(2, 7, inputs, dtype=BF16)
    out = Float8Linear(exact)(x)
    assert out.shape == (2, 7, 48) and out.dtype == BF16
    terms = x.float().abs() @ exact.weight.float().abs().t()
    floor = 2.0**-10 / 448  # of a row's largest value, for values far below it
    floors = (x.float().abs().amax(-1, keepdim=True) * exact.weight.float().abs().amax(-1)) * inputs * 3 * floor
    bound = terms * (1 / 8 + 1 / 256) + floors + out.float().abs() / 128
    wanted = x.float() @ exact.weight.float().t() + exact.bias.float()
    assert bool(((out.float() - wanted).abs() <= bound).all())
    assert relative(out, wanted) < 0.05


def test_rows_of_zeros_give_the_bias() -> None:
    layer = Float8Linear(random_linear(32, 16))
    x = torch.randn(5, 32, dtype=BF16)
    x[1] = x[4] = 0
    out = layer(x)
    assert torch.equal(out[1], layer.bias) and torch.equal(out[4], layer.bias) and bool(out.isfinite().all())
    empty = random_linear(32, 16)
    empty.weight[3] = 0
    assert torch.equal(Float8Linear(empty)(x)[:, 3], empty.bias[3].expand(5))


def test_other_rows_do_not_matter() -> None:
    """A value's size has no say in another row's scale: calls of one batch do not touch each other."""
    layer, x = Float8Linear(random_linear(32, 16)), torch.randn(6, 32, dtype=BF16)
    loud = torch.cat([x, 1000 * torch.randn(6, 32, dtype=BF16)])
    assert torch.equal(layer(loud)[:6], layer(x))


def test_joined_and_then_cut_to_8_bits_is_cut_and_then_joined() -> None:
    torch.manual_seed(0)
    attention = Attention(48, 2, 1e-6).to(BF16).requires_grad_(False)
    joint = nn.Linear(48, 144, dtype=BF16).requires_grad_(False)
    joint.weight.data = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
    joint.bias.data = torch.cat([attention.q.bias, attention.k.bias, attention.v.bias])
    first = Float8Linear(joint)
    in_float8(attention)
    x = torch.randn(1, 5, 48, dtype=BF16)
    apart = attention.queries_keys_values(x)
    attention.fuse()
    assert attention.qkv_weight is not None and attention.qkv_scale is not None
    assert torch.equal(attention.qkv_weight.float(), first.weight.float())
    assert torch.equal(attention.qkv_scale, first.scale)
    assert attention.qkv_weight.data_ptr() == attention.q.weight.data_ptr(), "no memory twice"
    for one, other in zip(attention.queries_keys_values(x), apart, strict=True):
        torch.testing.assert_close(one, other)


def started(config: ModelConfig, eight: bool, execution: Execution = USUAL) -> ModelRunner:
    """A runner of random weights, with a text of seven tokens where the model attends to one."""
    dit = random_dit(config, CPU, BF16).eval().requires_grad_(False)
    context = None
    if config.dit.text_dim is not None:
        text = torch.randn(1, 7, config.dit.text_dim, dtype=BF16, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            context = dit.encode_text(text)
    if eight:
        in_float8(dit.blocks)
    return ModelRunner(
        LoadedModel(config, dit, None, context, CPU, BF16, float8=eight), slots=1, frames=4, execution=execution
    )


def rolled(runner: ModelRunner, chunks: int = 4) -> Tensor:
    config = runner.config
    rollout = toy_rollout(config)
    state, drive, held, out = new_state(rollout, config=config), toy_drive(3 * chunks + 1, config=config), None, []
    for index in range(chunks):
        latents, held = runner.make_chunk(0, rollout, state, drive[3 * index : 3 * index + 4], held)
        out.append(latents)
    return torch.cat(out)


@torch.inference_mode()
def test_a_block_is_off_by_less_than_its_rounding() -> None:
    """8 % of what a block adds, by random weights and inputs of unit size."""
    dit = random_dit(NARROW, CPU, BF16).eval()
    block = dit.blocks[0]
    x = torch.randn(1, 2, 16, dit.config.dim, dtype=BF16)
    time = torch.randn(1, 2, 6, dit.config.dim, dtype=BF16)
    angles = (torch.ones(1, 32, 1, 64), torch.zeros(1, 32, 1, 64))
    given = (x, time, (angles, angles), None, torch.randn(1, 8, dit.config.dim, dtype=BF16), BlockMask(), 0)
    exact = block(*given) - x
    in_float8(block)
    assert 0.005 < relative(block(*given) - x, exact) < 0.08


@pytest.mark.parametrize("config", [TOY, WAN_TINY_TEST], ids=["toy", "with text"])
def test_a_rollout_is_near_and_repeats(config: ModelConfig) -> None:
    """Random weights, four chunks of four steps: latents within 5 % of bf16's."""
    exact, eight, again = rolled(started(config, False)), rolled(started(config, True)), rolled(started(config, True))
    assert torch.equal(eight, again)
    assert 0.002 < relative(eight, exact) < 0.05


@pytest.mark.parametrize(
    "execution", [Execution(compiled=True), Execution(fused=False, runs=False, spare=False)], ids=["compiled", "plain"]
)
def test_every_way_to_run_passes_is_the_same(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first with every stage traced whole, without a break."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda stage, **options: compile_(stage, **options, backend="aot_eager"))
    usual, other = rolled(started(WAN_TINY_TEST, True)), rolled(started(WAN_TINY_TEST, True, execution))
    assert relative(other, usual) < 0.02


def test_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    """Through the strict loader: the blocks' matrices rounded, everything else as in the file."""
    folder = tmp_path / "t2v-tiny-test"
    folder.mkdir()
    state = random_state()
    save_file(state, folder / "dit.safetensors")
    save_file(vae_state(), folder / "vae.safetensors")
    model = load_model(folder.name, device="cpu", dtype="float8", models_dir=str(tmp_path))
    loaded = model.dit.state_dict()
    matrices = {name for name in state if re.fullmatch(r"blocks\..*\.weight", name) and state[name].dim() == 2}
    assert loaded.keys() == state.keys() | {name.replace("weight", "scale") for name in matrices}
    for name, exact in state.items():
        if name in matrices:
            assert relative(loaded[name].float() * loaded[name.replace("weight", "scale")], exact) < 0.04
        else:
            assert torch.equal(loaded[name], exact.to(BF16))


def test_the_exact_weights_are_given_back_and_the_plan_knows() -> None:
    """Bytes of all tensors; at full size the blocks' layers are most of the model."""
    dit = random_dit(WAN_TINY_TEST, CPU, BF16)
    old = weakref.ref(dit.blocks[0].ffn[0].weight)
    in_float8(dit.blocks)
    gc.collect()
    assert old() is None
    model = load_model(TINY, device="cpu", dtype="float8", random_weights=True)
    assert model.codec is not None and model.context is not None
    tensors = [t for part in (model.dit, model.codec.encoder, model.codec.decoder) for t in part.state_dict().values()]
    tensors += [tensor for pair in model.context for tensor in pair]
    assert plan(WAN_TINY_TEST, 1, float8=True).weights == sum(tensor.nbytes for tensor in tensors)
    small, large = plan(WAN21_1_3B, 1, float8=True), plan(WAN21_1_3B, 1)
    freed = large.weights - small.weights
    linears = 30 * (8 * 1536 * 1536 + 2 * 1536 * 8960)
    scales = 30 * 4 * (9 * 1536 + 8960)
    assert freed == linears - scales and small.cache == large.cache
    small, large = (plan(with_preset(WAN21_14B, "realtime"), 1, eight) for eight in (True, False))
    assert small.working == large.weights - small.weights, "while it is loaded the exact weights are there as well"


def test_an_option_of_the_engine() -> None:
    config = EngineConfig(model=TINY, device="cpu", dtype="float8", random_weights=True, slots=1, threads=1)
    runner = ModelRunner.start(config)
    assert runner.dtype == BF16 == choose_dtype("float8", CPU) and runner.cache.keys.dtype == BF16
    assert isinstance(runner.model.dit.blocks[0].self_attn.o, Float8Linear)
    assert warm_up(runner, config).dtype == "float8"
    assert load_model(TINY, device="cpu", dtype="bfloat16", random_weights=True).dtype_name == "bfloat16"


def test_refused_where_it_makes_no_sense_and_where_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="float8 is for models of video latents, not for embedded"):
        load_model("embedded", device="cpu", dtype="float8")

    def old(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9")

    require_float8(WAN_TINY_TEST, CPU)
    monkeypatch.setattr(float8.torch, "_scaled_mm", old)
    with pytest.raises(EngineError, match="capability 8.9 or higher.: use --dtype bfloat16") as told:
        load_model(TINY, device="cpu", dtype="float8", random_weights=True)
    assert told.value.code == "no_float8" and "\n" not in told.value.message


def test_the_benchmark_runs_a_model_that_is_in_8_bits() -> None:
    model = load_model("wan-tiny-test", device="cpu", dtype="float8", random_weights=True)
    twin = Bench(model).twin().dit.state_dict()
    assert all(twin[name].data_ptr() == value.data_ptr() for name, value in model.dit.state_dict().items())


def test_the_benchmark_differs_by_the_8_bits_alone() -> None:
    best, eight = VARIANTS["all (compiled too)"], VARIANTS["all, linear layers in float8"]
    assert replace(eight, float8=False) == best
    model = load_model(TINY, device="cpu", dtype="bfloat16", random_weights=True)
    chunk = Bench(model).start(replace(eight, execution=Execution()))
    assert chunk().isfinite().all() and isinstance(model.dit.blocks[0].self_attn.q, nn.Linear), "on a view of its own"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    require_float8(WAN_TINY_TEST, choose_device("cuda"))
    layer, x = Float8Linear(random_linear(1536, 64)), torch.randn(300, 1536, dtype=BF16)
    wanted = layer(x)
    assert relative(layer.cuda()(x.cuda()).cpu(), wanted) < 0.01
