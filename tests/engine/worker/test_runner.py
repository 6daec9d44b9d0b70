"""Every way to run a pass gives the same answers: fused, spared, by runs, compiled, and as the textbook has it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.motion.variants import FixedReference
from benchmarks.speed.textbook import TextbookRunner
from engine.rollout.strategies import default_spec, make_rollout
from engine.worker.runner import Execution, ModelRunner, SlottedPass
from models.dit.attention import BlockMask, FrameRuns
from models.dit.transformer import CausalWanDiT, randomise_
from models.registry import LoadedModel, load_model
from tests.toy import TOY, new_state, record, toy_drive, toy_rollout
from training.configs import WAN_TINY

PLAIN = Execution(graphs=False, fused=False, runs=False, spare=False)


def runner(execution: Execution, config=TOY) -> ModelRunner:
    dit = CausalWanDiT(config.dit)
    randomise_(dit, seed=5)
    dit.eval().requires_grad_(False)
    context = None
    if config.dit.text_dim is not None:
        with torch.inference_mode():
            text = torch.randn(1, 7, config.dit.text_dim, generator=torch.Generator().manual_seed(1))
            context = dit.encode_text(text)
    model = LoadedModel(config, dit, None, context, torch.device("cpu"), torch.float32)
    return ModelRunner(model, slots=1, frames=4, execution=execution)


def rolled(engine: ModelRunner, chunks: int = 9) -> Tensor:
    config = engine.config
    rollout = toy_rollout(config, running_ahead="countdown")
    state = new_state(rollout, config=config)
    drive, held, out = toy_drive(3 * chunks + 1, config=config), None, []
    for _ in range(chunks):
        span = drive[state.next_latent : state.next_latent + 4]
        latents, held = engine.make_chunk(0, rollout, state, span, held)
        out.append(latents)
    return torch.cat(out)


LAST_IS_DRIVEN = replace(TOY, dit=replace(TOY.dit, drive_blocks=(0, 2)))


@pytest.mark.parametrize("config", [TOY, LAST_IS_DRIVEN, WAN_TINY], ids=["toy", "last block driven", "with text"])
@pytest.mark.parametrize("part", ["fused", "runs", "spare"])
def test_each_part_changes_nothing(part: str, config) -> None:
    plain, other = runner(PLAIN, config), runner(replace(PLAIN, **{part: True}), config)
    torch.testing.assert_close(rolled(other), rolled(plain), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(other.cache.keys, plain.cache.keys, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(other.cache.values, plain.cache.values, atol=2e-4, rtol=1e-4)


def test_compiled_stages_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced whole and without a break; what the compiler makes of the graphs is torch's to test."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda stage, **options: compile_(stage, **options, backend="aot_eager"))
    compiled = rolled(runner(Execution(compiled=True), WAN_TINY))
    torch.testing.assert_close(compiled, rolled(runner(PLAIN, WAN_TINY)), atol=2e-4, rtol=1e-4)


def test_fusing_keeps_names_and_values() -> None:
    dit = CausalWanDiT(TOY.dit)
    randomise_(dit)
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    dit.fuse_projections()
    after = dit.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    attention = dit.blocks[0].self_attn
    assert attention.qkv_weight.data_ptr() == attention.q.weight.data_ptr(), "no memory twice"


@pytest.mark.parametrize("skip", [0, 1, 3, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_skipped_frames_leave_the_others_as_they_are(skip: int, masked: bool) -> None:
    dit = CausalWanDiT(TOY.dit)
    randomise_(dit)
    latents, condition = torch.randn(1, 4, 4, 4, 4), torch.randn(1, 4, TOY.dit.condition_channels, 4, 4)
    rest = (torch.full((1, 4), 0.5), condition, torch.randn(1, 4, 2, 6), None)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    views = [BlockMask(mask), BlockMask(FrameRuns.of(mask))] if masked else [BlockMask()]
    at = torch.arange(4)[None]
    whole = dit(latents, *rest, views[0], at)
    for view in views:
        torch.testing.assert_close(dit(latents, *rest, view, at, skip), whole[:, skip:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [TOY, WAN_TINY], ids=["toy", "with text"])
def test_the_textbook_gives_the_same_latents(config) -> None:
    """Where the reference stays at index 0; then keys rotated at absolute positions are what the engine reads."""
    engine = runner(PLAIN, config)
    plain = toy_rollout(config)
    rollout = FixedReference(plain.spec, plain.schedule)
    book = TextbookRunner(engine.model, 3)
    states = [new_state(rollout, config=config) for _ in range(2)]
    for state in states:
        state.reference_index = 0
    drive, held = toy_drive(19, config=config), None
    for index in range(6):
        span = drive[3 * index : 3 * index + 4]
        ours, held = engine.make_chunk(0, rollout, states[0], span, held)
        theirs = book.make_chunk(rollout, states[1], span)
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_the_textbook_is_the_same_network_without_a_reference() -> None:
    """Chunks by text alone, until the window has moved on."""
    model = load_model("t2v-tiny-test", device="cpu", dtype="float32", random_weights=True)
    rollout = make_rollout(replace(default_spec(model.config), window=9), model.config)
    engine, book = ModelRunner(model, slots=1, frames=7, execution=PLAIN), TextbookRunner(model, 6)
    reference, features = torch.zeros(model.config.latent_shape), torch.zeros(0, *model.config.latent_size)
    states = [rollout.new_state(reference, features, 0) for _ in range(2)]
    drive = torch.zeros(3, *model.config.dit.drive_shape)
    for _ in range(5):
        ours, held = engine.make_chunk(0, rollout, states[0], drive)
        assert held is not None
        engine.run([SlottedPass(0, held)])
        torch.testing.assert_close(ours, book.make_chunk(rollout, states[1], drive), atol=2e-4, rtol=1e-4)


def test_answers_are_of_the_noisy_frames() -> None:
    rollout = toy_rollout()
    _, trace = record(runner(Execution()), rollout, chunks=3, joined=True)
    joined = [(work, answer) for work, answer in trace if work.clean and not work.is_commit]
    assert len(joined) == 2
    assert all(answer is not None and len(answer) == work.frames - work.clean == 4 for work, answer in joined)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_decoder_is_compiled_where_the_blocks_are(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda layer, **options: layer)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model = load_model("wan-tiny-test", device="cpu", random_weights=True)
    runner = ModelRunner(model, slots=1, frames=4, execution=Execution(compiled=compiled))
    layers = [layer for layer in runner.codec.decoder.modules() if hasattr(layer, "compiled")]
    assert len(layers) == 17 and all((layer.compiled is not None) == compiled for layer in layers)
    assert torch.backends.cudnn.benchmark == compiled
